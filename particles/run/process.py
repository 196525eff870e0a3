"""Processes: what a run repeats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from particles.cloud import Cloud, squares
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

    def gathered(self) -> State:
        """The same on every process, with the rows of all of them; itself if there is but one."""
        if self.cloud.shard is None:
            return self
        memory = tuple(self.cloud.whole(tensor) if tensor.ndim == 2 else tensor for tensor in self.memory)
        return State(self.k, self.t, self.cloud.gathered(), memory)

    def at(self, k: int, t: float, x: Tensor, memory: Memory) -> State:
        """A later state of the same particles, from what ``gathered`` says of it: this process' rows."""
        cloud = self.cloud
        own = tuple(cloud.local(tensor) if tensor.ndim == 2 else tensor for tensor in memory)
        return State(k, t, cloud.at(cloud.local(x)), own)


class Process(Protocol):
    """A first state, a way from each state to the next, and whatever else the next step depends on."""

    def init(self) -> State: ...

    def step(self, state: State) -> tuple[State, Info]: ...

    def path(self, state: State) -> list[State]:
        """What a state looks like to stores and observers: itself, or all states on the way that it stands for."""
        ...

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
        source: The first cloud, with shape :math:`(M, d)`; of several processes each moves its part.
        step_size: The first step size h, in units of time: the particles move at most ``h · L`` per step.
        decay: The number K of steps after which the step size is half of the first; ``inf`` keeps it.
        key: The source of all random numbers; step k draws from ``key.fold(k)``.

    Raises:
        ValueError: If a number is not positive, the source is no probability measure, or the flow is not one for such particles.
        FloatingPointError: From ``step``, if the time is beyond all numbers.
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
        if not isinstance(key, Key):
            raise ValueError(f"key must be a Key, such as Key.of(0), not {key!r}")
        if source.shard is None:
            source.check("source")
        flow.check(source)
        self.flow = flow
        self.stepper = stepper
        self.source = source.at(source.x.detach())
        self.step_size = step_size
        self.decay = decay
        self.key = key

    def init(self) -> State:
        return State(0, 0.0, self.source.sharded(), self.stepper.init())

    def step(self, state: State) -> tuple[State, Info]:
        dt = self.step_size / (1 + state.k / self.decay)
        if math.isinf(state.t + dt):
            raise FloatingPointError(
                f"the time is no number any more after steps of {dt:g}; choose a smaller step_size"
            )
        cloud, memory, info = self.stepper.step(
            self.flow, state.t, dt, state.cloud, state.memory, self.key.fold(state.k)
        )
        moved = cloud.max(squares(cloud.x, state.cloud.x)).sqrt() / dt
        info = info | {"step_size": dt, "max_speed": moved}
        return State(state.k + 1, state.t + dt, cloud, memory), info

    def path(self, state: State) -> list[State]:
        """The state itself, of all processes: the run is the way."""
        return [state.gathered()]

    def recorded(self) -> Tape | None:
        """What was recorded since the last call, or ``None`` if nothing is."""
        return self.flow.take() if isinstance(self.flow, Recorder) else None

    def state_dict(self) -> dict[str, Any]:
        return self.flow.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.flow.load_state_dict(state)
