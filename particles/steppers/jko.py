r"""The W2-penalised step: the implicit Euler method of particles (Jordan, Kinderlehrer, Otto 1998; arXiv 2407.11901).

From the particles y a step of size h goes to the best price of nearness to the target and of the way there,

.. math:: z = \operatorname{argmin}_z F(z), \qquad F(z) = D(P_z\|Q) + \frac{1}{2h} E\|z - y\|^2,

where :math:`z = y - h\nabla\varphi(z)` with φ the potential of the particles where they *end*. By the envelope theorem the gradient of
F is, per particle and times h, :math:`-r` with :math:`r = y - h\nabla\varphi(z) - z`, and the first step along r is Euler's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.flows.base import Flow
from particles.keys import Key
from particles.names import choose
from particles.potentials.base import Info
from particles.steppers.base import Memory, Stepper
from particles.steppers.bundle import balanced

MODES = ("explicit", "semi-implicit", "implicit")
ARMIJO = 1e-4
"""The part of the decrease promised by the slope that a step along r has to keep."""
HALVINGS = 10
"""The most trial points after the first one along the same r."""
SHORTEST = 1e-6
"""The least length of a step along r that is begun with."""


class Proximal(Stepper):
    r"""One step of minimising movement, of order 1; the step size h weighs the divergence against the way.

    * ``explicit``: one inner step of length h, in which the way has no price yet: Euler's method, bit for bit.
    * ``semi-implicit``: φ is fitted at y and then frozen. Then every particle, carried ones too, has a problem of its own,
      :math:`\min_z \varphi(z) + \|z - y\|^2 / (2h)`, solved by a proximal bundle method (Kiwiel 1990): the tangent planes at all
      trial points bound φ from below, and the next trial point is the best one for their maximum. The first one is Euler's. So
      particles land on the kinks of φ, about which Euler's rattle with amplitude hL; gradient steps would halt before them. The
      planes are kept during the step: memory for ``max_inner`` clouds.
    * ``implicit``: φ is fitted anew at every trial point. All particles go the same part of the way along r: the whole at first (or what
      was found last, which is the memory), then the length of Barzilai and Borwein (1988), the shorter of their two; and less where F
      does not fall. So D never rises, whatever h is; if no part of the way lowers F, the step ends where it is. Where F has
      risen a trial point is still taken if the new φ says that F falls: for a potential that was found exactly this is the
      same or stricter, as D is convex in P; one that is trained would otherwise stand still for as long as its divergence
      rises by training. Potentials that count their fits (annealing) count those at trial points.

    In every mode a particle moves at most h L, as it ends between points of the ball of that radius.

    Measured are, besides what is at the first velocity, ``residual``, the largest :math:`\|z - y + h\nabla\varphi(z)\| / h` over the
    particles, a speed (at a kink of φ it does not vanish), ``inner``, the number of inner steps, and ``descent``,
    :math:`F(y) - F(z) \ge 0`. A divergence that is not finite ends the step and, by ``descent``, the run.

    Arguments:
        mode: ``explicit``, ``semi-implicit`` or ``implicit``.
        max_inner: The most inner steps. With 1 every mode is the explicit one: the whole inner step, which is not looked back at,
            so that nothing but what is at the first velocity is measured.
        tolerance: Inner steps end when the residual is below this part of the largest first speed, or when the last one was below this
            part of the way.

    Raises:
        ValueError: If the mode is unknown or a number out of its range.
    """

    order = 1

    def __init__(self, mode: str = "implicit", max_inner: int = 20, tolerance: float = 1e-3):
        if max_inner < 1:
            raise ValueError(f"max_inner must be at least 1, not {max_inner}")
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance must be at least 0 and below 1, not {tolerance}")
        self.mode = choose("mode", mode, MODES)
        self.max_inner = max_inner
        self.tolerance = tolerance

    def init(self) -> Memory:
        return (torch.ones((), dtype=torch.double),)

    def step(
        self, flow: Flow, t: float, dt: float, cloud: Cloud, memory: Memory, key: Key
    ) -> tuple[Cloud, Memory, Info]:
        velocity, info = flow.velocity(t, cloud, key)
        if self.mode == "explicit" or self.max_inner == 1:
            return cloud.at(cloud.x + dt * velocity), memory, info
        if self.mode == "semi-implicit":
            z, velocity, counted = self._frozen(flow, t, dt, cloud, velocity, key)
        else:
            begin = _Point(cloud.x, velocity, info["divergence"], 0.0)
            z, velocity, counted, memory = self._fitted(flow, t + dt, dt, cloud, begin, float(memory[0]), key)
        counted["residual"] = _longest(cloud, cloud.x + dt * velocity - z) / dt
        return cloud.at(z), memory, info | counted

    def _frozen(
        self, flow: Flow, t: float, dt: float, cloud: Cloud, velocity: Tensor, key: Key
    ) -> tuple[Tensor, Tensor, Info]:
        """Where each particle ends, with its velocity there and what was measured; all by the φ there is."""
        y, best, at_best = cloud.x, cloud.x, velocity
        height = begin = least = _phi(flow, cloud)
        slopes, levels, weights = -velocity[:, None], height[:, None], torch.ones_like(height[:, None])
        z, inner = y + dt * velocity, 0
        while True:
            inner += 1
            velocity, _ = flow.field(t, cloud.at(z), key)
            height = _phi(flow, cloud.at(z))
            price = height + (z - y).square().sum(1) / (2 * dt)
            better = price < least
            best, at_best = (torch.where(better[:, None], *pair) for pair in ((z, best), (velocity, at_best)))
            least = torch.where(better, price, least)
            if inner == self.max_inner:
                break
            # Where φ is not convex a tangent plane may lie above it; none may lie above it at y.
            level = torch.minimum(height - (velocity * (y - z)).sum(1), begin)
            slopes = torch.cat((slopes, -velocity[:, None]), 1)
            levels = torch.cat((levels, level[:, None]), 1)
            weights = balanced(slopes, levels, torch.cat((weights, torch.zeros_like(level[:, None])), 1), dt)
            z = y - dt * (weights[:, :, None] * slopes).sum(1)
            if flow.steer(_longest(cloud, z - best)) <= self.tolerance * flow.steer(_longest(cloud, best - y)):
                break
        descent = cloud.active.mean((begin - least)[: len(y) - cloud.carried])
        return best, at_best, {"inner": float(inner), "descent": descent}

    def _fitted(
        self, flow: Flow, t: float, dt: float, cloud: Cloud, here: _Point, a: float, key: Key
    ) -> tuple[Tensor, Tensor, Info, Memory]:
        """Where the particles end, with their velocity there, what was measured, and the length of step to begin with next."""
        y = cloud.x
        inner, descent = 0, 0.0
        left = y + dt * here.velocity - here.x
        fast = flow.steer(_longest(cloud, left))
        while inner < self.max_inner and flow.steer(_longest(cloud, left)) > self.tolerance * fast:
            there, fallen = self._descent(flow, t, dt, cloud, here, a, key)
            if there is None:
                a, descent = 1.0, descent if math.isfinite(fallen) else fallen
                break
            inner, descent = inner + 1, descent + fallen
            moved, before, behind = there.x - here.x, left, here.x
            here, left = there, y + dt * there.velocity - there.x
            # The slopes of F turn by moving, and with a trained φ also by training, which would shorten steps to nothing: what
            # one and the same φ turns tells them apart. The longer length is tried; descent is looked after anyway.
            frozen = y + dt * flow.field(t, cloud.at(behind), key)[0] - behind
            a = max(_length(flow, cloud, moved, before - left), _length(flow, cloud, moved, frozen - left))
            if flow.steer(_longest(cloud, moved)) <= self.tolerance * flow.steer(_longest(cloud, here.x - y)):
                break
        counted: Info = {"inner": float(inner), "descent": descent}
        return here.x, here.velocity, counted, (torch.tensor(a, dtype=torch.double),)

    def _descent(
        self, flow: Flow, t: float, dt: float, cloud: Cloud, here: _Point, a: float, key: Key
    ) -> tuple[_Point | None, float]:
        """The first point along r at which F is lower, and by how much; ``None`` if there is none."""
        particles, end = cloud.active, cloud.x + dt * here.velocity
        own = len(particles)
        slope = flow.steer(particles.mean((end - here.x)[:own].square().sum(1))) / dt
        fallen = 0.0
        for _ in range(1 + HALVINGS):
            x = torch.lerp(here.x, end, a)  # with a = 1 the end itself, bit for bit
            velocity, info = flow.velocity(t, cloud.at(x), key)
            way = particles.mean((x - cloud.x)[:own].square().sum(1)) / (2 * dt)
            there = _Point(x, velocity, info["divergence"], way)
            fallen = flow.steer(here.divergence - there.divergence + (here.way - way))
            if math.isfinite(fallen) and fallen < ARMIJO * a * slope:
                lower = particles.mean(flow.phi(particles.at(here.x[:own])) - flow.phi(particles.at(x[:own])))
                fallen = flow.steer(lower + (here.way - way))
            if not math.isfinite(fallen):  # the potential is spoilt as well by then: a shorter step is no cure
                break
            if fallen >= ARMIJO * a * slope:
                return there, fallen
            # Half of it, or as far as the slopes of F here and there would have a parabola's lowest point: halves may
            # overshoot it by far and still descend, into a valley behind the nearest one.
            along, beyond = (end - here.x)[:own], (cloud.x + dt * velocity - x)[:own]
            turned = flow.steer(particles.mean((along * (along - beyond)).sum(1))) / dt
            a *= min(0.5, max(0.1, slope / turned)) if turned > 0 else 0.5
        return None, fallen


@dataclass(frozen=True)
class _Point:
    """Where all points are, their velocities there, the divergence, and the price of the way."""

    x: Tensor
    velocity: Tensor
    divergence: Tensor | float
    way: Tensor | float


def _phi(flow: Flow, cloud: Cloud) -> Tensor:
    # The riders by themselves, so that not even rounding tells the particles of them.
    own = flow.phi(cloud.active)
    return own if cloud.riders is None else torch.cat((own, flow.phi(cloud.riders)))


def _longest(cloud: Cloud, vectors: Tensor) -> Tensor:
    """The largest length over the particles that count."""
    return cloud.max(vectors[: len(cloud) - cloud.carried].square().sum(1)).sqrt()


def _length(flow: Flow, cloud: Cloud, moved: Tensor, turned: Tensor) -> float:
    """The shorter length of Barzilai and Borwein, the inverse of the curvature of F along the last step; 1 where there is none."""
    own = len(cloud) - cloud.carried
    mean = cloud.active.mean
    moved, turned = moved[:own], turned[:own]
    ratio = flow.steer(mean((moved * turned).sum(1)) / mean(turned.square().sum(1)))
    return max(min(ratio, 1.0), SHORTEST) if ratio > 0 else 1.0
