"""The distribution of each coordinate by itself, given back to points whose dependence is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEW = 8
"""Classes with fewer distinct rows than this say too little about the distribution of a coordinate."""
PLENTY = 50
"""Classes with fewer rows than this say too little about one whose entries are all different."""


@dataclass(frozen=True)
class Marginals:
    r"""Monotone maps, one per coordinate, that take the quantiles of some points to those of some rows.

    The distribution of one coordinate is learnt from few rows far better than the dependence between coordinates, and a law with
    the right covariance may have it all wrong: pixels that are mostly black, say. With the maps behind it, a law gives its copula alone.
    Between quantiles a map is linear; beyond the outermost ones it goes on with the ratio of the deviations as its slope.

    Arguments:
        points: The quantiles of the points, with shape (K, d).
        rows: Those of the rows, with shape (K, d).
        slope: The ratio of the deviations of rows and points, with shape (d,).
    """

    points: np.ndarray
    rows: np.ndarray
    slope: np.ndarray

    @staticmethod
    def fit(points: np.ndarray, rows: np.ndarray) -> Marginals | None:
        """The maps from points with shape (m, d) to rows with shape (n, d), NaN where an entry is missing.

        Returns:
            The maps, or ``None`` for fewer than ``FEW`` different rows.
        """
        if len(np.unique(np.nan_to_num(rows), axis=0)) < FEW or len(points) < FEW:
            return None
        count, missing = min(len(rows), len(points)), np.isnan(rows)
        of_points, of_rows = np.empty((count, rows.shape[1])), np.empty((count, rows.shape[1]))
        slope, deviation = np.ones(rows.shape[1]), points.std(0)
        ordered = np.sort(rows, axis=0)
        tied = (np.diff(ordered, axis=0) == 0).any(0)
        # Where entries are all different, quantiles lie midway between neighbours, so that no entry is repeated.
        for chosen, levels in (
            (tied & ~missing.any(0), (np.arange(count) + 0.5) / count),
            (~tied & ~missing.any(0), np.maximum(np.arange(count), 0.5) / count),
        ):
            of_points[:, chosen] = np.quantile(points[:, chosen], levels, axis=0, method="hazen")
            of_rows[:, chosen] = np.quantile(rows[:, chosen], levels, axis=0, method="hazen")
            slope[chosen] = rows[:, chosen].std(0)
        if count == len(rows):  # then they are the entries, to the last bit: an atom beside other values stays one
            exact = tied & ~missing.any(0)
            of_rows[:, exact] = ordered[:, exact]
        if len(rows) < PLENTY:
            of_rows[:, ~tied], slope[~tied] = of_points[:, ~tied], deviation[~tied]
        for j in np.flatnonzero(missing.any(0)):
            known, levels = rows[~missing[:, j], j], (np.arange(count) + 0.5) / count
            of_points[:, j] = of_rows[:, j] = np.quantile(points[:, j], levels, method="hazen")
            if len(known) >= FEW and (tied[j] or len(rows) >= PLENTY):
                of_rows[:, j], slope[j] = np.quantile(known, levels, method="hazen"), known.std()
            else:
                slope[j] = deviation[j]  # left alone
        return Marginals(of_points, of_rows, slope / np.where(deviation > 0, deviation, 1))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Points with shape (m, d), mapped coordinate by coordinate."""
        found = np.empty_like(points)
        for j, x in enumerate(points.T):
            found[:, j] = np.interp(x, self.points[:, j], self.rows[:, j])
        below, above = np.minimum(points - self.points[0], 0), np.maximum(points - self.points[-1], 0)
        return np.asarray(found + self.slope * (below + above))
