"""``--watch`` of a run: who looks at its folder while it grows."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from particles.cli.options import say

WATCHES = ("figure", "terminal")
SHARE = 0.02
"""The part of a run's time that drawing on the terminal may take."""
APART = 10.0
"""The seconds between two blocks of text where they do not replace each other."""
PATIENCE = 10.0
"""How long the drawing process may take to end, in seconds."""


@contextmanager
def drawing(folder: Path, every: int) -> Iterator[None]:
    """A process of low priority that draws the folder's figure.png while the run goes on, and ends before this does."""
    command = [sys.executable, "-P", "-m", "particles.plot.watching", str(folder.resolve()), str(every)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # Its standard input is a pipe that ends when we do, even if we are killed; in a session of its own Ctrl-C is ours.
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=os.environ | threads | {"MPLBACKEND": "agg"},
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()
        (folder / f".figure.png.{process.pid}.tmp").unlink(missing_ok=True)


class Terminal:
    """Draws the newest snapshot on standard error, in place on a terminal; otherwise a block now and then.

    It is called at every logged step, and takes no more than its share of the time.

    Arguments:
        folder: The run folder.
        every: The number of steps from one drawing to the next; 0 is every snapshot.
    """

    def __init__(self, folder: Path, every: int):
        self.folder, self.every = folder, every
        self.view: Any = None
        self.drawn: Any = None
        self.row: dict[str, float] = {}
        self.lines = 0
        self.next = 0.0
        self.failed = False
        self.live = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.color = self.live and "NO_COLOR" not in os.environ
        self.braille = (getattr(sys.stderr, "encoding", "") or "").lower().replace("-", "") == "utf8"

    def __call__(self, k: int, row: dict[str, float]) -> None:
        self.row = row
        if time.perf_counter() >= self.next:
            self._look(last=False)

    def close(self) -> None:
        """Draws the end, unless that is what is to be seen."""
        self._look(last=True)

    def _look(self, *, last: bool) -> None:
        from particles.files import UNREADABLE, first_line
        from particles.plot.terminal import View
        from particles.plot.watching import due, newest

        now = newest(self.folder)
        if self.failed or now is None or not due(now, self.drawn, self.every, last):
            return
        try:
            self.view = self.view or View(self.folder)
            begin = time.perf_counter()
            self._show(self._text())
        except UNREADABLE as error:  # a picture is not worth a run
            self.failed = True
            say(f"WARNING: --watch terminal cannot draw: {first_line(error)}", err=True)
            return
        spent = time.perf_counter() - begin
        self.drawn, self.next = now, begin + max(spent / SHARE, 0.0 if self.live else APART)

    def _text(self) -> list[str]:
        columns, rows = _size()
        shown = [f"{name} {self.row[name]:.4g}" for name in ("divergence", "kinetic_energy") if name in self.row]
        head = ", ".join([f"step {self.row['step']:.0f}, time {self.row['time']:.4g}", *shown])
        room = max(columns - 1, 10), max(min(rows - 3, 40), 4)
        return [head[: room[0]], *self.view.draw(room, color=self.color, braille=self.braille)]

    def _show(self, lines: list[str]) -> None:
        back = f"\x1b[{self.lines}F\x1b[J" if self.live and self.lines else ""
        sys.stderr.write(back + "\n".join(lines) + "\n")
        sys.stderr.flush()
        self.lines = len(lines)


def _size() -> tuple[int, int]:
    """The columns and rows of the terminal that standard error is, or of a usual one."""
    try:
        found = os.get_terminal_size(sys.stderr.fileno())
        if found.columns and found.lines:
            return found.columns, found.lines
    except (OSError, ValueError, AttributeError):  # no terminal
        pass
    return tuple(shutil.get_terminal_size((80, 24)))  # type: ignore[return-value]
