"""``particles transport``"""

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import click
from particles.cli.closing import Progress
from particles.cli.options import disk, say, set_threads, spelt, usage

from particles.experiment.specification import Specification

OTHER_KINDS = (".npy", ".npz", ".parquet", ".pq")


@click.command("transport")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-i", "--input", "given", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The new points."
)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="CSV file for where they go, in the columns, types and units of the run's target.",
)
@click.option("--to", "stop", type=int, metavar="STEP", help="Stop after this step.  [default: the last one]")
@click.option(
    "--trajectory",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="npy file for their paths at the steps of the run's trajectory.npy, and the last: shape (T, n, d), in data units.",
)
@click.option(
    "--time-steps",
    type=int,
    metavar="N",
    help="Number of Euler steps, of a run of the flow proximal, which can be any.  [default: the run's]",
)
@click.option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.  [default: the run's]")
@click.option("--overwrite", is_flag=True, help="Replace --output and --trajectory if they are there.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no closing line.")
def command(
    run: Path,
    given: Path,
    output: Path,
    stop: int | None,
    trajectory: Path | None,
    time_steps: int | None,
    device: str | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Move new points along the flow of RUN, a run folder made with --record, or of the flow proximal.

    \b
    They go where they would have gone as carried particles of the run (simulate --carried), and influence nothing. The
    file has the columns of the run's target, with the same classes if it has classes. Examples:
      particles simulate --target data.csv --record --output runs/data
      particles transport runs/data --input new.csv --output moved.csv
      particles transport runs/data --input new.csv --output halfway.csv --to 250 --trajectory paths.npy
      particles simulate --target data.csv --flow proximal --output runs/learnt
      particles transport runs/learnt --input new.csv --output moved.csv --time-steps 20
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    from particles.data.export import write
    from particles.experiment.reopen import rebuilt
    from particles.files import replacing

    try:
        spec = _specification(run, device, time_steps)
        set_threads(spec)
        _check_apart(run, spec, given, {"--output": output, "--trajectory": trajectory}, overwrite)
        simulation = rebuilt(run, spec)
        cloud = _points(simulation, given)
        stop = _last(simulation, run) if stop is None else stop
        with Progress(stop, quiet) as bar:
            paths = _Paths(simulation, trajectory, stop, bar)
            moved = _moved(simulation, run, cloud, stop, paths)
        simulation.schema.check(moved.x)  # before anything is written
        paths.write()
        with replacing(output) as draft:
            write(simulation.schema, moved, draft)
    except (ValueError, FileNotFoundError) as error:
        raise usage(error) from None
    except FloatingPointError as error:  # diverged, or too large for the units of the data
        say(f"Diverged: {spelt(str(error))}; nothing is written.", err=True)
        sys.exit(3)
    except OSError as error:
        raise disk(error, output) from None
    except KeyboardInterrupt:
        say("Interrupted; nothing is written.", err=True)
        sys.exit(130)
    if not quiet:
        say(f"{output}: {len(moved)} point{'s' * (len(moved) != 1)} at step {stop}")


def _specification(run: Path, device: str | None, time_steps: int | None) -> Specification:
    if not (run / "spec.toml").is_file():
        raise ValueError(f"{run} is not a run folder: it has no spec.toml")
    spec, _ = Specification.load(run / "spec.toml")
    if time_steps is not None and spec.flow != "proximal":
        raise ValueError(f"time_steps are those of the flow proximal; a run of {spec.flow} repeats its own steps")
    changed: dict[str, Any] = {"device": device, "time_steps": time_steps}
    return dataclasses.replace(spec, **{name: value for name, value in changed.items() if value is not None})


def _check_apart(run: Path, spec: Specification, given: Path, written: dict[str, Path | None], overwrite: bool) -> None:
    """Refuses to write over what is read, and over anything without --overwrite."""
    from particles.run.folder import FILES

    read = {given.resolve(), *(Path(name).resolve() for name in (spec.target, spec.source))}
    read |= {(run / name).resolve() for name in FILES}
    chosen = {option: path for option, path in written.items() if path is not None}
    for option, path in chosen.items():
        if path.resolve() in read:
            raise ValueError(f"{option} {path} is the input, or a file of the run; name another file")
        if path.is_dir():
            raise ValueError(f"{option} {path} is a folder; name a file")
        if path.exists() and not overwrite:
            raise ValueError(f"{option} {path} is there already; replace it (--overwrite), or name another file")
        if not path.parent.is_dir():
            raise ValueError(f"{option} {path}: there is no folder {path.parent}")
    if len({path.resolve() for path in chosen.values()}) < len(chosen):
        raise ValueError("--output and --trajectory are the same file; name two")
    if (output := chosen["--output"]).suffix.lower() in OTHER_KINDS:
        raise ValueError(f"--output {output} would hold CSV; name a .csv file")


def _points(simulation: Any, path: Path) -> Any:
    from particles.data.tables import read_table

    spec = simulation.spec
    table = read_table(path, spec.label, spec.header, least=1)
    return simulation.schema.encode(table, simulation.target.x.device)


def _last(simulation: Any, run: Path) -> int:
    """The last step of the run: that of its checkpoint, or a later one that was recorded before it was cut off."""
    if simulation.spec.flow == "proximal":
        return int(simulation.spec.time_steps * simulation.spec.stages)
    from particles.run.folder import Folder
    from particles.run.recording import Recording

    last: int = max(*Recording(run), Folder(run, simulation.schema).reached() or 0, 0)
    return last


def _moved(simulation: Any, run: Path, cloud: Any, stop: int, look: Any) -> Any:
    """The points at step ``stop``; ``look`` is called with the state of every step."""
    from particles.run.recording import Recording
    from particles.run.replay import transport

    if simulation.spec.flow == "proximal":
        return _generated(simulation, run, cloud, stop, look)
    if not simulation.spec.record:
        raise ValueError(
            f"{run} kept no potentials; repeat the run with --record, or let new points ride along with --carried"
        )
    return transport(simulation.process, Recording(run), cloud, stop, look)


def _generated(simulation: Any, run: Path, cloud: Any, stop: int, look: Any) -> Any:
    """The points after so many Euler steps along a flow that is known at all places and times."""
    from particles.experiment.reopen import restore
    from particles.run.loop import Diverged, check_points
    from particles.run.process import State

    spec, process = simulation.spec, simulation.process
    if spec.solver == "plan":
        raise ValueError(
            f"{run} is a plan, which knows its own particles alone; repeat the run with --solver network, or transport if it has no classes"
        )
    if not 0 <= stop <= spec.time_steps * spec.stages:
        raise ValueError(f"step {stop} is not one of the flow's, 0 to {spec.time_steps * spec.stages}")
    restore(simulation, run)
    path = process.flow.path(cloud, spec.time_steps, process.key.fold("path"))
    for k, reached in enumerate(path[: stop + 1]):
        try:
            check_points(reached)
        except FloatingPointError as error:
            raise Diverged(f"step {k}: {error}") from None
        look(State(k, k * spec.horizon / spec.time_steps, reached))
    return path[stop]


class _Paths:
    """The trajectory of the points, at the steps at which the run has its own, and at the last; it moves the bar."""

    def __init__(self, simulation: Any, path: Path | None, stop: int, bar: Progress):
        self.schema, self.every, self.path, self.stop = simulation.schema, simulation.spec.snapshot_every, path, stop
        if simulation.spec.flow == "proximal":  # a run's trajectory has all its steps
            self.every = 1
        self.bar = bar
        self.taken: list[Any] = []

    def __call__(self, state: Any) -> None:
        self.bar(state.k, {})
        if self.path is not None and (state.k % self.every == 0 or state.k == self.stop):
            self.taken.append(self.schema.points(state.cloud.x))

    def write(self) -> None:
        import numpy as np

        from particles.files import replacing

        if self.path is not None:
            with replacing(self.path) as draft, open(draft, "wb") as file:
                np.save(file, np.stack(self.taken))
