r"""The W1 ⊕ W2 proximal flow without a network, from its exact solution (arXiv 2407.11901; see ``proximal/plan.py``).

The whole problem is one semi-relaxed transport problem with Huber's cost. Its dual potential g, on the target's points, gives the
value function at all places and times by the formula of Hopf and Lax,

.. math:: U(x, t) = \inf_j \; H_{T - t}(\|x - x_j\|) - g_j,

where :math:`H_s` is the price of a way in the time s: quadratic as far as :math:`L s / \alpha`, L per length beyond.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.divergences import Divergence
from particles.kernels import Distance, Huber, Radial
from particles.keys import Key
from particles.pairwise.sums import softmin, softmin_gradient
from particles.potentials.base import Info
from particles.potentials.transport import TransportPotential, charged
from particles.proximal.flow import Generative, RunningCost
from particles.proximal.plan import proximal_plan

NONE = "a plan knows where its particles go, and no potential; the flow of Hopf and Lax (the solver transport) has one"


class HopfLaxFlow(Generative):
    r"""Fits g to the particles once, at its first velocity, and takes any point along :math:`v = -\nabla U / \alpha` ever after.

    With entropy ε the infimum is a softmin, so U is smooth but for t near T; a particle then goes to a mean of target points within about
    :math:`\sqrt{\varepsilon T / \alpha}` of where it should go. ``divergence`` is the value of the whole problem, kinetic energy
    included, at the time of the fit. Labels are not looked at.

    Arguments:
        potential: What finds g; its cost has the radius ``cost.reach(lipschitz, horizon)`` and the cost's power. It is not to be debiased.
        target: The target, with shape :math:`(N, d)`.
        cost: The price of velocities.
        lipschitz: The bound L on the discriminator's slope.
        horizon: The time T.

    Raises:
        ValueError: If the potential is debiased.
    """

    def __init__(
        self, potential: TransportPotential, target: Cloud, cost: RunningCost, lipschitz: float, horizon: float = 1.0
    ):
        if potential.debias:
            raise ValueError("the flow of one large step needs a potential that is not debiased: debias=False")
        self.potential = potential
        self.target = target
        self.cost = cost
        self.lipschitz = lipschitz
        self.horizon = horizon
        self.found: dict[str, float] = {}

    def velocity(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        if self.potential.fitted is None:
            info = self.potential.fit(cloud.active, self.target, key)
            self.found = {name: float(info[name]) for name in ("divergence", "gap", "iterations")}
        return self.field(t, cloud, key)

    def field(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        own = len(cloud) - cloud.carried
        slope = self.slope(t, cloud.x)
        velocity = self.cost.velocity(slope)
        info: Info = {
            "kinetic_energy": cloud.active.mean(self.cost.kinetic(velocity[:own])),
            "max_gradient": slope[:own].square().sum(1).max().sqrt(),
        }
        return velocity, self.found | info

    def slope(self, t: float, x: Tensor) -> Tensor:
        """The slope of U at a time and some points, with shape :math:`(n, d)`; at most L long."""
        q, dual = self._dual()
        found: Tensor = softmin_gradient(
            x, q.x, dual, self._price(t), self.potential.now, backend=self.potential.backend
        )[1]
        return found

    def phi(self, cloud: Cloud) -> Tensor:
        """U at the end: the discriminator."""
        return self._value(self.horizon, cloud.x)

    def landscape(self, t: float, cloud: Cloud) -> tuple[Tensor, Tensor]:
        return self._value(t, cloud.x), self.slope(t, cloud.x)

    def _value(self, t: float, x: Tensor) -> Tensor:
        q, dual = self._dual()
        return softmin(x, q.x, dual, self._price(t), self.potential.now, backend=self.potential.backend)

    def _price(self, t: float) -> Radial:
        radius = self.cost.reach(self.lipschitz, self.horizon - t)
        whole = self.cost.reach(self.lipschitz, self.horizon)
        return Huber(self.lipschitz, radius, self.cost.power) if radius > 1e-6 * whole else Distance(self.lipschitz)

    def _dual(self) -> tuple[Cloud, Tensor]:
        self.potential.phi(self.target.take(slice(0, 1)))  # raises if there is none yet
        assert self.potential.fitted is not None
        q = self.potential.fitted[1]
        return q, charged(q, self.potential.duals["g"], self.potential.now)

    def state_dict(self) -> dict[str, Any]:
        return {"potential": self.potential.state_dict(), "found": dict(self.found)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.potential.load_state_dict(state["potential"])
        self.found = dict(state["found"])


class PlannedFlow(Generative):
    """Takes the particles straight to the ends of the exact plan, at constant speed. It knows no other points.

    A particle whose mass the plan splits goes to one of its ends, drawn by their masses.

    Arguments:
        divergence: The f-divergence.
        target: The target, with shape :math:`(N, d)`.
        cost: The price of velocities.
        lipschitz: The bound L on the discriminator's slope.
        horizon: The time T.
        key: Draws the ends.

    Raises:
        ValueError: From its methods, if it is asked for other points than its particles, or for a potential.
    """

    def __init__(
        self, divergence: Divergence, target: Cloud, cost: RunningCost, lipschitz: float, horizon: float, key: Key
    ):
        self.divergence = divergence
        self.target = target
        self.cost = cost
        self.lipschitz = lipschitz
        self.horizon = horizon
        self.key = key
        self.speed: Tensor | None = None
        self.found: dict[str, float] = {}

    def velocity(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        if self.speed is None:
            if cloud.carried:
                raise ValueError("the plan moves its own particles alone; carry none, or choose the solver transport")
            plan = proximal_plan(
                cloud,
                self.target,
                self.divergence,
                lipschitz=self.lipschitz,
                alpha=self.cost.alpha,
                horizon=self.horizon,
                power=self.cost.power,
            )
            self.speed = (plan.drawn(self.key) - cloud.x) / self.horizon
            self.found = {"divergence": plan.value, "gap": plan.value - plan.lower, "max_gradient": plan.slope}
        return self.field(t, cloud, key)

    def field(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        if self.speed is None or len(cloud) != len(self.speed):
            raise ValueError("the plan knows the particles that it was made for alone")
        return self.speed, self.found | {"kinetic_energy": cloud.mean(self.cost.kinetic(self.speed))}

    def phi(self, cloud: Cloud) -> Tensor:
        raise ValueError(NONE)

    def landscape(self, t: float, cloud: Cloud) -> tuple[Tensor, Tensor]:
        raise ValueError(NONE)

    def state_dict(self) -> dict[str, Any]:
        return {"speed": self.speed, "found": dict(self.found)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        speed = state["speed"]
        self.speed = None if speed is None else torch.as_tensor(speed, device=self.target.x.device)
        self.found = dict(state["found"])
