"""Paired differences and their 95 % intervals, by the percentile bootstrap."""

from __future__ import annotations

import numpy as np
import pandas as pd

from particles.keys import ROOT

CELL = ["data", "n"]
ACCURACIES = ["accuracy_lr", "accuracy_svm", "accuracy_rf", "accuracy_mlp"]


def interval(values: np.ndarray | pd.Series, draws: int = 4000) -> tuple[float, float, float]:
    """The mean of what was measured per seed (or per data set), and the ends of its interval; NaN for nothing."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return (float("nan"),) * 3
    chosen = ROOT.fold("bootstrap", len(values)).numpy().integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[chosen].mean(1), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def gains(rows: pd.DataFrame, reference: str = "none") -> pd.DataFrame:
    """Balanced accuracy less that of ``reference`` with the same data, size and seed, in points.

    ``gain`` is the mean over the classifiers that the method was tried with.
    """
    index = [*CELL, "seed"]
    base = rows[rows.method == reference].set_index(index)[ACCURACIES]
    found = rows.set_index(index)
    found[ACCURACIES] = 100 * (found[ACCURACIES] - base.reindex(found.index))
    return found.assign(gain=found[ACCURACIES].mean(axis=1)).reset_index()


def pooled(rows: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """The mean over cells; the interval is over data sets, each the mean of its cells, and these of their seeds."""
    cells = rows.groupby(CELL)[column].mean()
    mean, *_ = interval(cells)
    _, low, high = interval(cells.groupby("data").mean())
    return mean, low, high


def difference(rows: pd.DataFrame, column: str, method: str, reference: str, factor: float = 1.0) -> pd.Series:
    """``column`` of a method less ``factor`` times that of another one, for each cell and seed that both have."""
    wide = rows.pivot_table(index=[*CELL, "seed"], columns="method", values=column)
    if method not in wide or reference not in wide:
        return pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], [], []], names=[*CELL, "seed"]))
    return (wide[method] - factor * wide[reference]).dropna()


def per_seed(series: pd.Series) -> pd.Series:
    """The mean over the cells of each seed."""
    return series.groupby("seed").mean()
