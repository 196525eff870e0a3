"""The flow of many small sets at once: classes, and classes on several splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from particles.cloud import Cloud
from particles.divergences import KL, Divergence
from particles.flows.gradient import GradientFlow
from particles.flows.recording import Recorder, Tape
from particles.keys import Key
from particles.networks.conv import ConvNetwork
from particles.networks.dense import DenseNetwork
from particles.networks.stacked import StackedNetwork
from particles.potentials.base import Potential
from particles.potentials.neural import NeuralPotential
from particles.potentials.stacked import StackedPotential
from particles.run.loop import simulate
from particles.run.process import Evolve
from particles.run.replay import transport
from particles.run.store import Memory
from particles.steppers.euler import Euler


@dataclass(frozen=True)
class FlowSettings:
    """How particles flow onto the rows of their block.

    Arguments:
        divergence: The f-divergence.
        lipschitz: The bound L on the slope of the discriminators, in flow units.
        step_size: The first step, in units of time: no particle moves further than ``step_size · lipschitz`` in it.
        decay: The number of steps after which the step is half of the first.
        widths: The hidden layers of the discriminators.
        learning_rate: The step of Adam.
        inner_steps: The ascent steps per particle step.
        conditional: One network with an output for each block, instead of a network for each.
        image_shape: Height and width (and channels) of rows that are images: convolutional discriminators, conditional.
    """

    divergence: Divergence = field(default_factory=KL)
    lipschitz: float = 1.0
    step_size: float = 0.5
    decay: float = 50.0
    widths: tuple[int, ...] = (64, 64, 64)
    learning_rate: float = 1e-3
    inner_steps: int = 3
    conditional: bool = False
    image_shape: tuple[int, ...] | None = None

    @property
    def shared(self) -> bool:
        """Whether the blocks share a network, so that what happens to one depends on the others."""
        return self.conditional or self.image_shape is not None

    def potential(self, blocks: int, dimension: int, key: Key) -> Potential:
        """The discriminators of so many blocks."""
        network: nn.Module
        if self.image_shape is not None:
            shape: Any = self.image_shape
            network = ConvNetwork(shape, lipschitz=self.lipschitz, classes=blocks, key=key)
        elif self.conditional:
            network = DenseNetwork(dimension, self.widths, self.lipschitz, classes=blocks, key=key)
        else:
            stack = StackedNetwork(blocks, dimension, self.widths, self.lipschitz, key=key)
            return StackedPotential(
                self.divergence, stack, learning_rate=self.learning_rate, inner_steps=self.inner_steps
            )
        return NeuralPotential(self.divergence, network, learning_rate=self.learning_rate, inner_steps=self.inner_steps)


class _Snapshots(Memory):
    """Keeps the particles at the chosen steps alone."""

    def __init__(self, steps: Sequence[int]):
        super().__init__()
        self.steps = set(steps)

    def logs(self, k: int) -> bool:
        return k in self.steps


@dataclass(frozen=True)
class Flowed:
    """Where the particles of all blocks were.

    Arguments:
        steps: The steps that were kept, in order.
        points: For each of them the particles of each block, with shape (M_b, d).
        process: What was repeated.
        tapes: The recording, if one was made.
    """

    steps: list[int]
    points: list[list[np.ndarray]]
    process: Evolve
    tapes: dict[int, Tape]

    def at(self, step: int, block: int) -> np.ndarray:
        """The particles of a block at a step that was kept."""
        return self.points[self.steps.index(step)][block]

    def carry(self, starts: Sequence[np.ndarray], steps: Sequence[int]) -> list[np.ndarray]:
        """New points of each block, carried along the recorded discriminators to the given step of that block."""
        cloud = _cloud(starts)
        found = [np.array(start) for start in starts]

        def look(state):  # type: ignore[no-untyped-def]
            for block, step in enumerate(steps):
                if state.k == step:
                    found[block] = _blocks(state.cloud, len(starts))[block]

        transport(self.process, self.tapes, cloud, max(steps), look)
        return found


def flow(
    starts: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    steps: Sequence[int],
    settings: FlowSettings,
    key: Key,
    *,
    record: bool = False,
) -> Flowed:
    """Lets the particles of every block flow onto the target of that block.

    Arguments:
        starts: The particles of each block, with shape (M_b, d).
        targets: The target of each block, with shape (N_b, d).
        steps: The steps to keep; the last one ends the flow. 0 is always kept.
        settings: How.
        key: The source of the networks' weights.
        record: Whether to record the discriminators, so that new points can follow.

    Raises:
        Diverged: If a particle gets a coordinate that is not finite.
    """
    source, target = _cloud(starts), _cloud(targets)
    if settings.shared:  # outputs are free by a constant each: blocks must have equal shares on both sides
        source, target = _even(source, len(starts)), _even(target, len(starts))
    potential = settings.potential(len(starts), source.dimension, key.fold("networks"))
    way = GradientFlow(potential, target)
    process = Evolve(
        Recorder(way) if record else way,
        Euler(),
        source,
        step_size=settings.step_size,
        decay=settings.decay,
        key=key.fold("flow"),
    )
    kept = sorted({0, *steps})
    store = _Snapshots(kept)
    simulate(process, kept[-1], store)
    return Flowed(kept, [_blocks(cloud, len(starts)) for cloud in store.clouds], process, store.tapes)


def _cloud(blocks: Sequence[np.ndarray]) -> Cloud:
    label = torch.arange(len(blocks)).repeat_interleave(torch.tensor([len(block) for block in blocks]))
    return Cloud(torch.as_tensor(np.concatenate(blocks), dtype=torch.float32), label)


def _even(cloud: Cloud, blocks: int) -> Cloud:
    assert cloud.label is not None
    counts = torch.bincount(cloud.label, minlength=blocks)
    return Cloud(cloud.x, cloud.label, (1 / counts / blocks)[cloud.label].to(cloud.x.dtype))


def _blocks(cloud: Cloud, count: int) -> list[np.ndarray]:
    assert cloud.label is not None
    x = cloud.x.double().numpy()
    return [x[cloud.label.numpy() == block] for block in range(count)]
