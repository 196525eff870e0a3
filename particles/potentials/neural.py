"""The trained discriminator."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from particles import shards
from particles.cloud import Cloud
from particles.divergences import Divergence
from particles.keys import Key
from particles.networks.adam import Adam
from particles.networks.dense import Pull
from particles.networks.lipschitz import slope_penalty
from particles.potentials.base import Info, Potential

logger = logging.getLogger("particles")


class NetworkPotential(Potential):
    """A potential whose values and gradients are a network's.

    Attributes:
        network: A module ``(x, label) -> values``; if it has a method ``push`` like :class:`DenseNetwork`'s, autograd is left out.
        weights: Its parameters.
        chunk_size: The most points that are evaluated at once outside of training; it bounds memory.
    """

    network: Any
    weights: list[Tensor]
    chunk_size: int

    def _push(self, x: Tensor, label: Tensor | None) -> tuple[Tensor, Pull]:
        """Values and the way back: the network's own, or autograd's."""
        if hasattr(self.network, "push"):
            return self.network.push(x, label)  # type: ignore[no-any-return]
        x = x.detach().requires_grad_()
        values = self.network(x, label)

        def pull(gradient: Tensor, in_parameters: bool, in_x: bool) -> tuple[list[Tensor], Tensor | None]:
            wanted = [*(self.weights if in_parameters else []), *([x] if in_x else [])]
            found = list(torch.autograd.grad(values, wanted, gradient))
            return (found[:-1], found[-1]) if in_x else (found, None)

        return values.detach(), pull

    def phi(self, cloud: Cloud) -> Tensor:
        return torch.cat([self._push(part.x, part.label)[0] for part in self._chunks(cloud)])

    def grad(self, cloud: Cloud) -> Tensor:
        found, begin = torch.empty_like(cloud.x), 0  # filled part by part: there may be no room for two of it
        for part in self._chunks(cloud):
            values, pull = self._push(part.x, part.label)
            _, gradient = pull(torch.ones_like(values), False, True)
            assert gradient is not None
            found[begin : begin + len(part)] = gradient
            begin += len(part)
        return found

    def record(self) -> dict[str, Any]:
        return {"network": dict(self.network.state_dict())}

    def recall(self, record: dict[str, Any], q: Cloud) -> None:
        self.network.load_state_dict(record["network"])

    def _chunks(self, cloud: Cloud) -> list[Cloud]:
        if len(cloud) <= self.chunk_size:
            return [cloud]
        return [cloud.places(slice(i, i + self.chunk_size)) for i in range(0, len(cloud), self.chunk_size)]


class NeuralPotential(NetworkPotential):
    r"""A network trained to attain a Lipschitz-regularised divergence (arXiv 2210.17230, Algorithm 1).

    Each fit continues from the last one: the network is warm, and one optimiser lives as long as the potential
    (the authors' code forgets its moments at every particle step, which leaves a jitter of sign-gradients).
    Nothing in a fit waits for the device, but for the test of ``tolerance``, once per block.

    Gradients are not clipped. The objective's derivative in the values of φ is a mass of one on either side, so it cannot explode; Adam's
    steps do not see how large gradients are; and a discriminator without a bound runs away as it is asked to, towards a supremum that is
    infinite: clipped to a norm of 1 or 0.01 its slope on ``moons`` grew to 8e7 and 6e7 in 150 fits at a learning rate of 0.1, and to 9e8
    without. What helps is the bound.

    Arguments:
        divergence: The f-divergence.
        network: The discriminator, a module ``(x, label) -> values`` on the device and in the type of the particles:
            a :class:`DenseNetwork` with the bound L built in, or one with ``lipschitz=inf`` whose bound ``penalty``
            keeps (for which it needs a method ``smooth``, the same values differentiable twice). If it has a method
            ``push`` like that network's, autograd is left out.
        learning_rate: The step of Adam (no unit).
        decay: The number of fits after which that step is halved: it is learning_rate / (1 + fits / decay).
        momentum: The decay of Adam's first moment, from 0 to 1. With momentum the discriminator answers late, and
            particles overshoot and swing: on 4 Gaussians they travelled 3.9 times their displacement at 0.9, 2.5 at 0.
        inner_steps: The number of ascent steps per fit; with ``tolerance``, per block.
        tolerance: If given, blocks of ``inner_steps`` follow each other until one gains less than this in the
            objective (in the divergence's own unit, nats for KL).
        max_blocks: The most blocks in one fit.
        batch_size: The number of points that each ascent step draws from each cloud; ``None`` for all.
        chunk_size: The most points that are evaluated at once outside of training; it bounds memory.
        penalty: The weight of the one-sided gradient penalty at particles, target and points between; 0 for none.
        lipschitz: The bound L that the penalty refers to, in units of 1 / length.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        divergence: Divergence,
        network: nn.Module,
        *,
        learning_rate: float = 1e-3,
        decay: float = math.inf,
        momentum: float = 0.0,
        inner_steps: int = 3,
        tolerance: float | None = None,
        max_blocks: int = 100,
        batch_size: int | None = None,
        chunk_size: int = 65536,
        penalty: float = 0.0,
        lipschitz: float = 1.0,
    ):
        for name, value in (("learning_rate", learning_rate), ("lipschitz", lipschitz), ("decay", decay)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        for name, count in (("inner_steps", inner_steps), ("max_blocks", max_blocks), ("chunk_size", chunk_size)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, not {count}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be from 0 to below 1, not {momentum}")
        if batch_size is not None and batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, not {batch_size}")
        if penalty < 0:
            raise ValueError(f"penalty must not be negative, not {penalty}")
        if tolerance is not None and not tolerance > 0:
            raise ValueError(f"tolerance must be positive, not {tolerance}")
        self.divergence = divergence
        self.network = network.eval()
        self.inner_steps = inner_steps
        self.tolerance = tolerance
        self.max_blocks = max_blocks
        self.batch_size = batch_size
        self.chunk_size = chunk_size
        self.penalty = penalty
        self.lipschitz = lipschitz
        self.learning_rate = learning_rate
        self.decay = decay
        self.fits = 0
        self.weights = list(network.parameters())
        self.optimizer = Adam(self.weights, learning_rate, momentum)
        self._uphill = self._gradients

    def fit(self, p: Cloud, q: Cloud, key: Key) -> Info:
        self.advance()
        return self.refit(p, q, key)

    def advance(self) -> None:
        """What a fit does on the host: it counts, and the learning rate falls."""
        self.optimizer.learning_rate = self.learning_rate / (1 + self.fits / self.decay)
        self.fits += 1

    def refit(self, p: Cloud, q: Cloud, key: Key) -> Info:
        """The rest of a fit, all of it on the device."""
        value = None
        own = hasattr(self.network, "push") and not self.penalty  # no autograd in the whole fit: ops cost a tenth less
        with torch.inference_mode(own):
            for block in range(self.max_blocks if self.tolerance else 1):
                before, value = value, self._block(p, q, key.fold(block))
                if self.tolerance and before is not None and float(value - before) < self.tolerance:
                    break
        assert value is not None
        return {"divergence": value.clone(), "inner_steps": float((block + 1) * self.inner_steps)}

    def obstacle(self) -> str | None:
        """Why a fit is not the same function of the particles every time, to be captured or compiled; ``None`` if it is."""
        if self.batch_size is not None:
            return "batch_size draws a minibatch for each ascent"
        if self.tolerance is not None:
            return "tolerance reads how much a block has gained"
        if self.penalty:
            return "the penalty draws points, and goes through autograd"
        if not hasattr(self.network, "push"):
            return "the network goes through autograd"
        return None

    def fuse(self) -> None:
        """Lets ``torch.compile`` join the kernels of an ascent's gradients; if it cannot, at the first fit, it says so and nothing changes."""
        compiled = torch.compile(self._gradients, fullgraph=True, dynamic=False)

        def uphill(batch: _Both) -> list[Tensor]:
            try:
                return compiled(batch)
            except Exception as error:  # of a compiler there may be any, none of them before weights have changed
                reason = str(error).strip().partition("\n")[0]
                logger.warning("compile: torch.compile cannot fuse the ascents (%s); they run plainly", reason)
                self._uphill = self._gradients
                return self._gradients(batch)

        self._uphill = uphill

    def _block(self, p: Cloud, q: Cloud, key: Key) -> Tensor:
        """Some ascent steps, and the objective after them on the last batch."""
        self.network.train()
        for step in range(self.inner_steps):
            if step == 0 or self.batch_size is not None:
                batch = _Both(
                    p.draw(self.batch_size, key.fold(step, "p")), q.draw(self.batch_size, key.fold(step, "q"))
                )
            self._ascend(batch, key.fold(step, "between"))
        self.network.eval()
        on_p, on_q = batch.split(self.phi(Cloud(batch.x, batch.label)))
        return self.divergence.objective(on_p, on_q, batch.p, batch.q)

    def _ascend(self, batch: _Both, key: Key) -> None:
        gradients = self._uphill(batch)
        if self.penalty:
            slope = -self.penalty * self._slope(batch, key)
            more = torch.autograd.grad(slope, self.weights, allow_unused=True)
            gradients = [g if m is None else g + m for g, m in zip(gradients, more)]
        # Averages of the processes' own gradients would be another gradient: the density is that of the whole target.
        self.optimizer.ascend(gradients if batch.p.shard is None else shards.total_gradient(gradients))

    def _gradients(self, batch: _Both) -> list[Tensor]:
        """The gradients of the objective in all parameters."""
        values, pull = self._push(batch.x, batch.label)
        # The objective's derivative in the values of φ is known: from there it goes back.
        density = self.divergence.density(batch.split(values)[1], batch.q)
        return pull(torch.cat((batch.mass_p, density * batch.minus_mass_q)), True, False)[0]

    def _slope(self, batch: _Both, key: Key) -> Tensor:
        """The penalty at all points, each one moved a random part of the way to a random point of the other cloud; of sharded clouds the
        part that the points of this process have in it."""
        p, q = batch.p, batch.q
        every = torch.cat((p.whole(p.x), q.whole(q.x)))
        generator, count, particles = key.generator(every.device), len(every), p.total
        to_q = torch.randint(particles, count, (particles,), generator=generator, device=every.device)
        to_p = torch.randint(0, particles, (count - particles,), generator=generator, device=every.device)
        part = torch.rand(count, 1, generator=generator, device=every.device, dtype=every.dtype)
        moved = torch.lerp(every, every[torch.cat((to_q, to_p))], part)
        x = torch.cat((batch.x, p.local(moved[:particles]), q.local(moved[particles:]))).requires_grad_()
        label = None if batch.label is None else torch.cat((batch.label, batch.label))
        return slope_penalty(self.network.smooth(x, label), x, self.lipschitz, None if p.shard is None else 2 * count)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "fits": self.fits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fits = state["fits"]


class _Both:
    """Two clouds in one: what all ascent steps on them have in common."""

    def __init__(self, p: Cloud, q: Cloud):
        self.p, self.q = p, q
        self.x = torch.cat((p.x, q.x))
        self.label = None if p.label is None or q.label is None else torch.cat((p.label, q.label))
        self.mass_p, self.minus_mass_q = p.mass, -q.mass

    def split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The values on the one and on the other."""
        return values[: len(self.p)], values[len(self.p) :]
