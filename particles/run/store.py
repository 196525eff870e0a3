"""Where a run leaves what it did: what a store is, and the one in memory."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from particles.cloud import Cloud
from particles.flows.recording import Tape
from particles.run.process import Process, State

Row = dict[str, float]


class RunError(ValueError):
    """A run that cannot be gone on with."""


class Unwritable(OSError):
    """A run cannot be written, as the disk is full or gone; what its folder holds is good to go on with from the last checkpoint."""


def writing(method: Callable[..., None]) -> Callable[..., None]:
    """A method of a store with a ``path`` whose troubles with the disk are ``Unwritable``."""

    @functools.wraps(method)
    def guarded(self: Any, *arguments: Any) -> None:
        try:
            method(self, *arguments)
        except Unwritable:
            raise
        except OSError as error:
            raise Unwritable(error.errno, error.strerror or str(error), error.filename or str(self.path)) from None

    return guarded


class Store(ABC):
    """What the loop tells, and asks on the way back.

    Attributes:
        rows: The logged rows, oldest first; each has ``step`` and ``time``.
    """

    rows: list[Row]

    def held(self) -> AbstractContextManager[None]:
        """What is to be entered while a run goes on: it keeps others from writing to the same place."""
        return nullcontext()

    @abstractmethod
    def logs(self, k: int) -> bool:
        """Whether step k is logged."""

    @abstractmethod
    def saves(self, k: int) -> bool:
        """Whether the state after step k is saved."""

    @abstractmethod
    def resume(self, process: Process) -> State | None:
        """The last saved state, with the process brought back to it; ``None`` at the beginning."""

    def check(self, state: State) -> None:  # noqa: B027
        """Raises FloatingPointError if a state cannot be written as it is: finite particles may be none in units of the data."""

    @abstractmethod
    def log(self, path: list[State], row: Row) -> None:
        """Writes a row, of the last state of the path that leads to it."""

    @abstractmethod
    def save(self, state: State, process: Process) -> None:
        """Saves a state, and what the next step depends on."""

    @abstractmethod
    def keep(self, k: int, tape: Tape) -> None:
        """Keeps what was recorded on the way to step k, in place of what an earlier way there left."""

    @abstractmethod
    def diverged(self, state: State) -> None:
        """Keeps the last good state of a run that ended in numbers that are not finite."""

    @abstractmethod
    def finish(self, path: list[State], process: Process) -> None:
        """Writes the end, the last state of the path that leads to it."""


class Memory(Store):
    """Keeps the rows of a run, and its clouds at logged steps.

    Arguments:
        log_every: The number of steps from row to row.

    Raises:
        ValueError: If that is not a whole number from 1 up.

    Attributes:
        clouds: The cloud of every row.
        tapes: What was recorded, by the step that it leads to.
    """

    def __init__(self, log_every: int = 1):
        if not isinstance(log_every, int) or log_every < 1:
            raise ValueError(f"log_every must be a whole number from 1 up, not {log_every}")
        self.log_every = log_every
        self.rows: list[Row] = []
        self.clouds: list[Cloud] = []
        self.tapes: dict[int, Tape] = {}

    def logs(self, k: int) -> bool:
        return k % self.log_every == 0

    def saves(self, k: int) -> bool:
        return False

    def resume(self, process: Process) -> State | None:
        return None

    def log(self, path: list[State], row: Row) -> None:
        self.rows.append({"step": path[-1].k, "time": path[-1].t} | row)
        self.clouds.append(path[-1].cloud)

    def save(self, state: State, process: Process) -> None:
        pass

    def keep(self, k: int, tape: Tape) -> None:
        self.tapes[k] = tape

    def diverged(self, state: State) -> None:
        self.clouds.append(state.cloud)

    def finish(self, path: list[State], process: Process) -> None:
        pass
