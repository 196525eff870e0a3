r"""Persistent training without a generator, in its two meanings (arXiv 2406.13619, Section 4).

The paper's generator is fitted K times to one Euler target, with the same minibatch. Without a generator there is nothing to fit,
and what persists has to be said: the *potential*, or the *minibatch*.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.flows.base import Around
from particles.flows.gradient import GradientFlow
from particles.keys import Key
from particles.potentials.base import Info


class PersistentPotential(Around):
    r"""One fit for K velocities: between fits the potential is frozen, and its gradient is taken anew at the moved points.

    K Euler steps of h on a frozen W2 potential overshoot when K·h > 1: towards a target that is only shifted they go K·h times
    the way. What the potential measured is that of its last fit.

    Arguments:
        flow: The gradient flow.
        persistency: The number K of velocities per fit.

    Raises:
        ValueError: If K is below 1.
    """

    flow: GradientFlow

    def __init__(self, flow: GradientFlow, persistency: int):
        if persistency < 1:
            raise ValueError(f"persistency must be at least 1, not {persistency}")
        self.flow = flow
        self.persistency = persistency
        self.calls = 0
        self.fitted: dict[str, float] = {}

    def velocity(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        if self.calls % self.persistency == 0:
            info = self.flow.potential.fit(cloud.active, self.flow.target, key)
            self.fitted = {name: float(value) for name, value in info.items()}
        self.calls += 1
        velocity, measured = self.flow.field(t, cloud, key)
        return velocity, self.fitted | measured

    def state_dict(self) -> dict[str, Any]:
        return {"flow": self.flow.state_dict(), "calls": self.calls, "fitted": dict(self.fitted)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.flow.load_state_dict(state["flow"])
        self.calls, self.fitted = state["calls"], dict(state["fitted"])


class PersistentBatch(Around):
    r"""A minibatch of a larger, persistent set of particles is kept for K velocities; the others rest.

    The potential is fitted anew for every velocity, to this minibatch alone (and to the whole target). Carried points move with
    it at every velocity.

    Arguments:
        flow: The gradient flow of a minibatch.
        size: The number of particles in it.
        persistency: The number K of velocities that it is kept for.

    Raises:
        ValueError: If a number is below its least.
    """

    flow: GradientFlow

    def __init__(self, flow: GradientFlow, size: int, persistency: int):
        if size < 2 or persistency < 1:
            raise ValueError(
                f"a minibatch of at least 2 particles and a persistency of at least 1 are needed, not {size} and {persistency}"
            )
        self.flow = flow
        self.size = size
        self.persistency = persistency
        self.calls = 0
        self.index = torch.zeros(0, dtype=torch.long)

    def velocity(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        if self.calls % self.persistency == 0:
            total = cloud.active.total
            self.index = key.fold("persistent").choice(total, self.size).sort().values
        self.calls += 1
        index, batch = self._batch(cloud)
        moved, info = self.flow.velocity(t, batch, key)
        return torch.zeros_like(cloud.x).index_copy_(0, index, moved), info

    def field(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        index, batch = self._batch(cloud)
        moved, info = self.flow.field(t, batch, key)
        return torch.zeros_like(cloud.x).index_copy_(0, index, moved), info

    def _batch(self, cloud: Cloud) -> tuple[Tensor, Cloud]:
        """The rows that move, and their cloud."""
        own = len(cloud) - cloud.carried
        index = self.index.to(cloud.x.device)
        batch = cloud.active.take(index)
        if cloud.shard is not None:
            index, _ = cloud.shard.pick(index)
        if (riders := cloud.riders) is not None:
            batch = batch.join(riders)
            index = torch.cat((index, torch.arange(own, len(cloud), device=index.device)))
        return index, batch

    def state_dict(self) -> dict[str, Any]:
        return {"flow": self.flow.state_dict(), "calls": self.calls, "index": self.index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.flow.load_state_dict(state["flow"])
        self.calls, self.index = state["calls"], state["index"]
