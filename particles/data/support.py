"""Which values a column of numbers takes: its range, its grid and the voids around its atoms."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

REPEATS = 5
"""An atom is seen at least this often, and this many times as often as the median value of its column."""
SHARE = 0.05
"""The least share of the rows that an atom holds."""
CHANCE = 0.01
"""A grid is believed if values without one would lie on it with at most this probability."""


@dataclass(frozen=True)
class Grid:
    """The values ``(first + k · step) / over`` with whole ``k``.

    Numerators and denominator stay apart, because 3 / 10 is the number that is written 0.3 and 3 · 0.1 is not.

    Arguments:
        first: The numerator of the origin.
        step: The numerator of the step.
        over: The denominator: 10^d for a fixed number of decimals.
        places: Where the training values lie (``k``), increasing, if they are not exactly those of the formula; else
            empty.
        points: Those training values.
    """

    first: float
    step: float
    over: float = 1.0
    places: np.ndarray = field(default_factory=lambda: np.empty(0))
    points: np.ndarray = field(default_factory=lambda: np.empty(0))

    @staticmethod
    def of(points: np.ndarray, dtype: np.dtype | None = None) -> Grid | None:
        """The coarsest grid that the values give evidence of.

        Whole numbers and numbers with a fixed number of decimals (at most 12) lie on a grid with step 10^-d; other
        numbers on that of the greatest common divisor of their differences, if it is well above rounding. Of the former, the greatest common divisor g of the differences of m values makes the step g times as long if
        g^(2 - m) <= 1 %: what remains of m - 1 random differences, one of which sets g, that are multiples of g.

        Arguments:
            points: The different values, increasing, with shape (m,), m >= 1.
            dtype: The floating-point type that they were written in; ``None`` for integers.

        Returns:
            The grid, or ``None`` if there is no sign of one.
        """
        return _decimal_grid(points, dtype) or _even_grid(points, np.dtype(np.float64) if dtype is None else dtype)

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """The values of the grid nearest to ``x``; training values come back to the last bit."""
        k = np.rint((x * self.over - self.first) / self.step)
        values = (self.first + k * self.step) / self.over
        if len(self.places):
            at = np.searchsorted(self.places, k).clip(max=len(self.places) - 1)
            values = np.where(self.places[at] == k, self.points[at], values)
        return np.asarray(values)


def _decimal_grid(points: np.ndarray, dtype: np.dtype | None) -> Grid | None:
    written = np.dtype(np.float64) if dtype is None else dtype
    bits = float(-np.log2(np.finfo(written).eps))
    # A random number of 53 bits has, by chance, so few decimals that it fits into 3/4 of the bits once in 2^13.
    if dtype is not None and len(points) * bits / 4 < np.log2(1 / CHANCE):
        return None
    largest = 2.0**53 if dtype is None else 2.0 ** (0.75 * bits)
    tens = 10.0 ** np.arange(1 if dtype is None else 13)
    tens = tens[tens <= largest / max(float(np.abs(points[[0, -1]]).max()), 1e-300)]
    few = points[:: max(1, len(points) // 4)][:4]
    fits = _fits(few, tens[:, None], written).all(1)
    for over in tens[fits]:
        if _fits(points, over, written).all():
            break
    else:
        return None
    numerators = np.rint(points * over)
    step = int(np.gcd.reduce(np.diff(numerators).astype(np.int64))) if len(points) > 1 else 1
    believed = step > 1 and (len(points) - 2) * np.log(step) >= np.log(1 / CHANCE)
    return Grid(float(numerators[0]), float(step) if believed else 1.0, float(over))


def _fits(points: np.ndarray, over: np.ndarray | float, dtype: np.dtype) -> np.ndarray:
    return np.asarray((np.rint(points * over) / over).astype(dtype).astype(np.float64) == points)


def _even_grid(points: np.ndarray, dtype: np.dtype) -> Grid | None:
    if len(points) < 3:
        return None
    rounding = 4 * float(np.finfo(dtype).eps) * float(np.abs(points[[0, -1]]).max())
    span = points[-1] - points[0]
    step = _common_divisor(np.diff(points), rounding)
    if step is None:
        return None
    k = np.rint((points - points[0]) / step)
    step = span / k[-1]  # the longest difference is the least rounded
    within = rounding / step
    believed = (len(points) - 2) * np.log(max(2 * within, 1e-300)) + np.log(span / step) <= np.log(CHANCE)
    if not believed or (np.abs((points - points[0]) / step - k) > within).any():
        return None
    over = float(np.rint(1 / step)) if 1e-12 < step < 1 else 1.0
    first = float(np.rint(points[0] * over))
    if np.abs((first + k) / over - points).max() <= rounding:
        return Grid(first, 1.0, over, k, points)
    return Grid(float(points[0]), float(step), 1.0, k, points)


def _common_divisor(gaps: np.ndarray, rounding: float) -> float | None:
    """The greatest number that divides all gaps up to rounding, by Euclid's algorithm; ``None`` if it is lost in it."""
    step = gaps.min()
    while step > 50 * rounding and gaps.max() / 2.0**53 < step:
        rest = np.abs(gaps - step * np.rint(gaps / step))
        left = rest > 2 * rounding * (1 + gaps / step)
        if not left.any():
            return float(step)
        step = rest[left].min()
    return None


@dataclass(frozen=True)
class Support:
    """The values that a column of numbers may take, as far as its training values tell.

    Arguments:
        low: The least training value.
        high: The greatest one.
        grid: The grid that all of them lie on, if there is one.
        voids: Open intervals without values, increasing and disjoint, with shape (v, 2); their ends are training values.
        atoms: The values that stand out by how often they occur.
    """

    low: float
    high: float
    grid: Grid | None
    voids: np.ndarray
    atoms: np.ndarray

    @staticmethod
    def of(values: np.ndarray, grid: Grid | None) -> Support:
        """The support of training values.

        An *atom* is a value that is seen at least five times, in at least 5 % of the rows, and at least five times as
        often as the median value; no value is let into the void between it and the nearest training value on either
        side. If *every* value is seen at least five times, the column takes these values and no others.

        Arguments:
            values: The observed ones, with shape (n,), n >= 1.
            grid: The grid that they lie on, or ``None``.
        """
        points, counts = np.unique(values, return_counts=True)
        if counts.max() < REPEATS:
            return Support(float(points[0]), float(points[-1]), grid, np.empty((0, 2)), np.empty(0))
        atom = counts >= max(REPEATS, SHARE * len(values), REPEATS * float(np.median(counts)))
        closed = np.full(len(points), counts.min() >= REPEATS) | atom
        beside = closed[:-1] | closed[1:]  # the gaps that touch an atom
        voids = np.stack((points[:-1][beside], points[1:][beside]), 1)
        return Support(float(points[0]), float(points[-1]), grid, voids, points[atom])

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """The value of the support that is nearest to each of ``x``."""
        x = x.clip(self.low, self.high)
        if len(self.voids):
            before, after = self.voids[(np.searchsorted(self.voids[:, 0], x) - 1).clip(0)].T
            inside = (before < x) & (x < after)
            x = np.where(inside, np.where(x - before <= after - x, before, after), x)
        # Ends of voids and of the range are on the grid, so rounding to it leads into no void and out of no range.
        return x if self.grid is None else self.grid.nearest(x)
