"""Steps as large as an error allows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.flows.base import Flow
from particles.keys import Key
from particles.potentials.base import Info
from particles.steppers.base import Memory, Stepper
from particles.steppers.runge_kutta import BOGACKI_SHAMPINE, RungeKutta

SECOND = (7 / 24, 1 / 4, 1 / 3, 1 / 8)
"""The weights of the embedded solution of order 2; its last stage is the velocity at the end."""
DIFFERENCE = tuple(b - second for b, second in zip((*BOGACKI_SHAMPINE.b, 0.0), SECOND))
MIDPOINT = tuple((b - second) / 8 for b, second in zip((*BOGACKI_SHAMPINE.b, 0.0), (0.0, 1.0, 0.0, 0.0)))
MOST = 1000
"""A substep is this part of the step at least, so that no step is without end."""


class Adaptive(Stepper):
    """The embedded pair of Bogacki and Shampine, of orders 3 and 2: every step in as many substeps as its error asks for.

    After a substep its error is estimated by the distance of the two solutions, the largest over the particles (carried
    ones have no say); or by an eighth of the distance to the midpoint method's, where that is larger. For a pull of rate 1 the
    pair sees nothing of the error of a substep of 1, and the W2 flow is such a pull everywhere. Up to the tolerance the solution of order 3 is gone on with, otherwise the substep is tried again with a smaller
    size. The potential is fitted at every stage, four times in the first substep and three times in the others, rejected ones too; all
    share one key, hence their minibatches.

    Measured are, besides what is at the first velocity, ``substeps``, ``rejected``, and ``error``, the largest estimate of a substep that was
    accepted. An ``error`` above the tolerance says that not even substeps of a thousandth of the step were small enough; such a one is
    accepted as it is. A velocity that is not continuous, or random, asks for that. An estimate that is not a number ends the step, and
    with it, by ``error``, the run.

    The memory is the size of the next substep, infinite at first: then the whole step is tried.

    Arguments:
        tolerance: The largest error of a substep, a length in units of the flow.

    Raises:
        ValueError: If the tolerance is not positive and finite.
    """

    order = 3

    def __init__(self, tolerance: float = 1e-3):
        if not 0 < tolerance < math.inf:
            raise ValueError(f"tolerance must be a length, positive and finite, not {tolerance}")
        self.tolerance = tolerance
        self.pair = RungeKutta(BOGACKI_SHAMPINE)

    def init(self) -> Memory:
        return (torch.tensor(math.inf, dtype=torch.double),)

    def step(
        self, flow: Flow, t: float, dt: float, cloud: Cloud, memory: Memory, key: Key
    ) -> tuple[Cloud, Memory, Info]:
        (planned,) = (float(size) for size in memory)
        velocity, info = flow.velocity(t, cloud, key)
        done, substeps, rejected, largest = 0.0, 0, 0, 0.0
        while True:
            planned = max(planned, dt / MOST)
            left = dt - done
            last = planned >= left * (1 - 1e-9)  # what rounding leaves over is no substep
            h = left if last else planned
            end, stages, _ = self.pair.advance(flow, t + done, h, cloud, key, velocity)
            at_end, _ = flow.velocity(t + done + h, end, key)
            error = flow.steer(self._error(end, h, [*stages, at_end]))
            if not math.isfinite(error):  # the potential is spoilt as well by then: a smaller substep is no cure
                cloud, largest = end, error
                break
            factor = 5.0 if error == 0 else min(5.0, max(0.2, 0.9 * (self.tolerance / error) ** (1 / 3)))
            if error > self.tolerance and h > dt / MOST:
                rejected += 1
                planned = h * factor
                continue
            # A last substep is cut short by the end of the step, which says nothing against the size that was planned.
            planned = max(planned, h * factor) if h < planned < math.inf else h * factor
            cloud, velocity, done = end, at_end, done + h
            substeps, largest = substeps + 1, max(largest, error)
            if last:
                break
        counted: Info = {"substeps": float(substeps), "rejected": float(rejected), "error": largest}
        return cloud, (torch.tensor(planned, dtype=torch.double),), info | counted

    def _error(self, end: Cloud, h: float, stages: list[Tensor]) -> Tensor:
        """The larger of two estimates, h times the longest vector of each."""
        own = len(end) - end.carried
        estimates = [
            sum((weight * velocity[:own] for weight, velocity in zip(weights, stages)), torch.zeros_like(end.x[:own]))
            for weights in (DIFFERENCE, MIDPOINT)
        ]
        return h * end.max(torch.stack(estimates).square().sum(2)).max().sqrt()
