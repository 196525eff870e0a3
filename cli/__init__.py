"""The command line."""

if __name__ != "particles.cli":
    raise ImportError(
        "the command line is installed as the package particles.cli: "
        "run `pip install -e .` in the project's root, then `particles` or `python -m particles.cli`"
    )

import errno
import importlib
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import click

os.environ.setdefault("KEOPS_VERBOSE", "0")  # its chatter would go to standard output
os.environ.setdefault("PYKEOPS_VERBOSE", "0")

COMMANDS = {
    "simulate": "Move particles along a gradient flow onto a data set.",
    "compare": "Run several flows from the same source to the same target, and measure them in one table.",
    "transport": "Move new points along a run that was made with --record.",
    "augment": "Make new rows like those of a small table, class by class, and say how near they are to it.",
    "evaluate": "Measure synthetic rows, of any tool, against the real ones: fidelity, copying, utility.",
    "plot": "Draw a run: trajectories, snapshots, potentials, curves, animations, or several runs side by side.",
    "report": "Make one HTML page about one or several runs, with a player of the trajectories.",
    "info": "Print versions, devices, the state of KeOps, and all names that can be chosen.",
}


class Commands(click.Group):
    """A group whose commands are imported when they are called."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # of which the command had nothing to say
            click.echo("Interrupted", err=True)
            sys.exit(130)
        except OSError as error:  # likewise, such as a name that is too long
            if error.errno == errno.EPIPE:  # nobody reads on, which is no error
                raise
            from particles.cli.options import disk

            raise disk(error, Path()) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"particles.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "PARTICLES",
        "max_content_width": 110,
    },
)
@click.version_option(package_name="lipschitz-particles", prog_name="particles")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Particle gradient flows without a generator.

    \b
    To start:
      particles simulate --target moons --output runs/moons
      particles simulate --target data.csv --label class --output runs/data
    \b
    Results go to standard output, progress and warnings to standard error. Exit codes: 0 done, 2 bad input or
    options, 3 diverged (the last good particles are saved), 4 the disk is full or fails (saved up to the last
    checkpoint), 130 interrupted and 143 terminated (saved; go on with --resume).
    """
    if {"RANK", "WORLD_SIZE"} <= os.environ.keys() and ctx.invoked_subcommand not in (None, "simulate"):
        from particles import shards

        try:
            count = shards.launched()
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        if count > 1:
            raise click.UsageError(
                f"{ctx.invoked_subcommand} runs in one process, not in {count}; start it without torchrun"
            )
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, _end)
        ctx.call_on_close(lambda: signal.signal(signal.SIGTERM, before))


def _end(number: int, frame: FrameType | None) -> None:
    """Ends the process by way of all that cleans up after itself, drafts and temporary files: by default SIGTERM would not."""
    sys.exit(128 + number)
