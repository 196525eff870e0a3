r"""Functions of a distance: ground costs of transport, and kernels.

Each is a formula in the squared distance :math:`s = \|x - y\|^2`, with a value :math:`k(s)` and a slope, the number
by which :math:`x - y` is multiplied in the gradient: :math:`\nabla_x k = \mathrm{slope}(s) \, (x - y)`. The formulas are
written for anything that has ``sqrt``, ``rsqrt``, ``exp``, ``log`` and ``clamp``: tensors, and KeOps' symbolic matrices.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

LOG2E = 1 / math.log(2)
TINY = 1e-36
"""A squared distance that is as good as none; it keeps the slope of a distance finite, so that slope · 0 is 0."""


class Radial(ABC):
    """A function of the squared distance. Squared distances come as tensors of any shape, or as KeOps' LazyTensors."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            least = 0 if field.name == "radius" else math.ulp(0)
            if not least <= value < math.inf:
                raise ValueError(
                    f"{field.name} must be {'positive' if least else 'at least 0'} and finite, not {value}"
                )

    @abstractmethod
    def value(self, s: Any) -> Any:
        """The value at squared distance ``s``."""

    @abstractmethod
    def slope(self, s: Any) -> Any:
        """Twice the derivative in ``s``."""

    # For blocks of pairs, where a pass over the memory costs as much as a formula: in place, and without constant factors.

    @property
    def value_factor(self) -> float:
        """The factor of the value that :meth:`unit_` leaves out."""
        return 1.0

    @property
    def slope_factor(self) -> float:
        """The factor of the slope that :meth:`unit_slope_` leaves out."""
        return 1.0

    def unit_(self, s: Tensor, spare: Tensor) -> Tensor:
        """The value over ``value_factor``, in the memory of ``s`` if that can be; ``spare`` has the shape of ``s`` and is overwritten."""
        return self.value(s)  # type: ignore[no-any-return]

    def unit_slope_(self, s: Tensor, out: Tensor) -> Tensor | float:
        """The slope over ``slope_factor``, in the memory of ``out``, which may be ``s``; a number where it is constant."""
        return self.slope(s)  # type: ignore[no-any-return]

    def units_(self, s: Tensor, out: Tensor) -> tuple[Tensor, Tensor | float]:
        """Both, the first in the memory of ``s`` and the second in that of ``out``, if that can be."""
        slope = self.unit_slope_(s, out)
        return self.unit_(s, torch.empty_like(s) if slope is out else out), slope


# Ground costs


@dataclass(frozen=True)
class Distance(Radial):
    r""":math:`L \|x - y\|`, the cost behind an L-Lipschitz discriminator (arXiv 2210.17230).

    Arguments:
        lipschitz: The bound L, in units of the divergence per length.
    """

    lipschitz: float = 1.0

    def value(self, s: Any) -> Any:
        return (s + TINY).sqrt() * self.lipschitz

    def slope(self, s: Any) -> Any:
        return (s + TINY).rsqrt() * self.lipschitz

    @property
    def value_factor(self) -> float:
        return self.lipschitz

    @property
    def slope_factor(self) -> float:
        return self.lipschitz

    def unit_(self, s: Tensor, spare: Tensor) -> Tensor:
        return s.sqrt_()

    def unit_slope_(self, s: Tensor, out: Tensor) -> Tensor:
        return torch.add(s, TINY, out=out).rsqrt_()

    def units_(self, s: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        slope = self.unit_slope_(s, out)
        return s.mul_(slope), slope  # a root costs more than a product


@dataclass(frozen=True)
class Squared(Radial):
    r""":math:`\frac12 \|x - y\|^2`, the cost behind W2 (arXiv 2406.13619)."""

    def value(self, s: Any) -> Any:
        return s * 0.5

    def slope(self, s: Any) -> Any:
        return s * 0.0 + 1.0

    @property
    def value_factor(self) -> float:
        return 0.5

    def unit_(self, s: Tensor, spare: Tensor) -> Tensor:
        return s

    def unit_slope_(self, s: Tensor, out: Tensor) -> float:
        return 1.0


@dataclass(frozen=True)
class Huber(Radial):
    r""":math:`\frac{L}{p R^{p-1}} r^p` for r ≤ R and :math:`L r - (1 - \frac1p) L R` beyond, where :math:`r = \|x-y\|`.

    The infimal convolution of :math:`L r` and :math:`\frac{L}{p R^{p-1}} r^p`: the cost behind a W1 ⊕ Wp proximal
    problem (arXiv 2407.11901) of terminal bound L and running cost :math:`\frac{\alpha}{p} \|v\|^p`, with
    :math:`R = T (L / \alpha)^{1/(p-1)}`. For p = 2, Huber's function, it is also the cost behind one W2-penalised step
    of size :math:`R / L`.

    Arguments:
        lipschitz: The bound L, in units of the divergence per length.
        radius: The distance R below which the cost is the power, a length.
        power: The exponent p.

    Raises:
        ValueError: If a number is out of its range; p has to be above 1.
    """

    lipschitz: float = 1.0
    radius: float = 1.0
    power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.power > 1:
            raise ValueError(f"power must be above 1, not {self.power}")

    def value(self, s: Any) -> Any:
        r = (s + TINY).sqrt()
        near = r.clamp(0.0, self.radius)
        if self.power == 2:
            return near * (r - near * 0.5) * (self.lipschitz / self.radius)
        bent = _power(near * (1 / self.radius), self.power) * (self.radius / self.power)
        return (r - near + bent) * self.lipschitz

    def slope(self, s: Any) -> Any:
        r = (s + TINY).sqrt()
        if self.power == 2:
            return self.lipschitz / r.clamp(self.radius, 1e30)
        bent = _power(r.clamp(0.0, self.radius) * (1 / self.radius), self.power - 2)
        return bent * self.lipschitz / r.clamp(self.radius, 1e30)

    @property
    def value_factor(self) -> float:
        return self.lipschitz / self.radius if self.power == 2 else self.lipschitz

    @property
    def slope_factor(self) -> float:
        return self.value_factor if self.power == 2 else 1.0

    def unit_(self, s: Tensor, spare: Tensor) -> Tensor:
        r = s.sqrt_()
        near = torch.clamp(r, max=self.radius, out=spare)
        if self.power == 2:
            return r.sub_(near, alpha=0.5).mul_(near)
        r.sub_(near)
        return r.add_(near.div_(self.radius).pow_(self.power), alpha=self.radius / self.power)

    def unit_slope_(self, s: Tensor, out: Tensor) -> Tensor:
        if self.power != 2:
            return self.slope(s)  # type: ignore[no-any-return]
        return torch.sqrt(s, out=out).clamp_(min=self.radius).reciprocal_().mul_(self.radius)

    def units_(self, s: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        if self.power != 2:
            slope = self.slope(s)
            return self.unit_(s, out), slope
        slope = self.unit_slope_(s, out)
        s.mul_(slope)  # r · min(r, R)
        return s.addcmul_(s, slope, value=-0.5), slope


# Kernels


class Kernel(Radial):
    r"""A kernel, positive definite or (``definite = False``) only on coefficients that sum to zero.

    Attributes:
        definite: Which of the two.
    """

    definite = True

    @property
    def steepness(self) -> float:
        r"""The largest slope of a function of norm one, :math:`\sup_{x \ne y} \|k_x - k_y\| / \|x - y\|`; infinite for kernels with a kink."""
        return math.inf


@dataclass(frozen=True)
class Gaussian(Kernel):
    r""":math:`\exp(-\|x - y\|^2 / 2\sigma^2)`.

    Arguments:
        bandwidth: The length σ.
    """

    bandwidth: float = 1.0

    def value(self, s: Any) -> Any:
        return (s * (-0.5 / self.bandwidth**2)).exp()

    def slope(self, s: Any) -> Any:
        return self.value(s) * (-1 / self.bandwidth**2)

    @property
    def slope_factor(self) -> float:
        return -1 / self.bandwidth**2

    def unit_(self, s: Tensor, spare: Tensor) -> Tensor:
        return s.mul_(-0.5 * LOG2E / self.bandwidth**2).exp2_()

    def unit_slope_(self, s: Tensor, out: Tensor) -> Tensor:
        return torch.mul(s, -0.5 * LOG2E / self.bandwidth**2, out=out).exp2_()

    @property
    def steepness(self) -> float:
        return 1 / self.bandwidth


@dataclass(frozen=True)
class Laplacian(Kernel):
    r""":math:`\exp(-\|x - y\| / \sigma)`.

    Arguments:
        bandwidth: The length σ.
    """

    bandwidth: float = 1.0

    def value(self, s: Any) -> Any:
        return ((s + TINY).sqrt() * (-1 / self.bandwidth)).exp()

    def slope(self, s: Any) -> Any:
        return self.value(s) * (s + TINY).rsqrt() * (-1 / self.bandwidth)

    def unit_(self, s: Tensor, spare: Tensor) -> Tensor:
        return s.sqrt_().mul_(-LOG2E / self.bandwidth).exp2_()


@dataclass(frozen=True)
class InverseMultiquadric(Kernel):
    r""":math:`(1 + \|x - y\|^2 / \sigma^2)^{-1/2}`.

    Arguments:
        bandwidth: The length σ.
    """

    bandwidth: float = 1.0

    def value(self, s: Any) -> Any:
        return (s * (1 / self.bandwidth**2) + 1.0).rsqrt()

    def slope(self, s: Any) -> Any:
        k = self.value(s)
        return k * k * k * (-1 / self.bandwidth**2)

    def unit_(self, s: Tensor, spare: Tensor) -> Tensor:
        return s.mul_(1 / self.bandwidth**2).add_(1.0).rsqrt_()

    @property
    def steepness(self) -> float:
        return 1 / self.bandwidth


@dataclass(frozen=True)
class Multiquadric(Kernel):
    r""":math:`-\sqrt{\sigma^2 + \|x - y\|^2}`, a smooth relative of the energy distance's kernel.

    Arguments:
        bandwidth: The length σ.
    """

    bandwidth: float = 1.0
    definite = False

    def value(self, s: Any) -> Any:
        return (s + self.bandwidth**2).sqrt() * -1.0

    def slope(self, s: Any) -> Any:
        return (s + self.bandwidth**2).rsqrt() * -1.0

    @property
    def value_factor(self) -> float:
        return -1.0

    @property
    def slope_factor(self) -> float:
        return -1.0

    def unit_(self, s: Tensor, spare: Tensor) -> Tensor:
        return s.add_(self.bandwidth**2).sqrt_()

    def unit_slope_(self, s: Tensor, out: Tensor) -> Tensor:
        return torch.add(s, self.bandwidth**2, out=out).rsqrt_()

    @property
    def steepness(self) -> float:
        return 1 / math.sqrt(self.bandwidth)


@dataclass(frozen=True)
class Riesz(Kernel):
    r""":math:`-\|x - y\|^\beta` for 0 < β < 2; β = 1 is the kernel of the energy distance (arXiv 2305.11463).

    It has no length of its own: MMD flows with it look equally far at all scales.

    Arguments:
        exponent: The exponent β.
    """

    exponent: float = 1.0
    definite = False

    def __post_init__(self) -> None:
        if not 0 < self.exponent < 2:
            raise ValueError(f"exponent must be between 0 and 2, not {self.exponent}")

    def value(self, s: Any) -> Any:
        return (s + TINY).sqrt() * -1.0 if self.exponent == 1 else _power(s + TINY, self.exponent / 2) * -1.0

    def slope(self, s: Any) -> Any:
        if self.exponent == 1:
            return (s + TINY).rsqrt() * -1.0
        return _power(s + TINY, self.exponent / 2 - 1) * -self.exponent

    @property
    def value_factor(self) -> float:
        return -1.0

    @property
    def slope_factor(self) -> float:
        return -self.exponent

    def unit_(self, s: Tensor, spare: Tensor) -> Tensor:
        return s.sqrt_() if self.exponent == 1 else s.add_(TINY).log_().mul_(0.5 * self.exponent).exp_()

    def unit_slope_(self, s: Tensor, out: Tensor) -> Tensor:
        found = torch.add(s, TINY, out=out)
        return found.rsqrt_() if self.exponent == 1 else found.log_().mul_(0.5 * self.exponent - 1).exp_()


def _power(x: Any, exponent: float) -> Any:
    return (x.log() * exponent).exp()  # KeOps' own power is in single precision
