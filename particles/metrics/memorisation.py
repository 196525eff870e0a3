"""How closely particles copy the points that they were driven to."""

from __future__ import annotations

import torch

from particles.cloud import Cloud


def nearest_distance(a: Cloud, b: Cloud) -> float:
    """The median distance from a point of ``a`` to its nearest point in ``b``; a length, in the units of the points."""
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(b.x.detach().cpu().numpy()).query(a.x.detach().cpu().numpy())
    return float(torch.as_tensor(distance).quantile(0.5))


def nearest_ratio(particles: Cloud, training: Cloud, holdout: Cloud | None = None) -> float:
    """The median distance from a particle to the training points, over that from a fresh point to them.

    1 where particles are to the training points as fresh data are, towards 0 where they are copies of them. Fresh
    points are the held-out ones; without any, each training point is one to the others (leave one out). Infinite if
    most fresh points lie on training points and particles do not.
    """
    near = nearest_distance(particles, training)
    fresh = spacing(training) if holdout is None else nearest_distance(holdout, training)
    return near / fresh if fresh > 0 else float("inf") if near > 0 else 1.0


def spacing(cloud: Cloud, among: Cloud | None = None) -> float:
    """The median distance from a point of a cloud to its nearest other one; a length, in the units of the points.

    Arguments:
        cloud: The points.
        among: All points, if ``cloud`` is only a part of them.
    """
    from scipy.spatial import cKDTree

    x = cloud.x.detach().cpu().numpy()
    everywhere = x if among is None else among.x.detach().cpu().numpy()
    distance, _ = cKDTree(everywhere).query(x, k=2)
    return float(torch.as_tensor(distance[:, 1]).quantile(0.5))
