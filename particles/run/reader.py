"""A finished or running run, read from its folder, or the same view of arrays."""

from __future__ import annotations

import io
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from particles.files import UNREADABLE, first_line
from particles.run.arrays import read_growing, whole_lines
from particles.run.folder import check_ordinary

SAID = (
    *(
        "target",
        "source",
        "scale",
        "flow",
        "divergence",
        "constraint",
        "stepper",
        "decay",
        "seed",
        "particles",
        "carried",
        "steps",
    ),
    "data",
)
"""What every specification says, and captions tell of."""
DATA = ("target", "holdout", "label", "target_label", "holdout_label", "rows")
"""What ``data.npz`` holds; labels only where there are classes, rows only where the trajectory has not all particles."""


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        path: The folder; ``None`` for arrays.
        spec: The contents of ``spec.toml``; empty for arrays.
        series: A row per logged step.
        steps: The step of each snapshot, with shape (T,).
        times: The time of each snapshot, with shape (T,).
        trajectory: The particles at each snapshot, carried ones last, with shape (T, M, d), or some of them; read from disk as needed.
        target: The target, with shape (N, d).
        holdout: The held-out part of it, with shape (H, d), H = 0 if there is none.
        columns: The names of the coordinates.
        units: The length of a flow unit in each coordinate's own unit, with shape (d,).
        carried: How many of the last particles of the trajectory were only carried along.
        label: The class of each particle, as text with shape (M,), or ``None``.
        target_label: The class of each target row, with shape (N,), or ``None``.
        holdout_label: The class of each held-out row, with shape (H,), or ``None``.
        constant: The value of each constant column of the target's table, which took no part, by its place among all columns; ``None``
            if the run does not say, as those of older versions.
        rows: The row of each particle of the trajectory among all that the run has, ascending, with shape (M,); ``None`` if it has all.
    """

    path: Path | None
    spec: dict[str, Any]
    series: pd.DataFrame
    steps: np.ndarray
    times: np.ndarray
    trajectory: np.ndarray
    target: np.ndarray
    holdout: np.ndarray
    columns: list[str]
    units: np.ndarray
    carried: int
    label: np.ndarray | None = None
    target_label: np.ndarray | None = None
    holdout_label: np.ndarray | None = None
    constant: dict[int, float] | None = None
    rows: np.ndarray | None = None

    @staticmethod
    def open(path: Path | str) -> Run:
        """Reads a run folder, of a run that has ended, goes on or was killed: rows and snapshots that are not whole are left out.

        Raises:
            FileNotFoundError: If it is not one.
            ValueError: If a file of it is damaged, naming the folder.
        """
        path = Path(path)
        check_ordinary(path)
        if not (path / "spec.toml").exists() or not (path / "trajectory.npy").exists():
            runs = sorted(file.parent.name for file in path.glob("*/spec.toml"))
            hint = f"; name a run in it, such as {path / runs[0]}" if runs else ""
            raise FileNotFoundError(f"{path} is not a run folder: it has no spec.toml, or no trajectory.npy yet{hint}")
        try:
            return _read(path)
        except UNREADABLE as error:
            raise ValueError(f"{path} cannot be read as a run ({first_line(error)}); repeat the run") from None

    @staticmethod
    def of(
        trajectory: np.ndarray,
        target: np.ndarray | None = None,
        *,
        times: Sequence[float] | np.ndarray | None = None,
        columns: Sequence[str] | None = None,
        label: np.ndarray | None = None,
        target_label: np.ndarray | None = None,
    ) -> Run:
        """The same view of arrays, with one flow unit to a unit of theirs.

        Arguments:
            trajectory: Snapshots of particles, with shape (T, M, d); one of them, (M, d), is the end.
            target: The target, with shape (N, d), if there is one.
            times: The time of each snapshot, with shape (T,); by default their numbers.
            columns: The names of the coordinates; by default x0, x1 and so on.
            label: The class of each particle, with shape (M,).
            target_label: The class of each target row, with shape (N,).

        Raises:
            ValueError: If shapes do not fit.
        """
        trajectory = np.asarray(trajectory)
        trajectory = trajectory[None] if trajectory.ndim == 2 else trajectory
        if trajectory.ndim != 3 or not trajectory.size:
            raise ValueError(
                f"a trajectory has the shape (T, M, d), or (M, d) for one snapshot, not {trajectory.shape}"
            )
        dimension = trajectory.shape[2]
        target = np.empty((0, dimension)) if target is None else np.atleast_1d(target)
        times = np.arange(len(trajectory)) if times is None else np.atleast_1d(times)
        names = [f"x{i}" for i in range(dimension)] if columns is None else list(columns)
        given = {
            name: None if some is None else np.asarray(some).astype(str)
            for name, some in (("label", label), ("target_label", target_label))
        }
        found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
            "target": (target.shape, (len(target), dimension)),
            "times": (times.shape, (len(trajectory),)),
            "columns": ((len(names),), (dimension,)),
        }
        for name, count in (("label", trajectory.shape[1]), ("target_label", len(target))):
            if (some := given[name]) is not None:
                found[name] = some.shape, (count,)
        for name, (shape, right) in found.items():
            if shape != right:
                raise ValueError(f"{name} has the shape {shape}; for this trajectory it is {right}")
        return Run(
            path=None,
            spec={},
            series=pd.DataFrame({"step": np.arange(len(trajectory)), "time": times}),
            steps=np.arange(len(trajectory)),
            times=times,
            trajectory=trajectory,
            target=target,
            holdout=np.empty((0, dimension)),
            columns=names,
            units=np.ones(dimension),
            carried=0,
            constant={},
            **given,
        )

    @property
    def name(self) -> str:
        """The name of its folder."""
        return "" if self.path is None else self.path.resolve().name

    @property
    def own(self) -> int:
        """The number of particles of the trajectory that are not carried."""
        return int(self.trajectory.shape[1]) - self.carried

    @property
    def total(self) -> int:
        """The number of particles that are not carried, of all that the run has."""
        return self.own if self.rows is None else int(self.spec["particles"])

    def snapshot(self, index: int, rows: np.ndarray | slice | None = None) -> np.ndarray:
        """A snapshot of the particles, without the carried ones, or of some of them, with shape (m, d), in memory."""
        return np.array(self.trajectory[index, : self.own] if rows is None else self.trajectory[index, rows])

    def table(self, points: np.ndarray) -> np.ndarray:
        """Points, with shape (n, d), as rows of the target's table: with its constant columns in their places, in double precision."""
        constant = self.constant or {}
        rows = np.empty((len(points), points.shape[1] + len(constant)))
        varying = np.ones(rows.shape[1], dtype=bool)
        varying[list(constant)] = False
        rows[:, varying] = points
        rows[:, ~varying] = [constant[place] for place in sorted(constant)]
        return rows

    def nearest(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """The numbers of the snapshots nearest to some times, without repetitions, in order.

        Raises:
            ValueError: If a time is not one of the run's.
        """
        first, last = float(self.times[0]), float(self.times[-1])
        for time in times:
            if not first <= time <= last * (1 + 1e-6):
                raise ValueError(f"time {time:g} is not in the run, which goes from {first:g} to {last:g}")
        return np.unique([np.abs(self.times - time).argmin() for time in times])


def _constant(data: dict[str, Any]) -> dict[int, float] | None:
    if "constant_at" not in data:
        return None
    return dict(zip(data["constant_at"], data["constant"], strict=True))


def _read(path: Path) -> Run:
    spec = tomllib.loads((path / "spec.toml").read_text(encoding="utf-8"))
    if lacking := [name for name in SAID if name not in spec]:
        raise ValueError(f"spec.toml does not say its {lacking[0]}")
    trajectory = read_growing(path / "trajectory.npy")
    index = pd.read_csv(io.StringIO(whole_lines(path / "trajectory.csv")))[: len(trajectory)]
    if index.empty:
        raise ValueError("there is no snapshot yet")
    with np.load(path / "data.npz", allow_pickle=False) as data:
        known = {name: data[name] for name in DATA if name in data.files}
    carried = int(spec["carried"])
    if (rows := known.get("rows")) is not None:
        carried = int((rows >= int(spec["particles"])).sum())
        if "label" in known:
            known["label"] = known["label"][rows]
    found = Run(
        path=path,
        spec=spec,
        series=pd.read_csv(io.StringIO(whole_lines(path / "series.csv"))),
        steps=index["step"].to_numpy(),
        times=index["time"].to_numpy(),
        trajectory=trajectory[: len(index)],
        columns=spec["data"]["columns"],
        units=np.array(spec["data"]["units"], dtype=float),
        carried=carried,
        constant=_constant(spec["data"]),
        **known,
    )
    _check(found)
    return found


def _check(run: Run) -> None:
    """Whether the files fit together."""
    dimension, count = len(run.columns), run.trajectory.shape[1]
    numbers = all(run.series.dtypes[name].kind in "if" for name in run.series.columns)
    labels = ((run.label, count), (run.target_label, len(run.target)), (run.holdout_label, len(run.holdout)))
    fits = {
        "trajectory.npy": run.trajectory.ndim == 3 and run.trajectory.shape[2] == dimension,
        "trajectory.csv": all(part.dtype.kind in "if" for part in (run.steps, run.times)),
        "data.npz": all(part.ndim == 2 and part.shape[1] == dimension for part in (run.target, run.holdout))
        and all(label is None or label.shape == (rows,) for label, rows in labels)
        and (run.rows is None or run.rows.shape == (count,)),
        "series.csv": {"step", "time"} <= set(run.series.columns) and numbers,
        "spec.toml": run.units.shape == (dimension,) and 0 <= run.carried < count,
    }
    for name, good in fits.items():
        if not good:
            raise ValueError(f"{name} does not fit the other files")
