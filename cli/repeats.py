"""``particles simulate --repeats``: several runs that differ in their seeds alone."""

import dataclasses
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from particles.cli.closing import Progress, measure
from particles.cli.options import disk, say, set_threads, spelt, usage
from particles.cli.simulate import MARK, check_apart, resume_with

from particles import shards
from particles.experiment.specification import Specification
from particles.metrics.summary import QUALITY

FILES = (MARK, "repeats.csv", "summary.json", "figure.png", "checkpoint.pt")
SHOWN = 6  # runs in the figure
TITLES = {name: title for name, (title, _) in QUALITY.items()} | {
    "divergence": "divergence",
    "kinetic_energy": "kinetic energy",
    "max_gradient": "largest slope at a particle",
}


def run(
    folder: Path,
    spec: Specification,
    count: int,
    *,
    resumed: bool,
    steps: int | None,
    overwrite: bool,
    figure: bool,
    quiet: bool,
    as_json: bool,
    advise: bool,
) -> None:
    """Runs all repeats, or goes on with them (to ``steps``, if given); measures each, and all of them together."""
    from particles.experiment.build import build
    from particles.experiment.repeats import dissent, seeds
    from particles.experiment.repeats import folder as named
    from particles.run.lock import locked
    from particles.run.loop import Interrupted
    from particles.run.store import RunError, Unwritable

    if shards.launched() > 1:
        raise click.UsageError("--repeats are of one process; start them without torchrun")
    paths = [folder / named(i) for i in range(count)]
    with ExitStack() as stack:
        try:
            specs = [_read(path, steps) for path in paths] if resumed else seeds(spec, count)
            set_threads(specs[0])
            simulations = [build(specs[0])]
            with _hushed():  # what was to be said of one is to be said of all
                simulations += [build(own) for own in specs[1:]]
            stack.enter_context(locked(folder))
            reason = dissent(specs, [simulation.process for simulation in simulations])
            if reason is None:
                simulations[0].check_memory(count)
            if overwrite:
                check_apart(folder, simulations[0].spec)
            for simulation in simulations:  # before anything is lost
                simulation.check_begin(folder, warn=False, runs=count)
            if overwrite:
                _clear(folder)
            if advise and simulations[0].advice:
                say(f"WARNING: {spelt(simulations[0].advice)}", err=True)
            if not resumed:
                _mark(folder, dataclasses.replace(spec, target=simulations[0].spec.target), count)
            stores = [simulation.store(path) for simulation, path in zip(simulations, paths)]
        except (ValueError, FileNotFoundError) as error:
            raise usage(error) from None
        except OSError as error:
            raise disk(error, folder) from None
        try:
            if reason is None:
                states = _side_by_side(folder, simulations, stores, quiet)
            else:
                if not quiet:
                    say(f"The repeats run one after another: {spelt(reason)}.", err=True)
                states = _in_turn(simulations, stores, paths, quiet)
            rows = [
                _row(i, simulation, measure(path, simulation, state, store.rows[-1]))
                for i, (path, simulation, state, store) in enumerate(zip(paths, simulations, states, stores))
                if state is not None
            ]
            _close(folder, spec, rows, figure=figure, quiet=quiet, as_json=as_json)
        except RunError as error:
            raise usage(error) from None
        except Interrupted as error:
            say(f"Interrupted: {error}; go on with: {resume_with(folder)}", err=True)
            sys.exit(128 + error.signal)
        except Unwritable as error:
            say(f"Error: {error.filename}: {error.strerror}; go on with: {resume_with(folder)}", err=True)
            sys.exit(4)
        except OSError as error:  # of summaries or the figure: the runs themselves are whole
            raise disk(error, folder) from None
    if len(rows) < count:
        sys.exit(3)


@contextmanager
def _hushed() -> Iterator[None]:
    logger = logging.getLogger("particles")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _read(path: Path, steps: int | None) -> Specification:
    """The specification of a repeat that was begun, to the steps that are asked for."""
    if not (path / "spec.toml").is_file():
        raise ValueError(f"{path} is not a run folder: it has no spec.toml; begin new runs with --overwrite")
    own, _ = Specification.load(path / "spec.toml")
    return own if steps is None else dataclasses.replace(own, steps=steps)


def _clear(folder: Path) -> None:
    """Removes repeats from a folder, and nothing else."""
    from particles.run.folder import clear

    for path in folder.glob("repeat-*"):
        if path.is_dir() and path.name.removeprefix("repeat-").isdecimal():
            clear(path)
            if not any(path.iterdir()):
                path.rmdir()
    for name in FILES[::-1]:  # the mark last, as a folder without it is not taken for one of repeats
        (folder / name).unlink(missing_ok=True)


def _mark(folder: Path, spec: Specification, count: int) -> None:
    from particles.files import replacing

    with replacing(folder / MARK) as draft:
        draft.write_text(spec.dump({"repeats": {"count": count}}), encoding="utf-8")


def _side_by_side(folder: Path, simulations: list[Any], stores: list[Any], quiet: bool) -> list[Any]:
    """The last states of runs in one batched network."""
    from particles.experiment.repeats import Folders, SideBySide
    from particles.run.loop import Diverged, simulate

    steps = simulations[0].spec.steps
    process = SideBySide([simulation.process for simulation in simulations])
    looks = [process.observer([simulation.observers for simulation in simulations])]
    bar = Progress(steps, quiet)
    try:
        with bar:
            state = simulate(process, steps, Folders(folder, stores, process, bar), looks)
    except Diverged as error:
        say(f"Diverged: {spelt(str(error))} in the folders of the repeats.", err=True)
        sys.exit(3)
    return process.split(state)


def _in_turn(simulations: list[Any], stores: list[Any], paths: list[Path], quiet: bool) -> list[Any]:
    """The last states of runs one after another; ``None`` for one that diverged."""
    from particles.run.loop import Diverged, simulate

    states: list[Any] = []
    for simulation, store, path in zip(simulations, stores, paths):
        bar = Progress(simulation.spec.steps, quiet)
        bar.bar.set_description(path.name)
        store.progress = bar
        try:
            with bar:
                states.append(
                    simulate(simulation.process, simulation.spec.steps, store, simulation.observers, simulation.at_rest)
                )
        except Diverged as error:
            say(
                f"{path.name} diverged: {spelt(str(error))} in {path / f'diverged.{simulation.spec.export}'}.", err=True
            )
            states.append(None)
    return states


def _row(i: int, simulation: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The row of a repeat: what was measured of it, in flow units."""
    kept = {name: found[name] for name in ("step", "time", "divergence", "kinetic_energy", "max_gradient")}
    return {"repeat": i, "seed": simulation.spec.seed, **kept, **found["flow_units"]}


def _close(
    folder: Path, spec: Specification, rows: list[dict[str, Any]], *, figure: bool, quiet: bool, as_json: bool
) -> None:
    """Writes and tells what the repeats say together."""
    import pandas as pd

    from particles.experiment.repeats import folder as named
    from particles.experiment.repeats import together
    from particles.files import replacing

    with replacing(folder / "repeats.csv") as draft:
        pd.DataFrame(rows).to_csv(draft, index=False)
    numbers = [{name: row[name] for name in TITLES if row.get(name) is not None} for row in rows]
    found = {
        "run": str(folder),
        "repeats": len(rows),
        "seeds": [row["seed"] for row in rows],
        "flow_units": together(numbers) if len(rows) > 1 else {},
    }
    with replacing(folder / "summary.json") as draft:
        draft.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    if figure and rows:
        from particles.plot.panels import compare
        from particles.run.reader import Run

        shown = [named(row["repeat"]) for row in rows[:SHOWN]]
        with replacing(folder / "figure.png") as draft:
            compare({name: Run.open(folder / name) for name in shown}).savefig(draft, format="png", dpi=130)
    if as_json:
        say(json.dumps(found))
    elif not quiet:
        say(_table(found))


def _table(found: dict[str, Any]) -> str:
    seeds = found["seeds"]
    which = f"seeds {seeds[0]} to {seeds[-1]}" if seeds else "all of them diverged"
    lines = [f"{found['run']}: {found['repeats']} repeats, {which}; mean and 95 % interval of the mean, flow units"]
    lines += [f"{'':<52}{'mean':>12}{'+/-':>12}{'deviation':>12}"]
    for name, title in TITLES.items():
        if name in found["flow_units"]:
            own = found["flow_units"][name]
            lines += [f"{title:<52}{own['mean']:>12.4g}{own['interval']:>12.2g}{own['deviation']:>12.2g}"]
    return "\n".join(lines)
