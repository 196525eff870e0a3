"""A trained discriminator's velocity as one function of buffers that stay where they are, so that a GPU can replay it as one graph."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.flows.base import Around, Flow
from particles.flows.gradient import GradientFlow
from particles.keys import ROOT, Key
from particles.potentials.base import Info
from particles.potentials.neural import NeuralPotential

logger = logging.getLogger("particles")


class Captured(Around):
    """A gradient flow of a trained discriminator that launches a whole velocity at once: all ascents, and the gradient at the particles.

    On a GPU the first velocity is tried out and captured as a CUDA graph, and every velocity is a replay of it: hundreds of small kernels
    cost one launch. A velocity, not a step, is what is captured, so that every stepper is served; carried points follow behind it as
    ever. On the CPU the same function is called, on the same buffers, and gives the bits of the flow that it stands for.

    What can be captured depends on nothing but the particles and what is changed in place: no random numbers (minibatches, noise, the
    penalty's points), no number that the host reads (``tolerance``). Learning rates that fall are read from a buffer, and a potential
    that is loaded is loaded into the tensors that the graph knows.

    The capture follows torch's rules and is tested where there is a GPU; there was none where it was written.

    Arguments:
        flow: The gradient flow, without noise, of a ``NeuralPotential`` for which ``obstacle`` is ``None``.
        fused: Whether the gradients of an ascent go through ``torch.compile`` too: half a minute, and fewer kernels.

    Raises:
        ValueError: If the flow is not such a flow.
    """

    flow: GradientFlow

    def __init__(self, flow: GradientFlow, *, fused: bool = False):
        if (reason := obstacle(flow)) is not None:
            raise ValueError(f"this flow cannot be captured: {reason}")
        self.flow = flow
        self.potential: NeuralPotential = flow.potential  # type: ignore[assignment]
        if fused:
            self.potential.fuse()
        self.like: Cloud | None = None
        self.replay: Callable[[], None] = self._velocity

    def velocity(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        if self.like is None or not _alike(self.like, cloud):
            self.like, self.particles = cloud, cloud.active.at(cloud.active.x.clone())
            self.replay = self._captured() if cloud.x.is_cuda else self._velocity
        self.particles.x.copy_(cloud.active.x)
        self.potential.advance()
        self.replay()
        numbers = iter(self.numbers.clone().unbind())  # the next replay writes over them
        info = {name: next(numbers) if isinstance(value, Tensor) else value for name, value in self.info.items()}
        velocity = self.out.clone()
        if (riders := cloud.riders) is not None:
            velocity = torch.cat((velocity, self.flow.ride(t, riders, key)))
        return velocity, info

    def _velocity(self) -> None:
        """The velocity of ``particles``, and what is measured, into tensors of its own."""
        fitted = self.potential.refit(self.particles, self.flow.target, ROOT)
        self.out, measured = self.flow.field(0.0, self.particles, ROOT)
        self.info = fitted | measured
        self.numbers = torch.stack([value for value in self.info.values() if isinstance(value, Tensor)])

    def _captured(self) -> Callable[[], None]:
        """The velocity as a graph; as a function, if it cannot be captured."""
        before = copy.deepcopy(self.potential.state_dict())
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        try:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):  # libraries and allocators settle
                    self._velocity()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph, stream=stream):
                self._velocity()
        except RuntimeError as error:
            torch.cuda.synchronize()
            logger.warning(
                "compile: the step could not be captured as a CUDA graph (%s); it runs plainly",
                str(error).partition("\n")[0],
            )
            return self._velocity
        finally:
            self.potential.load_state_dict(before)
        return graph.replay


def obstacle(flow: Flow) -> str | None:
    """Why the velocity of a flow cannot be captured; ``None`` if it can."""
    if not isinstance(flow, GradientFlow):
        return "persistency decides from step to step what is fitted"
    potential = flow.potential
    if not isinstance(potential, NeuralPotential):
        return "it trains no discriminator"
    if flow.target.shard is not None:
        return "several processes share its rows"
    if flow.noise:
        return "noise draws random numbers"
    return potential.obstacle()


def _alike(a: Cloud, b: Cloud) -> bool:
    """Whether two clouds differ in places alone."""
    return (a.x.shape, a.carried) == (b.x.shape, b.carried) and a.label is b.label and a.weight is b.weight
