"""``particles compare``"""

import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import click
from particles.cli.closing import Progress
from particles.cli.options import disk, say, set_threads, specification, spelt, usage
from particles.cli.simulate import check_apart, check_empty

from particles.experiment.specification import Specification
from particles.names import FLOWS, SOLVERS, choose

COLUMNS = {
    "w2_holdout": "W2 to held-out",
    "w2_target": "W2 to target",
    "sinkhorn": "Sinkhorn",
    "energy_distance": "energy distance",
    "path_length": "path length",
    "straightness": "straightness",
    "kinetic_energy": "kinetic energy",
    "seconds": "seconds",
}


@click.command("compare")
@click.option(
    "--flows",
    default="lipschitz,transport,w2,mmd",
    show_default=True,
    metavar="NAMES",
    help=f"Flows to compare, with commas between: {', '.join(FLOWS)}.",
)
@specification("flow")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder of the runs.  [default: runs/compare-TARGET]"
)
@click.option("--overwrite", is_flag=True, help="Replace the comparison in a folder that is not empty.")
@click.option("--figure/--no-figure", default=True, show_default=True, help="Draw comparison.png.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bars and no table.")
@click.option(
    "--json", "as_json", is_flag=True, envvar="PARTICLES_COMPARE_JSON", help="Print the table as a JSON list instead."
)
def command(
    flows: str,
    output: Path | None,
    overwrite: bool,
    figure: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run several flows from the same source to the same target, with the same seed and number of steps.

    \b
    Each flow has a run folder of its own in the output folder; beside them are comparison.csv, comparison.md and
    comparison.png. Options that a flow does not know are not its concern; --step-size holds for all but proximal,
    without it each has its own. Distances are those to the held-out part of the target where there is one, and the row
    "target" is the target's own. All are in flow units; path length and straightness (path length over
    displacement) are those of the snapshots (--snapshot-every), and seconds have everything in them, KeOps' compiling
    too. Kinetic energy is in each flow's own time. Exit code 3 if a flow diverged; the others have their rows. Examples:
      particles compare --target moons --output runs/compare
      particles compare --target data.csv --flows transport,w2,mmd --steps 200 -n 300
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    if options["target"] is None:
        raise click.UsageError("name a target: --target FILE|NAME")
    folder = output or Path("runs") / f"compare-{Path(options['target']).stem}"
    try:
        specs = _specifications(flows, options)
    except ValueError as error:
        raise usage(error) from None
    check_empty(folder, overwrite, "comparison.csv")
    from particles.experiment.build import build
    from particles.run.lock import Locked, locked

    set_threads(next(iter(specs.values())))
    try:
        simulations = {name: build(spec) for name, spec in specs.items()}
        with locked(folder):
            rows, diverged = _run(folder, simulations, quiet=quiet, overwrite=overwrite)
            _write(folder, rows, figure=figure)
    except (Locked, FileNotFoundError, ValueError) as error:
        raise usage(error) from None
    except OSError as error:
        raise disk(error, folder) from None
    except KeyboardInterrupt as error:
        say(f"Interrupted: the comparison in {folder} is not complete; repeat it with --overwrite", err=True)
        sys.exit(128 + getattr(error, "signal", 2))
    if as_json:
        say(json.dumps([{k: v if not _missing(v) else None for k, v in row.items()} for row in rows]))
    elif not quiet:
        say(_markdown(rows))
    if diverged:
        sys.exit(3)


def _specifications(flows: str, options: dict[str, Any]) -> dict[str, Specification]:
    names = [choose("flow", name, FLOWS) for name in flows.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"flows needs different names with commas between, not {flows!r}")
    specs = {}
    for name in names:
        mine = options | {"flow": name, "solver": _solver(name, options["solver"])}
        if name == "proximal":  # which has steps of its own
            mine |= {"step_size": None, "stepper": "euler"}
        specs[name] = Specification(**mine)
    return specs


def _solver(flow: str, solver: str | None) -> str | None:
    """The solver, if it is one of the flow's, or one of no flow's, which is refused."""
    mine = flow in SOLVERS and (solver in SOLVERS[flow] or not any(solver in other for other in SOLVERS.values()))
    return solver if mine else None


def _run(
    folder: Path, simulations: dict[str, Any], *, quiet: bool, overwrite: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of the table, and the flows that diverged."""
    from particles.run.folder import clear
    from particles.run.loop import Diverged, simulate

    for name, simulation in simulations.items():
        simulation.check_begin(folder / name, warn=False)
    if overwrite:
        check_apart(folder, next(iter(simulations.values())).spec)
        for name in ("comparison.md", "comparison.png"):
            if (folder / name).is_dir():
                raise ValueError(f"{folder / name} is a folder; name another --output")
        for name in FLOWS:
            clear(folder / name)
        for name in ("comparison.md", "comparison.png"):
            (folder / name).unlink(missing_ok=True)
    rows = [_floor(next(iter(simulations.values())))]
    _table(folder, rows)  # it marks the folder as a comparison, and grows with every flow
    stores = {name: simulation.store(folder / name) for name, simulation in simulations.items()}
    diverged = []
    for name, simulation in simulations.items():
        bar = Progress(simulation.spec.steps, quiet)
        bar.bar.set_description(name)
        stores[name].progress = bar
        begun = time.perf_counter()
        try:
            with bar:  # no measurements on the way: their time is not the flow's
                state = simulate(simulation.process, simulation.spec.steps, stores[name], (), simulation.at_rest)
        except Diverged as error:
            say(
                f"{name} diverged: {spelt(str(error))} in {folder / name / f'diverged.{simulation.spec.export}'}.",
                err=True,
            )
            rows.append({"flow": name} | dict.fromkeys(COLUMNS, math.nan))
            diverged.append(name)
            continue
        seconds = time.perf_counter() - begun
        rows.append(_measured(name, simulation, state, folder / name) | {"seconds": seconds})
        _table(folder, rows)
    return rows, diverged


def _measured(name: str, simulation: Any, state: Any, folder: Path) -> dict[str, Any]:
    import numpy as np

    from particles.metrics.paths import path_length, straightness
    from particles.run.reader import Run

    run = Run.open(folder)
    paths = np.asarray(run.trajectory[:, : run.trajectory.shape[1] - run.carried], dtype=float) / run.units
    return {
        "flow": name,
        **_distances(state.cloud.active, simulation),
        "path_length": path_length(paths),
        "straightness": straightness(paths),
        "kinetic_energy": float(run.series["kinetic_energy"].iloc[-1]) if state.k else math.nan,
    }


def _floor(simulation: Any) -> dict[str, Any]:
    """What the target itself has to its held-out part."""
    distances = _distances(simulation.target, simulation) | {"w2_target": 0.0}
    return {"flow": "target"} | dict.fromkeys(COLUMNS, math.nan) | distances


def _distances(cloud: Any, simulation: Any) -> dict[str, float]:
    from particles.keys import Key
    from particles.metrics.distances import sinkhorn, w2
    from particles.metrics.energy import energy_distance

    key, size = Key.of(simulation.spec.seed).fold("summary"), 2000
    target = simulation.target.draw(size, key.fold("target"))
    cloud = cloud.draw(size, key.fold("particles"))
    held = simulation.holdout
    reference = target if held is None else held.draw(size, key.fold("holdout"))
    return {
        "w2_holdout": math.nan if held is None else w2(cloud, reference),
        "w2_target": w2(cloud, target),
        "sinkhorn": sinkhorn(cloud, reference),
        "energy_distance": energy_distance(cloud, reference),
    }


def _write(folder: Path, rows: list[dict[str, Any]], *, figure: bool) -> None:
    from particles.files import replacing

    if figure:
        from particles.plot.panels import compare
        from particles.run.reader import Run

        shown = [row for row in rows[1:] if not _missing(row["w2_target"])]  # those that did not diverge
        key = "w2_target" if _missing(rows[0]["w2_holdout"]) else "w2_holdout"
        captions = {row["flow"]: f"{COLUMNS[key]} {row[key]:.3g}" for row in shown if not _missing(row[key])}
        runs = {row["flow"]: Run.open(folder / row["flow"]) for row in shown}
        if runs:
            with replacing(folder / "comparison.png") as draft:
                compare(runs, captions).savefig(draft, format="png", dpi=130)
    with replacing(folder / "comparison.md") as draft:
        draft.write_text(_markdown(rows) + "\n", encoding="utf-8")
    _table(folder, rows)


def _table(folder: Path, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    from particles.files import replacing

    with replacing(folder / "comparison.csv") as draft:
        pd.DataFrame(rows, columns=["flow", *COLUMNS]).to_csv(draft, index=False)


def _markdown(rows: list[dict[str, Any]]) -> str:
    table = [["flow", *COLUMNS.values()]]
    for row in rows:
        table.append([row["flow"], *("" if _missing(row[name]) else f"{row[name]:.4g}" for name in COLUMNS)])
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    table.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))
        )
        + " |"
        for line in table
    )


def _missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
