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

import math

import torch
from torch import Tensor

from particles.kernels import Radial
from particles.lazy import attempt, is_chosen, lazy, lazy_gradient, lazy_scores, lazy_softmin, lazy_squares
from particles.tiles import Blocks, by_rows, logsumexp_, squared_distances, stream, weighted_differences

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
    if is_chosen(backend, x, y):
        found = attempt(lambda: lazy_softmin(lazy_scores(x, y, g, cost, epsilon), epsilon))
        if found is not None:
            return found
    if _differentiated(x, y, g):
        rows = by_rows(x, y, lambda part: torch.logsumexp((g - cost.value(squared_distances(part, y))) / epsilon, 1))
        return -epsilon * rows
    return stream(x, y, g, cost, epsilon)[0]


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
            blocks = Blocks(self.x, self.y)
            self.costs = x.new_empty(len(x), len(y))
            for rows, columns in blocks:
                self.costs[rows, columns] = cost.value_(blocks.squares(rows, columns)[0])

    def rows(self, g: Tensor, epsilon: float) -> Tensor:
        """The softmin over the columns, :func:`softmin` of x and y, with shape :math:`(M,)`."""
        if self.costs is None:
            return softmin(self.x, self.y, g, self.cost, epsilon, backend=self.backend)
        return -epsilon * logsumexp_(torch.sub(g / epsilon, self.costs, alpha=1 / epsilon), 1)

    def columns(self, f: Tensor, epsilon: float) -> Tensor:
        """The softmin over the rows, with shape :math:`(N,)`."""
        if self.costs is None:
            return softmin(self.y, self.x, f, self.cost, epsilon, backend=self.backend)
        return -epsilon * logsumexp_(torch.sub((f / epsilon)[:, None], self.costs, alpha=1 / epsilon), 0)


def softmin_gradient(
    x: Tensor, y: Tensor, g: Tensor, cost: Radial, epsilon: float, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    r"""The softmin, and its gradient in x, :math:`\sum_j w_{ij} \nabla_x C(x_i, y_j)` with softmax weights w, shape :math:`(M, d)`.

    For :math:`C = L \|x - y\|` it is a mean of vectors of length L. For :math:`C = \frac12 \|x - y\|^2` it is
    :math:`x_i - \sum_j w_{ij} y_j`: the points minus the weighted means of points.

    Arguments and errors are those of :func:`softmin`.
    """
    _check(x, y, g, epsilon)
    if is_chosen(backend, x, y):
        found = attempt(lambda: lazy_gradient(x, y, g, cost, epsilon))
        if found is not None:
            return found
    if _differentiated(x, y, g):

        def both(part: Tensor) -> Tensor:
            scores = (g - cost.value(squared_distances(part, y))) / epsilon
            weight = torch.softmax(scores, 1) * cost.slope(squared_distances(part, y))
            values = -epsilon * torch.logsumexp(scores, 1)
            return torch.cat((values[:, None], weighted_differences(weight, part, y)), 1)

        joined = by_rows(x, y, both)
        return joined[:, 0], joined[:, 1:]
    values, gradient, _ = stream(x, y, g, cost, epsilon, gradient=True)
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
    if is_chosen(backend, x, y):
        found: Tensor | None = attempt(lambda: lazy_scores(x, y, g, cost, epsilon).sumsoftmaxweight(lazy(v, 0), 1))
        if found is not None:
            return found
    if _differentiated(x, y, g, v):
        return by_rows(x, y, lambda part: torch.softmax((g - cost.value(squared_distances(part, y))) / epsilon, 1) @ v)
    means = stream(x, y, g, cost, epsilon, v=v)[2]
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
    if is_chosen(backend, x, y):
        found: Tensor | None = attempt(lambda: (kernel.value(lazy_squares(x, y)) * lazy(b[:, None], 0)).sum(1).view(-1))
        if found is not None:
            return found
    if _differentiated(x, y, b):
        return by_rows(x, y, lambda part: kernel.value(squared_distances(part, y)) @ b)
    blocks = Blocks(x, y)
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
    if is_chosen(backend, x, y):

        def lazily() -> Tensor:
            slope = kernel.slope(lazy_squares(x, y)) * lazy(b[:, None], 0)
            return (slope * (lazy(x, 1) - lazy(y, 0))).sum(1)  # type: ignore[no-any-return]

        found = attempt(lazily)
        if found is not None:
            return found
    if _differentiated(x, y, b):
        return by_rows(x, y, lambda part: weighted_differences(kernel.slope(squared_distances(part, y)) * b, part, y))
    blocks = Blocks(x, y)
    total = torch.zeros_like(x)
    for rows, columns in blocks:
        squares, near = blocks.squares(rows, columns)
        total[rows] += blocks.pull(kernel.slope(squares).mul_(b[columns]), rows, columns, near)
    return total


def _differentiated(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _check(x: Tensor, y: Tensor, g: Tensor, epsilon: float = 1.0) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ValueError(f"points need shapes (M, d) and (N, d), not {tuple(x.shape)} and {tuple(y.shape)}")
    if g.shape != (len(y),):
        raise ValueError(f"one number per summed point is needed, shape ({len(y)},), not {tuple(g.shape)}")
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be positive and finite, not {epsilon}")
