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
    """Sorts neighbouring pairs of features; it keeps the norm of gradients (Anil et al., arXiv 1811.05381)."""

    even = True

    def __call__(self, z: Tensor) -> Tensor:
        pairs = z.unflatten(-1, (-1, 2))
        return torch.stack((pairs.amin(-1), pairs.amax(-1)), -1).flatten(-2)

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        pairs = z.unflatten(-1, (-1, 2))
        return self(z), pairs[..., :1] > pairs[..., 1:]

    def pull(self, gradient: Tensor, kept: Tensor) -> Tensor:
        pairs = gradient.unflatten(-1, (-1, 2))
        return torch.where(kept, pairs.flip(-1), pairs).flatten(-2)


ACTIVATIONS: dict[str, Activation] = {
    "relu": LeakyReLU(0.0),
    "leaky-relu": LeakyReLU(0.2),
    "softplus": Softplus(),
    "groupsort": GroupSort(),
}
