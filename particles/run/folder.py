"""The folder of a run, in which a run that was cut short can be gone on with, bit for bit.

A run folder holds

* ``spec.toml``: everything needed to repeat the run;
* ``data.npz``: ``target`` and ``holdout``, in the units of the target, and the classes of both and of the particles;
* ``series.csv``: a row per logged step;
* ``trajectory.npy``: the particles at some of them, with shape (T, M, d), in the units of the target (or some of the particles:
  then ``data.npz`` has their ``rows``), and ``trajectory.csv``: which steps those are;
* ``checkpoint.pt``: the last saved state, replaced at one stroke;
* ``potentials/``: of a recorded run, a file per step with what new points need to follow it;
* ``particles.csv`` (and ``carried.csv``): the end, in the units and columns of the target, or the same as ``.npy`` or ``.parquet``;
* ``diverged.csv``: the last good particles, if a step gave a number that is not finite.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from particles.cloud import Cloud
from particles.data.export import write
from particles.data.tables import Schema
from particles.files import UNREADABLE, first_line, replacing, settle, sweep
from particles.flows.recording import Tape
from particles.keys import Key
from particles.names import EXPORTS
from particles.run.arrays import GrowingArray, read_growing, read_series
from particles.run.lock import locked
from particles.run.process import Process, State
from particles.run.recording import Recording
from particles.run.store import Row, RunError, Store, writing


def clear(path: Path) -> None:
    """Removes a run from a folder, and nothing else."""
    Recording(path).clear()
    for name in FILES[::-1]:  # the first one last, as a folder without it is not taken for a run
        (path / name).unlink(missing_ok=True)


class Folder(Store):
    """A run folder.

    Arguments:
        path: The folder; made if it is not there.
        schema: The columns and units of the target.
        log_every: The number of steps from row to row.
        snapshot_every: The number of steps from snapshot to snapshot, a multiple of ``log_every``.
        checkpoint_every: The number of steps from checkpoint to checkpoint.
        progress: Called with the step and the row after every logged step.
        rows: The rows of the particles whose way is kept, ascending, with shape (K,); ``None`` for all.
        export: The kind of file that the end is written to: ``csv``, ``npy`` or ``parquet``.
        settings: What the run is made of, in plain numbers and words. It is kept with every checkpoint, and one that was made with
            other settings is not resumed from.

    Raises:
        ValueError: If ``snapshot_every`` is not a multiple of ``log_every``.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        *,
        log_every: int = 10,
        snapshot_every: int = 10,
        checkpoint_every: int = 50,
        progress: Callable[[int, Row], None] | None = None,
        rows: torch.Tensor | None = None,
        export: str = "csv",
        settings: dict[str, Any] | None = None,
    ):
        if snapshot_every % log_every:
            raise ValueError(f"snapshot_every must be a multiple of log_every ({log_every}), not {snapshot_every}")
        self.path = path
        self.schema = schema
        self.log_every = log_every
        self.snapshot_every = snapshot_every
        self.checkpoint_every = checkpoint_every
        self.progress = progress
        self.shown = rows
        self.export = export
        self.settings = settings or {}
        self.rows = []
        self.columns: Row = {}  # those of series.csv
        self.recording = Recording(path)
        self.taken: list[int] | None = None  # the steps of the snapshots, once they have been read
        self.saved: int | None = None  # the step of the checkpoint
        self.resumed: int | None = None  # the step that the run was taken up at, until it has gone on from there
        path.mkdir(parents=True, exist_ok=True)

    def held(self) -> AbstractContextManager[None]:
        return locked(self.path)

    def logs(self, k: int) -> bool:
        return k % self.log_every == 0

    def saves(self, k: int) -> bool:
        return k % self.checkpoint_every == 0

    def reached(self) -> int | None:
        """The step of the checkpoint, if there is one.

        Raises:
            RunError: If it cannot be read.
        """
        return None if (saved := self._load(mapped=True)) is None else int(saved["k"])

    def _load(self, mapped: bool = False) -> dict[str, Any] | None:
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            saved = torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
            if not {"k", "t", "x", "memory", "process"} <= saved.keys():
                raise ValueError("it is not a checkpoint")
        except UNREADABLE as error:
            raise RunError(f"{path} cannot be read ({first_line(error)}); begin a new run") from None
        return dict(saved)

    def resume(self, process: Process) -> State | None:
        sweep(self.path)
        sweep(self.recording.folder)
        if (state := self.restore(process)) is None:
            return None
        try:
            self._keep(lambda k: k <= state.k, lambda k: k <= state.k)
        except UNREADABLE as error:
            raise self._misfit(error) from None
        self.saved = self.resumed = state.k
        return state

    def restore(self, process: Process) -> State | None:
        """The saved state, with the process brought back to it, and no file touched; ``None`` if there is none.

        Raises:
            RunError: If it cannot be read, or is not that of such a process.
        """
        if (saved := self._load()) is None:
            return None
        first = process.init()
        device = first.cloud.x.device
        try:
            x, like = saved["x"], first.cloud.x
            shape = (first.cloud.total, first.cloud.dimension)
            if x.shape != shape or x.dtype != like.dtype or not isinstance(saved["k"], int) or saved["k"] < 0:
                raise ValueError(f"its particles are {x.dtype} {tuple(x.shape)}, not {like.dtype} {shape}")
            made = dict(saved.get("settings", {}))  # none by an earlier version
            for name, value in self.settings.items():
                if made.get(name, value) != value:
                    raise ValueError(f"its checkpoint is of a run with {name} = {made[name]}, not {value}")
            process.load_state_dict(saved["process"])
            memory = tuple(tensor.to(device) for tensor in saved["memory"])
            return first.at(saved["k"], saved["t"], x.to(device), memory)
        except UNREADABLE as error:
            raise self._misfit(error) from None

    def _misfit(self, error: BaseException) -> RunError:
        return RunError(f"{self.path} does not fit its spec.toml ({first_line(error)}); begin a new run")

    def _keep(self, rows: Callable[[int], bool], snapshots: Callable[[int], bool]) -> None:
        """Drops the rows and the snapshots of all other steps."""
        self.rows = [row for row in read_series(self.path / "series.csv") if rows(int(row["step"]))]
        self._rewrite()
        there = read_growing(path := self.path / "trajectory.npy")
        taken = [row for row in read_series(self.path / "trajectory.csv")[: len(there)] if snapshots(int(row["step"]))]
        _write(self.path / "trajectory.csv", taken)
        self.taken = [int(row["step"]) for row in taken]
        GrowingArray(path, there.shape[1:], there.dtype).truncate(len(taken))

    def _rewrite(self) -> None:
        """Writes all rows, with all columns that there are by now."""
        self.columns = _columns(self.rows)
        _write(self.path / "series.csv", self.rows)

    def check(self, state: State) -> None:
        self.schema.check(state.cloud.x)

    @writing
    def log(self, path: list[State], row: Row) -> None:
        state = path[-1]
        if self.resumed is not None and state.k > self.resumed:
            # Where the run once ended is not its end any more: forget what was written for that reason alone.
            self._keep(self.logs, lambda k: k % self.snapshot_every == 0)
            self.resumed = None
        row = {"step": state.k, "time": state.t} | row
        self.rows.append(row)
        if row.keys() <= self.columns.keys():
            _append(self.path / "series.csv", self.columns, row)
        else:
            self._rewrite()
        if len(path) > 1:
            self._way(path)
        elif state.k % self.snapshot_every == 0:
            self._snapshot(state)
        if self.progress:
            self.progress(state.k, row)

    def _snapshot(self, state: State) -> None:
        index = self.path / "trajectory.csv"
        if self.taken is None:
            self.taken = [int(row["step"]) for row in read_series(index)]
        if self.taken and self.taken[-1] == state.k:
            return
        points = self._points(state)
        trajectory = GrowingArray(self.path / "trajectory.npy", points.shape, points.dtype)
        trajectory.truncate(len(self.taken))  # a kill may have left a snapshot that is not in the index
        trajectory.append(points)
        row = {"snapshot": trajectory.rows - 1, "step": state.k, "time": state.t}
        _append(index, row, row) if self.taken else _write(index, [row])
        self.taken.append(state.k)

    def _way(self, path: list[State]) -> None:
        """Replaces the trajectory by a path of its own, whose steps are those of the flow."""
        points = [self._points(state) for state in path]
        with replacing(self.path / "trajectory.npy") as draft:
            trajectory = GrowingArray(draft, points[0].shape, points[0].dtype)
            for rows in points:
                trajectory.append(rows)
        _write(
            self.path / "trajectory.csv",
            [{"snapshot": i, "step": i, "time": state.t} for i, state in enumerate(path)],
        )
        self.taken = list(range(len(path)))

    def _points(self, state: State) -> np.ndarray:
        """The particles whose way is kept, in the units of the target."""
        x = state.cloud.x
        return self.schema.points(x if self.shown is None else x[self.shown.to(x.device)])

    @writing
    def save(self, state: State, process: Process) -> None:
        self.recording.settle()  # the steps up to a checkpoint are never done again
        for name in ("series.csv", "trajectory.npy", "trajectory.csv"):
            if (self.path / name).exists():
                settle(self.path / name)
        self.put(self.packed(state, process))
        (self.path / f"diverged.{self.export}").unlink(missing_ok=True)  # of an earlier try, which has been undone
        self.saved = state.k

    @staticmethod
    def packed(state: State, process: Process) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "k": state.k,
            "t": state.t,
            "x": state.cloud.x,
            "memory": list(state.memory),
            "process": process.state_dict(),
        }

    def put(self, saved: dict[str, Any]) -> None:
        """Replaces the checkpoint."""
        with replacing(self.path / "checkpoint.pt") as draft, open(draft, "wb") as file:
            torch.save(saved | {"settings": self.settings}, file)  # given a name, it would write that into the file

    @writing
    def keep(self, k: int, tape: Tape) -> None:
        self.recording.write(k, tape)

    @writing
    def diverged(self, state: State) -> None:
        self._write(state.cloud.active, "diverged")

    @writing
    def finish(self, path: list[State], process: Process) -> None:
        state = path[-1]
        if len(path) > 1:
            self._way(path)
        else:
            self._snapshot(state)
        if self.saved != state.k:
            self.save(state, process)
        self._write(state.cloud.active, "particles")
        if state.cloud.riders is not None:
            self._write(state.cloud.riders, "carried")

    def _write(self, cloud: Cloud, name: str) -> None:
        with replacing(self.path / f"{name}.{self.export}") as draft:
            write(self.schema, cloud, draft, self.export)


def _columns(rows: list[Row]) -> Row:
    """All names that occur, in the order in which they first do."""
    return {name: 0.0 for row in rows for name in row}


def _append(path: Path, columns: Row, row: Row) -> None:
    line = io.StringIO()
    csv.DictWriter(line, list(columns), restval="", lineterminator="\n").writerow(row)
    with open(path, "a", encoding="utf-8") as file:
        file.write(line.getvalue())  # one write; a line that is cut short is not read


def _write(path: Path, rows: list[Row]) -> None:
    with replacing(path) as draft, open(draft, "w", newline="") as file:
        writer = csv.DictWriter(file, list(_columns(rows)), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


FILES = (
    "spec.toml",
    "data.npz",
    "series.csv",
    "trajectory.npy",
    "trajectory.csv",
    "checkpoint.pt",
    "summary.json",
    "figure.png",
    *(f"{name}.{kind}" for kind in EXPORTS for name in ("particles", "carried", "diverged")),
)
"""The names of the files of a run folder."""


def check_ordinary(folder: Path) -> None:
    """Raises ValueError if a file of a run folder is something else by now, such as a pipe, on which a reader would wait forever."""
    for name in FILES:
        if (folder / name).exists() and not (folder / name).is_file():
            raise ValueError(f"{folder / name} is no ordinary file; put the run's own back, or repeat the run")


def thinned(cloud: Cloud, most: int | None, key: Key) -> torch.Tensor | None:
    """The rows of at most ``most`` particles, ascending, or ``None`` for all; the same share of each class and of the carried ones.

    Every group has one particle at least, as far as there are as many as groups.
    """
    if most is None or most >= len(cloud):
        return None
    group = torch.zeros(len(cloud), dtype=torch.long) if cloud.label is None else cloud.label.cpu().clone()
    if cloud.carried:
        group[-cloud.carried :] += int(group.max()) + 1
    counts = group.bincount()
    shares = _dealt(counts, most)
    chosen = []
    for g in counts.nonzero()[:, 0].tolist():
        members = (group == g).nonzero()[:, 0]
        chosen.append(members[key.fold(g).choice(len(members), int(shares[g]))])
    return torch.cat(chosen).sort().values


def _dealt(counts: torch.Tensor, most: int) -> torch.Tensor:
    """``most`` dealt out to groups in the proportion of their counts (largest remainders), none left out that can be helped."""
    wanted = most * counts.double() / counts.sum()
    shares = wanted.floor().long()
    shares[(shares - wanted).argsort(stable=True)[: most - int(shares.sum())]] += 1
    for missing in ((shares == 0) & (counts > 0)).nonzero()[:, 0]:
        if shares.max() > 1:
            shares[shares.argmax()] -= 1
            shares[missing] = 1
    return shares
