"""Processes: what a run repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from particles.cloud import Cloud
from particles.flows.base import Flow
from particles.flows.recording import Recorder, Tape
from particles.keys import ROOT, Key
from particles.potentials.base import Info
from particles.steppers.base import Memory, Stepper


@dataclass(frozen=True)
class State:
    """Where a run is.

    Attributes:
        k: The number of steps taken.
        t: The time.
        cloud: The particles, with the carried ones behind them.
        memory: The stepper's.
    """

    k: int
    t: float
    cloud: Cloud
    memory: Memory = ()


class Process(Protocol):
    """A first state, a way from each state to the next, and whatever else the next step depends on."""

    def init(self) -> State: ...

    def step(self, state: State) -> tuple[State, Info]: ...

    def recorded(self) -> Tape | None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Evolve:
    r"""The particles move: step k takes them from t to :math:`t + h_k` with :math:`h_k = h / (1 + k / K)`.

    The steps of this decay shrink to nothing while their sum grows without bound, so particles can go as far as
    they must and still come to rest; and it does not depend on when a run is to stop.

    Arguments:
        flow: The velocity.
        stepper: The time integrator.
        source: The first cloud, with shape :math:`(M, d)`.
        step_size: The first step size h, in units of time: the particles move at most ``h · L`` per step.
        decay: The number K of steps after which the step size is half of the first; ``inf`` keeps it.
        key: The source of all random numbers; step k draws from ``key.fold(k)``.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(
        self,
        flow: Flow,
        stepper: Stepper,
        source: Cloud,
        *,
        step_size: float,
        decay: float = float("inf"),
        key: Key = ROOT,
    ):
        for name, value in (("step_size", step_size), ("decay", decay)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        self.flow = flow
        self.stepper = stepper
        self.source = source
        self.step_size = step_size
        self.decay = decay
        self.key = key

    def init(self) -> State:
        return State(0, 0.0, self.source, self.stepper.init())

    def step(self, state: State) -> tuple[State, Info]:
        dt = self.step_size / (1 + state.k / self.decay)
        cloud, memory, info = self.stepper.step(
            self.flow, state.t, dt, state.cloud, state.memory, self.key.fold(state.k)
        )
        moved = (cloud.x - state.cloud.x).square().sum(1).max().sqrt() / dt
        info = info | {"step_size": dt, "max_speed": moved}
        return State(state.k + 1, state.t + dt, cloud, memory), info

    def recorded(self) -> Tape | None:
        """What was recorded since the last call, or ``None`` if nothing is."""
        return self.flow.take() if isinstance(self.flow, Recorder) else None

    def state_dict(self) -> dict[str, Any]:
        return self.flow.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.flow.load_state_dict(state)
