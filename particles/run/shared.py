"""The store of a run of several processes: the first one writes, and all know what became of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from particles import shards
from particles.flows.recording import Tape
from particles.run.folder import Folder
from particles.run.process import Process, State
from particles.run.store import Row, Store


class Shared(Store):
    """A run folder to which process 0 alone writes; what goes wrong there, all processes raise.

    Arguments:
        folder: The folder; the other processes read its checkpoint when they resume, and nothing else.
    """

    def __init__(self, folder: Folder):
        self.folder = folder
        self.rows = []

    @property
    def saved(self) -> int | None:
        """The step of the checkpoint."""
        return self.folder.saved

    def held(self) -> AbstractContextManager[None]:
        return self.folder.held() if shards.rank() == 0 else nullcontext()

    def logs(self, k: int) -> bool:
        return self.folder.logs(k)

    def saves(self, k: int) -> bool:
        return self.folder.saves(k)

    def resume(self, process: Process) -> State | None:
        found: State | None = None

        def begun() -> list[Row] | None:
            nonlocal found
            found = self.folder.resume(process)
            return None if found is None else self.folder.rows

        rows = shards.once(begun)
        if rows is not None:
            self.rows = list(rows)
            if shards.rank() != 0:
                found = self.folder.restore(process)
        shards.barrier()  # nobody goes on before all have read the checkpoint
        return found

    def check(self, state: State) -> None:
        shards.once(lambda: self.folder.check(state))

    def log(self, path: list[State], row: Row) -> None:
        shards.once(lambda: self.folder.log(path, row))
        self.rows.append({"step": path[-1].k, "time": path[-1].t} | row)

    def save(self, state: State, process: Process) -> None:
        shards.once(lambda: self.folder.save(state, process))

    def keep(self, k: int, tape: Tape) -> None:
        shards.once(lambda: self.folder.keep(k, tape))

    def diverged(self, state: State) -> None:
        shards.once(lambda: self.folder.diverged(state))

    def finish(self, path: list[State], process: Process) -> None:
        shards.once(lambda: self.folder.finish(path, process))
