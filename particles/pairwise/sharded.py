"""Sums over all pairs whose rows are shared among processes: each does its part of them, and all get the whole.

All processes have the points of both sides, and what is summed; with one process these are ``pairwise``'s own.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from particles import shards
from particles.kernels import Radial
from particles.pairwise.sums import KEPT, Pairs, kernel_product, softmin
from particles.shards import Shard, spread


class SharedPairs:
    """Two sets of points whose softmins are asked for again and again, by all processes alike.

    Arguments:
        x: The points of the rows, with shape :math:`(M, d)`.
        y: The points of the columns, with shape :math:`(N, d)`.
        cost: The ground cost.
        backend: ``auto``, ``tiled`` or ``keops``.
    """

    def __init__(self, x: Tensor, y: Tensor, cost: Radial, backend: str = "auto"):
        self.x, self.y, self.cost, self.backend = x.detach(), y.detach(), cost, backend
        self.of_x, self.of_y = Shard.of(len(x)), Shard.of(len(y))

    @property
    def kept(self) -> bool:
        """Whether costs are kept, so that softmins come sooner without their gradients; all processes decide alike."""
        if shards.world() == 1:
            return self._by_rows.costs is not None
        return self.backend != "keops" and max(self.of_x.sizes) * len(self.y) <= KEPT

    @cached_property
    def _by_rows(self) -> Pairs:
        return Pairs(_some(self.of_x.local(self.x), self.x), self.y, self.cost, self.backend)

    @cached_property
    def _by_columns(self) -> Pairs:
        return Pairs(_some(self.of_y.local(self.y), self.y), self.x, self.cost, self.backend)

    def rows(self, g: Tensor, epsilon: float) -> Tensor:
        """The softmin over the columns, with shape :math:`(M,)`."""
        found = self._by_rows.rows(g, epsilon)
        return found if shards.world() == 1 else self.of_x.gather(found[: self.of_x.size])

    def columns(self, f: Tensor, epsilon: float) -> Tensor:
        """The softmin over the rows, with shape :math:`(N,)`."""
        if shards.world() == 1:
            return self._by_rows.columns(f, epsilon)
        return self.of_y.gather(self._by_columns.rows(f, epsilon)[: self.of_y.size])

    def gradient(self, g: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """The softmin over the columns, and its gradient in the rows, with shape :math:`(M, d)`."""
        values, slopes = self._by_rows.gradient(g, epsilon)
        if shards.world() == 1:
            return values, slopes
        both = self.of_x.gather(torch.cat((values[:, None], slopes), 1)[: self.of_x.size])
        return both[:, 0], both[:, 1:]


def shared_softmin(x: Tensor, y: Tensor, g: Tensor, cost: Radial, epsilon: float, backend: str) -> Tensor:
    """``pairwise.softmin`` of rows that all processes have."""
    return spread(lambda rows: softmin(rows, y, g, cost, epsilon, backend=backend), x)


def shared_kernel_product(x: Tensor, y: Tensor, b: Tensor, kernel: Radial, backend: str) -> Tensor:
    """``pairwise.kernel_product`` of rows that all processes have."""
    return spread(lambda rows: kernel_product(rows, y, b, kernel, backend=backend), x)


def _some(rows: Tensor, all_rows: Tensor) -> Tensor:
    """The rows of this process, or one that is not looked at where it has none."""
    return rows if len(rows) else all_rows[:1]
