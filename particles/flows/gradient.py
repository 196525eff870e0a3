"""The gradient flow: particles descend a potential that is fitted to where they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.flows.base import Flow
from particles.keys import Key
from particles.potentials.base import Info, Potential


class GradientFlow(Flow):
    r"""The velocity :math:`v = -\nabla\varphi`, with φ fitted to the particles and the target (arXiv 2210.17230, Section 3).

    Carried points move along the same field and take no part in the fit. Measured are, besides what the potential
    says, ``kinetic_energy``, :math:`\frac12 E\|v\|^2` over the particles (along the exact flow the divergence falls
    at twice this rate), and ``max_gradient``, the largest :math:`\|\nabla\varphi\|`: the realised Lipschitz constant.

    Arguments:
        potential: What is fitted.
        target: The target, with shape :math:`(N, d)`.
    """

    def __init__(self, potential: Potential, target: Cloud):
        self.potential = potential
        self.target = target

    def velocity(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        particles, riders = cloud.active, cloud.riders
        info = self.potential.fit(particles, self.target, key)
        # The riders are evaluated by themselves, so that not even rounding tells the particles of them.
        gradient = self.potential.grad(particles)
        speed = gradient.square().sum(1)
        info = info | {"kinetic_energy": particles.mean(speed) / 2, "max_gradient": speed.max().sqrt()}
        velocity = gradient if riders is None else torch.cat((gradient, self.potential.grad(riders)))
        return -velocity, info

    def state_dict(self) -> dict[str, Any]:
        return self.potential.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.potential.load_state_dict(state)
