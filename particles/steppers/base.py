"""What every stepper can do."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from particles.cloud import Cloud
from particles.flows.base import Flow
from particles.keys import Key
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
