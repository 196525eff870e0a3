"""Explicit Runge–Kutta methods, as tableaux."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from particles.cloud import Cloud
from particles.flows.base import Flow
from particles.keys import Key
from particles.potentials.base import Info
from particles.steppers.base import Memory, Stepper


@dataclass(frozen=True)
class Tableau:
    """A Butcher tableau: stage i is at time ``t + c[i] h`` and position ``x + h Σ_j a[i][j] v_j``.

    Arguments:
        a: The weights of earlier stages, one row per stage.
        b: The weights of the stages in the step.
        c: The times of the stages.
        order: The order of the method.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    order: int


HEUN = Tableau(a=((), (1.0,)), b=(1 / 2, 1 / 2), c=(0.0, 1.0), order=2)
BOGACKI_SHAMPINE = Tableau(
    a=((), (1 / 2,), (0.0, 3 / 4)),
    b=(2 / 9, 1 / 3, 4 / 9),
    c=(0.0, 1 / 2, 3 / 4),
    order=3,
)
"""The solution of order 3 of the pair of Bogacki and Shampine, A 3(2) pair of Runge–Kutta formulas, 1989."""
RK4 = Tableau(
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.0, 1 / 2, 1 / 2, 1.0),
    order=4,
)


class RungeKutta(Stepper):
    """An explicit Runge–Kutta method; the potential is fitted anew at every stage, to the cloud as it is there.

    All stages share one key, hence their minibatches.

    Arguments:
        tableau: The method.
    """

    def __init__(self, tableau: Tableau):
        self.tableau = tableau
        self.order = tableau.order

    def step(
        self, flow: Flow, t: float, dt: float, cloud: Cloud, memory: Memory, key: Key
    ) -> tuple[Cloud, Memory, Info]:
        end, _, info = self.advance(flow, t, dt, cloud, key)
        return end, memory, info

    def advance(
        self, flow: Flow, t: float, dt: float, cloud: Cloud, key: Key, first: Tensor | None = None
    ) -> tuple[Cloud, list[Tensor], Info]:
        """One step, with what other methods are made of.

        Arguments:
            flow: The velocity.
            t: The time.
            dt: The step size.
            cloud: The particles at ``t``.
            key: The source of random numbers of all stages.
            first: The velocity at ``t`` if it is known, with shape :math:`(n, d)`; it is not found again then.

        Returns:
            The cloud at ``t + dt``, the velocity of every stage, and the info of the first one that was found here.
        """
        stages: list[Tensor] = [] if first is None else [first]
        known = len(stages)
        found: Info | None = None
        for row, c in list(zip(self.tableau.a, self.tableau.c))[known:]:
            velocity, info = flow.velocity(t + c * dt, cloud.at(_moved(cloud.x, dt, row, stages)), key)
            stages.append(velocity)
            found = found or info
        return cloud.at(_moved(cloud.x, dt, self.tableau.b, stages)), stages, found or {}


def _moved(x: Tensor, dt: float, weights: tuple[float, ...], stages: list[Tensor]) -> Tensor:
    for weight, velocity in zip(weights, stages):
        if weight:
            x = x + dt * weight * velocity
    return x


def heun() -> RungeKutta:
    """Heun's method: the explicit trapezoidal rule, of order 2, two fits per step."""
    return RungeKutta(HEUN)


def rk4() -> RungeKutta:
    """The classical Runge–Kutta method: of order 4, four fits per step."""
    return RungeKutta(RK4)
