r"""The W1 ⊕ W2 proximal generative flow (arXiv 2407.11901): a flow that is learnt once, and then takes any point along.

The problem is

.. math:: \inf_v \; D^L_f(\rho_T \| Q) + \alpha \int_0^T E \tfrac1p \|v\|^p \, dt, \qquad \partial_t \rho + \nabla \cdot (\rho v) = 0,

one big proximal step of the Lipschitz-regularised divergence. With :math:`q = p / (p - 1)` its optimality conditions are

.. math:: v = -\alpha^{1 - q} \|\nabla U\|^{q - 2} \nabla U, \qquad
    \partial_t U = \tfrac1q \alpha^{1 - q} \|\nabla U\|^q, \qquad U(\cdot, T) = \varphi^*,

for p = 2 :math:`v = -\nabla U / \alpha` and :math:`\partial_t U = \|\nabla U\|^2 / (2\alpha)`: particles go straight at constant speed, at most
:math:`(L/\alpha)^{q-1}`, so none can go further than T times that. (The authors' code has the sign of ∂_t U reversed, and takes the
kinetic energy where particles arrive, at the time at which they leave.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.flows.base import Flow
from particles.keys import ROOT, Key
from particles.metrics.paths import straightness
from particles.potentials.base import Info, Potential
from particles.proximal.network import TimedNetwork


@dataclass(frozen=True)
class RunningCost:
    r"""The price :math:`\frac{\alpha}{p} \|v\|^p` of a velocity per unit of time, and what follows from it.

    Arguments:
        alpha: The weight α; for p = 2 in units of the divergence · time / length².
        power: The exponent p, above 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    alpha: float
    power: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be positive and finite, not {self.alpha}")
        if not 1 < self.power < math.inf:
            raise ValueError(f"power must be above 1 and finite, not {self.power}")

    def velocity(self, slope: Tensor) -> Tensor:
        """The best velocity where U has this slope, both with shape :math:`(n, d)`."""
        if self.power == 2:
            straight: Tensor = slope / -self.alpha
            return straight
        tiny = (
            torch.finfo(slope.dtype).tiny ** 0.5
        )  # where U is flat nothing moves, nor has the derivative a pole there
        norm = (slope.square().sum(1, keepdim=True) + tiny).sqrt()
        velocity: Tensor = slope * -((norm / self.alpha) ** (1 / (self.power - 1)) / norm)
        return velocity

    def kinetic(self, velocity: Tensor) -> Tensor:
        r"""The energy :math:`\frac1p \|v\|^p` of each velocity, with shape :math:`(n,)`."""
        energy: Tensor = _square(velocity) ** (self.power / 2) / self.power
        return energy

    def residual(self, slope: Tensor, in_t: Tensor) -> Tensor:
        """How far each point is from the Hamilton–Jacobi equation: its right side less its left one, with shape :math:`(n,)`."""
        q = self.power / (self.power - 1)
        residual: Tensor = self.alpha ** (1 - q) / q * _square(slope) ** (q / 2) - in_t
        return residual

    def reach(self, lipschitz: float, horizon: float) -> float:
        """The longest way that a particle goes in the time ``horizon`` if slopes are at most ``lipschitz``; a length."""
        return horizon * float((lipschitz / self.alpha) ** (1 / (self.power - 1)))


def _square(vectors: Tensor) -> Tensor:
    """The squared length of each, and a tiny bit more: powers below 1 of it have no pole in their derivative at 0, where U begins."""
    return vectors.square().sum(1) + torch.finfo(vectors.dtype).tiny


class Way(NamedTuple):
    r"""Where points are at one time, and what they have paid on the way.

    Attributes:
        x: The points, with shape :math:`(n, d)`.
        kinetic: :math:`\int \frac1p \|v\|^p dt` so far, with shape :math:`(n,)`, taken where and when each Euler step begins.
        residual: The absolute residual of the Hamilton–Jacobi equation, integrated likewise, with shape :math:`(n,)`.
    """

    x: Tensor
    kinetic: Tensor
    residual: Tensor


class Generative(Flow):
    """A velocity field that is known at all places and times, so that any point can be taken along.

    Attributes:
        horizon: The time at which points have arrived.
        cost: The price of velocities.
        noise: The noise of the flow, a length / √time.
    """

    horizon: float
    cost: RunningCost
    noise: float = 0.0

    def velocity(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        return self.field(t, cloud, key)

    def path(self, cloud: Cloud, steps: int, key: Key = ROOT) -> list[Cloud]:
        """Where points are at the times :math:`0, T/n, \\dots, T`: n + 1 clouds, by n Euler steps.

        Arguments:
            cloud: The points at time 0.
            steps: The number n of steps; per stage where there are several.
            key: The source of noise, where there is any.

        Raises:
            ValueError: If ``steps`` is below 1.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        clouds, dt = [cloud], self.horizon / steps
        for i in range(steps):
            velocity, _ = self.field(i * dt, clouds[-1], key.fold(i))
            clouds.append(cloud.at(clouds[-1].x + dt * velocity))
        return clouds

    def transport(self, cloud: Cloud, steps: int, key: Key = ROOT) -> Cloud:
        """Where points are at the end: the last cloud of ``path``."""
        return self.path(cloud, steps, key)[-1]

    def diagnose(
        self, cloud: Cloud, steps: int, potential: Potential | None = None, key: Key = ROOT
    ) -> dict[str, float]:
        r"""What tells a good flow from a bad one, measured on points that may be new.

        ``kinetic_energy`` per unit of time, :math:`\frac1T \int E \frac1p \|v\|^p dt`; ``straightness``, path length over displacement; and,
        without noise, ``shift_2`` and ``shift_32``, the root mean square distance between the ends by n and by 2n and 32n steps, a length.

        Arguments:
            cloud: The points at time 0.
            steps: The number n of Euler steps; per stage where there are several.
            potential: The discriminator φ.
            key: The source of noise, where there is any.
        """
        cloud = cloud.active
        clouds = self.path(cloud, steps, key)
        dt = self.horizon / (len(clouds) - 1)
        energies = [cloud.mean(self.cost.kinetic((b.x - a.x) / dt)) for a, b in itertools.pairwise(clouds)]
        found = {
            "kinetic_energy": float(torch.stack(energies).mean()),
            "straightness": straightness(torch.stack([cloud.x for cloud in clouds]).cpu().numpy()),
        }
        for finer in (2, 32) if not self.noise else ():
            apart = self.transport(cloud, finer * steps, key).x - clouds[-1].x
            found[f"shift_{finer}"] = float(cloud.mean(apart.square().sum(1)).sqrt())
        return found


class ProximalFlow(Generative):
    r"""The flow by a network U(x, t), or by several in a row: stages, each of the length T.

    Its ``phi`` is U at the end of the last stage. With noise σ, :math:`dX = v \, dt + \sigma \, dW`, and the Hamilton–Jacobi equation has the
    further term :math:`-\frac{\sigma^2}{2} \Delta U`.

    Arguments:
        networks: The potential of each stage.
        cost: The price of velocities.
        noise: The noise σ, a length / √time.

    Raises:
        ValueError: If there is no network, their horizons differ, or the noise is negative.
    """

    def __init__(self, networks: Sequence[TimedNetwork], cost: RunningCost, noise: float = 0.0):
        if not networks:
            raise ValueError("a flow needs at least one network")
        if len(horizons := {network.horizon for network in networks}) > 1:
            raise ValueError(f"all stages must have the same horizon, not {sorted(horizons)}")
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be at least 0, not {noise}")
        self.networks = list(networks)
        self.cost = cost
        self.noise = noise
        self.horizon = sum(network.horizon for network in networks)

    def field(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        network, local = self._stage(t)
        with torch.no_grad():
            slope = network.slopes(cloud.x, local, cloud.label).in_x
        velocity, own = self.cost.velocity(slope), len(cloud) - cloud.carried
        particles = cloud.active
        info: Info = {
            "kinetic_energy": particles.mean(self.cost.kinetic(velocity[:own])),
            "max_gradient": slope[:own].square().sum(1).max().sqrt(),
        }
        return velocity, info

    def phi(self, cloud: Cloud) -> Tensor:
        with torch.no_grad():
            value: Tensor = self.networks[-1](cloud.x, self.networks[-1].horizon, cloud.label)
        return value

    def landscape(self, t: float, cloud: Cloud) -> tuple[Tensor, Tensor]:
        network, local = self._stage(t)
        with torch.no_grad():
            found = network.slopes(cloud.x, local, cloud.label)
        return found.value, found.in_x

    def path(self, cloud: Cloud, steps: int, key: Key = ROOT) -> list[Cloud]:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        clouds = [cloud]
        for stage, network in enumerate(self.networks):
            times = [network.horizon * i / steps for i in range(steps + 1)]
            with torch.no_grad():
                ways = self.ways(network, clouds[-1], times, key.fold(stage))
            clouds += [cloud.at(way.x) for way in ways[1:]]
        return clouds

    def ways(self, network: TimedNetwork, cloud: Cloud, times: Sequence[float], key: Key) -> list[Way]:
        """Where points are at some times of a stage, and what they have paid; differentiable in the network's weights."""
        x, paid = cloud.x, cloud.x.new_zeros(len(cloud))
        ways = [Way(x, paid, paid)]
        for i, (now, then) in enumerate(itertools.pairwise(times)):
            dt = then - now
            _, slope, in_t = network.slopes(x, now, cloud.label)
            velocity = self.cost.velocity(slope)
            residual = self.cost.residual(slope, in_t)
            if self.noise:
                residual = residual - self.noise**2 / 2 * _laplacian(network, x, now, cloud.label)
            x = x + dt * velocity
            if self.noise:
                jolt = torch.randn(x.shape, generator=key.fold(i).generator(x.device), dtype=x.dtype, device=x.device)
                x = x + self.noise * math.sqrt(dt) * jolt
            _, kinetic, missed = ways[-1]
            ways.append(Way(x, kinetic + dt * self.cost.kinetic(velocity), missed + dt * residual.abs()))
        return ways

    def _stage(self, t: float) -> tuple[TimedNetwork, float]:
        """The network of a time, and the time since its beginning."""
        for network in self.networks[:-1]:
            if t < network.horizon * (1 - 1e-9):
                return network, t
            t -= network.horizon
        return self.networks[-1], t

    def diagnose(
        self, cloud: Cloud, steps: int, potential: Potential | None = None, key: Key = ROOT
    ) -> dict[str, float]:
        r"""Besides what every generative flow is asked, ``hj_residual``, the mean absolute residual of the Hamilton–Jacobi equation
        along the way, and with a discriminator ``terminal_residual``, the root mean square of :math:`\|\nabla U(\cdot, T) - \nabla\varphi\|`
        at the ends, and ``terminal_cosine``, the mean cosine between the two.
        """
        cloud = cloud.active
        found = super().diagnose(cloud, steps, None, key)
        kinetic, missed = (
            cloud.x.new_zeros(()),
            cloud.x.new_zeros(()),
        )  # of the velocity alone, without the jolts of noise
        with torch.no_grad():
            end = cloud
            for stage, network in enumerate(self.networks):
                times = [network.horizon * i / steps for i in range(steps + 1)]
                way = self.ways(network, end, times, key.fold(stage))[-1]
                end = cloud.at(way.x)
                kinetic, missed = kinetic + cloud.mean(way.kinetic), missed + cloud.mean(way.residual)
            slope = self.networks[-1].slopes(end.x, self.networks[-1].horizon, end.label).in_x
        found |= {"kinetic_energy": float(kinetic) / self.horizon, "hj_residual": float(missed) / self.horizon}
        if potential is not None:
            found |= {name: float(value) for name, value in terminal(slope, potential.grad(end), end).items()}
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"networks": [network.state_dict() for network in self.networks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for network, saved in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(saved)


def terminal(slope: Tensor, gradient: Tensor, cloud: Cloud) -> Info:
    """How far the slope of U at the end is from the discriminator's there: root mean square, and mean cosine."""
    apart = cloud.mean((slope - gradient).square().sum(1)).sqrt()
    cosine = cloud.mean(torch.cosine_similarity(slope, gradient, dim=1))
    return {"terminal_residual": apart, "terminal_cosine": cosine}


def _laplacian(network: TimedNetwork, x: Tensor, t: float, label: Tensor | None) -> Tensor:
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if x.requires_grad else x.detach().requires_grad_()
        columns = network.slopes(at, t, label).in_x.sum(0)  # a point's slope depends on that point alone
        rows = [
            torch.autograd.grad(column, at, create_graph=graph, retain_graph=True)[0][:, i]
            for i, column in enumerate(columns)
        ]
    return torch.stack(rows).sum(0)
