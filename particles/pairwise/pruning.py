r"""Cells of neighbouring points, and which other points can matter to a sum of weights that fall with the distance.

In low dimension most pairs of a softmin with a small ε weigh nothing. Rows in the order of a k-d tree make blocks whose bounding boxes
bound the scores of every column from above. Columns are left out where that bound says that all of them together weigh below
:math:`2^{-24}` (in float64 :math:`2^{-53}`, the rounding of a number) of what each row of the block has found already. It holds
for all data: where nothing can be left out, nothing is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from particles.kernels import Radial

BITS = {torch.float32: 24, torch.float64: 53}
"""Minus the binary logarithm of the share of a row's weight that may be left out."""
FIRST = 32
"""The number of columns, those of the highest bounds in as many parts, by which a block learns what its rows find at least."""

MOST = 0.8
"""The share of the columns from which all are taken, as they are."""


class Cells:
    """Points in the order of a k-d tree whose leaves have ``size`` points, the last one maybe fewer.

    Arguments:
        points: With shape (N, d), finite.
        size: The number of points in a cell.
    """

    def __init__(self, points: Tensor, size: int):
        places = points.detach().t().contiguous().numpy()
        leaves = list(_split(np.arange(len(points)), places, size))
        self.order = torch.as_tensor(np.concatenate(leaves))
        self.lower = torch.as_tensor(np.stack([places[:, leaf].min(1) for leaf in leaves]))
        self.upper = torch.as_tensor(np.stack([places[:, leaf].max(1) for leaf in leaves]))


def _split(leaf: np.ndarray, places: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The numbers of the points of each leaf, halved across their longest side, in multiples of ``size``."""
    if len(leaf) <= size:
        yield leaf
        return
    here = places[:, leaf]
    axis = int((here.max(1) - here.min(1)).argmax())
    half = size * math.ceil(len(leaf) / size / 2)
    order = np.argpartition(here[axis], half - 1)
    yield from _split(leaf[order[:half]], places, size)
    yield from _split(leaf[order[half:]], places, size)


class Reach:
    """The columns that matter to a cell of rows, by a bound on their scores from the cell's box.

    Arguments:
        rows: The cells of the rows.
        coordinates: Those of the columns, with shape (d, N).
        scores: What the columns have at no cost, in binary logarithms, with shape (N,).
        cost: The cost, a function that does not fall.
        price: Its factor in the scores.
    """

    def __init__(self, rows: Cells, coordinates: Tensor, scores: Tensor, cost: Radial, price: float):
        self.rows, self.coordinates, self.scores, self.cost = rows, coordinates, scores, cost
        self.factor = price * cost.value_factor
        self.bits = BITS[scores.dtype] + math.log2(len(scores))
        self.rounding = 16 * torch.finfo(scores.dtype).eps
        self.largest = float(scores[scores > -math.inf].abs().max()) if bool((scores > -math.inf).any()) else 0.0
        self.scratch = [torch.empty_like(scores) for _ in range(3)]

    def __call__(self, cell: int, found: Callable[[Tensor], Tensor]) -> Tensor | None:
        """The numbers of the columns that matter; ``None`` for all.

        Arguments:
            cell: The cell of rows.
            found: From the numbers of some columns to the binary logarithms of what the rows find there.
        """
        best = self._bounds(cell)
        high = float(best.max())
        # Whatever is found is at most N times the highest bound, so that no more than these can be left out.
        if high == -math.inf or int((best > high - BITS[best.dtype]).count_nonzero()) >= MOST * len(best):
            return None
        first = min(FIRST, len(best))
        parts = best[: len(best) // first * first].view(first, -1)
        least = float(found(parts.argmax(1) + torch.arange(first) * parts.shape[1]).min())
        least -= self.bits + self.rounding * (abs(least) + self.largest)
        some = best > least
        return torch.where(some)[0] if int(some.count_nonzero()) < MOST * len(best) else None

    def _bounds(self, cell: int) -> Tensor:
        """The scores that columns have at the nearest place of the box."""
        total, difference, spare = self.scratch
        for k, (yk, low, high) in enumerate(zip(self.coordinates, self.rows.lower[cell], self.rows.upper[cell])):
            torch.clamp(yk, low, high, out=difference).sub_(yk)
            if k:
                total.addcmul_(difference, difference)
            else:
                torch.square(difference, out=total)
        return torch.sub(self.scores, self.cost.unit_(total, spare), alpha=self.factor, out=difference)
