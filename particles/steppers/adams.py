"""Adams–Bashforth methods: high order from one velocity per step, by remembering those of the last ones."""

from __future__ import annotations

import numpy as np
import torch
from numpy.polynomial import Polynomial

from particles.cloud import Cloud
from particles.flows.base import Flow
from particles.keys import Key
from particles.potentials.base import Info
from particles.steppers.base import Memory, Stepper
from particles.steppers.runge_kutta import BOGACKI_SHAMPINE, HEUN, RK4, RungeKutta

STARTERS = {tableau.order: tableau for tableau in (HEUN, BOGACKI_SHAMPINE, RK4)}


class AdamsBashforth(Stepper):
    r""":math:`x \leftarrow x + \int_t^{t+h} p`, with p the polynomial through the velocity now and those of the last steps.

    One fit per step. The coefficients are those of the step sizes as they were, which may differ (Hairer, Nørsett, Wanner,
    Solving Ordinary Differential Equations I, Section III.5). The first steps, which have no past, are those of the Runge–Kutta
    method of the same order; the memory is the past velocities, the latest first, and then their times.

    Coefficients of past velocities are negative in part. So a step may be longer than h times the fastest velocity: for constant
    step sizes up to 2, 11/3 and 20/3 times (orders 2, 3, 4), where velocities change their direction from step to step.

    Arguments:
        order: The order of the method, 2 to 4, which is the number of velocities that it combines.

    Raises:
        ValueError: If there is no method of this order.
    """

    def __init__(self, order: int):
        if order not in STARTERS:
            raise ValueError(f"order must be 2, 3 or 4, not {order}")
        self.order = order
        self.starter = RungeKutta(STARTERS[order])

    def step(
        self, flow: Flow, t: float, dt: float, cloud: Cloud, memory: Memory, key: Key
    ) -> tuple[Cloud, Memory, Info]:
        past = memory[:-1]
        times = [t, *memory[-1].tolist()] if memory else [t]
        if len(times) < self.order:
            end, stages, info = self.starter.advance(flow, t, dt, cloud, key)
            velocities = [stages[0], *past]
        else:
            velocity, info = flow.velocity(t, cloud, key)
            velocities = [velocity, *past]
            x = cloud.x
            for weight, velocity in zip(coefficients(times, dt), velocities):
                x = x + dt * weight * velocity
            end = cloud.at(x)
        kept = self.order - 1
        return end, (*velocities[:kept], torch.tensor(times[:kept], dtype=torch.double)), info


def coefficients(times: list[float], dt: float) -> list[float]:
    r"""The weights :math:`\frac1h\int_t^{t+h} \ell_i` of velocities at ``times``, with :math:`\ell_i` the Lagrange polynomials there.

    Arguments:
        times: The times of the velocities, all different, that of the step first.
        dt: The step size h.
    """
    # In units of the step, from its beginning: late times are large numbers that differ by little.
    nodes = (np.array(times) - times[0]) / dt
    weights = []
    for i, node in enumerate(nodes):
        others = np.delete(nodes, i)
        integral = Polynomial.fromroots(others).integ()
        weights.append(float(integral(1.0) / np.prod(node - others)))
    return weights


def ab2() -> AdamsBashforth:
    """The Adams–Bashforth method of order 2, started by Heun's."""
    return AdamsBashforth(2)


def ab3() -> AdamsBashforth:
    """The Adams–Bashforth method of order 3, started by that of Bogacki and Shampine."""
    return AdamsBashforth(3)


def ab4() -> AdamsBashforth:
    """The Adams–Bashforth method of order 4, started by the classical Runge–Kutta method."""
    return AdamsBashforth(4)
