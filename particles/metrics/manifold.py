"""How far particles are from the set that the target is on."""

from __future__ import annotations

from particles.cloud import Cloud
from particles.metrics.counted import counted


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
