"""What every stepper can do."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.flows.base import Flow
from particles.keys import ROOT, Key
from particles.metrics.memorisation import spacing
from particles.potentials.base import Info

Memory = tuple[Tensor, ...]
"""What a stepper remembers from step to step; it is a value, so that it can be saved."""


class Stepper(ABC):
    """A time integrator. It holds settings, never progress.

    Attributes:
        order: The order of its global error in the step size, for a velocity that is smooth.
    """

    order: int

    def init(self) -> Memory:
        """The memory before the first step."""
        return ()

    @abstractmethod
    def step(
        self, flow: Flow, t: float, dt: float, cloud: Cloud, memory: Memory, key: Key
    ) -> tuple[Cloud, Memory, Info]:
        """Moves ``cloud`` from time ``t`` to ``t + dt``; the info is that of the velocity at ``t``."""


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
