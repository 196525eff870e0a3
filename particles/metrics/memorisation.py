"""How closely particles copy the points that they were driven to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.keys import Key
from particles.metrics.counted import counted

TREE = 12
"""The most dimensions in which a tree finds neighbours sooner than looking at all points."""


@counted
def nearest_distance(a: Cloud, b: Cloud) -> float:
    """The median distance from a point of ``a`` to its nearest point in ``b``; a length, in the units of the points."""
    return _median(_neighbours(a, b, 1)[:, 0])


@counted
def nearest_ratio(particles: Cloud, training: Cloud, holdout: Cloud | None = None) -> float:
    """The median distance from a particle to the training points, over that from a fresh point to them.

    1 where particles are to the training points as fresh data are, towards 0 where they are copies of them. Fresh
    points are the held-out ones; without any, each training point is one to the others (leave one out). Infinite if
    most fresh points lie on training points and particles do not; pass ``distinct(training)`` where rows repeat.
    """
    near = nearest_distance(particles, training)
    fresh = spacing(training) if holdout is None else nearest_distance(holdout, training)
    return near / fresh if fresh > 0 else float("inf") if near > 0 else 1.0


@counted
def closer_share(synthetic: Cloud, training: Cloud, holdout: Cloud, key: Key) -> float:
    """The share of synthetic points that are closer to a training point than to any point of an equally large hold-out.

    0.5 for points that know the training points no better than the held-out ones, 1 for copies. Ties count one half.
    Where the sets are not equally large, it is a random part of the larger one that is compared.

    Arguments:
        synthetic: The points to judge.
        training: The points that they were made from.
        holdout: Points of the same law that they were not made from.
        key: The source of the random part.
    """
    size = min(len(training), len(holdout))
    to_training = _nearest(synthetic, training.draw(size, key.fold("training")))
    to_holdout = _nearest(synthetic, holdout.draw(size, key.fold("holdout")))
    return float(((to_training < to_holdout).double() + 0.5 * (to_training == to_holdout).double()).mean())


@counted
def copies(synthetic: Cloud, training: Cloud) -> float:
    """The share of synthetic points that are equal to a training point, in all coordinates and exactly; 0 is ideal."""
    known = {row.tobytes() for row in _rows(training)}
    return float(np.mean([row.tobytes() in known for row in _rows(synthetic)]))


@counted
def near_copies(synthetic: Cloud, training: Cloud, within: float = 0.05) -> float:
    """The share of synthetic points that all but lie on a training point; copies are among them, and 0 is ideal.

    Near is closer than a part of the median distance of a training point to its nearest other one, among the distinct
    ones: repeated rows do not shrink it. In very few dimensions fresh points are near some training point by chance,
    about ``within`` of them on a line: compare with what they score.

    Arguments:
        synthetic: The points to judge.
        training: The points that they were made from.
        within: The part of that median distance.

    Raises:
        ValueError: If fewer than 2 training points are distinct.
    """
    once = distinct(training)
    if len(once) < 2:
        raise ValueError("near copies need at least 2 distinct training points: their spacing is the yardstick")
    return float((_nearest(synthetic, once) < within * spacing(once)).double().mean())


def distinct(cloud: Cloud) -> Cloud:
    """The different points of a cloud, each once, with equal masses and without labels."""
    return Cloud(torch.unique(cloud.x, dim=0))


@counted
def spacing(cloud: Cloud, among: Cloud | None = None) -> float:
    """The median distance from a point of a cloud to its nearest other one; a length, in the units of the points.

    Arguments:
        cloud: The points.
        among: All points, if ``cloud`` is only a part of them.
    """
    return _median(_neighbours(cloud, cloud if among is None else among, 2)[:, 1])


def _neighbours(a: Cloud, b: Cloud, count: int, pairs: int = 1 << 22) -> Tensor:
    """The distances of each point of ``a`` to the nearest points of ``b``, ascending, with shape (n, count), in double precision.

    Trees find them in few dimensions; in many they look at all points, one by one, and matrix products at all of them at once. These
    choose candidates, whose distances are then taken as they are: copies are at a distance of 0.
    """
    if b.dimension <= TREE or len(b) <= count + 2:
        from scipy.spatial import cKDTree

        found, _ = cKDTree(b.x.detach().cpu().numpy()).query(a.x.detach().cpu().numpy(), k=count)
        return torch.as_tensor(found).reshape(len(a), count)
    y = b.x.detach().cpu().double()
    centre = y.mean(0)
    half, flat = (y - centre).square().sum(1) / 2, (y - centre).mT
    nearest = []
    for x in a.x.detach().cpu().double().split(max(1, pairs // len(y))):
        near = torch.addmm(half, x - centre, flat, alpha=-1).topk(count + 2, largest=False).indices
        nearest.append((x[:, None] - y[near]).square().sum(-1).sqrt().sort(1).values[:, :count])
    return torch.cat(nearest)


def _median(distances: Tensor) -> float:
    return float(distances.quantile(0.5))


def _nearest(a: Cloud, b: Cloud, rows: int = 1024) -> Tensor:
    """The distance of each point of ``a`` to its nearest point in ``b``, exactly 0 for copies, with shape (n,)."""
    y = b.x.detach().cpu().double()
    parts = a.x.detach().cpu().double().split(rows)
    return torch.cat([torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").min(1).values for x in parts])


def _rows(cloud: Cloud) -> np.ndarray:
    """The points with one zero only: -0.0 and 0.0 have different bytes."""
    return np.ascontiguousarray(cloud.x.detach().cpu().double().numpy() + 0.0)


@counted
def manifold_distance(particles: Cloud, target: Cloud) -> float:
    """The root mean square distance of a particle to its nearest target point; a length, in the units of the points.

    With many target points it is the distance to the target's support, a manifold say; it does not see whether particles
    cover it. Fresh target points have about the spacing of the target.

    Arguments:
        particles: The particles.
        target: The target, as many points of it as there are.
    """
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(target.x.detach().cpu().double().numpy()).query(particles.x.detach().cpu().double().numpy())
    mass = particles.mass.detach().cpu().double().numpy()
    return float((mass @ distance**2) ** 0.5)
