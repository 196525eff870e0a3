""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.flows.recording import Tape
from particles.keys import ROOT, Key
from particles.networks.adam import Adam
from particles.potentials.base import Info, Potential
from particles.proximal import flow as proximal
from particles.proximal.flow import ProximalFlow
from particles.proximal.network import TimedNetwork
from particles.run.process import State


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


LEAVES = 4096
"""The most groups of neighbours that a cloud is ordered into; within a group the order is the cloud's own."""


class Stratified:
    """Draws one point from each of as many groups of neighbours as a batch is to have: stratified sampling.

    Every point is as likely as its mass says, as in independent draws, but a batch has nearly the cloud's shares everywhere, so that
    means over it vary less: with a discriminator that is nearly linear in what is drawn, many times less.

    Arguments:
        cloud: The cloud, without carried points.
    """

    def __init__(self, cloud: Cloud):
        self.cloud = cloud
        self.order = _neighbours_together(cloud)
        mass = cloud.mass[self.order].double()
        self.reached = mass.cumsum(0) / mass.sum()

    def draw(self, size: int, key: Key) -> Cloud:
        """``size`` points of equal masses, or the cloud itself if it is no larger."""
        if size >= len(self.cloud):
            return self.cloud
        device = self.reached.device
        chance = torch.rand(size, generator=key.generator(device), dtype=torch.double, device=device)
        place = (torch.arange(size, dtype=torch.double, device=device) + chance) / size
        index = torch.searchsorted(self.reached, place, right=True).clamp_(max=len(self.order) - 1)
        return replace(self.cloud.take(self.order[index]), weight=None)


def _neighbours_together(cloud: Cloud) -> Tensor:
    """An order of the points in which neighbours are near: each class by itself, halved again and again across its widest axis."""
    everything = torch.arange(len(cloud), device=cloud.x.device)
    groups = [everything]
    if cloud.label is not None:
        groups = [everything[cloud.label == label] for label in cloud.label.unique()]
    while len(groups) < LEAVES and any(len(group) > 1 for group in groups):
        groups = [half for group in groups for half in _halves(cloud.x, group)]
    return torch.cat(groups)


def _halves(x: Tensor, group: Tensor) -> tuple[Tensor, ...]:
    if len(group) < 2:
        return (group,)
    points = x[group]
    widest = points.var(0).argmax()
    group = group[points[:, widest].argsort(stable=True)]
    return group[: len(group) // 2], group[len(group) // 2 :]
