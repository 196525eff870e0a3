"""The quality of particles in a handful of numbers."""

from __future__ import annotations

import math

from particles.cloud import Cloud
from particles.keys import Key
from particles.metrics.counted import counted
from particles.metrics.distances import w2
from particles.metrics.energy import energy_distance
from particles.metrics.memorisation import nearest_ratio

SIZE = 2000
"""The most points of a cloud that distances are measured on."""


@counted
def summarise(particles: Cloud, target: Cloud, holdout: Cloud | None, key: Key, size: int = SIZE) -> dict[str, float]:
    """Distances to the target, and to a held-out part of it where there is one.

    ``w2_floor`` is what the target itself has to its held-out part: what no honest method beats by much. A distance to
    the target far below the one to the held-out part, or a ``nearest_ratio`` below 1, is a sign of copying; the ratio is
    left out where most fresh points have an exact copy in the target, as with coarsely rounded data.

    Arguments:
        particles: The particles.
        target: The target points that they were driven to.
        holdout: Target points that they never saw, or ``None``.
        key: The source of the subsamples.
        size: The most points of a cloud that distances are measured on. Above it they are those of independent subsamples,
            and only the ratio, which always looks at the whole target, tells copies from fresh data.
    """
    p, q = particles.draw(size, key.fold("particles")), target.draw(size, key.fold("target"))
    h = None if holdout is None else holdout.draw(size, key.fold("holdout"))
    found = {"w2_target": w2(p, q), "energy_target": energy_distance(p, q)}
    if math.isfinite(ratio := nearest_ratio(p, target, h)):
        found["nearest_ratio"] = ratio
    if h is not None:
        found |= {
            "w2_holdout": w2(p, h),
            "w2_floor": w2(q, h),
            "energy_holdout": energy_distance(p, h),
            "energy_floor": energy_distance(q, h),
        }
    return found


QUALITY = {
    "w2_target": ("W2 to the target", "2-Wasserstein distance from the particles to the rows that they were driven to"),
    "w2_holdout": ("W2 to held-out target", "the same to target rows that the flow never saw"),
    "w2_floor": ("  the target's own", "from the target to its held-out rows: what no honest method beats by much"),
    "energy_target": ("energy distance to the target", "another distance, 0 for equal laws, easy on samples"),
    "energy_holdout": ("energy distance to held-out target", "the same to target rows that the flow never saw"),
    "energy_floor": ("  the target's own", "from the target to its held-out rows"),
    "nearest_ratio": (
        "nearest-neighbour ratio (1 as fresh data, 0 copies)",
        "how far particles are from target rows, over how far held-out rows are, medians",
    ),
}
"""A title, indented where it belongs to the one above, and a meaning for each number of ``metrics.summary.summarise``."""
