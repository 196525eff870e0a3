"""Precision and recall, density and coverage: whether one cloud lies where the other does, and reaches all of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.metrics.counted import counted


@dataclass(frozen=True)
class Overlap:
    """How two supports overlap, each estimated by the balls around a cloud's points that reach their k-th neighbours.

    Recall alone falls when points collapse. Precision, density and coverage are at their best for points that huddle in
    the middle of the real ones: they never stand alone.

    Arguments:
        recall: The share of real points in some ball of the synthetic ones; between 0 and 1.
        precision: The share of synthetic points in some ball of the real ones; between 0 and 1.
        density: The mean number of real balls that a synthetic point is in, over k; 1 on average for equal laws, and
            larger for points in the middle.
        coverage: The share of real balls with a synthetic point in them; see ``expected_coverage``.
    """

    recall: float
    precision: float
    density: float
    coverage: float


@counted
def overlap(synthetic: Cloud, real: Cloud, k: int = 5) -> Overlap:
    """Precision and recall (Kynkäänniemi et al., 2019), density and coverage (Naeem et al., 2020).

    The balls are closed, so that exact copies count even where points repeat. Weights are not looked at. Memory grows
    like the square of the number of points: draw a few thousand at most.

    Arguments:
        synthetic: The points to judge.
        real: Real ones; held-out ones, or copies score ideally.
        k: Which neighbour the balls reach; a point is none to itself.

    Raises:
        ValueError: If the dimensions differ, or a cloud has no k-th neighbours: k + 1 points are the least.
    """
    if synthetic.dimension != real.dimension:
        raise ValueError(
            f"the clouds have dimensions {synthetic.dimension} and {real.dimension}; they must be the same"
        )
    if k < 1 or min(len(synthetic), len(real)) <= k:
        raise ValueError(
            f"precision and recall with k = {k} need k >= 1 and more than k points in each cloud, "
            f"not {len(synthetic)} and {len(real)}"
        )
    x, y = synthetic.x.double(), real.x.double()
    apart = _distances(x, y)
    within_real = apart <= _radii(y, k)[None, :]
    within_synthetic = apart <= _radii(x, k)[:, None]
    return Overlap(
        recall=float(within_synthetic.any(0).double().mean()),
        precision=float(within_real.any(1).double().mean()),
        density=float(within_real.double().sum(1).mean()) / k,
        coverage=float(within_real.any(0).double().mean()),
    )


def expected_coverage(synthetic: int, real: int, k: int = 5) -> float:
    """The mean coverage of two independent samples of one law, whatever the law (Naeem et al., 2020).

    A ball stays empty if, of all other points, the k nearest to its centre are real ones.

    Arguments:
        synthetic: The number of synthetic points.
        real: The number of real ones.
        k: Which neighbour the balls reach.
    """
    i = np.arange(1, k + 1)
    return float(1 - np.prod((real - i) / (synthetic + real - i)))


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(x: Tensor, k: int) -> Tensor:
    """The distance of each point to its k-th nearest other one."""
    return _distances(x, x).fill_diagonal_(torch.inf).kthvalue(k).values


@counted
def variance_ratio(a: Cloud, b: Cloud) -> float:
    """The total variance of one cloud over that of another: 1 for equal laws, towards 0 for points that collapse.

    The total variance is the sum over all coordinates, without bias (n - 1 in the denominator; with weights, 1 - Σw²).
    Infinite if only ``b`` has no spread, and 1 if neither has.

    Raises:
        ValueError: If a cloud has fewer than 2 points.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a variance needs at least 2 points in each cloud, not {len(a)} and {len(b)}")
    above, below = _total_variance(a), _total_variance(b)
    return above / below if below > 0 else float("inf") if above > 0 else 1.0


def _total_variance(cloud: Cloud) -> float:
    x, mass = cloud.x.double(), cloud.mass.double()
    return float(mass @ (x - mass @ x).square().sum(1)) / (1 - float(mass.square().sum()))
