"""Which start, and how many steps: chosen by the energy distance to rows that were left out.

Steps are a dial from the start to copies of the training rows, so *when to stop* is the method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from particles.augment.block_flow import FlowSettings, flow
from particles.augment.marginals import Marginals
from particles.augment.starts import Law, fit_start, neighbour_distance
from particles.cloud import Cloud
from particles.keys import Key
from particles.metrics.energy import energy_distance

WITHIN = 1.0
"""Among numbers of steps, the fewest that are so many standard errors from the best are taken: further ones only copy."""
LEAST = 8
"""Classes with fewer rows than this are too small to leave a quarter of them out."""
TRIED = ("gaussian", "kde", "bootstrap", "mixed")
"""The starts that ``auto`` compares."""
SAFE = "mixed"
"""The one that it takes for classes with fewer than ``PLENTY`` rows, unless another is better by ``EVIDENCE`` standard errors: on a few
rows left out the best is often so by chance."""
PLENTY = 50
EVIDENCE = 2.0
SPLITS = 6
"""The most splits; many classes need fewer."""


@dataclass(frozen=True)
class Trial:
    """What was found on the splits, for classes of about one size.

    Arguments:
        start: The name of the best start.
        steps: The best number of steps from there; 0 if the start itself is best.
        energies: The mean energy distance to the rows left out, by start, and of the best flow, in flow units.
        gain: By how much the flow is nearer to them than the best start, over its standard error; NaN if not compared.
        splits: The number of splits.
    """

    start: str
    steps: int
    energies: dict[str, float]
    gain: float
    splits: int


STEPS = (0, 5, 10, 15, 25, 35, 50, 75, 100)
"""The numbers of steps to choose among."""
SOON = 35
"""Flows that are best before this step are not followed further."""


def ratio(points: np.ndarray, rows: np.ndarray) -> float:
    """The leave-one-out ratio: the median distance of a point to its nearest row, over that of a row to its nearest other one."""
    from scipy.spatial import cKDTree

    among = neighbour_distance(rows)
    near = float(np.median(cKDTree(rows).query(points)[0]))
    return near / among if among > 0 else math.nan


def settled(points: np.ndarray, rows: np.ndarray, marginals: bool) -> np.ndarray:
    """Points with the marginal distributions of the rows, if that is wanted and there are enough rows to tell."""
    maps = Marginals.fit(points, rows) if marginals else None
    return points if maps is None else maps(points)


def wide_enough(start: Law, least: float, near: Callable[[np.ndarray], float], key: Key, draws: int = 200) -> Law:
    """The start with the least bandwidth, from its own up, whose draws keep the least leave-one-out ratio; the widest if none does.

    Arguments:
        start: The start.
        least: The least ratio.
        near: The ratio of draws.
        key: Their source.
        draws: How many.
    """
    for law in start.wider:
        if not near(law.draw(draws, key)) < least:
            break
    return law


def energy(points: np.ndarray, rows: np.ndarray) -> float:
    """The unbiased energy distance of two sets of rows."""
    return energy_distance(Cloud(torch.as_tensor(points)), Cloud(torch.as_tensor(rows)), unbiased=True)


@dataclass(frozen=True)
class _Split:
    """A class on a split."""

    number: int
    fit: np.ndarray
    held: np.ndarray
    others: list[np.ndarray]


def try_out(
    classes: Sequence[np.ndarray],
    methods: Sequence[str],
    start: str,
    min_ratio: float,
    settings: FlowSettings,
    marginals: bool,
    key: Key,
) -> Trial:
    """Compares starts, and numbers of steps from the best one, on rows that are left out in turn, for classes of about one size.

    The least mean energy distance wins, but for small classes, for which ``SAFE`` is taken unless it is clearly worse; among numbers of steps, the fewest that are within one standard error of the
    best (of the paired differences over classes and splits), since further steps only copy.

    Arguments:
        classes: The rows of each class, with shape (n_c, d), each of at least ``LEAST``.
        methods: Which of ``gaussian``, ``kde``, ``flow`` to compare.
        start: The start of the flow, or ``auto`` for the best one of ``TRIED``.
        min_ratio: The least leave-one-out ratio of a start.
        settings: The flow's.
        marginals: Whether points get the marginal distributions of the rows before they are judged.
        key: The source of splits, draws and networks.
    """
    splits = min(SPLITS, max(2, math.ceil(16 / len(classes))))
    tried = [part for number in range(splits) for part in _splits(classes, number, key.fold("split", number))]
    flows = () if "flow" not in methods else TRIED if start == "auto" else (start,)
    names = list(dict.fromkeys([*(name for name in methods if name != "flow"), *flows]))
    draws = 200 if len(classes) < 3 else 100
    points: dict[str, list[np.ndarray]] = {}
    curves: dict[str, np.ndarray] = {}  # energy distances, with shape (steps, classes on splits)
    for name in names:
        laws = [
            _wider(fit_start(name, part.fit, part.others), min_ratio, marginals, key.fold("width")) for part in tried
        ]
        points[name] = [law.draw(draws, key.fold("draws", i)) for i, law in enumerate(laws)]
        curves[name] = _along(points[name], tried, STEPS[:1], settings, marginals, key)
    energies = {name: float(curve.mean()) for name, curve in curves.items()}
    name = min(energies, key=lambda name: energies[name])
    few = min(len(rows) for rows in classes) < PLENTY
    if few and SAFE in curves and _excess(curves[SAFE][0] - curves[name][0]) <= EVIDENCE:
        name = SAFE
    if "flow" not in methods:
        return Trial(name, 0, energies, math.nan, splits)
    curve = _along(points[name], tried, [step for step in STEPS if step <= SOON], settings, marginals, key)
    if curve.mean(1).argmin() > len(curve) - 3:
        curve = _along(points[name], tried, STEPS, settings, marginals, key)
    least = 1 if methods == ("flow",) else 0
    best = least + int(curve[least:].mean(1).argmin())
    chosen = next(i for i in range(least, best + 1) if _excess(curve[i] - curve[best]) <= WITHIN)
    energies["flow"] = float(curve[1:].mean(1).min())
    return Trial(name, STEPS[chosen], energies, _excess(curve[0] - curve[chosen]), splits)


def _excess(differences: np.ndarray) -> float:
    """The mean of paired differences over its standard error."""
    if not differences.any():
        return 0.0
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    return float(differences.mean() / max(error, 1e-12))


def _wider(law: Law, min_ratio: float, marginals: bool, key: Key) -> Law:
    return wide_enough(law, min_ratio, lambda x: ratio(settled(x, law.rows, marginals), law.rows), key)


def _splits(classes: Sequence[np.ndarray], number: int, key: Key) -> list[_Split]:
    fit, held = [], []
    for c, rows in enumerate(classes):
        order = key.fold(c).numpy().permutation(len(rows))
        cut = max(2, round(len(rows) / 4))
        held.append(rows[order[:cut]])
        fit.append(rows[order[cut:]])
    return [_Split(number, f, h, [*fit[:c], *fit[c + 1 :]]) for c, (f, h) in enumerate(zip(fit, held))]


def _along(
    points: list[np.ndarray],
    tried: list[_Split],
    steps: Sequence[int],
    settings: FlowSettings,
    marginals: bool,
    key: Key,
) -> np.ndarray:
    """The energy distances along the flow, with shape (steps, classes on splits)."""
    numbers = [part.number for part in tried]
    groups = [[i for i, n in enumerate(numbers) if n == number] for number in sorted(set(numbers))]
    found = np.empty((len(steps), len(tried)))
    for group in groups if settings.shared else [list(range(len(tried)))]:
        flowed = flow([points[i] for i in group], [tried[i].fit for i in group], steps, settings, key.fold("trial"))
        for block, i in enumerate(group):
            part = tried[i]
            found[:, i] = [energy(settled(flowed.at(step, block), part.fit, marginals), part.held) for step in steps]
    return found
