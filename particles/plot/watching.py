"""Following a run that goes on, by its folder alone.

As a program, ``python -m particles.plot.watching RUN STEPS`` draws ``figure.png`` of RUN again as the run goes on, until its
standard input ends: when whoever started it closes it, or is no more.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from particles.files import UNREADABLE, first_line, replacing
from particles.run.lock import busy
from particles.run.reader import Run

INTERVAL = 0.25
"""How often a folder is looked at, in seconds."""
REST = 4
"""For how many times as long as it drew the follower then rests, so that it takes a fifth of one core at most."""


@dataclass(frozen=True)
class Newest:
    """What a run has reached.

    Attributes:
        stamp: Another one for other snapshots.
        snapshots: How many there are.
        step: The last step that was logged: of a flow that is trained, that of the training.
    """

    stamp: tuple[int, int]
    snapshots: int
    step: int


def newest(path: Path) -> Newest | None:
    """What a run has reached; ``None`` before its first snapshot."""
    try:
        found = (path / "trajectory.csv").stat()
        snapshot, step = _last(path / "trajectory.csv"), _last(path / "series.csv")
    except OSError:
        return None
    if snapshot is None or step is None:
        return None
    return Newest((found.st_mtime_ns, found.st_size), int(snapshot) + 1, int(step))


def _last(path: Path) -> float | None:
    """The first number of the last whole line."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().rpartition(b"\n")[0].split(b"\n")
    try:
        return float(lines[-1].split(b",")[0])
    except ValueError:  # the names of the columns
        return None


def ended(path: Path) -> bool:
    """Whether nobody goes on with a run that has begun: it has come to its end, or was stopped."""
    return newest(path) is not None and not busy(path)


def follow(
    path: Path,
    draw: Callable[[], None],
    *,
    every: int = 0,
    over: Callable[[], bool],
    pause: Callable[[float], bool],
) -> None:
    """Calls ``draw`` at each new snapshot that is at least ``every`` steps after the one before, and at the last.

    Arguments:
        path: The run folder.
        draw: Draws it; rests follow, four times as long as that took.
        every: The number of steps; 0 is every snapshot.
        over: Whether the run has ended; asked before each look, so that the end is seen.
        pause: Waits for so many seconds, and answers whether to end now.
    """
    drawn: Newest | None = None
    while True:
        last, now, spent = over(), newest(path), 0.0
        if now is not None and due(now, drawn, every, last):
            begin = time.perf_counter()
            draw()
            drawn, spent = now, time.perf_counter() - begin
        if last or pause(max(INTERVAL, REST * spent)):
            return


def due(now: Newest, drawn: Newest | None, every: int, last: bool) -> bool:
    """Whether what a run has reached is to be drawn, after what was drawn before; the ``last`` is, if it is another."""
    if drawn is None:
        return True
    return now.stamp != drawn.stamp and (last or not drawn.step <= now.step < drawn.step + every)


def main(folder: str, every: str) -> None:
    """Draws ``figure.png`` of a run again and again, at the lowest priority."""
    os.nice(19)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    from particles.plot.overview import figure  # it takes a second, and is not needed to follow

    path, failed = Path(folder), False

    def draw() -> None:
        nonlocal failed
        try:
            with replacing(path / "figure.png", lasting=False) as draft:
                figure(Run.open(path)).savefig(draft, format="png", dpi=130)
        except UNREADABLE as error:  # between two writes; the next look may do
            if failed:
                return
            failed = True
            print(f"WARNING: figure.png was not drawn at one step: {first_line(error)}", file=sys.stderr, flush=True)

    def pause(seconds: float) -> bool:
        return bool(select.select([sys.stdin], [], [], seconds)[0])

    follow(path, draw, every=int(every), over=lambda: False, pause=pause)


if __name__ == "__main__":
    main(*sys.argv[1:])
