"""The explicit Euler method."""

from __future__ import annotations

from particles.cloud import Cloud
from particles.flows.base import Flow
from particles.keys import Key
from particles.potentials.base import Info
from particles.steppers.base import Memory, Stepper


class Euler(Stepper):
    r""":math:`x \leftarrow x + h\,v(t, x)`: one fit per step."""

    order = 1

    def step(
        self, flow: Flow, t: float, dt: float, cloud: Cloud, memory: Memory, key: Key
    ) -> tuple[Cloud, Memory, Info]:
        velocity, info = flow.velocity(t, cloud, key)
        return cloud.at((dt * velocity).add_(cloud.x)), memory, info
