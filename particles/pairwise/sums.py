r"""Reductions over all pairs of two sets of points, in memory that does not grow with their product.

Points x have shape :math:`(M, d)`, y have shape :math:`(N, d)`; results are per row of x. There are two backends behind
each function.

* ``tiled``: torch, a block of pairs at a time, in place. Differences are taken before they are squared up to 3
  dimensions; beyond, squares are expanded about the mean of y, and near pairs, where that cancels, are done again.
* ``keops``: KeOps' LazyTensors, compiled by g++ or nvcc at first use, per formula and dimension.

``auto`` is ``keops`` on a GPU from 10⁸ pairs and up to 100 dimensions, and ``tiled`` elsewhere, unless ``particles info --benchmark`` has measured
another rule on this machine, see :mod:`particles.pairwise.backend`. CPU seconds for 10⁴ against 10⁴ points in float32 on one thread of a busy machine, and what peers
took over them in the same turns, medians of three (``tests/benchmarks/pairwise.py``; KeOps without its 10 to 50 s of compiling):

====  =============  =====  =====  ============  ==============
d     of distances   tiled  keops  cdist, whole  cdist, chunked
====  =============  =====  =====  ============  ==============
2     softmin        0.31   3.9    4.7           2.2
2     with gradient  0.42   5.6    6.4           3.0
10    softmin        0.24   6.1    15.5          2.7
10    with gradient  0.38   12.9   6.5           2.9
50    softmin        0.43   10.3   3.0           1.7
50    with gradient  0.62   23.4   4.2           1.8
====  =============  =====  =====  ============  ==============

The rule on a GPU is KeOps' own advice, not a measurement of ours.

**Accuracy** of tiles in float32, against float64 (``tests/test_pairwise_accuracy.py`` has the data that are hard on it). With u = 2⁻²⁴, the
softmin's own weights w and :math:`S_i = \sum_j w_{ij} (|g_j| + C_{ij})`, what its scores are made of, a value is off by at most
:math:`u (a S_i + 32 \varepsilon)`, with a = 8 up to 3 dimensions and a = 200 beyond; a gradient by :math:`2 u (a S_i / \varepsilon + 182)` times L, or
times the points' distances to the mean of y for a squared cost. Sums of blocks are added in double precision: no term grows with N.

**Truncation.** Up to 3 dimensions, columns that together have less than 2⁻²⁴ (float64: 2⁻⁵³) of the weight of each row of a block are left out,
see :mod:`particles.pairwise.pruning`: at most u ε more in a value and 2 u L in a gradient, in that bound already.

Everything can be differentiated (once, or as often as autograd can) in all tensor arguments. The tiled backend then runs
its formulas out of place and recomputes each block on the way back, so memory stays bounded there too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from particles.kernels import Radial
from particles.pairwise.cached import Weights, kept_costs, kept_softmin
from particles.pairwise.keops import attempt, is_chosen, lazy, lazy_gradient, lazy_scores, lazy_softmin, lazy_squares
from particles.pairwise.pruning import Cells
from particles.pairwise.tiled import Blocks, by_rows, cells, pull, squared_distances, stream, weighted_differences

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
    return stream(x, y, g, cost, epsilon, order=cells(x, y, cost, epsilon))[0]


class Pairs:
    """Two sets of points whose softmins are asked for again and again.

    Below 2²² pairs their costs are kept, and the weights of the last softmin that was far from the one before it:
    near that, a softmin is a product of a matrix and a vector. A weight that was too small to be kept there counts as
    e⁻⁸⁰ of the largest; where all such could matter (by 2⁻²⁴ of the result, 2⁻⁵³ in float64), it is done from the costs.

    Arguments:
        x: The points of the rows, with shape (M, d).
        y: The points of the columns, with shape (N, d).
        cost: The ground cost.
        backend: ``auto``, ``tiled`` or ``keops``.
    """

    def __init__(self, x: Tensor, y: Tensor, cost: Radial, backend: str = "auto"):
        self.x, self.y, self.cost, self.backend = x.detach(), y.detach(), cost, backend
        self.costs: Tensor | None = None
        self.weights: Weights | None = None
        self.orders: dict[tuple[bool, float], Cells | None] = {}
        if len(x) * len(y) <= KEPT and not is_chosen(backend, self.x, self.y):
            self.costs = kept_costs(self.x, self.y, cost)

    def rows(self, g: Tensor, epsilon: float) -> Tensor:
        """The softmin over the columns, :func:`softmin` of x and y, with shape (M,)."""
        if self.costs is None:
            return self._streamed(g, epsilon, False)
        g = g.detach()
        if self.weights is None or not self.weights.near(g, epsilon):
            self.weights = None  # two of them are never needed
            self.weights = Weights(self.costs, g, epsilon, self.cost.value_factor)
        return self.weights.rows(g)

    def columns(self, f: Tensor, epsilon: float) -> Tensor:
        """The softmin over the rows, with shape (N,)."""
        if self.costs is None:
            return self._streamed(f, epsilon, True)
        f = f.detach()
        if self.weights is None or self.weights.epsilon != epsilon:
            return kept_softmin(self.costs, f, epsilon, self.cost.value_factor, 0)
        return self.weights.columns(f)

    def gradient(self, g: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """The softmin over the columns and its gradient, :func:`softmin_gradient` of x and y."""
        order = self._cells(epsilon, False)
        if order is None:
            return softmin_gradient(self.x, self.y, g, self.cost, epsilon, backend=self.backend)
        values, gradient, _ = stream(self.x, self.y, g, self.cost, epsilon, gradient=True, order=order)
        assert gradient is not None
        return values, gradient

    def _streamed(self, g: Tensor, epsilon: float, turned: bool) -> Tensor:
        x, y = (self.y, self.x) if turned else (self.x, self.y)
        order = self._cells(epsilon, turned)
        if order is None:
            return softmin(x, y, g, self.cost, epsilon, backend=self.backend)
        return stream(x, y, g, self.cost, epsilon, order=order)[0]

    def _cells(self, epsilon: float, turned: bool) -> Cells | None:
        """The cells of the rows, or of the columns, made once."""
        if is_chosen(self.backend, self.x, self.y):
            return None
        if (turned, epsilon) not in self.orders:
            x, y = (self.y, self.x) if turned else (self.x, self.y)
            self.orders[turned, epsilon] = cells(x, y, self.cost, epsilon)
        return self.orders[turned, epsilon]


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
    values, gradient, _ = stream(x, y, g, cost, epsilon, gradient=True, order=cells(x, y, cost, epsilon))
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
    means = stream(x, y, g, cost, epsilon, v=v, order=cells(x, y, cost, epsilon))[2]
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
    total = x.new_zeros(len(x), dtype=torch.double)
    for rows, columns in blocks:
        squares, spare, _ = blocks.squares(rows, columns)
        total[rows.at] += kernel.unit_(squares, spare) @ b[columns.at]
    return (total * kernel.value_factor).to(x.dtype)


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
    total = torch.zeros_like(x, dtype=torch.double)
    for rows, columns in blocks:
        squares, spare, near = blocks.squares(rows, columns)
        slope = kernel.unit_slope_(squares, squares)
        if isinstance(slope, float):
            slope = squares.fill_(slope)
        total[rows.at] += pull(slope.mul_(b[columns.at]), spare, rows, columns, near)
    return (total * kernel.slope_factor).to(x.dtype)


def _differentiated(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _check(x: Tensor, y: Tensor, g: Tensor, epsilon: float = 1.0) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ValueError(f"points need shapes (M, d) and (N, d), not {tuple(x.shape)} and {tuple(y.shape)}")
    if g.shape != (len(y),):
        raise ValueError(f"one number per summed point is needed, shape ({len(y)},), not {tuple(g.shape)}")
    check_epsilon(epsilon, x.dtype)


def check_epsilon(epsilon: float, dtype: torch.dtype) -> None:
    """Raises ValueError unless ε and one over it are positive numbers of that type; for tiny targets they may be none."""
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be positive and finite, not {epsilon}")
    if not epsilon * torch.finfo(dtype).max > 1:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(f"epsilon {epsilon:.3g} is too small for {name}; scale the target, or give a larger epsilon")
