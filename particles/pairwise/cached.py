r"""Softmins of costs that are kept, and of weights that are kept.

In Sinkhorn iterations the same costs are asked for again and again, with potentials that move little. With the weights
:math:`K_{ij} = \exp((g^0_j - C_{ij})/\varepsilon - p_i)` of one softmin, :math:`p_i` its largest score in row i, every near one is a product
(Schmitzer, arXiv 1610.06519, calls it absorption)

.. math:: \operatorname{softmin}_j(g)_i = -\varepsilon \{p_i + \log \textstyle\sum_j K_{ij} \exp((g_j - g^0_j)/\varepsilon)\}.

A weight is at least :math:`2^{-115}`, where float32 ends. What that adds is known, so that rows and columns to which it could matter
are done again from the costs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from particles.kernels import LOG2E, Radial
from particles.pairwise.pruning import BITS
from particles.pairwise.tiled import FAINT, PAIRS, Blocks

FAR = 60.0
"""The largest change of a potential from that of the kept weights, in binary scores: beyond, weights are made again."""


def kept_costs(x: Tensor, y: Tensor, cost: Radial) -> Tensor:
    """The costs of all pairs over the cost's factor, with shape (M, N)."""
    blocks = Blocks(x, y)
    costs = x.new_empty(len(x), len(y))
    for rows, columns in blocks:
        squares, spare, _ = blocks.squares(rows, columns)
        costs[rows.at, columns.at] = cost.unit_(squares, spare)
    return costs


def kept_softmin(costs: Tensor, g: Tensor, epsilon: float, factor: float, axis: int) -> Tensor:
    """The softmin along an axis of costs, which stay.

    Arguments:
        costs: With shape (M, N), over ``factor``.
        g: With the length of the axis.
        epsilon: The regularisation.
        factor: The factor of the costs.
        axis: The axis that is summed over.
    """
    return _softmin(costs, g, epsilon, factor, axis)[0]


def _softmin(
    costs: Tensor, g: Tensor, epsilon: float, factor: float, axis: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The softmin, and the largest binary scores; in ``weights``, if given, what is summed up."""
    price = LOG2E / epsilon
    scores = (g.double() * price).to(costs.dtype)
    if axis == 0:
        scores = scores[:, None]
    sums, peaks = [], []
    step = max(1, PAIRS[costs.device.type] // costs.shape[axis])
    for i in range(0, costs.shape[1 - axis], step):
        part = costs.narrow(1 - axis, i, min(step, costs.shape[1 - axis] - i))
        out = part.new_empty(part.shape) if weights is None else weights.narrow(1 - axis, i, part.shape[1 - axis])
        torch.sub(scores, part, alpha=price * factor, out=out)
        peak = out.amax(axis, keepdim=True)
        peaks.append(peak.squeeze(axis))
        peak = peak.clamp(min=torch.finfo(out.dtype).min)  # of nothing but −∞: not their difference
        sums.append(out.sub_(peak).clamp_(min=FAINT).exp2_().sum(axis).double())
    peak = torch.cat(peaks)
    found = torch.cat(sums).log2_().add_(peak).mul_(-1 / price)
    return found.to(costs.dtype), peak


class Weights:
    """The weights of one softmin over columns of kept costs, and the softmins near it.

    Arguments:
        costs: With shape (M, N), over ``factor``.
        g: With shape (N,).
        epsilon: The regularisation.
        factor: The factor of the costs.
    """

    def __init__(self, costs: Tensor, g: Tensor, epsilon: float, factor: float):
        self.costs, self.epsilon, self.factor = costs, epsilon, factor
        self.price = LOG2E / epsilon
        self.g = g
        self.weights = torch.empty_like(costs)
        self.first, self.peak = _softmin(costs, g, epsilon, factor, 1, self.weights)

    def near(self, g: Tensor, epsilon: float) -> bool:
        """Whether the softmin of g can be had from the weights; without columns of no mass."""
        return epsilon == self.epsilon and bool(((g - self.g).abs() * self.price).max() <= FAR)  # false with NaN too

    def rows(self, g: Tensor) -> Tensor:
        """The softmin over the columns, with shape (M,)."""
        if g is self.g:
            return self.first
        ratio = torch.exp2((g.double() - self.g.double()) * self.price).to(self.costs.dtype)
        found = torch.mv(self.weights, ratio)
        return self._mended(found, ratio, self.peak.double(), g, 1)

    def columns(self, f: Tensor) -> Tensor:
        """The softmin over the rows, with shape (N,)."""
        scores = f.double() * self.price + self.peak.double()
        top = float(scores.max())
        if not math.isfinite(top):
            return kept_softmin(self.costs, f, self.epsilon, self.factor, 0)
        ratio = torch.exp2(scores - top).to(self.costs.dtype)
        found = torch.mv(self.weights.t(), ratio)
        return self._mended(found, ratio, top - self.g.double() * self.price, f, 0)

    def _mended(self, found: Tensor, ratio: Tensor, shift: Tensor, g: Tensor, axis: int) -> Tensor:
        """The softmin from sums of weights, done again from the costs where the least weight could matter."""
        value = (found.double().log2() + shift) * (-1 / self.price)
        value = value.to(self.costs.dtype)
        least = 2.0 ** (FAINT + BITS[found.dtype]) * float(ratio.sum(dtype=torch.double))
        lacking = torch.where(~(found >= least))[0]
        if len(lacking):
            some = self.costs.index_select(1 - axis, lacking)
            value[lacking] = kept_softmin(some, g, self.epsilon, self.factor, axis)
        return value
