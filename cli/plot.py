"""``particles plot``"""

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
from particles.cli.options import disk, say, usage

PICTURES = (".png", ".pdf", ".svg")
MOVIES = (".gif", ".mp4")
COLORS = ("auto", "time", "label", "none")
KINDS: dict[str, tuple[str, ...]] = {
    "trajectories": ("projection", "color", "max_paths"),
    "snapshots": ("times", "projection", "color"),
    "potential": ("times", "label"),
    "density": ("times", "projection"),
    "diagnostics": (),
    "transport": ("projection", "color", "max_paths"),
    "compare": ("projection", "max_paths"),
    "images": ("times", "count", "shape"),
    "tails": ("column",),
    "animation": ("projection", "color", "fps", "seconds", "smooth"),
    "overview": (),
}
"""What can be drawn, and which options are of it."""
ONE_TIME = ("potential", "density")
OWN = {option for options in KINDS.values() for option in options}


def _times(ctx: click.Context, param: click.Parameter, value: str | None) -> list[tuple[float, bool]] | None:
    """Numbers, and whether each is a percentage."""
    if value is None:
        return None
    try:
        return [(float(text.strip().removesuffix("%")), text.strip().endswith("%")) for text in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of flow times such as 0,2.5,10, or 0%,50%,100%") from None


def _shape(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(text) for text in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a height and a width such as 28,28") from None


@click.command("plot")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--kind", type=click.Choice(list(KINDS)), help="What is drawn.  [default: trajectories; of several runs compare]"
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A .png, .pdf or .svg file; of an animation .gif or .mp4. Replaced if it is there.  [default: RUN-KIND.png or .gif here]",
)
@click.option(
    "--projection",
    default="auto",
    show_default=True,
    metavar="NAME|COLUMNS",
    help="How points of many columns are drawn: auto, pca, pca3, or two or three columns with commas between.",
)
@click.option(
    "--color",
    type=click.Choice(COLORS),
    default="auto",
    show_default=True,
    help="What colours say; label is the class, and auto takes it where there are classes.",
)
@click.option(
    "--max-paths",
    type=click.IntRange(0),
    help="The most paths, evenly chosen among the particles.  [default: 100; of transport 150]",
)
@click.option(
    "--times",
    callback=_times,
    metavar="TIMES",
    help="Flow times with commas between, or parts of the run such as 0%,50%,100%: several of snapshots and images, one of "
    "potential and density.  [default: five; of all but snapshots, the end]",
)
@click.option("--label", metavar="CLASS", help="The class whose potential is drawn.  [default: the first]")
@click.option("--column", metavar="NAME", help="The column of tails.  [default: all together]")
@click.option("--count", type=click.IntRange(1), help="The number of images.")
@click.option(
    "--shape",
    callback=_shape,
    metavar="HEIGHT,WIDTH",
    help="The pixels of an image, with ,3 for colours.  [default: a square, or as the columns are named]",
)
@click.option(
    "--fps",
    type=click.FloatRange(0, min_open=True),
    help="Frames a second of an animation; a GIF's are at most 50.  [default: 20]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="How long an animation is, but for its last frame.  [default: 8]",
)
@click.option(
    "--smooth/--no-smooth",
    "smooth",
    default=True,
    show_default=True,
    help="Whether an animation draws particles on straight lines between snapshots, where it has more frames.",
)
@click.option("--dpi", type=click.FloatRange(10, 2000), help="Pixels to an inch.  [default: 150; of an animation 100]")
@click.option("--show", is_flag=True, help="Open a window; nothing is written then, unless --output is given.")
@click.option("--watch", is_flag=True, help="Draw again at each new snapshot, until nobody goes on with the run.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no closing line.")
@click.pass_context
def command(
    ctx: click.Context,
    runs: tuple[Path, ...],
    kind: str | None,
    output: Path | None,
    dpi: float | None,
    show: bool,
    watch: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Draw a run folder, of a run that has ended or goes on; or several side by side.

    \b
    Times are flow times, in the units of the step size. Examples:
      particles plot runs/moons
      particles plot runs/moons --kind snapshots --times 0%,10%,100% --output moons.pdf
      particles plot runs/cells --projection pca3 --color label
      particles plot runs/moons --kind animation --output moons.mp4 --seconds 5
      particles plot runs/kl runs/w2 --output both.svg
      particles plot runs/moons --kind overview --watch
    """
    if dpi is not None and math.isnan(dpi):
        raise click.UsageError("--dpi must be a number from 10 to 2000, not nan")
    kind = kind or ("trajectories" if len(runs) == 1 else "compare")
    given = {name for name in OWN if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    _check_options(kind, given, len(runs), show, watch)
    chosen = {name: options[name] for name in KINDS[kind] if options[name] is not None}
    suffix = ".gif" if kind == "animation" else ".png"
    where = output or Path("-".join(path.resolve().name for path in runs[:3]) + f"-{kind}{suffix}")
    with _ending():
        try:
            _check_output(where, runs, kind)
            if kind == "animation":
                _animate(runs[0], where, chosen, dpi or 100, quiet)
            elif watch:
                _watch(runs[0], kind, chosen, where, dpi or 150, quiet)
            elif show:
                _show(runs, kind, chosen, output, dpi or 150, quiet)
            else:
                _write(_drawn(runs, kind, chosen), where, dpi or 150, quiet)
        except (ValueError, FileNotFoundError) as error:
            raise usage(error) from None
        except OSError as error:
            raise disk(error, where) from None
        except KeyboardInterrupt:
            say("Interrupted; a picture that was there is as it was." if not watch else "Interrupted.", err=True)
            sys.exit(130)


def _check_options(kind: str, given: set[str], runs: int, show: bool, watch: bool) -> None:
    """Refuses what a kind does not use."""
    for name in sorted(given - set(KINDS[kind])):
        of = [other for other, options in KINDS.items() if name in options]
        kinds = f"the kind {of[0]}" if len(of) == 1 else f"the kinds {', '.join(of[:-1])} and {of[-1]}"
        raise click.UsageError(f"--{name.replace('_', '-')} is of {kinds}, not of {kind}; leave it out")
    if runs > 1 and kind != "compare":
        raise click.UsageError(f"--kind {kind} draws one run, not {runs}; name one, or choose --kind compare")
    if watch and (runs > 1 or show or kind == "animation"):
        what = "several runs" if runs > 1 else "--show" if show else "an animation"
        raise click.UsageError(f"--watch is of one run and a picture in a file, not of {what}; leave it out")
    if show and kind == "animation":
        raise click.UsageError("--show is not of the kind animation; leave it out, and open the file")


def _check_output(output: Path, runs: tuple[Path, ...], kind: str) -> None:
    """Refuses to write over what is read, and what is no picture."""
    import tomllib

    from particles.run.folder import FILES, check_ordinary

    read = {(run / name).resolve() for run in runs for name in FILES}
    for run in runs:
        try:
            check_ordinary(run)
            spec = tomllib.loads((run / "spec.toml").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # said when the run is read
            continue
        read |= {Path(str(spec.get(name, "."))).resolve() for name in ("target", "source")}
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder; name a file")
    if output.resolve() in read or any(run.resolve() / "potentials" in output.resolve().parents for run in runs):
        raise ValueError(f"--output {output} is a file of the run, or its data; name another file")
    known = MOVIES if kind == "animation" else PICTURES
    if output.suffix.lower() not in known:
        hint = "; --kind animation writes those" if output.suffix.lower() in MOVIES else ""
        raise ValueError(f"--output {output} does not end in {', '.join(known[:-1])} or {known[-1]}{hint}")
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: there is no folder {output.parent}")


def _drawn(runs: tuple[Path, ...], kind: str, chosen: dict[str, Any]) -> Any:
    """The figure of a kind."""
    from particles import Run, plot

    opened = [Run.open(path) for path in runs]
    if kind == "compare":
        return plot.compare(opened, **chosen)
    if "times" in chosen:
        times = _in_flow_time(opened[0], chosen.pop("times"))
        if kind in ONE_TIME and len(times) > 1:
            raise ValueError(f"--times of the kind {kind} is one time, not {len(times)}")
        one = kind in ONE_TIME or (kind == "images" and len(times) == 1)
        chosen = chosen | ({"at": times[0]} if one else {"times": times})
    draw = plot.figure if kind == "overview" else getattr(plot, kind)
    return draw(opened[0], **chosen)


def _in_flow_time(run: Any, times: list[tuple[float, bool]]) -> list[float]:
    first, last = float(run.times[0]), float(run.times[-1])
    return [first + (last - first) * value / 100 if percent else value for value, percent in times]


def _write(figure: Any, output: Path, dpi: float, quiet: bool) -> None:
    from particles.plot.window import save

    save(figure, output, dpi)
    if not quiet:
        say(str(output))


def _show(
    runs: tuple[Path, ...], kind: str, chosen: dict[str, Any], output: Path | None, dpi: float, quiet: bool
) -> None:
    from particles.plot.window import has_screen, show

    if not has_screen():
        raise ValueError("--show needs a screen, and matplotlib found none; leave it out, and open the file")
    figure = _drawn(runs, kind, chosen)
    if output is not None:
        _write(figure, output, dpi, quiet)
    show(figure)


def _animate(path: Path, output: Path, chosen: dict[str, Any], dpi: float, quiet: bool) -> None:
    from tqdm import tqdm

    from particles import Run
    from particles.plot.movie import animate

    with tqdm(
        disable=True if quiet else None,
        unit="frame",
        dynamic_ncols=True,
        file=sys.stderr,
        desc=output.name,
        leave=False,
    ) as bar:

        def progress(count: int, of: int) -> None:
            bar.total = of
            bar.update(count - bar.n)

        movie = animate(Run.open(path), output, dpi=dpi, progress=progress, **chosen)
    if not quiet:
        say(f"{movie.path}: {movie.frames} frames, {movie.seconds:.1f} s, {_size(movie.bytes)}")


def _watch(path: Path, kind: str, chosen: dict[str, Any], output: Path, dpi: float, quiet: bool) -> None:
    from particles.plot.watching import ended, follow, newest

    if not (path / "spec.toml").is_file():
        raise ValueError(f"{path} is not a run folder: it has no spec.toml")

    def draw() -> None:
        _write(_drawn((path,), kind, dict(chosen)), output, dpi, quiet=True)

    def pause(seconds: float) -> bool:
        time.sleep(seconds)
        return False

    follow(path, draw, over=lambda: ended(path), pause=pause)
    reached = newest(path)
    if not quiet and reached is not None:
        say(f"{output}: step {reached.step}")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(round(count / 1e3), 1)} kB"


@contextmanager
def _ending() -> Iterator[None]:
    """SIGTERM ends the command as an error would, so that nothing half-written is left."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
