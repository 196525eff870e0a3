"""A monotone transform that makes skewed columns more symmetric, and its inverse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

POWERS = (0.5, 0.0, -0.5, -1.0)
"""The powers that skewed columns are tried with."""
DISTINCT = 10
"""The least number of different values in a column that is bent."""


@dataclass(frozen=True)
class Bend:
    """The one-sided Box-Cox transform ((1 + x / size)^power - 1) / power of skewed columns of nonnegative numbers.

    It is the transform of Yeo and Johnson (Biometrika 2000) on the numbers that such columns hold; below 0, where only
    rows outside the training range lie, it goes on as the straight line x / size. A column is bent if its skewness
    exceeds 1, and three times its standard deviation under normality (6 / n)^(1/2), and one of the powers 1/2, 0 (the
    logarithm), -1/2 and -1 at least halves it; the power is the one that leaves least. A column whose values would not
    come back, because they span too many orders of magnitude, is left as it is.

    Arguments:
        which: The coordinates that are bent, with shape (b,).
        power: Their powers, with shape (b,).
        size: The median of the positive training values of each, with shape (b,).
        most: The greatest training value of each, with shape (b,).
    """

    which: np.ndarray
    power: np.ndarray
    size: np.ndarray
    most: np.ndarray

    @staticmethod
    def none() -> Bend:
        """The transform that leaves everything as it is."""
        return Bend(np.empty(0, dtype=np.intp), np.empty(0), np.empty(0), np.empty(0))

    @staticmethod
    def fit(raw: np.ndarray, able: np.ndarray, step: np.ndarray) -> Bend:
        """The transform for training rows.

        Arguments:
            raw: The rows, with shape (n, w), NaN where missing; each column has two different values at least.
            able: Which coordinates may be bent, with shape (w,).
            step: The step of the grid of each coordinate, 0 if it has none, with shape (w,).
        """
        from scipy.special import boxcox1p

        which = np.flatnonzero(able & (np.nanmin(raw, axis=0, initial=np.inf) >= 0))
        skew, seen = _skewness(raw[:, which]), np.isfinite(raw[:, which]).sum(0)
        which = which[skew > np.maximum(1, 3 * np.sqrt(6 / seen))]
        which = which[np.array([_distinct(raw[:, i]) >= DISTINCT for i in which], dtype=bool)]
        if not len(which):
            return Bend.none()
        x = raw[:, which]
        size = np.nanmedian(np.where(x > 0, x, np.nan), axis=0)
        left = np.stack([np.abs(_skewness(boxcox1p(x / size, power))) for power in POWERS])
        power = np.array(POWERS)[left.argmin(0)]
        bend = Bend(which, power, size, np.nanmax(x, axis=0))
        back = bend.backward(bend.forward(raw) * (1 + 4 * np.finfo(np.float64).eps))[:, which]  # as after scaling
        lost = np.nanmax(np.abs(back - x) - np.maximum(1e-10 * x, step[which] / 4), axis=0) > 0
        good = (left.min(0) <= _skewness(x) / 2) & ~lost
        return Bend(which[good], power[good], size[good], bend.most[good])

    def forward(self, raw: np.ndarray) -> np.ndarray:
        """Raw rows, bent; with shape (n, w)."""
        from scipy.special import boxcox1p

        if len(self.which):
            raw = raw.copy()
            x = raw[:, self.which] / self.size
            raw[:, self.which] = np.where(x > 0, boxcox1p(x.clip(0), self.power), x)
        return raw

    def backward(self, bent: np.ndarray) -> np.ndarray:
        """The raw rows with these bent ones, which are first brought to at least 0 and at most the training maximum."""
        from scipy.special import boxcox1p, inv_boxcox1p

        if len(self.which):
            top = boxcox1p(self.most / self.size, self.power)
            y, bent = bent[:, self.which], bent.copy()
            bent[:, self.which] = np.where(y < top, inv_boxcox1p(y.clip(0, top), self.power) * self.size, self.most)
        return bent


def _distinct(x: np.ndarray) -> int:
    return len(np.unique(x[~np.isnan(x)]))


def _skewness(x: np.ndarray) -> np.ndarray:
    """The third standardised moment of each column, 0 where nothing varies."""
    low, high = np.nanmin(x, axis=0, initial=np.inf), np.nanmax(x, axis=0, initial=-np.inf)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        part = (x - low) / (high - low)
        centred = part - np.nanmean(part, axis=0)
        skew = np.nanmean(centred**3, axis=0) / np.nanmean(centred**2, axis=0) ** 1.5
    return np.asarray(np.nan_to_num(skew, nan=0.0, posinf=0.0, neginf=0.0))
