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
        stages: list[Tensor] = []
        first: Info | None = None
        for row, c in zip(self.tableau.a, self.tableau.c):
            x = cloud.x
            for weight, velocity in zip(row, stages):
                x = x + dt * weight * velocity
            velocity, info = flow.velocity(t + c * dt, cloud.at(x), key)
            stages.append(velocity)
            first = first or info
        x = cloud.x
        for weight, velocity in zip(self.tableau.b, stages):
            x = x + dt * weight * velocity
        assert first is not None
        return cloud.at(x), memory, first


def heun() -> RungeKutta:
    """Heun's method: the explicit trapezoidal rule, of order 2, two fits per step."""
    return RungeKutta(HEUN)
