"""How wide a cloud is."""

from __future__ import annotations

from particles.cloud import Cloud
from particles.metrics.counted import counted


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
