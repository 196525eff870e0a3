"""Activations of slope at most 1, each with the product of a gradient and its derivative.

An activation answers its value and whatever ``pull`` needs to bring a gradient back through it. ``value`` may
overwrite its argument where autograd is off, and ``pull`` may overwrite the gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional


class Activation(ABC):
    """An elementwise (or pairwise) function of slope at most 1."""

    even = False  # whether it needs an even number of features

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """The value, differentiable by autograd any number of times."""

    @abstractmethod
    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The value, in the memory of ``z`` where possible, and what ``pull`` needs."""

    @abstractmethod
    def pull(self, gradient: Tensor, kept: Tensor) -> Tensor:
        """The gradient in z, in the memory of the gradient in the value where possible."""


class LeakyReLU(Activation):
    """max(z, slope · z); slope 0 is the ReLU."""

    def __init__(self, slope: float):
        self.slope = slope

    def __call__(self, z: Tensor) -> Tensor:
        return functional.leaky_relu(z, self.slope) if self.slope else torch.relu(z)

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value = functional.leaky_relu_(z, self.slope) if self.slope else torch.relu_(z)
        return value, value

    def pull(self, gradient: Tensor, kept: Tensor) -> Tensor:
        if self.slope:
            return torch.where(kept > 0, gradient, gradient * self.slope)
        back: Tensor = torch.ops.aten.threshold_backward.grad_input(gradient, kept, 0, grad_input=gradient)
        return back


class Softplus(Activation):
    """log(1 + e^z): smooth, of slope 1 − e^(−value)."""

    def __call__(self, z: Tensor) -> Tensor:
        return functional.softplus(z)

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value = functional.softplus(z)
        return value, value

    def pull(self, gradient: Tensor, kept: Tensor) -> Tensor:
        return gradient.mul_(kept.neg().expm1_().neg_())


class GroupSort(Activation):
    """Sorts pairs of features; it keeps the norm of gradients (Anil et al., arXiv 1811.05381).

    A feature's partner is half the width away: the halves are contiguous, which is several times faster than neighbours are.
    """

    even = True

    def __call__(self, z: Tensor) -> Tensor:
        a, b = z.chunk(2, -1)
        return torch.cat((torch.minimum(a, b), torch.maximum(a, b)), -1)

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        a, b = z.chunk(2, -1)
        return self(z), a > b

    def pull(self, gradient: Tensor, kept: Tensor) -> Tensor:
        a, b = gradient.chunk(2, -1)
        return torch.cat((torch.where(kept, b, a), torch.where(kept, a, b)), -1)


ACTIVATIONS: dict[str, Activation] = {
    "relu": LeakyReLU(0.0),
    "leaky-relu": LeakyReLU(0.2),
    "softplus": Softplus(),
    "groupsort": GroupSort(),
}
