"""``particles simulate``"""

import dataclasses
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import click
from particles.cli.closing import Progress, close
from particles.cli.options import disk, say, set_threads, specification, spelt, usage
from particles.cli.watching import WATCHES, Terminal, drawing

from particles.experiment.specification import Specification

MARK = "repeats.toml"
ALWAYS = {
    "resume",
    "steps",
    "quiet",
    "as_json",
    "figure",
    "watch",
    "watch_every",
    "check_precision",
}  # what may be given beside --resume


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes the first one speaks, and all end with the same exit code."""
    from particles import shards

    try:
        several = shards.launched() > 1
        number = int(os.environ["RANK"]) if several else 0
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        if number == 0:
            yield
        else:
            with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
                yield
    except shards.Lost as error:
        say(f"Error: {error}; go on from the last checkpoint with --resume", err=True)
        sys.exit(1)
    except click.ClickException as error:
        if number == 0:
            raise
        sys.exit(error.exit_code)


@click.command("simulate")
@specification()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder.  [default: runs/TARGET]")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on with this run, to --steps; all other options are its own.",
)
@click.option(
    "--repeats",
    type=click.IntRange(2),
    metavar="R",
    help="That many runs, with the seeds --seed, --seed + 1 and so on, each in a folder of its own in --output: means and 95 % intervals. "
    "Trained discriminators go side by side in one batched network.",
)
@click.option("--overwrite", is_flag=True, help="Replace the run in a folder that is not empty.")
@click.option("--figure/--no-figure", default=True, show_default=True, help="Draw figure.png at the end.")
@click.option(
    "--watch",
    type=click.Choice(WATCHES),
    is_flag=False,
    flag_value="figure",
    help="Look on while it runs: figure draws figure.png again and again, at low priority; terminal draws particles and target "
    "in characters.  [figure if no name follows]",
)
@click.option(
    "--watch-every", type=click.IntRange(1), metavar="STEPS", help="... every so many steps.  [default: every snapshot]"
)
@click.option(
    "--check-precision",
    is_flag=True,
    help="At the end, compute one more velocity in float32 and in float64, and say how far they are apart.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no closing table.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="PARTICLES_SIMULATE_JSON",
    help="Print the closing table as one JSON object.",
)
@click.pass_context
@_one_voice()
def command(
    ctx: click.Context,
    output: Path | None,
    resume: Path | None,
    repeats: int | None,
    overwrite: bool,
    figure: bool,
    watch: str | None,
    watch_every: int | None,
    check_precision: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Move particles along a gradient flow onto a data set.

    \b
    Flow units are those in which the target is scaled (see --scale). Examples:
      particles simulate --target 8-gaussians --steps 300 --output runs/eight
      particles simulate --target data.csv --label class --holdout 0.2 --output runs/data
      particles simulate --source before.csv --target after.csv --scale global
      particles simulate --target moons --flow transport --divergence w1
      particles simulate --resume runs/eight --steps 1000
      torchrun --nproc-per-node 4 -m particles.cli simulate --target data.csv
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    if watch_every is not None and watch is None:
        raise click.UsageError("--watch-every is of --watch; give both")
    if watch == "figure" and not figure:
        raise click.UsageError("--watch figure draws figure.png; leave --no-figure out, or choose --watch terminal")
    if resume is not None:
        folder, spec = resume, _resumed(ctx, resume, options["steps"])
        repeats = repeated(resume)
    else:
        if options["target"] is None:
            raise click.UsageError("name a target: --target FILE|NAME (or go on with a run: --resume RUN)")
        folder = output or Path("runs") / Path(options["target"]).stem
        try:
            spec = Specification(**options)
        except ValueError as error:
            raise usage(error) from None
        if repeats:
            check_empty(folder, overwrite, MARK)
    for name, given in (("watch", watch), ("check-precision", check_precision)):
        if repeats and given:
            raise click.UsageError(f"--{name} looks at one run; leave it out with --repeats")
    try:
        chosen = any(_given(ctx, name) for name in ("step_size", "lipschitz"))
        if repeats:
            from particles.cli.repeats import run

            run(
                folder,
                spec,
                repeats,
                resumed=resume is not None,
                steps=options["steps"] if _said(ctx, "steps") else None,
                overwrite=overwrite and resume is None,
                figure=figure,
                quiet=quiet,
                as_json=as_json,
                advise=chosen and not quiet,
            )
            return
        _run(
            folder,
            spec,
            figure=figure,
            watch=watch,
            watch_every=watch_every or 0,
            precision=check_precision,
            quiet=quiet,
            as_json=as_json,
            fresh=resume is None,
            overwrite=overwrite,
            advise=chosen and not quiet,
        )
    except KeyboardInterrupt:  # before the first step, or after the last
        say(f"Interrupted; if {folder} has a checkpoint, go on with --resume", err=True)
        sys.exit(130)


def _said(ctx: click.Context, name: str) -> bool:
    """Whether an option is on the command line itself: the environment is for new runs."""
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) in (
        click.core.ParameterSource.COMMANDLINE,
        click.core.ParameterSource.ENVIRONMENT,
    )


def _resumed(ctx: click.Context, folder: Path, steps: int) -> Specification:
    given = {name for name in ctx.params if _said(ctx, name)}
    if strange := sorted(given - ALWAYS):
        raise click.UsageError(
            f"--{strange[0].replace('_', '-')} cannot be changed in a resumed run; leave it out, or begin a new run"
        )
    from particles.run.folder import check_ordinary

    mark = folder / (MARK if (folder / MARK).exists() else "spec.toml")
    if not mark.exists():
        raise click.UsageError(f"{folder} is not a run folder: it has no spec.toml")
    try:
        check_ordinary(folder)
        spec, _ = Specification.load(mark)
        return dataclasses.replace(spec, steps=steps) if "steps" in given else spec
    except (ValueError, TypeError) as error:
        raise usage(error) from None


def repeated(folder: Path) -> int | None:
    """How many runs a folder of repeats has; ``None`` for another folder."""
    if not (folder / MARK).exists():
        return None
    _, noted = Specification.load(folder / MARK)
    count = noted.get("repeats", {}).get("count")
    if not isinstance(count, int) or count < 2:
        raise click.UsageError(f"{folder / MARK} does not say how many repeats there are; begin new runs")
    return count


def check_empty(folder: Path, overwrite: bool, mark: str = "spec.toml") -> None:
    """Refuses a folder with something in it, but for one to be overwritten that has the file ``mark``."""
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"--output {folder} is a file; name a folder")
    if not folder.is_dir() or {path.name for path in folder.iterdir()} <= {".lock"}:  # which a kill may leave
        return
    what = {"spec.toml": "a run", MARK: "one of repeats"}.get(mark, "a comparison")
    if not overwrite:
        resume = f"go on with it (--resume {folder}), " if what != "a comparison" else ""
        raise click.UsageError(f"{folder} is not empty; {resume}replace it (--overwrite), or name another --output")
    if not (folder / mark).is_file():
        raise click.UsageError(
            f"{folder} is not empty and not {what} (it has no {mark}), so it is not overwritten; name another --output"
        )


def _run(
    folder: Path,
    spec: Specification,
    *,
    figure: bool,
    watch: str | None,
    watch_every: int,
    precision: bool,
    quiet: bool,
    as_json: bool,
    fresh: bool,
    overwrite: bool,
    advise: bool,
) -> None:
    from particles import shards
    from particles.experiment.build import build
    from particles.experiment.precision import check_comparable, rounding
    from particles.run.folder import clear
    from particles.run.lock import locked
    from particles.run.loop import Diverged, Interrupted, simulate
    from particles.run.store import RunError, Unwritable

    set_threads(spec)
    with ExitStack() as stack:
        try:
            stack.enter_context(shards.together())
            first = shards.rank() == 0
            if fresh:
                shards.once(lambda: check_empty(folder, overwrite))
            if precision:
                if shards.world() > 1:
                    raise ValueError(
                        "--check-precision is for runs of one process; leave it out, or start without torchrun"
                    )
                check_comparable(spec)
            simulation = build(spec)

            def prepare() -> None:
                stack.enter_context(locked(folder))
                if fresh and overwrite:
                    check_apart(folder, simulation.spec)
                    simulation.check_begin(folder, warn=False)  # before anything is lost
                    clear(folder)

            shards.once(prepare)
            watch = watch if first else None
            if advise and simulation.advice:
                say(f"WARNING: {spelt(simulation.advice)}", err=True)
            bar = Progress(simulation.spec.steps, quiet or watch == "terminal")
            look = Terminal(folder, watch_every) if watch == "terminal" else bar
            store = simulation.store(folder, look)
        except (ValueError, FileNotFoundError) as error:
            raise usage(error) from None
        except OSError as error:
            raise disk(error, folder) from None
        try:
            with bar, _watched(folder, look, watch_every if watch == "figure" else None):
                observers = simulation.observers if first else []
                state = simulate(simulation.process, simulation.spec.steps, store, observers, simulation.at_rest)
            if first:
                apart = rounding(simulation, state) if precision else None
                close(folder, simulation, state, store.rows[-1], apart, figure=figure, quiet=quiet, as_json=as_json)
        except RunError as error:
            raise usage(error) from None
        except Diverged as error:
            say(f"Diverged: {spelt(str(error))} in {folder / f'diverged.{spec.export}'}.", err=True)
            sys.exit(3)
        except Interrupted as error:
            say(f"Interrupted: {error}; go on with: {resume_with(folder)}", err=True)
            sys.exit(128 + error.signal)
        except Unwritable as error:
            saved = (
                ""
                if store.saved is None
                else f" up to step {store.saved}; when there is room, go on with: {resume_with(folder)}"
            )
            say(f"Error: {error.filename}: {error.strerror}; the run is saved{saved or ' nowhere yet'}", err=True)
            sys.exit(4)
        except OSError as error:  # of the summary or the figure: the run itself is whole
            raise disk(error, folder) from None


def resume_with(folder: Path) -> str:
    return f"particles simulate --resume {shlex.quote(str(folder))}"


@contextmanager
def _watched(folder: Path, look: Callable[[int, dict[str, float]], None], every: int | None) -> Iterator[None]:
    """Sees to it that whoever looks at the run ends with it, however that ends."""
    if every is not None:
        with drawing(folder, every):
            yield
        return
    try:
        yield
    finally:
        if isinstance(look, Terminal):
            look.close()


def check_apart(folder: Path, spec: Specification) -> None:
    """Refuses to overwrite a run with one that reads from it."""
    for name in ("target", "source"):
        path = Path(getattr(spec, name))
        if path.exists() and path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{name} {path} is in the folder that --overwrite would replace; name another --output")
