"""The empirical measure: points, and the expectation over them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from particles.keys import Key

NUMBERS = 1 << 20
"""The most coordinates that are worked on at once where the result is small or there already: clouds may be as large as memory allows."""


@dataclass(frozen=True, eq=False)
class Cloud:
    r"""A set of points as a probability measure :math:`\sum_i w_i \delta_{x_i}`.

    Expectations are methods of the cloud, so that no divergence and no network has to know about weights.

    Arguments:
        x: The points, with shape :math:`(n, d)`.
        label: The class of each point, integers with shape :math:`(n,)`, or ``None``.
        weight: The mass of each point that is not carried, positive, summing to one, or ``None`` for equal masses.
        carried: How many of the last rows only ride along: they are moved with the others, but
            ``active`` leaves them out, so they influence nothing.

    Raises:
        ValueError: If a shape does not fit, or the cloud is empty.
    """

    x: Tensor
    label: Tensor | None = None
    weight: Tensor | None = None
    carried: int = 0

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or not self.x.is_floating_point():
            raise ValueError(
                f"a cloud needs floating-point points of shape (n, d), not {self.x.dtype} {tuple(self.x.shape)}"
            )
        if not 0 <= self.carried < len(self.x):
            raise ValueError(
                f"a cloud of {len(self.x)} points, {self.carried} of them carried, has no point of its own"
            )
        own = len(self.x) - self.carried
        for name, value, count in (("label", self.label, len(self.x)), ("weight", self.weight, own)):
            if value is not None and value.shape != (count,):
                raise ValueError(f"{name} needs shape ({count},), one entry per point, not {tuple(value.shape)}")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def dimension(self) -> int:
        return self.x.shape[1]

    @property
    def mass(self) -> Tensor:
        """The mass of each point, with shape :math:`(n,)`."""
        return self.x.new_full((len(self),), 1 / len(self)) if self.weight is None else self.weight

    def at(self, x: Tensor) -> Cloud:
        """The same points, moved to ``x``."""
        return replace(self, x=x)

    def take(self, index: Tensor | slice) -> Cloud:
        """The chosen points; their weights are brought back to sum one, and none of them is carried."""
        label = None if self.label is None else self.label[index]
        weight = None if self.weight is None else self.weight[index] / self.weight[index].sum()
        return Cloud(self.x[index], label, weight)

    @property
    def active(self) -> Cloud:
        """The points that count: without the carried ones."""
        own = len(self) - self.carried
        label = None if self.label is None else self.label[:own]
        return Cloud(self.x[:own], label, self.weight) if self.carried else self

    @property
    def riders(self) -> Cloud | None:
        """The carried points alone, or ``None``."""
        own = len(self) - self.carried
        return Cloud(self.x[own:], None if self.label is None else self.label[own:]) if self.carried else None

    def join(self, riders: Cloud) -> Cloud:
        """This cloud with another one carried along behind it."""
        if self.carried or riders.carried or riders.weight is not None:
            raise ValueError("only riders without weights can be joined, and only to a cloud that carries none yet")
        if (self.label is None) != (riders.label is None):
            raise ValueError("carried points need labels exactly if the particles have them")
        label = None if self.label is None or riders.label is None else torch.cat((self.label, riders.label))
        return Cloud(torch.cat((self.x, riders.x)), label, self.weight, len(riders))

    def draw(self, size: int | None, key: Key) -> Cloud:
        """A minibatch of ``size`` different points (with weights: independent draws by weight), or the cloud itself if it is no larger."""
        if size is None or size >= len(self):
            return self
        if self.weight is None:
            return self.take(key.choice(len(self), size, self.x.device))
        generator = key.generator(self.x.device)
        index = torch.multinomial(self.weight, size, replacement=True, generator=generator)
        return replace(self.take(index), weight=None)  # the draw has already spent the weights

    def state_dict(self) -> dict[str, Tensor | int | None]:
        """The cloud in plain values: its fields by their names, for ``Cloud(**...)``."""
        return {"x": self.x, "label": self.label, "weight": self.weight, "carried": self.carried}

    def mean(self, values: Tensor) -> Tensor:
        r"""The expectation of ``values``, with shape :math:`(..., n)`, over the last axis."""
        return values.mean(-1) if self.weight is None else (values * self.weight).sum(-1)

    def logmeanexp(self, values: Tensor) -> Tensor:
        r"""The logarithm of the expectation of ``exp(values)``, with shape :math:`(..., n)`, without overflow."""
        if self.weight is None:
            return torch.logsumexp(values, -1) - math.log(values.shape[-1])
        return torch.logsumexp(values + self.weight.log(), -1)


def at_once(x: Tensor) -> int:
    """The most rows of ``x`` that are worked on at once; a multiple of 16, by which torch draws normal numbers."""
    return max(16, NUMBERS // max(x.shape[1], 1) // 16 * 16)


def squares(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The squared length of each row of ``x``, or of ``x - y``, with shape (n,); no memory as large as ``x`` is asked for."""
    parts = x.split(at_once(x)) if y is None else (a - b for a, b in zip(x.split(at_once(x)), y.split(at_once(x))))
    return torch.cat([part.square().sum(1) for part in parts])


def mean_square(p: Cloud, q: Cloud) -> Tensor:
    """The mean squared distance of a point of one cloud to a point of the other, in double precision."""
    x, y = p.x.double(), q.x.double()
    centre_p, centre_q = p.mass.double() @ x, q.mass.double() @ y
    spread = p.mean((x - centre_p).square().sum(1)) + q.mean((y - centre_q).square().sum(1))
    return spread + (centre_p - centre_q).square().sum()
