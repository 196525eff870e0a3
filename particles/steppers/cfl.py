"""How large a step may be."""

from __future__ import annotations

import math

import torch

from particles.cloud import Cloud
from particles.keys import ROOT, Key
from particles.metrics.memorisation import spacing


def cfl(target: Cloud, lipschitz: float, size: int = 2000, key: Key = ROOT) -> float:
    """The step size with which no particle goes further in a step than from a target point to the next (Courant, Friedrichs, Lewy).

    It is the spacing of the target, the median distance of a target point to its nearest other one, over the speed limit L. Points at
    one place count as one. Larger explicit steps rattle about the data instead of coming to rest on them.

    Arguments:
        target: The target, with shape :math:`(N, d)`.
        lipschitz: The bound L on the speed, in units of length / time.
        size: The most target points whose nearest other ones are looked for, among all.
        key: Chooses them.

    Raises:
        ValueError: If L is not positive and finite, or all target points are at one place.
    """
    if not 0 < lipschitz < math.inf:
        raise ValueError(f"without a finite, positive lipschitz no step size bounds the way of a step, not {lipschitz}")
    places = Cloud(torch.unique(target.x, dim=0))
    if len(places) < 2:
        raise ValueError("all target points are at one place; they have no spacing")
    if math.isinf(found := spacing(places.draw(size, key), places) / lipschitz):
        raise ValueError(f"lipschitz is too small, {lipschitz}, for a finite step size")
    return found
