"""The energy distance."""

from __future__ import annotations

import torch
from torch import Tensor

from particles.cloud import Cloud


def energy_distance(a: Cloud, b: Cloud) -> float:
    r"""The energy distance :math:`2E\|x - y\| - E\|x - x'\| - E\|y - y'\|` of the two empirical laws (V-statistic).

    A length, in the units of the points, and 0 for equal clouds alone (Székely & Rizzo, 2013).
    """
    return 2 * _mean_distance(a, b) - _mean_distance(a, a) - _mean_distance(b, b)


def _mean_distance(a: Cloud, b: Cloud, rows: int = 1024) -> float:
    y, weight = b.x.double(), b.mass.double()
    means: list[Tensor] = [
        torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") @ weight for x in a.x.double().split(rows)
    ]
    return float(torch.cat(means) @ a.mass.double())
