"""The energy distance."""

from __future__ import annotations

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.metrics.counted import counted


@counted
def energy_distance(a: Cloud, b: Cloud, unbiased: bool = False) -> float:
    r"""The energy distance :math:`2E\|x - y\| - E\|x - x'\| - E\|y - y'\|` of two clouds (Székely & Rizzo, 2013).

    A length, in the units of the points. The V-statistic is that of the two empirical laws: 0 for equal clouds alone,
    and above 0 for two samples of one law. The U-statistic leaves out the pairs of a point with itself: for independent
    draws its mean is the distance of the laws that they come from, 0 for equal ones, so that it may be negative. Points
    that are spread more evenly than independent ones score below that, and a copy of the one cloud's training rows
    scores ideally: it never stands without a look at copying (see ``particles.metrics.memorisation``).

    Arguments:
        a: One cloud.
        b: The other.
        unbiased: Whether to compute the U-statistic. With weights, which are taken as fixed, the mean over a cloud's own
            pairs is the weighted one over pairs of different points, and has no bias either.

    Raises:
        ValueError: If the U-statistic is asked for with fewer than 2 points in a cloud.
    """
    if unbiased and min(len(a), len(b)) < 2:
        raise ValueError(
            f"the unbiased energy distance needs at least 2 points in each cloud, not {len(a)} and {len(b)}"
        )
    own = (_distinct_pairs(a), _distinct_pairs(b)) if unbiased else (1.0, 1.0)
    return 2 * _mean_distance(a, b) - _mean_distance(a, a) / own[0] - _mean_distance(b, b) / own[1]


def _distinct_pairs(cloud: Cloud) -> float:
    """The mass of the pairs of different points; with equal masses (n - 1) / n."""
    return 1 - float(cloud.mass.double().square().sum())


def _mean_distance(a: Cloud, b: Cloud, rows: int = 1024) -> float:
    y, weight = b.x.double(), b.mass.double()
    means: list[Tensor] = [
        torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") @ weight for x in a.x.double().split(rows)
    ]
    return float(torch.cat(means) @ a.mass.double())
