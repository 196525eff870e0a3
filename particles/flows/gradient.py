"""The gradient flow: particles descend a potential that is fitted to where they are."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from particles.cloud import Cloud, squares
from particles.flows.base import Flow
from particles.keys import Key
from particles.potentials.base import Info, Potential


class GradientFlow(Flow):
    r"""The velocity :math:`v = -\nabla\varphi`, with φ fitted to the particles and the target (arXiv 2210.17230, Section 3).

    Carried points move along the same field and take no part in the fit. Measured are, besides what the potential
    says, ``kinetic_energy``, :math:`\frac12 E\|v\|^2` over the particles (along the exact flow the divergence falls
    at twice this rate), and ``max_gradient``, the largest :math:`\|\nabla\varphi\|`: the realised Lipschitz constant.

    With ``noise`` the gradient is taken at :math:`y + \beta(t) \xi`, ξ standard normal, as the flows of smooth kernels need
    it to leave places where the field is flat (arXiv 1906.04370, Section 4).

    Arguments:
        potential: What is fitted.
        target: The target, with shape :math:`(N, d)`; of several processes each keeps its part.
        noise: The first level β of the noise, a length.
        noise_halving: The time after which β is half of it, and so on; ``inf`` keeps it.

    Raises:
        ValueError: If a number is out of its range, or the target is no probability measure.
    """

    def __init__(self, potential: Potential, target: Cloud, *, noise: float = 0.0, noise_halving: float = math.inf):
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be a length of at least 0, not {noise}")
        if not noise_halving > 0:
            raise ValueError(f"noise_halving must be positive, not {noise_halving}")
        if target.shard is None:
            target.check("target")
        self.potential = potential
        self.target = target.at(target.x.detach()).sharded()
        self.noise = noise
        self.noise_halving = noise_halving

    def check(self, cloud: Cloud) -> None:
        target = self.target
        for what, of_source, of_target in (
            ("dimension", cloud.dimension, target.dimension),
            ("dtype", cloud.x.dtype, target.x.dtype),
            ("device", cloud.x.device, target.x.device),
            ("classes", cloud.label is not None, target.label is not None),
        ):
            if of_source != of_target:
                raise ValueError(f"source and target must have the same {what}, not {of_source} and {of_target}")

    def velocity(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        info = self.potential.fit(cloud.active, self.target, key)
        velocity, measured = self.field(t, cloud, key)
        return velocity, info | measured

    def field(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        particles, riders = cloud.active, cloud.riders
        # The riders are evaluated by themselves, so that not even rounding tells the particles of them.
        gradient = self._gradient(self._shaken(t, particles, key.fold("noise")))
        speed = squares(gradient)
        info: Info = {"kinetic_energy": particles.mean(speed) / 2, "max_gradient": particles.max(speed).sqrt()}
        velocity = -gradient
        if riders is not None:
            velocity = torch.cat((velocity, self.ride(t, riders, key)))
        return velocity, info

    def ride(self, t: float, cloud: Cloud, key: Key) -> Tensor:
        return -self._gradient(self._shaken(t, cloud, key.fold("riders")))

    def phi(self, cloud: Cloud) -> Tensor:
        return self.potential.phi(cloud) if len(cloud) else cloud.x.new_zeros(0)

    def _gradient(self, cloud: Cloud) -> Tensor:
        return self.potential.grad(cloud) if len(cloud) else torch.zeros_like(cloud.x)  # a process may have no points

    def landscape(self, t: float, cloud: Cloud) -> tuple[Tensor, Tensor]:
        return self.potential.phi(cloud), self.potential.grad(cloud)

    def record(self) -> dict[str, Any]:
        return self.potential.record()

    def recall(self, record: dict[str, Any]) -> None:
        self.potential.recall(record, self.target)

    def _shaken(self, t: float, cloud: Cloud, key: Key) -> Cloud:
        level = self.noise * 2 ** (-t / self.noise_halving)
        return cloud.at(cloud.x + level * cloud.normal(key)) if level else cloud

    def state_dict(self) -> dict[str, Any]:
        return self.potential.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.potential.load_state_dict(state)
