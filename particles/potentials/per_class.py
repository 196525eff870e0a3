"""One potential per class, for potentials that know nothing of labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.keys import Key
from particles.potentials.base import Info, Potential


class PerClass(Potential):
    r"""A potential for every class, fitted to the particles and the target points of that class alone.

    It is the potential of a space in which classes are infinitely far apart. What is measured is the mean over classes,
    weighted by their shares of the target: for a divergence it is that of the labelled clouds, if their class shares agree.

    Arguments:
        make: Makes a potential; it is called once per class.
        classes: The number of classes; labels are 0, 1, ..., and in those without target points
            or without particles there is no force.
    """

    def __init__(self, make: Callable[[], Potential], classes: int):
        self.potentials = [make() for _ in range(classes)]
        self.present: list[int] = []

    def fit(self, p: Cloud, q: Cloud, key: Key) -> Info:
        p, q = p.gathered(), q.gathered()
        assert p.label is not None
        assert q.label is not None
        mean: dict[str, Any] = {}
        self.present = sorted(set(p.label.tolist()) & set(q.label.tolist()))
        total = sum(q.mass[self._members(q, c)].sum() for c in self.present)
        for c, potential in enumerate(self.potentials):
            if c in self.present:
                in_q = self._members(q, c)
                info = potential.fit(p.take(self._members(p, c)), q.take(in_q), key.fold("class", c))
                share = q.mass[in_q].sum() / total
                mean = {name: mean.get(name, 0.0) + share * value for name, value in info.items()}
        return mean

    def phi(self, cloud: Cloud) -> Tensor:
        return self._gathered(cloud, cloud.x.new_zeros(len(cloud)), lambda potential, part: potential.phi(part))

    def grad(self, cloud: Cloud) -> Tensor:
        return self._gathered(cloud, torch.zeros_like(cloud.x), lambda potential, part: potential.grad(part))

    def _gathered(self, cloud: Cloud, values: Tensor, read: Callable[[Potential, Cloud], Tensor]) -> Tensor:
        for c, potential in enumerate(self.potentials):
            members = self._members(cloud, c)
            if len(members) and c in self.present:
                values[members] = read(potential, cloud.places(members))
        return values

    def _members(self, cloud: Cloud, c: int) -> Tensor:
        assert cloud.label is not None
        return torch.where(cloud.label == c)[0]

    def state_dict(self) -> dict[str, Any]:
        return {"classes": [potential.state_dict() for potential in self.potentials], "present": self.present}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for potential, its in zip(self.potentials, state["classes"], strict=True):
            potential.load_state_dict(its)
        self.present = state["present"]

    def record(self) -> dict[str, Any]:
        return {"classes": {c: self.potentials[c].record() for c in self.present}}

    def recall(self, record: dict[str, Any], q: Cloud) -> None:
        self.present = list(record["classes"])
        for c, its in record["classes"].items():
            self.potentials[c].recall(its, q.take(self._members(q, c)))
