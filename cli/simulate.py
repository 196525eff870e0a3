"""``particles simulate``"""

import dataclasses
import json
import logging
import math
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from particles.names import ACTIVATIONS, CONSTRAINTS, DIVERGENCES, DTYPES, REAL, SCALES, SOURCES, STEPPERS, TOYS
from particles.specification import Specification

DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Specification)}
ALWAYS = {"resume", "steps", "quiet", "as_json", "figure"}  # what may be given beside --resume


def _widths(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of widths such as 64,64,64") from None


def _option(*names: str, unit: str = "", **settings: Any) -> Any:
    """An option of the specification, with its default there and its help saying which it is."""
    field = names[-1].lstrip("-").replace("-", "_") if names[-1].startswith("-") else names[-1]
    default = DEFAULTS[field]
    settings.setdefault("show_default", default is not None)
    return click.option(*names, default=None if default is dataclasses.MISSING else default, **settings)


def _names(names: Any) -> str:
    return ", ".join(names)


@click.command("simulate")
@click.option(
    "--target",
    metavar="FILE|NAME",
    help=f"What particles flow to: a CSV, Parquet, npy or npz file, or {_names(TOYS)}, {_names(REAL)}.",
)
@_option("--source", metavar="FILE|NAME", help=f"Where they start: {_names(SOURCES)}, a file, or the name of a target.")
@_option(
    "-n",
    "--particles",
    type=int,
    help="Number of particles.  [default: as many as target rows; all rows of a source file]",
)
@_option("--carried", type=int, help="Number of further particles that ride along and influence nothing (carried.csv).")
@_option("--target-size", type=int, help="Number of points drawn from a toy target.")
@_option(
    "--holdout",
    type=float,
    help="Share of target rows that the flow never sees, to measure on; 1 and above: number of rows.",
)
@_option(
    "--label",
    metavar="COLUMN",
    help="Column of classes: one discriminator output per class, and particles of all classes.",
)
@_option("--header/--no-header", "header", help="Whether a CSV's first line names the columns.  [default: found out]")
@_option(
    "--scale",
    metavar="NAME",
    help=f"{_names(SCALES)}: columns to deviation 1, one factor for all, or as they are; undone on output.  [default: none for toys, else standard]",
)
@_option("--source-mean", type=float, help="Mean of each source coordinate, in flow units.")
@_option(
    "--source-std",
    type=float,
    help="Deviation of each source coordinate, in flow units.  [default: 1; for bootstrap, the jitter, 0.1]",
)
@_option("--divergence", metavar="NAME", help=f"{_names(DIVERGENCES)}.")
@_option("--alpha", type=float, help="Order of the alpha divergence, above 1.")
@_option(
    "-L",
    "--lipschitz",
    type=float,
    help="Bound L on the slope of the discriminator, in 1 / flow units; with spectral norms also the top speed.",
)
@_option("--constraint", metavar="NAME", help=f"How it is kept: {_names(CONSTRAINTS)}.")
@_option("--penalty", type=float, help="Weight of the gradient penalty, for --constraint penalty.")
@click.option(
    "--network",
    default=",".join(map(str, DEFAULTS["network"])),
    callback=_widths,
    metavar="WIDTHS",
    show_default=True,
    help="Widths of the discriminator's hidden layers.",
)
@_option("--activation", metavar="NAME", help=f"{_names(ACTIVATIONS)}.")
@_option("--learning-rate", type=float, help="Step of the discriminator's optimiser, Adam.")
@_option("--momentum", type=float, help="Memory of that optimiser, from 0 to 1; with it particles overshoot.")
@_option("--inner-steps", type=int, help="Number of discriminator steps per fit.")
@_option(
    "--tolerance",
    type=float,
    help="Go on fitting until --inner-steps steps gain less than this, in units of the divergence.",
)
@_option("--batch-size", type=int, help="Number of points of each cloud in a discriminator step.  [default: all]")
@_option("--chunk-size", type=int, help="Number of points evaluated at once; bounds memory.")
@_option("--stepper", metavar="NAME", help=f"Time integrator: {_names(STEPPERS)}.")
@_option("--step-size", type=float, help="Time of a step; with spectral norms a particle moves at most step size × L.")
@_option(
    "--decay",
    type=float,
    help="Number of steps K after which the step size is halved: it is step size / (1 + k/K) at step k; inf keeps it.",
)
@_option("--steps", type=int, help="Number of the last step.")
@_option(
    "--stop-energy",
    type=float,
    help="End early when the kinetic energy stays below this, in (flow units / time)²; 0 never.",
)
@_option("--patience", type=int, help="... for this many logged steps.")
@_option("--seed", type=int, help="Source of all randomness: same seed, same machine, same bits.")
@_option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.")
@_option("--dtype", metavar="NAME", help=f"{_names(DTYPES)}.")
@_option("--log-every", type=int, help="Number of steps from row to row of series.csv.  [default: steps / 100]")
@_option(
    "--snapshot-every",
    type=int,
    help="Number of steps from snapshot to snapshot of trajectory.npy, a multiple of --log-every.  [default: log every]",
)
@_option(
    "--metric-every",
    type=int,
    help="Number of steps from one measurement of W2 to the next, a multiple of --log-every.  [default: 5 × log every]",
)
@_option("--checkpoint-every", type=int, help="Number of steps from checkpoint to checkpoint.")
@_option("--metric-size", type=int, help="Largest number of points that W2 is measured on along the way.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder.  [default: runs/TARGET]")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on with this run, to --steps; all other options are its own.",
)
@click.option("--overwrite", is_flag=True, help="Replace the run in a folder that is not empty.")
@click.option("--figure/--no-figure", default=True, show_default=True, help="Draw figure.png at the end.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no closing table.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="PARTICLES_SIMULATE_JSON",
    help="Print the closing table as one JSON object.",
)
@click.pass_context
def command(
    ctx: click.Context,
    output: Path | None,
    resume: Path | None,
    overwrite: bool,
    figure: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Move particles along a Lipschitz-regularised gradient flow onto a data set.

    \b
    Flow units are those in which the target is scaled (see --scale). Examples:
      particles simulate --target 8-gaussians --steps 300 --output runs/eight
      particles simulate --target data.csv --label class --holdout 0.2 --output runs/data
      particles simulate --source before.csv --target after.csv --scale global
      particles simulate --resume runs/eight --steps 1000
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    if resume is not None:
        folder, spec = resume, _resumed(ctx, resume, options["steps"])
    else:
        if options["target"] is None:
            raise click.UsageError("name a target: --target FILE|NAME (or go on with a run: --resume RUN)")
        folder = output or Path("runs") / Path(options["target"]).stem
        try:
            spec = Specification(**options)
        except ValueError as error:
            raise _usage(error) from None
        _check_empty(folder, overwrite)
    try:
        _run(folder, spec, figure=figure, quiet=quiet, as_json=as_json, overwrite=overwrite and resume is None)
    except KeyboardInterrupt:  # before the first step, or after the last
        click.echo(f"Interrupted; if {folder} has a checkpoint, go on with --resume", err=True)
        sys.exit(130)


def _usage(error: Exception) -> click.UsageError:
    """The error as one sentence, with options spelt as on the command line."""
    return click.UsageError(_spelt(str(error)))


def _spelt(text: str) -> str:
    for name in DEFAULTS:
        if "_" in name or text.startswith((f"{name} ", f"unknown {name} ")):
            text = re.sub(
                rf"(?<![\w./-]){name}(?![\w./-])", f"--{name.replace('_', '-')}", text, count=0 if "_" in name else 1
            )
    return text


def _resumed(ctx: click.Context, folder: Path, steps: int) -> Specification:
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    if strange := sorted(given - ALWAYS):
        raise click.UsageError(
            f"--{strange[0].replace('_', '-')} cannot be changed in a resumed run; leave it out, or begin a new run"
        )
    if not (folder / "spec.toml").exists():
        raise click.UsageError(f"{folder} is not a run folder: it has no spec.toml")
    try:
        spec, _ = Specification.load(folder / "spec.toml")
        return dataclasses.replace(spec, steps=steps) if "steps" in given else spec
    except (ValueError, TypeError) as error:
        raise _usage(error) from None


def _check_empty(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"--output {folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise click.UsageError(
                f"{folder} is not empty; go on with it (--resume {folder}), replace it (--overwrite), or name another --output"
            )
        if not (folder / "spec.toml").exists():
            raise click.UsageError(
                f"{folder} is not empty and not a run (it has no spec.toml), so it is not overwritten; name another --output"
            )


def _run(
    folder: Path,
    spec: Specification,
    *,
    figure: bool,
    quiet: bool,
    as_json: bool,
    overwrite: bool,
) -> None:
    from particles.build import build
    from particles.run.loop import Diverged, Interrupted, simulate
    from particles.run.store import RunError, clear

    try:
        simulation = build(spec)
        if overwrite:
            _check_apart(folder, simulation.spec)
            clear(folder)
        bar = _Progress(spec.steps, quiet)
        store = simulation.store(folder, bar)
    except (ValueError, FileNotFoundError) as error:
        raise _usage(error) from None
    except OSError as error:
        raise click.UsageError(f"{error.filename or folder}: {error.strerror or error}") from None
    try:
        with bar:
            state = simulate(simulation.process, spec.steps, store, simulation.observers, simulation.at_rest)
    except RunError as error:
        raise _usage(error) from None
    except Diverged as error:
        click.echo(f"Diverged: {_spelt(str(error))} in {folder / 'diverged.csv'}.", err=True)
        sys.exit(3)
    except Interrupted as error:
        click.echo(
            f"Interrupted: {error}; go on with: particles simulate --resume {shlex.quote(str(folder))}", err=True
        )
        sys.exit(128 + error.signal)
    _close(folder, simulation, state, store.rows[-1], figure=figure, quiet=quiet, as_json=as_json)


def _check_apart(folder: Path, spec: Specification) -> None:
    """Refuses to overwrite a run with one that reads from it."""
    for name in ("target", "source"):
        path = Path(getattr(spec, name))
        if path.exists() and path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{name} {path} is in the folder that --overwrite would replace; name another --output")


def _close(
    folder: Path, simulation: Any, state: Any, row: dict[str, float], *, figure: bool, quiet: bool, as_json: bool
) -> None:
    from particles.keys import Key
    from particles.metrics.summary import summarise
    from particles.run.files import replacing

    clouds = state.cloud.active, simulation.target, simulation.holdout
    bound = math.inf if simulation.spec.constraint == "none" else simulation.spec.lipschitz
    key = Key.of(simulation.spec.seed).fold("summary")
    found = {
        "run": str(folder),
        "step": state.k,
        "time": state.t,
        "particles": len(clouds[0]),
        "lipschitz": bound if math.isfinite(bound) else None,
        "max_gradient": row.get("max_gradient"),
        "divergence": row.get("divergence"),
        "kinetic_energy": row.get("kinetic_energy"),
        "flow_units": summarise(*clouds, key),
    }
    unit = simulation.schema.unit
    if (unit != 1).any() and math.isfinite(bound):
        found["lipschitz_data_units"] = sorted({bound / float(unit.max()), bound / float(unit.min())})
    if (unit != 1).any():
        particles, target, *held = (_in_data_units(simulation.schema, c) for c in clouds if c is not None)
        found["data_units"] = summarise(particles, target, held[0] if held else None, key)
    with replacing(folder / "summary.json") as draft:
        draft.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    if figure:
        from particles.plot.figure import figure as draw
        from particles.run.reader import Run

        with replacing(folder / "figure.png") as draft:
            draw(Run.open(folder)).savefig(draft, format="png", dpi=130)
    if as_json:
        click.echo(json.dumps(found))
    elif not quiet:
        click.echo(_table(found))


def _in_data_units(schema: Any, cloud: Any) -> Any:
    import torch

    return cloud.at(torch.as_tensor(schema.points(cloud.x.double())))


def _table(found: dict[str, Any]) -> str:
    flow, data = found["flow_units"], found.get("data_units")
    lines = [f"{found['run']}: step {found['step']}, time {found['time']:g}, {found['particles']} particles"]
    bound = "unbounded" if found["lipschitz"] is None else f"{found['lipschitz']:g} / flow unit"
    if "lipschitz_data_units" in found:
        bound += " = " + " to ".join(f"{value:.3g}" for value in found["lipschitz_data_units"]) + " / data unit"
    realised = "" if found["max_gradient"] is None else f"; largest slope at a particle {found['max_gradient']:.3g}"
    lines += [f"lipschitz L = {bound}{realised}"]
    if found["divergence"] is not None:
        lines += [f"divergence {found['divergence']:.4g}, kinetic energy {found['kinetic_energy']:.3g}"]
    names = {
        "w2_target": "W2 to the target",
        "w2_holdout": "W2 to held-out target",
        "w2_floor": "  the target's own",
        "energy_target": "energy distance to the target",
        "energy_holdout": "energy distance to held-out target",
        "energy_floor": "  the target's own",
        "nearest_ratio": "nearest-neighbour ratio (1 as fresh data, 0 copies)",
    }
    lines += [f"{'':<52}{'flow units':>12}" + ("" if data is None else f"{'data units':>12}")]
    lines += [
        f"{text:<52}{flow[name]:>12.4g}" + ("" if data is None else f"{data[name]:>12.4g}")
        for name, text in names.items()
        if name in flow
    ]
    return "\n".join(lines)


class _Progress:
    """A bar on standard error: step, divergence, kinetic energy, time left; nothing where that is no terminal."""

    def __init__(self, steps: int, quiet: bool):
        from tqdm import tqdm

        self.bar = tqdm(total=steps, disable=True if quiet else None, unit="step", dynamic_ncols=True, file=sys.stderr)

    def __call__(self, k: int, row: dict[str, float]) -> None:
        self.bar.n = k
        shown = {name: row[name] for name in ("divergence", "kinetic_energy") if name in row}
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items() if math.isfinite(value)})

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
