"""Sums over all pairs of two sets of points by tiles of torch: a block of pairs at a time, in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from particles.kernels import Radial

DIRECT = 6
"""The largest dimension in which differences are squared one coordinate at a time."""
COLUMNS = 2048
PAIRS = {"cpu": 2**19, "cuda": 2**26}
"""The number of pairs in a block: what a core's share of the cache holds, or what fills a GPU."""
FAINT = -80.0
"""The least score beside the largest, e^−80 of its weight: below, exp underflows, and is ten times as slow for it."""

Near = tuple[Tensor, Tensor, Tensor] | bool
"""Row and column numbers of near pairs in a block, and their differences, with shape (n, d); or whether most pairs are near."""


class Blocks:
    """The pairs, a block at a time: the squared distances, and sums of differences.

    In high dimension both are expanded about the mean of y. Pairs closer to each other than a tenth of their distance
    to it are near: there the expansion loses digits, and they are done again.
    """

    def __init__(self, x: Tensor, y: Tensor):
        origin = y.mean(0)
        self.xt, self.yt = x.t().contiguous(), y.t().contiguous()
        self.x, self.y = x - origin, y - origin
        self.direct = x.shape[1] <= DIRECT
        self.x2, self.y2 = self.x.square().sum(1), self.y.square().sum(1)
        if not self.direct:  # one matrix product gives ‖x‖² − 2 x·y + ‖y‖²
            self.left = torch.cat((self.x, self.x2[:, None], torch.ones_like(self.x2)[:, None]), 1)
            self.right = torch.cat((-2 * self.y, torch.ones_like(self.y2)[:, None], self.y2[:, None]), 1).t()
        self.width = min(len(y), COLUMNS)
        self.height = min(len(x), max(1, PAIRS[x.device.type] // self.width))
        self.spare: Tensor | None = None
        self.scratch = (x.new_empty(self.height * self.width), x.new_empty(self.height * self.width))

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        for rows in self.rows():
            for columns in self.columns():
                yield rows, columns

    def rows(self) -> Iterator[slice]:
        for i in range(0, len(self.x), self.height):
            yield slice(i, min(i + self.height, len(self.x)))

    def columns(self) -> Iterator[slice]:
        for j in range(0, len(self.y), self.width):
            yield slice(j, min(j + self.width, len(self.y)))

    def squares(self, rows: slice, columns: slice) -> tuple[Tensor, Near]:
        """The squared distances in a block, in memory that the next block will use again, and its near pairs."""
        shape = rows.stop - rows.start, columns.stop - columns.start
        first, second = (memory[: shape[0] * shape[1]].view(shape) for memory in self.scratch)
        if self.direct:
            return self._direct_squares(first, second, rows, columns), True
        torch.mm(self.left[rows], self.right[:, columns], out=first)
        near = self._near(first, second, rows, columns)
        if isinstance(near, tuple):
            first[near[0], near[1]] = near[2].square().sum(1)
        elif near:
            self._direct_squares(first, second, rows, columns)
        return first, near

    def copied(self, squares: Tensor) -> Tensor:
        """A block in memory of its own, which the next one will use again."""
        if self.spare is None:
            self.spare = torch.empty_like(self.scratch[0])
        return self.spare[: squares.numel()].view(squares.shape).copy_(squares)

    def _direct_squares(self, first: Tensor, second: Tensor, rows: slice, columns: slice) -> Tensor:
        pairs = zip(self.xt[:, rows, None], self.yt[:, columns])
        xk, yk = next(pairs)
        torch.sub(xk, yk, out=first).square_()
        for xk, yk in pairs:
            torch.sub(xk, yk, out=second)
            first.addcmul_(second, second)
        return first

    def _near(self, squares: Tensor, scratch: Tensor, rows: slice, columns: slice) -> Near:
        x2, y2 = self.x2[rows], self.y2[columns]
        if squares.amin() >= 1e-2 * (x2.max() + y2.max()):
            return False
        torch.add(x2[:, None], y2, out=scratch)
        i, j = torch.where(squares <= scratch.mul_(1e-2))
        if len(i) * len(self.xt) > squares.numel():  # a sparse list would be larger than the block
            return True
        return i, j, (self.xt[:, rows][:, i] - self.yt[:, columns][:, j]).t()

    def pull(self, weight: Tensor, rows: slice, columns: slice, near: Near) -> Tensor:
        """The sums of weight · (x − y) over a block's columns, with shape (rows, d). Weights of near pairs are overwritten."""
        if near is True:
            difference = self.scratch[1][: weight.numel()].view(weight.shape)
            total = weight.new_empty(len(weight), len(self.xt))
            for k, (xk, yk) in enumerate(zip(self.xt[:, rows, None], self.yt[:, columns])):
                torch.sub(xk, yk, out=difference)
                torch.sum(difference.mul_(weight), 1, out=total[:, k])
            return total
        if not isinstance(near, tuple):
            return self.x[rows] * weight.sum(1, keepdim=True) - weight @ self.y[columns]
        i, j, difference = near
        close = weight[i, j, None] * difference
        weight[i, j] = 0
        total = self.x[rows] * weight.sum(1, keepdim=True) - weight @ self.y[columns]
        return total.index_add_(0, i, close)


def stream(
    x: Tensor, y: Tensor, g: Tensor, cost: Radial, epsilon: float, *, gradient: bool = False, v: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The softmin, its gradient and the weighted means of v, in one pass with a running maximum."""
    x, y, g = x.detach(), y.detach(), g.detach().to(x.dtype)
    v = None if v is None else v.detach()
    blocks = Blocks(x, y)
    scaled = g / epsilon
    values = torch.empty_like(x[:, 0])
    slopes = torch.empty_like(x) if gradient else None
    means = None if v is None else x.new_empty(len(x), v.shape[1])
    lowest = torch.finfo(x.dtype).min
    for rows in blocks.rows():
        top = torch.full_like(x[rows, 0], lowest)
        mass = torch.zeros_like(top)
        slope = torch.zeros_like(x[rows]) if gradient else None
        mean = None if v is None else x.new_zeros(len(top), v.shape[1])
        for columns in blocks.columns():
            squares, near = blocks.squares(rows, columns)
            steep = cost.slope_(blocks.copied(squares)) if gradient else None
            scores = torch.sub(scaled[columns], cost.value_(squares), alpha=1 / epsilon, out=squares)
            peak = torch.maximum(top, scores.amax(1))
            weight = scores.sub_(peak[:, None]).clamp_(min=FAINT).exp_()
            fade = torch.exp(top - peak)
            mass.mul_(fade).add_(weight.sum(1))
            if mean is not None and v is not None:
                mean.mul_(fade[:, None]).addmm_(weight, v[columns])
            if slope is not None and steep is not None:
                slope.mul_(fade[:, None]).add_(blocks.pull(weight.mul_(steep), rows, columns, near))
            top = peak
        values[rows] = torch.where(top > lowest, -epsilon * (top + mass.log()), math.inf)  # of nothing but −∞: ∞
        if slopes is not None and slope is not None:
            slopes[rows] = slope / mass[:, None]
        if means is not None and mean is not None:
            means[rows] = mean / mass[:, None]
    return values, slopes, means


def logsumexp_(scores: Tensor, axis: int) -> Tensor:
    """Along an axis, in the scores' own memory."""
    peak = scores.amax(axis, keepdim=True)
    return scores.sub_(peak).clamp_(min=FAINT).exp_().sum(axis).log_().add_(peak.squeeze(axis))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """All squared distances, differentiable, with differences taken before they are squared."""
    total = (x[:, None, 0] - y[:, 0]).square()
    for k in range(1, x.shape[1]):
        total = total + (x[:, None, k] - y[:, k]).square()
    return total


def weighted_differences(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The sums of weight · (x − y) over the columns, differentiable, with differences taken before they are summed."""
    return torch.stack([(weight * (x[:, None, k] - y[:, k])).sum(1) for k in range(x.shape[1])], 1)


def by_rows(x: Tensor, y: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """A reduction of blocks of rows, differentiable, with each block computed again on the way back."""
    height = max(1, PAIRS[x.device.type] // len(y))
    return torch.cat([checkpoint(reduce, part, use_reentrant=False) for part in x.split(height)])
