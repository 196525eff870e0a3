"""``particles report``"""

from pathlib import Path
from typing import Any

import click
from particles.cli.options import disk, say, usage


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="HTML file for the page; replaced if it is there.  [default: the run's name, with -report.html behind it]",
)
@click.option("-q", "--quiet", is_flag=True, help="Do not print the file's name and size.")
def command(runs: tuple[Path, ...], output: Path | None, quiet: bool) -> None:
    """Make one HTML page about one or several runs, which opens from disk and needs no network.

    \b
    It has what was run, a player of the trajectory, curves, pictures, quality, and the command that repeats the run;
    several runs are side by side. Examples:
      particles report runs/moons
      particles report runs/exact runs/learnt --output comparison.html
    """
    try:
        file = output or Path(_default(runs))
        _check(runs, file)
        from particles.report.page import report

        report(list(runs), file)
        size = file.stat().st_size
    except (ValueError, FileNotFoundError) as error:
        raise usage(error) from None
    except OSError as error:
        raise disk(error, output) from None
    if not quiet:
        say(f"{file}: {size / 1e6:.1f} MB")


def _default(runs: tuple[Path, ...]) -> str:
    more = f"-and-{len(runs) - 1}-more" if len(runs) > 1 else ""
    return f"{runs[0].resolve().name}{more}-report.html"


def _check(runs: tuple[Path, ...], file: Path) -> None:
    """Refuses runs that are named twice, and to write over anything but a page."""
    folders: list[Any] = [run.resolve() for run in runs]
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"{next(run for run in runs if folders.count(run.resolve()) > 1)} is named twice; name each run once"
        )
    if file.is_dir():
        raise ValueError(f"--output {file} is a folder; name a file")
    if file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--output {file} would hold HTML; name a .html file")
    if file.exists() and not file.is_file():
        raise ValueError(f"--output {file} is no ordinary file; name another")
    if not file.parent.is_dir():
        raise ValueError(f"--output {file}: there is no folder {file.parent}")
