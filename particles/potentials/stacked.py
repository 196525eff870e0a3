"""A trained discriminator per block of points, all trained at once."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.divergences import Divergence
from particles.keys import Key
from particles.networks.adam import Adam
from particles.networks.stacked import StackedNetwork
from particles.potentials.base import Info, Potential


class Layout:
    """Where each point of a labelled cloud is in a stack of blocks of equal height.

    Arguments:
        label: The block of each point, with shape (n,).
        blocks: The number B of blocks.
    """

    def __init__(self, label: Tensor, blocks: int):
        self.label = label
        order = label.argsort(stable=True)
        counts = torch.bincount(label, minlength=blocks)
        self.height = max(int(counts.max()), 1)
        within = torch.arange(len(label), device=label.device) - (counts.cumsum(0) - counts)[label[order]]
        self.place = torch.empty_like(order)
        self.place[order] = label[order] * self.height + within
        self.shape = (blocks, self.height)
        self.present = counts > 0
        self.blocks = list(order.split(counts.tolist()))
        self._weight: Tensor | None = None
        self._parts: list[Cloud | None] = []

    def parts(self, cloud: Cloud) -> list[Cloud | None]:
        """The masses of the points of each block, as a cloud without places; made once, for clouds move and masses do not."""
        if not self._parts or self._weight is not cloud.weight:
            self._weight = cloud.weight
            bare = cloud.at(cloud.x[:, :1])
            self._parts = [bare.take(members) if len(members) else None for members in self.blocks]
        return self._parts

    def stack(self, values: Tensor) -> Tensor:
        """Values with shape (n, …) as blocks with shape (B, height, …), and zeros elsewhere."""
        flat = values.new_zeros((self.shape[0] * self.height, *values.shape[1:]))
        flat[self.place] = values
        return flat.view(*self.shape, *values.shape[1:])

    def unstack(self, values: Tensor) -> Tensor:
        """The way back: from (B, height, …) to (n, …)."""
        return values.flatten(0, 1)[self.place]


class StackedPotential(Potential):
    r"""A discriminator for each block (each class, or each class on each split), trained in one batched network.

    The label of a point is its block. Blocks know nothing of each other: every one attains its own Lipschitz-regularised divergence
    (arXiv 2210.17230, Algorithm 1), as :class:`~particles.potentials.neural.NeuralPotential` does for one, at a fraction of the time of
    one after the other. Measured is the mean divergence.

    Arguments:
        divergence: The f-divergence.
        network: The discriminators.
        learning_rate: The step of Adam (no unit).
        inner_steps: The number of ascent steps per fit.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self, divergence: Divergence, network: StackedNetwork, *, learning_rate: float = 1e-3, inner_steps: int = 3
    ):
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, not {learning_rate}")
        if inner_steps < 1:
            raise ValueError(f"inner_steps must be at least 1, not {inner_steps}")
        self.divergence = divergence
        self.network = network.eval()
        self.inner_steps = inner_steps
        self.blocks = len(network.weights[0])
        self.optimizer = Adam(list(network.parameters()), learning_rate, 0.0)
        self.layouts: list[Layout] = []

    def _layout(self, cloud: Cloud) -> Layout:
        """The layout of a cloud; those of the last few labels are kept, since clouds move and labels do not."""
        assert cloud.label is not None
        for layout in self.layouts:
            if layout.label is cloud.label:
                return layout
        self.layouts = [*self.layouts[-3:], Layout(cloud.label, self.blocks)]
        return self.layouts[-1]

    @torch.inference_mode()
    def fit(self, p: Cloud, q: Cloud, key: Key) -> Info:
        in_p, in_q = self._layout(p), self._layout(q)
        x = torch.cat((in_p.stack(p.x), in_q.stack(q.x)), 1)
        fitted = in_p.present & in_q.present
        mass_p = in_p.stack(p.mass)
        mass_p = mass_p / mass_p.sum(1, keepdim=True).clamp(min=1e-30) * fitted[:, None]
        self.network.train()
        for _ in range(self.inner_steps):
            values, pull = self.network.push(x)
            # The objective's derivative in the values of φ is known: from there it goes back.
            weight = in_q.stack(self._reweighted(in_q.unstack(values[:, in_p.height :]), q, in_q)) * fitted[:, None]
            gradients, _ = pull(torch.cat((mass_p, -weight), 1), True, False)
            self.optimizer.ascend(gradients)
        self.network.eval()
        values, _ = self.network.push(x)
        on_p, on_q = in_p.unstack(values[:, : in_p.height]), in_q.unstack(values[:, in_p.height :])
        return {"divergence": self._objective(on_p, on_q, p, q), "inner_steps": float(self.inner_steps)}

    def _reweighted(self, values: Tensor, q: Cloud, layout: Layout) -> Tensor:
        """The mass of each target point in the reweighted target of its block."""
        weights = torch.empty_like(values)
        for members, own in zip(layout.blocks, layout.parts(q)):
            if own is not None:
                weights[members] = self.divergence.density(values[members], own) * own.mass
        return weights

    def _objective(self, on_p: Tensor, on_q: Tensor, p: Cloud, q: Cloud) -> Tensor:
        """The mean divergence of the blocks that have particles and target."""
        in_p, in_q = self._layout(p), self._layout(q)
        found = [
            self.divergence.objective(on_p[of_p], on_q[of_q], part_p, part_q)
            for of_p, of_q, part_p, part_q in zip(in_p.blocks, in_q.blocks, in_p.parts(p), in_q.parts(q))
            if part_p is not None and part_q is not None
        ]
        return torch.stack(found).mean() if found else p.x.new_zeros(())

    @torch.inference_mode()
    def phi(self, cloud: Cloud) -> Tensor:
        layout = self._layout(cloud)
        values, _ = self.network.push(layout.stack(cloud.x))
        return layout.unstack(values)

    @torch.inference_mode()
    def grad(self, cloud: Cloud) -> Tensor:
        layout = self._layout(cloud)
        values, pull = self.network.push(layout.stack(cloud.x))
        _, gradient = pull(torch.ones_like(values), False, True)
        assert gradient is not None
        return layout.unstack(gradient)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

    def record(self) -> dict[str, Any]:
        return {"network": dict(self.network.state_dict())}

    def recall(self, record: dict[str, Any], q: Cloud) -> None:
        self.network.load_state_dict(record["network"])
