"""What every potential can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.keys import ROOT, Key

Info = dict[str, Tensor | float]
"""Scalars for the reader of a run. Tensors stay on their device until a step is logged."""


class NotFitted(RuntimeError):
    """A potential was asked for its values before it was fitted to anything."""


class Potential(ABC):
    """A function φ fitted to two clouds; particles move along −∇φ."""

    @abstractmethod
    def fit(self, p: Cloud, q: Cloud, key: Key) -> Info:
        """Fits φ to the particles ``p`` and the target ``q``, from wherever it was; answers at least ``divergence``."""

    @abstractmethod
    def phi(self, cloud: Cloud) -> Tensor:
        """The values of φ at the points of a cloud, with shape :math:`(n,)`."""

    @abstractmethod
    def grad(self, cloud: Cloud) -> Tensor:
        """The gradient of φ at the points of a cloud, with shape :math:`(n, d)`."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that φ and the next ``fit`` depend on: tensors, numbers and containers of them."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` gave."""

    def record(self) -> dict[str, Any]:
        """What φ and its gradient depend on, for ``recall``: less than ``state_dict``, and without the target.

        Tensors are those in use, which a later ``fit`` may change in place.
        """
        return self.state_dict()

    def recall(self, record: dict[str, Any], q: Cloud) -> None:
        """Takes back what ``record`` gave after a fit to the target ``q``, for ``phi`` and ``grad`` alone."""
        self.load_state_dict(record)


def restored(state: list[dict[str, Any]] | None) -> tuple[Cloud, Cloud] | None:
    """The two clouds that a potential was fitted to, from their ``state_dict``."""
    if state is None:
        return None
    p, q = (Cloud(**cloud) for cloud in state)
    return p, q


def unlabelled(fitted: tuple[Cloud, Cloud] | None) -> dict[str, Any] | None:
    """The particles that a potential was fitted to, for its ``record``."""
    return None if fitted is None else {"x": fitted[0].x, "weight": fitted[0].weight}


def recalled(particles: dict[str, Any] | None, q: Cloud) -> tuple[Cloud, Cloud] | None:
    """The two clouds that a potential was fitted to, from its ``record``."""
    return None if particles is None else (Cloud(**particles), q)


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
