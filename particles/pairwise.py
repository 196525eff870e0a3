r"""Reductions over all pairs of two sets of points, in memory that does not grow with their product.

Points x have shape :math:`(M, d)`, y have shape :math:`(N, d)`; results are per row of x. There are two backends behind
each function.

* ``tiled``: torch, a block of pairs at a time, in place. Differences are taken before they are squared up to 6
  dimensions; beyond, squares are expanded about the mean of y, and near pairs, where that cancels, are done again.
* ``keops``: KeOps' LazyTensors, compiled by g++ or nvcc at first use, per formula and dimension.

``auto`` is ``keops`` on a GPU from 10⁸ pairs and up to 100 dimensions, and ``tiled`` elsewhere. Seconds for 10⁴ against 10⁴
points in float32 on two CPU cores, median of three (``tests/benchmarks/pairwise.py``; KeOps after 10 to 19 s of compiling):

====  ===============  =====  =====  ==============
d     of distances     tiled  keops  chunked cdist
====  ===============  =====  =====  ==============
2     softmin          0.24   0.79   0.46
2     with gradient    0.40   1.89   0.73
10    softmin          0.41   1.14   0.51
10    with gradient    0.56   3.33   0.82
50    softmin          0.36   2.73   0.43
50    with gradient    0.66   10.3   0.86
====  ===============  =====  =====  ==============

The rule on a GPU is KeOps' own advice, not a measurement of ours.

Everything can be differentiated (once, or as often as autograd can) in all tensor arguments. The tiled backend then runs
its formulas out of place and recomputes each block on the way back, so memory stays bounded there too.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from particles.kernels import Radial

BACKENDS = ("auto", "tiled", "keops")
DIRECT = 6
"""The largest dimension in which differences are squared one coordinate at a time."""
COLUMNS = 2048
PAIRS = {"cpu": 2**19, "cuda": 2**26}
"""The number of pairs in a block: what a core's share of the cache holds, or what fills a GPU."""
FAINT = -80.0
"""The least score beside the largest, e^−80 of its weight: below, exp underflows, and is ten times as slow for it."""
KEPT = 2**22
"""The largest number of pairs whose costs are kept, 16 MiB in float32."""


def softmin(x: Tensor, y: Tensor, g: Tensor, cost: Radial, epsilon: float, *, backend: str = "auto") -> Tensor:
    r""":math:`-\varepsilon \log \sum_j \exp((g_j - C(x_i, y_j)) / \varepsilon)`, with shape :math:`(M,)`.

    Masses go into ``g``, as :math:`\varepsilon \log q_j`. An entry of :math:`-\infty` leaves its point out.

    Arguments:
        x: The points of the rows, with shape :math:`(M, d)`.
        y: The points that are summed over, with shape :math:`(N, d)`.
        g: With shape :math:`(N,)`.
        cost: The ground cost C.
        epsilon: The regularisation ε, in units of the cost.
        backend: ``auto``, ``tiled`` or ``keops``.

    Raises:
        ValueError: If a shape does not fit, ε is not positive or the backend is unknown.
    """
    _check(x, y, g, epsilon)
    if _keops_is_chosen(backend, x, y):
        found = _attempt(lambda: _lazy_softmin(_lazy_scores(x, y, g, cost, epsilon), epsilon))
        if found is not None:
            return found
    if _differentiated(x, y, g):
        rows = _by_rows(x, y, lambda part: torch.logsumexp((g - cost.value(_squares(part, y))) / epsilon, 1))
        return -epsilon * rows
    return _stream(x, y, g, cost, epsilon)[0]


class Pairs:
    """Two sets of points whose softmins are asked for again and again: below 2²² pairs the costs are kept.

    Arguments:
        x: The points of the rows, with shape :math:`(M, d)`.
        y: The points of the columns, with shape :math:`(N, d)`.
        cost: The ground cost.
        backend: ``auto``, ``tiled`` or ``keops``.
    """

    def __init__(self, x: Tensor, y: Tensor, cost: Radial, backend: str = "auto"):
        self.x, self.y, self.cost, self.backend = x.detach(), y.detach(), cost, backend
        self.costs = None
        if len(x) * len(y) <= KEPT and backend != "keops":
            blocks = _Blocks(self.x, self.y)
            self.costs = x.new_empty(len(x), len(y))
            for rows, columns in blocks:
                self.costs[rows, columns] = cost.value_(blocks.squares(rows, columns)[0])

    def rows(self, g: Tensor, epsilon: float) -> Tensor:
        """The softmin over the columns, :func:`softmin` of x and y, with shape :math:`(M,)`."""
        if self.costs is None:
            return softmin(self.x, self.y, g, self.cost, epsilon, backend=self.backend)
        return -epsilon * _logsumexp_(torch.sub(g / epsilon, self.costs, alpha=1 / epsilon), 1)

    def columns(self, f: Tensor, epsilon: float) -> Tensor:
        """The softmin over the rows, with shape :math:`(N,)`."""
        if self.costs is None:
            return softmin(self.y, self.x, f, self.cost, epsilon, backend=self.backend)
        return -epsilon * _logsumexp_(torch.sub((f / epsilon)[:, None], self.costs, alpha=1 / epsilon), 0)


def softmin_gradient(
    x: Tensor, y: Tensor, g: Tensor, cost: Radial, epsilon: float, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    r"""The softmin, and its gradient in x, :math:`\sum_j w_{ij} \nabla_x C(x_i, y_j)` with softmax weights w, shape :math:`(M, d)`.

    For :math:`C = L \|x - y\|` it is a mean of vectors of length L. For :math:`C = \frac12 \|x - y\|^2` it is
    :math:`x_i - \sum_j w_{ij} y_j`: the points minus the weighted means of points.

    Arguments and errors are those of :func:`softmin`.
    """
    _check(x, y, g, epsilon)
    if _keops_is_chosen(backend, x, y):
        found = _attempt(lambda: _lazy_gradient(x, y, g, cost, epsilon))
        if found is not None:
            return found
    if _differentiated(x, y, g):

        def both(part: Tensor) -> Tensor:
            scores = (g - cost.value(_squares(part, y))) / epsilon
            weight = torch.softmax(scores, 1) * cost.slope(_squares(part, y))
            values = -epsilon * torch.logsumexp(scores, 1)
            return torch.cat((values[:, None], _pull(weight, part, y)), 1)

        joined = _by_rows(x, y, both)
        return joined[:, 0], joined[:, 1:]
    values, gradient, _ = _stream(x, y, g, cost, epsilon, gradient=True)
    assert gradient is not None
    return values, gradient


def softmean(
    x: Tensor, y: Tensor, g: Tensor, v: Tensor, cost: Radial, epsilon: float, *, backend: str = "auto"
) -> Tensor:
    r"""The weighted means :math:`\sum_j w_{ij} v_j` with the softmax weights of the softmin, with shape :math:`(M, k)`.

    With ``v = y`` it is the barycentric projection of the plan.

    Arguments:
        v: What is averaged, with shape :math:`(N, k)`. The others are those of :func:`softmin`, as are the errors.
    """
    _check(x, y, g, epsilon)
    if v.ndim != 2 or len(v) != len(y):
        raise ValueError(f"what is averaged needs shape ({len(y)}, k), not {tuple(v.shape)}")
    if _keops_is_chosen(backend, x, y):
        found: Tensor | None = _attempt(lambda: _lazy_scores(x, y, g, cost, epsilon).sumsoftmaxweight(_lazy(v, 0), 1))
        if found is not None:
            return found
    if _differentiated(x, y, g, v):
        return _by_rows(x, y, lambda part: torch.softmax((g - cost.value(_squares(part, y))) / epsilon, 1) @ v)
    means = _stream(x, y, g, cost, epsilon, v=v)[2]
    assert means is not None
    return means


def kernel_product(x: Tensor, y: Tensor, b: Tensor, kernel: Radial, *, backend: str = "auto") -> Tensor:
    r""":math:`\sum_j k(x_i, y_j) \, b_j`, with shape :math:`(M,)`.

    Arguments:
        x: The points of the rows, with shape :math:`(M, d)`.
        y: The points that are summed over, with shape :math:`(N, d)`.
        b: The coefficients, with shape :math:`(N,)`.
        kernel: The kernel k.
        backend: ``auto``, ``tiled`` or ``keops``.

    Raises:
        ValueError: If a shape does not fit or the backend is unknown.
    """
    _check(x, y, b)
    b = b.to(x.dtype)
    if _keops_is_chosen(backend, x, y):
        found: Tensor | None = _attempt(
            lambda: (kernel.value(_lazy_squares(x, y)) * _lazy(b[:, None], 0)).sum(1).view(-1)
        )
        if found is not None:
            return found
    if _differentiated(x, y, b):
        return _by_rows(x, y, lambda part: kernel.value(_squares(part, y)) @ b)
    blocks = _Blocks(x, y)
    total = x.new_zeros(len(x))
    for rows, columns in blocks:
        squares, _ = blocks.squares(rows, columns)
        total[rows] += kernel.value_(squares) @ b[columns]
    return total


def kernel_gradient(x: Tensor, y: Tensor, b: Tensor, kernel: Radial, *, backend: str = "auto") -> Tensor:
    r""":math:`\sum_j \nabla_x k(x_i, y_j) \, b_j`, with shape :math:`(M, d)`; pairs at one place give 0.

    Arguments and errors are those of :func:`kernel_product`.
    """
    _check(x, y, b)
    b = b.to(x.dtype)
    if _keops_is_chosen(backend, x, y):

        def lazily() -> Tensor:
            slope = kernel.slope(_lazy_squares(x, y)) * _lazy(b[:, None], 0)
            return (slope * (_lazy(x, 1) - _lazy(y, 0))).sum(1)  # type: ignore[no-any-return]

        found = _attempt(lazily)
        if found is not None:
            return found
    if _differentiated(x, y, b):
        return _by_rows(x, y, lambda part: _pull(kernel.slope(_squares(part, y)) * b, part, y))
    blocks = _Blocks(x, y)
    total = torch.zeros_like(x)
    for rows, columns in blocks:
        squares, near = blocks.squares(rows, columns)
        total[rows] += blocks.pull(kernel.slope(squares).mul_(b[columns]), rows, columns, near)
    return total


# Tiles


Near = tuple[Tensor, Tensor, Tensor] | bool
"""Row and column numbers of near pairs in a block, and their differences, with shape (n, d); or whether most pairs are near."""


class _Blocks:
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


def _stream(
    x: Tensor, y: Tensor, g: Tensor, cost: Radial, epsilon: float, *, gradient: bool = False, v: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The softmin, its gradient and the weighted means of v, in one pass with a running maximum."""
    x, y, g = x.detach(), y.detach(), g.detach().to(x.dtype)
    v = None if v is None else v.detach()
    blocks = _Blocks(x, y)
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


def _logsumexp_(scores: Tensor, axis: int) -> Tensor:
    """Along an axis, in the scores' own memory."""
    peak = scores.amax(axis, keepdim=True)
    return scores.sub_(peak).clamp_(min=FAINT).exp_().sum(axis).log_().add_(peak.squeeze(axis))


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """All squared distances, differentiable, with differences taken before they are squared."""
    total = (x[:, None, 0] - y[:, 0]).square()
    for k in range(1, x.shape[1]):
        total = total + (x[:, None, k] - y[:, k]).square()
    return total


def _pull(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The sums of weight · (x − y) over the columns, differentiable, with differences taken before they are summed."""
    return torch.stack([(weight * (x[:, None, k] - y[:, k])).sum(1) for k in range(x.shape[1])], 1)


def _by_rows(x: Tensor, y: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """A reduction of blocks of rows, differentiable, with each block computed again on the way back."""
    height = max(1, PAIRS[x.device.type] // len(y))
    return torch.cat([checkpoint(reduce, part, use_reentrant=False) for part in x.split(height)])


def _differentiated(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _check(x: Tensor, y: Tensor, g: Tensor, epsilon: float = 1.0) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ValueError(f"points need shapes (M, d) and (N, d), not {tuple(x.shape)} and {tuple(y.shape)}")
    if g.shape != (len(y),):
        raise ValueError(f"one number per summed point is needed, shape ({len(y)},), not {tuple(g.shape)}")
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be positive and finite, not {epsilon}")


# KeOps

NOTHING = 1e30
"""Minus the score of a point that is left out: KeOps makes NaN of −∞."""

Result = TypeVar("Result")

_broken: list[str] = []


def choose_backend(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: If it is none of a backend.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; choose from {', '.join(BACKENDS)}")
    return name


def _keops_is_chosen(backend: str, x: Tensor, y: Tensor) -> bool:
    choose_backend(backend)
    if _broken:
        return False
    if backend == "auto":
        return x.device.type == "cuda" and x.shape[1] <= 100 and len(x) * len(y) >= 10**8
    return backend == "keops"


def _attempt(formula: Callable[[], Result]) -> Result | None:
    """What KeOps makes of a formula; ``None``, said once, where it does not work: no compiler, no place to write to."""
    try:
        return formula()
    except Exception as error:  # KeOps raises whatever went wrong on its way: imports, files, compilers
        if isinstance(error, torch.OutOfMemoryError):
            raise
        _broken.append(str(error))
        logging.getLogger(__name__).warning(
            "KeOps does not work here, so large sums go by tiles of torch: %s: %s",
            type(error).__name__,
            str(error).strip().split("\n")[0],
        )
        return None


def _lazy(points: Tensor, axis: int) -> Any:
    """Points along the rows (axis 1) or along the columns (axis 0) of a symbolic matrix."""
    for package in ("KEOPS", "PYKEOPS"):
        os.environ.setdefault(f"{package}_VERBOSE", "0")  # its chatter would go to standard output
    from pykeops.torch import LazyTensor

    return LazyTensor(points.unsqueeze(axis).contiguous())


def _lazy_squares(x: Tensor, y: Tensor) -> Any:
    return ((_lazy(x, 1) - _lazy(y, 0)) ** 2).sum(-1)


def _lazy_scores(x: Tensor, y: Tensor, g: Tensor, cost: Radial, epsilon: float) -> Any:
    scaled = (g / epsilon).to(x.dtype).clamp(min=-NOTHING)
    return _lazy(scaled[:, None], 0) - cost.value(_lazy_squares(x, y)) * (1 / epsilon)


def _lazy_softmin(scores: Any, epsilon: float) -> Tensor:
    values = -scores.logsumexp(1).view(-1)
    return epsilon * torch.where(values < NOTHING / 2, values, math.inf)


def _lazy_gradient(x: Tensor, y: Tensor, g: Tensor, cost: Radial, epsilon: float) -> tuple[Tensor, Tensor]:
    scores = _lazy_scores(x, y, g, cost, epsilon)
    pull = cost.slope(_lazy_squares(x, y)) * (_lazy(x, 1) - _lazy(y, 0))
    return _lazy_softmin(scores, epsilon), scores.sumsoftmaxweight(pull, 1)
