"""The lowest point of the highest of some planes, with a price for the way to it: what a proximal bundle method asks again and again."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.double).eps
ROUNDING = 64 * EPSILON
"""What the maximum may lack, as a part of the terms of which it is the sum, where no mass counts as less than ``EPSILON``."""
RIDGE = 1e-12
"""The part of its curvature that each plane gets more, so that weights are unique where planes are linear combinations of others."""
ROWS = 4096
"""The problems that are solved at once, which bounds the memory."""


def balanced(slopes: Tensor, levels: Tensor, weights: Tensor, h: float) -> Tensor:
    r"""The weights λ of the planes in :math:`\min_z \max_j \{e_j + g_j \cdot (z - y)\} + \|z - y\|^2 / (2h)`, for each of n points y.

    They maximise :math:`\lambda \cdot e - \frac h2 \|\sum_j \lambda_j g_j\|^2` over the simplex; the minimiser is :math:`y - h \sum_j
    \lambda_j g_j`. The method of active sets, in double precision: Newton's step among the planes that have mass, as far as all masses
    stay positive; where one comes to nothing its plane drops out; and where none does, the plane that is worth most joins (Wolfe,
    Finding the nearest point in a polytope, 1976). What the best plane is worth more than the mean is a bound on what the maximum
    lacks, the gap of duality. It ends when that is rounding, for each point by itself.

    Arguments:
        slopes: The slopes g of the planes, with shape :math:`(n, J, d)`.
        levels: Their values e at y, with shape :math:`(n, J)`.
        weights: The first guess in the simplex, with shape :math:`(n, J)`.
        h: The step size.
    """
    parts = zip(slopes.split(ROWS), levels.split(ROWS), weights.split(ROWS))
    return torch.cat([_balanced(g.double(), e.double(), w.double(), h) for g, e, w in parts]).to(levels.dtype)


def _balanced(slopes: Tensor, levels: Tensor, weights: Tensor, h: float) -> Tensor:
    weights, planes = weights.clone(), levels.shape[1]
    gram = h * slopes @ slopes.transpose(1, 2)
    levels = levels - levels.amax(1, keepdim=True)
    todo = torch.arange(len(levels), device=levels.device)
    gap, whole = levels.new_full((len(levels),), torch.inf), torch.zeros_like(todo, dtype=torch.bool)
    for _ in range(10 * planes):  # never reached
        curvature, mass = gram[todo], weights[todo]
        worth = levels[todo] - (curvature @ mass[:, :, None])[:, :, 0]
        # Masses of a sum of 1: one that is less than its rounding would only be halved again and again.
        terms = levels[todo].abs() + (curvature.abs() @ mass.clamp(min=EPSILON)[:, :, None])[:, :, 0]
        best = worth.argmax(1, keepdim=True)
        more = (worth.take_along_dim(best, 1) - (mass * worth).sum(1, keepdim=True))[:, 0]
        rounding = ROUNDING * (terms.take_along_dim(best, 1)[:, 0] + (mass * terms).sum(1))
        # Where a whole step has just balanced all planes that matter, and what lacks is hardly less, no other step will do better.
        stuck = whole[todo] & (mass.take_along_dim(best, 1)[:, 0] > 0) & (more > gap[todo] / 2)
        gap[todo] = more
        lacking = (more > rounding) & ~stuck
        if not bool(lacking.any()):
            break
        todo, curvature, mass, worth, best = (part[lacking] for part in (todo, curvature, mass, worth, best))
        support = mass > 0
        support = support.scatter(1, best, whole[todo, None] | support.take_along_dim(best, 1))
        step = _newton(curvature, worth, mass, support)
        reach = torch.where(step < 0, -mass / step, torch.inf)
        part = reach.amin(1, keepdim=True).clamp(max=1)
        mass = torch.where(reach <= part, 0, mass + part * step).clamp(min=0)
        weights[todo] = mass / mass.sum(1, keepdim=True)
        whole[todo] = part[:, 0] == 1
    return weights


def _newton(curvature: Tensor, worth: Tensor, mass: Tensor, support: Tensor) -> Tensor:
    """The change of the masses on the support that would make all planes there worth the same.

    The heaviest plane pays for what the others get: differences from it keep all digits, whatever the planes have in common.
    """
    heaviest = mass.argmax(1, keepdim=True)
    row = curvature.take_along_dim(heaviest[:, :, None], 1)
    relative = curvature - row - row.transpose(1, 2) + row.take_along_dim(heaviest[:, :, None], 2)
    others = support.scatter(1, heaviest, False)
    relative = torch.where(others[:, :, None] & others[:, None], relative, 0)
    gain = torch.where(others, worth - worth.take_along_dim(heaviest, 1), 0)
    size = (
        curvature.diagonal(dim1=1, dim2=2) + row.take_along_dim(heaviest[:, :, None], 2)[:, 0]
    )  # of what is subtracted
    ridge = RIDGE * (relative.diagonal(dim1=1, dim2=2) + gain.abs()) + ROUNDING * size
    ridge = torch.where(others, ridge.clamp(min=torch.finfo(torch.double).tiny), 1)
    factor = torch.linalg.cholesky_ex(relative + torch.diag_embed(ridge)).L
    step = torch.cholesky_solve(gain[:, :, None], factor)[:, :, 0]
    return step.scatter(1, heaviest, -step.sum(1, keepdim=True))
