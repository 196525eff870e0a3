"""Densities of clouds over common bins: steps for one coordinate, a smooth surface for two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

CENTRAL = 0.005
"""The share of a cloud on either side that an axis may leave out, where the whole cloud would need an axis more than twice as long."""
MOST_BINS = 80
CELLS = 200
"""The cells of a smooth surface along each coordinate."""
LEARNT = 1000
"""The most points from which a bandwidth is found."""


def window(clouds: Sequence[np.ndarray]) -> tuple[float, float]:
    """The limits of an axis for some clouds of numbers: all of them, or, of heavy tails, the middle 99% of each.

    Clouds without points do not matter; all points at one place are given a unit of room.
    """
    there = [cloud[np.isfinite(cloud)] for cloud in clouds]
    there = [cloud for cloud in there if len(cloud)]
    if not there:
        return -0.5, 0.5
    inner = [np.quantile(cloud, (CENTRAL, 1 - CENTRAL)) for cloud in there]
    low, high = float(min(q[0] for q in inner)), float(max(q[1] for q in inner))
    least, most = float(min(x.min() for x in there)), float(max(x.max() for x in there))
    if most - least <= 2 * (high - low) or high == low:
        low, high = least, most
    room = 0.04 * (high - low)
    if room <= 1e-9 * max(abs(low), abs(high)):  # rounding is all that there is between them
        room = max(0.5, 1e-6 * max(abs(low), abs(high)))
    return low - room, high + room


def beyond(clouds: Sequence[np.ndarray], limits: tuple[float, float]) -> float:
    """The largest share of a cloud that is not between the limits."""
    return max((float(np.mean((x < limits[0]) | (x > limits[1]))) for x in clouds if len(x)), default=0.0)


def edges(cloud: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """The edges of equal bins between limits, as wide as Freedman and Diaconis have it for a cloud: from 10, or 30 of many points, to 80."""
    least = float(np.clip(np.sqrt(len(cloud)), 10, 30))  # the rule is one for a single hump
    count = least
    if len(cloud) > 1 and (width := 2 * np.subtract(*np.quantile(cloud, (0.75, 0.25))) / len(cloud) ** (1 / 3)) > 0:
        count = np.ceil((limits[1] - limits[0]) / width)
    return np.linspace(*limits, int(np.clip(count, least, MOST_BINS)) + 1)


def heights(cloud: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """The density of a cloud in each bin: its share of all points, also of those beyond the bins, over the bin's width."""
    counts: np.ndarray = np.histogram(cloud, bins)[0] / np.diff(bins) / max(len(cloud), 1)
    return counts


def bandwidth(cloud: np.ndarray) -> np.ndarray:
    """The standard deviations of a Gaussian kernel for a cloud in the plane, with shape (2,); 0 where it is flat.

    They are in the proportion of the cloud's own (by quartiles, which tails do not sway), times the factor under which each point is most
    likely given the others: clusters stay clusters, which they do not by a rule for one Gaussian.
    """
    spread = np.subtract(*np.quantile(cloud, (0.75, 0.25), axis=0)) / 1.349
    spread = np.where(spread > 0, spread, cloud.std(0))
    some = cloud[np.unique(np.linspace(0, len(cloud) - 1, min(len(cloud), LEARNT)).astype(int))]
    scaled = np.unique(
        (some - some.mean(0)) / np.where(spread > 0, spread, 1), axis=0
    )  # rounded data repeat themselves
    count = len(scaled)
    if count < 3:
        return np.asarray(spread * 0.2)
    squared = cdist(scaled, scaled, "sqeuclidean")
    np.fill_diagonal(squared, np.inf)

    def likelihood(factor: float) -> float:
        mean = np.exp(-squared / (2 * factor**2)).sum(1) / (count - 1) / factor**2
        return float(np.log(np.maximum(mean, 1e-30)).mean())

    scott = count ** (-1 / 6)
    factors = [scott * 2 ** (-i / 2) for i in range(8)]
    best = max(factors, key=likelihood)
    found: np.ndarray = spread * best * (count / len(cloud)) ** (1 / 6)
    return found


def surface(cloud: np.ndarray, limits: Sequence[tuple[float, float]], width: np.ndarray) -> np.ndarray:
    """The density of a cloud in the plane in cells between limits, smoothed by a Gaussian kernel, with shape (CELLS, CELLS), x first.

    Its sum is the share of the cloud between the limits, but for what the kernel takes beyond them.
    """
    shares = np.histogram2d(cloud[:, 0], cloud[:, 1], CELLS, limits)[0] / max(len(cloud), 1)
    cell = np.array([high - low for low, high in limits]) / CELLS
    sigma = np.clip(width / cell, 1.0, CELLS / 4)
    smooth: np.ndarray = gaussian_filter(shares, sigma, mode="constant", truncate=3.0)
    return smooth


def level(density: np.ndarray, share: float) -> float:
    """The height above which so large a share of the density lies, in as small a region as can be."""
    values = np.sort(density.ravel())[::-1]
    total = np.cumsum(values)
    if total[-1] == 0:
        return 0.0
    return float(values[min(np.searchsorted(total, share * total[-1]), len(values) - 1)])
