"""A finished or running run, read from its folder."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        path: The folder.
        spec: The contents of ``spec.toml``.
        series: A row per logged step.
        steps: The step of each snapshot, with shape (T,).
        times: The time of each snapshot, with shape (T,).
        trajectory: The particles at each snapshot, carried ones last, with shape (T, M, d); read from disk as needed.
        target: The target, with shape (N, d).
        holdout: The held-out part of it, with shape (H, d), H = 0 if there is none.
        columns: The names of the coordinates.
        units: The length of a flow unit in each coordinate's own unit, with shape (d,).
        carried: How many of the last particles were only carried along.
    """

    path: Path
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

    @staticmethod
    def open(path: Path | str) -> Run:
        """Reads a run folder.

        Raises:
            FileNotFoundError: If it is not one.
        """
        path = Path(path)
        if not (path / "spec.toml").exists() or not (path / "trajectory.npy").exists():
            raise FileNotFoundError(f"{path} is not a run folder: it has no spec.toml, or no trajectory.npy yet")
        spec = tomllib.loads((path / "spec.toml").read_text(encoding="utf-8"))
        index = pd.read_csv(path / "trajectory.csv")
        with np.load(path / "data.npz", allow_pickle=False) as data:
            target, holdout = data["target"], data["holdout"]
        return Run(
            path=path,
            spec=spec,
            series=pd.read_csv(path / "series.csv"),
            steps=index["step"].to_numpy(),
            times=index["time"].to_numpy(),
            trajectory=np.load(path / "trajectory.npy", mmap_mode="r")[: len(index)],
            target=target,
            holdout=holdout,
            columns=spec["data"]["columns"],
            units=np.array(spec["data"]["units"]),
            carried=spec["carried"],
        )
