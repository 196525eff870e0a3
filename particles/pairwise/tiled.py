r"""Sums over all pairs of two sets of points by tiles of torch: a block of pairs at a time, in place.

A block is small enough for two of them to stay in a core's second cache, and a pass over it costs about as much whatever it does, so
passes are what is saved: scores are binary logarithms (``exp2`` takes a third of ``exp``'s time), constant factors go into the
columns, and sums of differences are one product with a flat matrix. Sums of blocks are added up in double precision.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from particles.kernels import LOG2E, Radial
from particles.pairwise.pruning import Cells, Reach

DIRECT = 3
"""The largest dimension in which differences are squared one coordinate at a time, and in which cells are made."""
COLUMNS = 1024
"""The least width of a block where there are enough columns."""
PAIRS = {"cpu": 2**18, "cuda": 2**26}
"""The number of pairs in a block: 1 MiB in float32, as much as a core's second cache, or what fills a GPU. Smaller blocks are slower for the calls."""
RECOMPUTED = {"cpu": 2**19, "cuda": 2**26}
"""The same where sums are differentiated, which costs a graph per block."""
CELLED = 16
"""The least number of blocks for which points are put in order."""
STEEP = 40
"""The least binary score, per dimension, of the cost at the root mean square distance for which cells were seen to pay."""
FAINT = -115.0
"""The least binary score beside the largest: below, exp2 underflows, and is slow for it."""

Near = tuple[Tensor, Tensor, Tensor] | bool
"""Row and column numbers of near pairs in a block, and their differences, with shape (n, d); or whether most pairs are near."""


def block_shape(x: Tensor, y: Tensor) -> tuple[int, int]:
    """The rows and columns of a block."""
    pairs = PAIRS[x.device.type]
    height = min(len(x), max(1, pairs // COLUMNS))
    return height, min(len(y), max(COLUMNS, pairs // height))


def cells(x: Tensor, y: Tensor, cost: Radial, epsilon: float) -> Cells | None:
    """The cells of the rows; ``None`` where little is to be gained by them, or not all points are finite."""
    height, width = block_shape(x, y)
    if x.device.type != "cpu" or x.shape[1] > DIRECT or len(x) * len(y) < CELLED * height * width:
        return None
    apart = (x.double().mean(0) - y.double().mean(0)).square().sum() + (
        x.var(0, correction=0) + y.var(0, correction=0)
    ).sum()
    if not float(cost.value(apart)) * LOG2E / epsilon >= STEEP * x.shape[1]:  # nor of what is not finite
        return None
    if not bool(x.isfinite().all() and y.isfinite().all()):
        return None
    return Cells(x.detach(), height)


@dataclass(frozen=True)
class Side:
    """What the rows or the columns of a block are asked for again and again."""

    at: slice | Tensor
    """Their numbers."""
    coordinates: tuple[Tensor, ...]
    """With shape (n, 1) for rows and (n,) for columns."""
    square: Tensor
    """The squared distances to the origin, with shape (n,)."""
    factor: Tensor
    """The matrix of the product that squared distances are expanded in."""
    moments: Tensor
    """A row of ones for columns, and the coordinates about the origin, with shape (d + 1, n) or (d, n)."""

    def take(self, some: Tensor) -> Side:
        """Some of the columns, for differences of coordinates alone."""
        coordinates = tuple(torch.stack(self.coordinates).index_select(1, some))
        return Side(some, coordinates, self.square, self.factor, self.moments.index_select(1, some))


class Blocks:
    """The pairs, a block at a time: the squared distances, and sums of differences.

    In high dimension both are expanded about the mean of y. Pairs closer to each other than a tenth of their distance
    to it are near: there the expansion loses digits, and they are done again.
    """

    def __init__(self, x: Tensor, y: Tensor):
        origin = y.mean(0)
        self.direct = x.shape[1] <= DIRECT
        self.height, self.width = block_shape(x, y)
        xc, yc = x - origin, y - origin
        x2, y2 = xc.square().sum(1), yc.square().sum(1)
        one = torch.ones_like
        # One product gives ‖x‖² − 2 x·y + ‖y‖².
        left = xc if self.direct else torch.cat((xc, x2[:, None], one(x2)[:, None]), 1)
        right = yc.t() if self.direct else torch.cat((-2 * yc, one(y2)[:, None], y2[:, None]), 1).t()
        xt, yt, moments = x.t().contiguous(), y.t().contiguous(), torch.cat((one(y2)[None], yc.t()))
        self.rows = [
            Side(at, tuple(xt[:, at, None]), x2[at], left[at], xc[at].t()) for at in _slices(len(x), self.height)
        ]
        self.columns = [
            Side(at, tuple(yt[:, at]), y2[at], right[:, at], moments[:, at]) for at in _slices(len(y), self.width)
        ]
        self.all = Side(slice(0, len(y)), tuple(yt), y2, right, moments)
        self.memory = (x.new_empty(self.height * self.width), x.new_empty(self.height * self.width))
        self.shapes: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __iter__(self) -> Iterator[tuple[Side, Side]]:
        return itertools.product(self.rows, self.columns)

    def squares(self, rows: Side, columns: Side) -> tuple[Tensor, Tensor, Near]:
        """The squared distances in a block, a spare block, both in memory that the next block uses again, and the near pairs."""
        shape = len(rows.coordinates[0]), len(columns.coordinates[0])
        if shape not in self.shapes:
            first, second = (memory[: shape[0] * shape[1]].view(shape) for memory in self.memory)
            self.shapes[shape] = first, second
        first, second = self.shapes[shape]
        if self.direct:
            return _direct_squares(first, second, rows, columns), second, True
        torch.mm(rows.factor, columns.factor, out=first)
        near = _near(first, rows, columns)
        if isinstance(near, tuple):
            first[near[0], near[1]] = near[2].square().sum(1)
        elif near:
            _direct_squares(first, second, rows, columns)
        return first, second, near


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(i, min(i + size, count)) for i in range(0, count, size))


def _direct_squares(first: Tensor, second: Tensor, rows: Side, columns: Side) -> Tensor:
    pairs = zip(rows.coordinates, columns.coordinates)
    torch.sub(*next(pairs), out=first).square_()
    for xk, yk in pairs:
        torch.sub(xk, yk, out=second)
        first.addcmul_(second, second)
    return first


def _near(squares: Tensor, rows: Side, columns: Side) -> Near:
    suspect = torch.where(squares.amin(1) < 1e-2 * (rows.square + columns.square.max()))[0]
    if not len(suspect):
        return False
    k, j = torch.where(squares[suspect] <= 1e-2 * (rows.square[suspect, None] + columns.square))
    if len(k) * len(rows.coordinates) > squares.numel():  # a sparse list would be larger than the block
        return True
    i = suspect[k]
    differences = [xk[i, 0] - yk[j] for xk, yk in zip(rows.coordinates, columns.coordinates)]
    return i, j, torch.stack(differences, 1)


def pull(weight: Tensor, spare: Tensor, rows: Side, columns: Side, near: Near) -> Tensor:
    """The sums of weight · (x − y) over a block's columns, with shape (rows, d). Weights of near pairs are overwritten."""
    if near is True:
        pairs = zip(rows.coordinates, columns.coordinates)
        return torch.stack([torch.linalg.vecdot(torch.sub(xk, yk, out=spare), weight) for xk, yk in pairs], 1)
    if not isinstance(near, tuple):
        return spread(weight, rows, columns)
    i, j, difference = near
    close = weight[i, j, None] * difference
    weight[i, j] = 0
    return spread(weight, rows, columns).index_add_(0, i, close)


def spread(weight: Tensor, rows: Side, columns: Side) -> Tensor:
    """The same, expanded about the mean of y: right where a weight does not grow as its pair comes close."""
    sums = torch.mm(columns.moments, weight.t())
    return torch.addcmul(-sums[1:], rows.moments, sums[0]).t()


def stream(
    x: Tensor,
    y: Tensor,
    g: Tensor,
    cost: Radial,
    epsilon: float,
    *,
    gradient: bool = False,
    v: Tensor | None = None,
    order: Cells | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The softmin, its gradient and the weighted means of v, in one pass with a running maximum.

    With cells, blocks that cannot matter are left out, see :class:`particles.pairwise.pruning.Reach`.
    """
    x, y, g = x.detach(), y.detach(), g.detach()
    price = LOG2E / epsilon
    scores = (g.double() * price).to(x.dtype)
    v = None if v is None else v.detach()
    x = x if order is None else x[order.order]
    blocks = Blocks(x, y)
    reach = None if order is None else Reach(order, y.t().contiguous(), scores, cost, price)
    parts = [(side, scores[side.at], None if v is None else v[side.at].t()) for side in blocks.columns]
    values = torch.empty_like(x[:, 0])
    slopes = torch.empty_like(x) if gradient else None
    means = None if v is None else x.new_empty(len(x), v.shape[1])
    for cell, rows in enumerate(blocks.rows):
        sums = _Sums(x[rows.at], gradient, v)
        some = None if reach is None else reach(cell, partial(_found, blocks, rows, scores, cost, price))
        for part in parts if some is None else _parts(blocks, some, scores, v):
            sums.add(blocks, rows, part, cost, price)
        values[rows.at] = torch.where(sums.top == sums.lowest, math.inf, sums.found() * -(epsilon / LOG2E))
        if slopes is not None and sums.slope is not None:
            slopes[rows.at] = sums.slope * (cost.slope_factor / sums.mass[:, None])
        if means is not None and sums.mean is not None:
            means[rows.at] = (sums.mean / sums.mass).t()
    if order is None:
        return values, slopes, means

    def back(found: Tensor) -> Tensor:
        return torch.empty_like(found).index_copy_(0, order.order, found)

    return back(values), None if slopes is None else back(slopes), None if means is None else back(means)


Part = tuple[Side, Tensor, Tensor | None]
"""Some columns, their scores at no cost, and what is averaged over them, with shape (k, n)."""


def _parts(blocks: Blocks, some: Tensor, scores: Tensor, v: Tensor | None) -> Iterator[Part]:
    """The columns of some numbers, in parts that fit a block."""
    for part in some.split(blocks.width):
        yield blocks.all.take(part), scores[part], None if v is None else v[part].t()


def _found(blocks: Blocks, rows: Side, scores: Tensor, cost: Radial, price: float, some: Tensor) -> Tensor:
    """The binary logarithms of what the rows find at some columns."""
    sums = _Sums(rows.square[:, None], False, None)
    for part in _parts(blocks, some, scores, None):
        sums.add(blocks, rows, part, cost, price)
    return sums.found()


class _Sums:
    """What some rows have summed up so far, in double precision, beside the largest score."""

    def __init__(self, x: Tensor, gradient: bool, v: Tensor | None):
        self.lowest = torch.finfo(x.dtype).min
        self.top = torch.full_like(x[:, 0], self.lowest)
        self.mass = torch.zeros_like(self.top, dtype=torch.double)
        self.slope = torch.zeros_like(x, dtype=torch.double) if gradient else None
        self.mean = None if v is None else self.mass.new_zeros(v.shape[1], len(x))

    def found(self) -> Tensor:
        """The binary logarithms of the masses."""
        return self.top + self.mass.log2()

    def add(self, blocks: Blocks, rows: Side, part: Part, cost: Radial, price: float) -> None:
        columns, g, v = part
        squares, spare, near = blocks.squares(rows, columns)
        steep: Tensor | float = 1.0
        if self.slope is None:
            unit = cost.unit_(squares, spare)
        else:
            unit, steep = cost.units_(squares, spare)
        scores = torch.sub(g, unit, alpha=price * cost.value_factor, out=squares)
        self._rise(torch.maximum(self.top, scores.amax(1)))
        weight = scores.sub_(self.top[:, None]).clamp_(min=FAINT).exp2_()
        self.mass.add_(weight.sum(1))
        if self.mean is not None and v is not None:
            self.mean.add_(torch.mm(v, weight.t()))
        if self.slope is not None:
            if isinstance(steep, float):
                self.slope.add_(spread(weight, rows, columns))
            else:
                self.slope.add_(pull(weight.mul_(steep), steep, rows, columns, near))

    def _rise(self, top: Tensor) -> None:
        """Takes a new largest score, and makes the sums less by as much."""
        if torch.equal(top, self.top):
            return
        fade = torch.exp2((self.top - top).double())
        self.top = top
        self.mass.mul_(fade)
        if self.slope is not None:
            self.slope.mul_(fade[:, None])
        if self.mean is not None:
            self.mean.mul_(fade)


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
    height = max(1, RECOMPUTED[x.device.type] // len(y))
    return torch.cat([checkpoint(reduce, part, use_reentrant=False) for part in x.split(height)])
