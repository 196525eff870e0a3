"""Processes: what a run repeats."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from particles.batches import Stratified
from particles.cloud import Cloud, squares
from particles.flows import proximal
from particles.flows.base import Flow
from particles.flows.proximal import ProximalFlow
from particles.flows.recording import Recorder, Tape
from particles.keys import ROOT, Key
from particles.networks.timed import TimedNetwork
from particles.potentials.adam import Adam
from particles.potentials.base import Info, Potential
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


class Train:
    r"""A flow learns: networks U are trained against a discriminator (arXiv 2407.11901, in the authors' terms ``OC``).

    A step takes a minibatch of the source along the flow, fits the discriminator φ to where it arrives and to the target, and
    then goes down

    .. math:: E\varphi(x_T) + \alpha \int_0^T E \tfrac1p \|v\|^p dt + w_1 \int_0^T E |\text{HJ}| \, dt
        + w_2 E\|\nabla U(x_T, T) - \nabla\varphi(x_T)\|^2

    with gradients through all positions (the authors' code stops them in the running terms). The times of the Euler steps are shifted
    together by a random part of a step, so that U is learnt at all times, not at n of them. What is used of the networks, here and
    afterwards, is the mean of their weights over the last so many steps.

    Steps come in stages where the flow has several networks: the k-th is trained in steps ``[k · stage_steps, (k + 1) · stage_steps)``
    on points that the earlier ones, frozen, have transported; the last one stays for the rest.

    A state stands for the path of the source along the flow as it is: ``path`` answers its states at all Euler steps.

    Arguments:
        flow: The flow; its networks take the means of the weights.
        discriminator: Any potential; a trained one of bounded slope, as in the paper, or a transport potential.
        source: Where points begin, with shape :math:`(M, d)`.
        target: Where they are to arrive, with shape :math:`(N, d)`.
        time_steps: The number n of Euler steps per stage.
        batch_size: The number of source and of target points per step, each drawn evenly (``Stratified``); all if there are fewer.
        learning_rate: The first step of Adam.
        decay: The number of steps of a stage after which it is halved: it is learning_rate / (1 + k / decay).
        momentum: The decay of Adam's first moment.
        kinetic: Whether the kinetic energy is part of the objective: the W2 proximal. Without it nothing chooses among all
            flows that arrive.
        hj: The weight :math:`w_1`, in units of the divergence · time / the residual's.
        terminal: The weight :math:`w_2`, in units of the divergence / slope².
        average: The number of steps over which weights are averaged; 1 for the last ones.
        stage_steps: The number of steps per stage.
        max_slope: The slope of the discriminator above which it is taken to run away; to be far above the bound L.
        key: The source of all random numbers; step k draws from ``key.fold(k)``.

    Raises:
        ValueError: If a number is out of its range.
        FloatingPointError: From ``step``, if the discriminator runs away or a gradient is not finite; the flow is left as it was.
    """

    def __init__(
        self,
        flow: ProximalFlow,
        discriminator: Potential,
        source: Cloud,
        target: Cloud,
        *,
        time_steps: int = 5,
        batch_size: int = 512,
        learning_rate: float = 3e-3,
        decay: float = math.inf,
        momentum: float = 0.5,
        kinetic: bool = True,
        hj: float = 0.0,
        terminal: float = 0.0,
        average: float = 100.0,
        stage_steps: int | None = None,
        max_slope: float = math.inf,
        key: Key = ROOT,
    ):
        for name, count in (("time_steps", time_steps), ("batch_size", batch_size), ("stage_steps", stage_steps or 1)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, not {count}")
        for name, value in (("learning_rate", learning_rate), ("decay", decay)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        for name, value in (("hj", hj), ("terminal", terminal)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0, not {value}")
        if not average >= 1:
            raise ValueError(f"average must be at least 1, not {average}")
        if stage_steps is None and len(flow.networks) > 1:
            raise ValueError("a flow of several stages needs stage_steps, the number of steps of each")
        self.flow = flow
        self.discriminator = discriminator
        self.source = source
        self.target = target
        self.sources, self.targets = Stratified(source.active), Stratified(target)
        self.time_steps = time_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.decay = decay
        self.momentum = momentum
        self.kinetic = kinetic
        self.hj = hj
        self.terminal = terminal
        self.average = average
        self.stage_steps = stage_steps
        self.max_slope = max_slope
        self.key = key
        self._begin(0)

    def _begin(self, stage: int) -> None:
        self.stage = stage
        self.learner: TimedNetwork = copy.deepcopy(self.flow.networks[stage])
        self.weights = list(self.learner.parameters())
        self.optimizer = Adam(self.weights, self.learning_rate, self.momentum)

    def init(self) -> State:
        return State(0, self.flow.horizon, self.source)

    def step(self, state: State) -> tuple[State, Info]:
        key = self.key.fold(state.k)
        own = 0 if self.stage_steps is None else min(state.k // self.stage_steps, len(self.flow.networks) - 1)
        if own != self.stage:
            self._begin(own)
        since = state.k - own * (self.stage_steps or 0)
        batch = self._batch(key)
        times = self._times(key)
        ways = self.flow.ways(self.learner, batch, times, key.fold("noise"))
        end = batch.at(ways[-1].x.detach())
        info = dict(
            self.discriminator.fit(end, self.targets.draw(self.batch_size, key.fold("target")), key.fold("fit"))
        )
        gradient = self.discriminator.grad(end)
        steepest = gradient.square().sum(1).max().sqrt()
        if not float(steepest) <= self.max_slope:
            raise FloatingPointError(
                f"the discriminator runs away: its slope is {float(steepest):.3g}, and was to be at most {self.max_slope:.3g}; without a bound "
                f"the divergence of laws that do not overlap is infinite: constraint spectral bounds it"
            )
        speed = (ways[-1].x - batch.x).detach().square().sum(1).max().sqrt() / self.learner.horizon

        kinetic, missed = batch.mean(ways[-1].kinetic), batch.mean(ways[-1].residual)
        slope = self.learner.slopes(end.x, self.learner.horizon, end.label).in_x
        loss = batch.mean((gradient * ways[-1].x).sum(1))
        if self.kinetic:
            loss = loss + self.flow.cost.alpha * kinetic
        if self.hj:
            loss = loss + self.hj * missed
        if self.terminal:
            loss = loss + self.terminal * end.mean((slope - gradient).square().sum(1))
        self._descend(loss, since)

        paid = self.flow.cost.alpha * kinetic.detach() if self.kinetic else 0.0
        info |= {
            "objective": info["divergence"] + paid,
            "kinetic_energy": kinetic.detach() / self.learner.horizon,
            "hj_residual": missed.detach() / self.learner.horizon,
            "max_gradient": steepest,
            "max_speed": speed,
            **proximal.terminal(slope.detach(), gradient, end),
        }
        return State(state.k + 1, self.flow.horizon, self.source), info

    def _batch(self, key: Key) -> Cloud:
        """Some points of the source, where the earlier stages have taken them."""
        batch = self.sources.draw(self.batch_size, key.fold("source"))
        if self.stage:
            earlier = ProximalFlow(self.flow.networks[: self.stage], self.flow.cost, self.flow.noise)
            batch = earlier.transport(batch, self.time_steps, key.fold("earlier"))
        return batch

    def _times(self, key: Key) -> list[float]:
        """0, T and n times between them, one step apart."""
        n, whole = self.time_steps, self.learner.horizon
        part = float(torch.rand((), generator=key.fold("times").generator(), dtype=torch.double))
        return [0.0, *(whole * (i + part) / n for i in range(n)), whole]

    def _descend(self, loss: Tensor, since: int) -> None:
        """A step of the learner, and of the mean behind it; none if something is not finite, so that the last good flow stays."""
        gradients = torch.autograd.grad(loss, self.weights)
        if not bool(torch.stack([gradient.sum() for gradient in gradients]).isfinite().all()):
            raise FloatingPointError("the gradient of the objective is not finite; a smaller learning_rate may help")
        self.optimizer.learning_rate = self.learning_rate / (1 + since / self.decay)
        with torch.no_grad():
            self.optimizer.ascend([gradient.neg() for gradient in gradients])
            if not bool(torch.stack([weight.sum() for weight in self.weights]).isfinite().all()):
                raise FloatingPointError("the weights of the flow are not finite; a smaller learning_rate may help")
            share = 1 / min(self.average, 1 + since / 10)
            for mean, weight in zip(self.flow.networks[self.stage].parameters(), self.weights):
                mean.lerp_(weight, share)

    def path(self, state: State) -> list[State]:
        """The source at all Euler steps along the flow as it is."""
        clouds = self.flow.path(self.source, self.time_steps, self.key.fold("path"))
        dt = self.flow.horizon / (len(clouds) - 1)
        return [State(state.k, i * dt, cloud) for i, cloud in enumerate(clouds)]

    def recorded(self) -> Tape | None:
        """``None``: the flow itself is kept with the state."""
        return None

    def state_dict(self) -> dict[str, Any]:
        return {
            "flow": self.flow.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "stage": self.stage,
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.flow.load_state_dict(state["flow"])
        self.discriminator.load_state_dict(state["discriminator"])
        self._begin(state["stage"])
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
