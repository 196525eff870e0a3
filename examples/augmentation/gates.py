"""The gates that the augmenter was to pass, each checked in every cell that was run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from intervals import ACCURACIES, CELL, difference, gains, interval, per_seed, pooled


@dataclass(frozen=True)
class Check:
    """One figure against what was asked of it.

    Arguments:
        gate: Which gate it belongs to.
        where: The cell or classifier.
        wanted: What was asked, in words.
        value: The figure.
        low: The lower end of its interval; NaN without one.
        high: The upper end.
        reached: Whether the figure is what was asked.
        open: Whether it is not, but its interval holds some that would be.
    """

    gate: str
    where: str
    wanted: str
    value: float
    low: float
    high: float
    reached: bool
    open: bool = False

    @property
    def verdict(self) -> str:
        return "reached" if self.reached else "missed, within its interval" if self.open else "missed"


GATES = {
    "G1": "do no harm: change of balanced accuracy in points, for each classifier and data set",
    "G1 cells": "the same in every single cell (stricter than asked)",
    "G2": "worth using: gain of balanced accuracy in points",
    "G3": "imbalance 15 : 300",
    "G4 energy": "fidelity: held-out energy distance less 1.1 times that of the best simple method",
    "G4 SMOTE": "fidelity from 100 rows: held-out energy distance less 0.8 times SMOTE's",
    "G4 variance": "fidelity: variance over that of held-out rows",
    "G4 recall": "fidelity: recall",
    "G5 ratio": "copying: distance to the training rows over that of held-out rows",
    "G5 copies": "copying: share of exact copies",
    "G6": "robustness: failures",
    "G7": "CPU seconds of one call",
    "better": "from 100 rows: energy at most 0.8 times the balanced KDE's at a ratio of 0.7 and without copies",
    "control": "labels dealt at random: no gain within its interval",
}


def at_least(gate: str, where: str, bound: float, found: tuple[float, float, float]) -> Check:
    value, low, high = found
    return Check(gate, where, f"≥ {bound:g}", value, low, high, value >= bound, high >= bound)


def at_most(gate: str, where: str, bound: float, found: tuple[float, float, float]) -> Check:
    value, low, high = found
    return Check(gate, where, f"≤ {bound:g}", value, low, high, value <= bound, low <= bound)


def checks(rows: pd.DataFrame, method: str) -> list[Check]:
    """All of them that the rows allow, for one method."""
    every = (harm, worth, imbalance, fidelity, copying, robustness, cost, better, control)
    return [check for gate in every for check in gate(rows, method) if pd.notna(check.value)]


def harm(rows: pd.DataFrame, method: str) -> Iterator[Check]:
    found = gains(rows[rows.part == "scarce"])
    found = found[found.method == method]
    for name in ACCURACIES:
        for data, own in found.groupby("data", sort=False):
            value, low, high = interval(own.groupby("seed")[name].mean())
            where = f"{data}, {name.removeprefix('accuracy_')}"
            yield Check("G1", where, "≥ -0.3, interval above -1", value, low, high, value >= -0.3 and low > -1)
        for (data, n), own in found.groupby(CELL, sort=False):
            value, low, high = interval(own[name])
            where = f"{data} {n}, {name.removeprefix('accuracy_')}"
            reached = value >= -0.3 and low > -1
            yield Check("G1 cells", where, "≥ -0.3, interval above -1", value, low, high, reached, high >= -0.3)


def worth(rows: pd.DataFrame, method: str) -> Iterator[Check]:
    scarce = rows[rows.part == "scarce"]
    found = gains(scarce)
    own = found[found.method == method]
    yield at_least("G2", "pooled over all cells", 0.4, pooled(own, "gain"))
    for other in ("kde", "kde_bal", "jitter_nn"):
        less = gains(scarce, other)
        yield at_least("G2", f"pooled, less {other}", -0.2, pooled(less[less.method == method], "gain"))
    yield at_least("G2", "mnist 10", 2.0, interval(own[(own.data == "mnist") & (own.n == 10)].gain))


def imbalance(rows: pd.DataFrame, method: str) -> Iterator[Check]:
    found = rows[rows.part == "imbalance"]
    found = found.assign(f1=found.filter(regex="^f1_").mean(axis=1), ap=found.filter(regex="^ap_").mean(axis=1))
    for column, label, bound in (
        ("ap", "average precision less SMOTE's", -0.005),
        ("f1", "F1 less SMOTE's", 0.0),
        ("f1_svm", "F1 of the SVM less SMOTE's", 0.03),
        ("f1_rf", "F1 of the random forest less SMOTE's", 0.0),
    ):
        yield at_least("G3", label, bound, interval(per_seed(difference(found, column, method, "smote"))))


def generated(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that quality was measured on, of the two parts that gates are about."""
    return rows[rows.part.isin(("scarce", "fidelity")) & rows.energy.notna()]


def fidelity(rows: pd.DataFrame, method: str) -> Iterator[Check]:
    for (data, n), cell in generated(rows).groupby(CELL, sort=False):
        means = cell.groupby("method").energy.mean()
        simple = [name for name in (("gaussian", "kde") if n <= 50 else ("kde_bal",)) if name in means]
        own = cell[cell.method == method]
        if simple and len(own):
            best = means[simple].idxmin()
            where = f"{data} {n}: {means[method]:.4f} against {means[best]:.4f} of {best}"
            yield at_most("G4 energy", where, 0.0, interval(difference(cell, "energy", method, best, 1.1)))
        if n >= 100 and "smote" in means and len(own):
            where = f"{data} {n}: {means[method]:.4f} against {means['smote']:.4f}"
            yield at_most("G4 SMOTE", where, 0.0, interval(difference(cell, "energy", method, "smote", 0.8)))
        value, low, high = interval(own.variance_ratio)
        inside = 0.8 <= value <= 1.2
        yield Check("G4 variance", f"{data} {n}", "0.8 to 1.2", value, low, high, inside, high >= 0.8 and low <= 1.2)
        yield at_least("G4 recall", f"{data} {n}", 0.7, interval(own.recall))


def copying(rows: pd.DataFrame, method: str) -> Iterator[Check]:
    found = generated(rows)
    for (data, n), own in found[found.method == method].groupby(CELL, sort=False):
        yield at_least("G5 ratio", f"{data} {n}", 0.6, interval(own.nearest_ratio))
        yield at_most("G5 copies", f"{data} {n}", 0.0, (float(own.copies.max()), float("nan"), float("nan")))


def robustness(rows: pd.DataFrame, method: str) -> Iterator[Check]:
    own = rows[rows.method == method]
    if len(own):
        failures = float(own.failure.notna().sum())
        yield at_most("G6", f"of {len(own)} rows of the study", 0.0, (failures, float("nan"), float("nan")))


def cost(rows: pd.DataFrame, method: str) -> Iterator[Check]:
    own = rows[(rows.part == "cost") & (rows.method == method) & rows.failure.isna()]
    for data, where, bound in (
        ("digits", "10 classes, 20 rows of each, 64 columns", 10),
        ("breast", "2 classes, 100 rows of each, 30 columns", 20),
        ("mnist", "2 classes, 100 rows of each, 784 columns", 60),
    ):
        yield at_most("G7", where, bound, interval(own[own.data == data].seconds))


def better(rows: pd.DataFrame, method: str) -> Iterator[Check]:
    found = rows[(rows.part == "fidelity") & rows.energy.notna()]
    if not {method, "kde_bal"} <= set(found.method):
        return
    for measure, among in (("energy", "400 rows"), ("energy_law", "3,000 rows")):
        won = []
        for data, cell in found.groupby("data", sort=False):
            own = cell[cell.method == method]
            below = interval(difference(cell, measure, method, "kde_bal", 0.8))[0] <= 0
            if below and own.nearest_ratio.mean() >= 0.7 and own.copies.max() == 0:
                won.append(str(data))
        nan = float("nan")
        where = f"data sets won, judged by {among}: {', '.join(won) or 'none'}"
        yield at_least("better", where, 2, (float(len(won)), nan, nan))


def control(rows: pd.DataFrame, method: str) -> Iterator[Check]:
    found = gains(rows[rows.part == "control"])
    for data, own in found[found.method == method].groupby("data", sort=False):
        value, low, high = interval(own.gain)
        yield Check("control", str(data), "0 in its interval", value, low, high, low <= 0 <= high)
