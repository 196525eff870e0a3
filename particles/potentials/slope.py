"""How steep a potential really is."""

from __future__ import annotations

import torch

from particles.cloud import Cloud
from particles.keys import ROOT, Key
from particles.potentials.base import Potential


def realised_lipschitz(potential: Potential, p: Cloud, q: Cloud, key: Key = ROOT) -> float:
    r"""The largest :math:`\|\nabla\varphi\|` at the points of both clouds, and as many between them: a lower bound of φ's Lipschitz constant.

    Arguments:
        potential: A potential that has been fitted.
        p: One cloud.
        q: The other.
        key: Draws pairs of points (of one class, where there are classes in both), and a place between them.
    """
    size = min(len(p), len(q))
    a, b = p.draw(size, key.fold("p")), q.draw(size, key.fold("q"))
    part = torch.rand(size, 1, generator=key.fold("part").generator(), dtype=torch.double).to(a.x)
    between = Cloud(torch.lerp(a.x, b.x, part), a.label)
    return max(float(potential.grad(cloud).square().sum(1).max().sqrt()) for cloud in (p, q, between))
