"""Optimal transport between clouds, by other people's well-tested solvers."""

from __future__ import annotations

import numpy as np

from particles.cloud import Cloud
from particles.metrics.counted import counted
from particles.pairwise.exact import hush, network_simplex


@counted
def w2(a: Cloud, b: Cloud) -> float:
    r"""The exact Wasserstein-2 distance :math:`W_2 = \sqrt{\min E\|x - y\|^2}` (POT's network simplex).

    A length, in the units of the points; no ½ in the cost. The time grows like the cube of the number of points:
    draw a subsample of a few thousand at most.

    Raises:
        ValueError: If the dimensions differ.
        Unsolved: If squared distances are not finite, or the problem is not solved.
    """
    hush()
    import ot

    x, y = _numpy(a), _numpy(b)
    origin = y.mean(0)  # squared distances are differences of squares there: keep them small
    _, _, cost = network_simplex(_mass(a), _mass(b), ot.dist(x - origin, y - origin))
    return float(np.sqrt(max(cost, 0.0)))


@counted
def sinkhorn(a: Cloud, b: Cloud, blur: float = 0.05) -> float:
    r"""The debiased Sinkhorn divergence :math:`S_\varepsilon`, with cost :math:`\frac12\|x - y\|^2` and ε = blur² (geomloss).

    A squared length with the factor ½: it tends to :math:`\frac12 W_2^2` as the blur tends to 0. It is computed with
    geomloss' ``scaling=0.9``; at the default of 0.5 its value is rough.

    Arguments:
        a: One cloud.
        b: The other.
        blur: The length below which details do not count, in the units of the points.

    Raises:
        ValueError: If the dimensions differ, or the blur is not positive.
    """
    if not 0 < blur < float("inf"):
        raise ValueError(f"blur must be a positive length, not {blur}")
    if bool((a.x == a.x[0]).all()) and bool((b.x == a.x[0]).all()):
        return 0.0  # geomloss would divide by the diameter
    hush()
    from geomloss import SamplesLoss

    loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=0.9, backend="tensorized")
    return float(loss(a.mass.double(), a.x.double(), b.mass.double(), b.x.double()))


def _numpy(cloud: Cloud) -> np.ndarray:
    return cloud.x.detach().cpu().double().numpy()


def _mass(cloud: Cloud) -> np.ndarray:
    mass = cloud.mass.detach().cpu().double().numpy()
    return np.asarray(mass / mass.sum())
