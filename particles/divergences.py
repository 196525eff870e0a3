r"""The f-divergences behind a Lipschitz-regularised divergence, as formulas in the values of φ on two clouds.

For particles P, target Q and a discriminator φ (arXiv 2210.17230, Section 2; Birrell et al., arXiv 2011.05953)

.. math:: D(P\|Q) = \sup_{\varphi \in \mathrm{Lip}_L} E_P[\varphi] - \inf_\nu \{\nu + E_Q[f^*(\varphi - \nu)]\}.

The first variation of D in P is φ itself, which is why particles descend it. Papers differ by an affine
term in f; it moves ν and leaves D alone. Here every f is normalised to :math:`f(1) = f'(1) = 0`, so that

* :math:`(f^*)'(0) = 1`, and the optimal ν, the root of :math:`E_Q[(f^*)'(\varphi - \nu)] = 1`, lies between min φ and max φ;
* :math:`(f^*)' \le 1/w` at a point of mass w, so :math:`\max\varphi - \nu \le f'(1/w)`: the root keeps every
  :math:`\varphi - \nu` inside the domain of :math:`f^*`. Nothing is ever clamped.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from particles.cloud import Cloud


class Divergence(ABC):
    """An f-divergence: the function f, its conjugate, and the dual objective made of them.

    All functions act elementwise on tensors of any shape.
    """

    @abstractmethod
    def f(self, x: Tensor) -> Tensor:
        """The generator :math:`f(x)` for x ≥ 0, with :math:`f(1) = f'(1) = 0`."""

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """:math:`f'(x)`, the inverse of the conjugate's derivative."""

    @abstractmethod
    def curvature(self, x: Tensor) -> Tensor:
        """:math:`f''(x)`, one over the conjugate's second derivative at :math:`f'(x)`."""

    @abstractmethod
    def conjugate(self, t: Tensor) -> Tensor:
        r"""The conjugate :math:`f^*(t) = \sup_{x \ge 0} \{x t - f(x)\}`; infinite or NaN outside its domain."""

    @abstractmethod
    def conjugate_derivative(self, t: Tensor) -> Tensor:
        """:math:`(f^*)'(t)`: the density of the reweighted target at a point with :math:`φ - ν = t`."""

    @abstractmethod
    def nu(self, values: Tensor, q: Cloud) -> Tensor:
        """The optimal ν for the values of φ on ``q``, with shape :math:`(n,)`; a scalar without gradient."""

    @abstractmethod
    def density(self, values: Tensor, q: Cloud) -> Tensor:
        """The density :math:`(f^*)'(φ - ν)` of the reweighted target in the target, with shape :math:`(n,)` and mean one.

        It is minus the derivative of the objective in the values of φ on ``q``, per mass; the derivative in its
        values on the particles is one per mass.
        """

    @abstractmethod
    def marginal(self, s: Tensor, epsilon: float) -> Tensor:
        r"""The dual potential g that answers ``s`` in a Sinkhorn iteration whose second marginal pays the divergence.

        The root of :math:`\log (f^*)'(-g) = (g - s)/\varepsilon`, elementwise (METHODS: semi-relaxed transport; Chizat et al.,
        arXiv 1607.05816, the proximal operator of f for the entropy).

        Arguments:
            s: What the hard marginal would answer, of any shape.
            epsilon: The regularisation ε > 0, in units of ``s``.
        """

    @abstractmethod
    def objective(self, on_p: Tensor, on_q: Tensor, p: Cloud, q: Cloud) -> Tensor:
        """The dual objective at the optimal ν, a scalar to be maximised over φ.

        By the envelope theorem no gradient has to flow through ν.

        Arguments:
            on_p: The values of φ on the particles, with shape :math:`(M,)`.
            on_q: The values of φ on the target, with shape :math:`(N,)`.
            p: The particles.
            q: The target.
        """


class _Bracketed(Divergence):
    """A divergence whose ν is the root of a monotone function in a known bracket, and whose marginal step is one too."""

    @abstractmethod
    def _log_slope(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """:math:`f'(e^u)` and its derivative in u."""

    @abstractmethod
    def _beside(self, s: Tensor, epsilon: float) -> Tensor:
        """A start on that side of the root of ``marginal`` from which Newton's steps never pass it."""

    def marginal(self, s: Tensor, epsilon: float) -> Tensor:
        # With u = log density, −g = f'(e^u): the root of the increasing function ε u + f'(e^u) + s, convex or concave.
        target = s.double()
        u = self._beside(target, epsilon)
        for _ in range(100):
            slope, rise = self._log_slope(u)
            step = (epsilon * u + slope + target) / (epsilon + rise)
            u = u - step
            if bool((step.abs() <= 1e-13 * (1 + u.abs())).all()):
                break
        return (target + epsilon * u).to(s.dtype)

    def nu(self, values: Tensor, q: Cloud) -> Tensor:
        top = q.max(values.detach())
        return top - self._drop(values, top, q).to(values.dtype)

    def density(self, values: Tensor, q: Cloud) -> Tensor:
        top = q.max(values.detach())
        below = values.detach().double() - top
        return self.conjugate_derivative(below + self._drop(values, top, q)).to(values.dtype)

    def objective(self, on_p: Tensor, on_q: Tensor, p: Cloud, q: Cloud) -> Tensor:
        # ν = top − drop. Values are taken relative to the top, and in double precision: near the edge of the
        # domain of f* a float32 φ of 1e4 would leave no digits of φ − ν.
        top = q.max(on_q.detach())
        drop = self._drop(on_q, top, q)
        below = on_q.double() - top
        value = p.mean(on_p.double() - top) + drop - q.mean(self.conjugate(below + drop))
        return value.to(on_p.dtype)

    def _drop(self, values: Tensor, top: Tensor, q: Cloud) -> Tensor:
        """How far ν lies below max φ: the root r of ``E_Q (f*)'(φ − max φ + r) = 1``, which increases in r.

        Sixteen points of the bracket are tried at once, so that a dozen launches and no host synchronisation
        replace fifty bisections.
        """
        below = values.detach().double() - top
        lightest = below.new_full((1,), 1 / q.total) if q.weight is None else -q.max(-q.weight).double()[None]
        low = torch.zeros_like(lightest)
        high = torch.minimum(q.max(-below), self.derivative(1 / lightest))
        grid = torch.arange(1, 16, device=below.device) / 16
        for _ in range(13):  # 16^13 = 2^52: to the last digit of the bracket
            tried = low + grid * (high - low)  # (15,)
            mass = q.mean(self.conjugate_derivative(below + tried[:, None]))  # (15,)
            short = (mass < 1).sum()
            low, high = low + short / 16 * (high - low), low + (short + 1) / 16 * (high - low)
        return ((low + high) / 2)[0]


@dataclass(frozen=True)
class KL(Divergence):
    r"""Kullback–Leibler: :math:`f = x \log x - x + 1`, :math:`f^* = e^t - 1`.

    ν is closed, and the objective is Donsker–Varadhan's :math:`E_P\varphi - \log E_Q e^\varphi`.
    """

    def f(self, x: Tensor) -> Tensor:
        return torch.xlogy(x, x) - x + 1

    def derivative(self, x: Tensor) -> Tensor:
        return x.log()

    def curvature(self, x: Tensor) -> Tensor:
        return 1 / x

    def conjugate(self, t: Tensor) -> Tensor:
        return torch.expm1(t)

    def conjugate_derivative(self, t: Tensor) -> Tensor:
        return t.exp()

    def nu(self, values: Tensor, q: Cloud) -> Tensor:
        return q.logmeanexp(values.detach())

    def density(self, values: Tensor, q: Cloud) -> Tensor:
        return torch.exp(values.detach() - self.nu(values, q))

    def marginal(self, s: Tensor, epsilon: float) -> Tensor:
        return s / (1 + epsilon)

    def objective(self, on_p: Tensor, on_q: Tensor, p: Cloud, q: Cloud) -> Tensor:
        return p.mean(on_p) - q.logmeanexp(on_q)


@dataclass(frozen=True)
class ReverseKL(_Bracketed):
    r"""Reverse Kullback–Leibler: :math:`f = -\log x + x - 1`, :math:`f^* = -\log(1 - t)` for t < 1."""

    def f(self, x: Tensor) -> Tensor:
        return x - 1 - x.log()

    def derivative(self, x: Tensor) -> Tensor:
        return 1 - 1 / x

    def curvature(self, x: Tensor) -> Tensor:
        return x**-2

    def _log_slope(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.expm1(-u), torch.exp(-u)

    def _beside(self, s: Tensor, epsilon: float) -> Tensor:
        return torch.where(s > 0, -torch.log1p(s.clamp(min=0)), ((-s - 1) / epsilon).clamp(min=0))

    def conjugate(self, t: Tensor) -> Tensor:
        return -torch.log1p(-t)

    def conjugate_derivative(self, t: Tensor) -> Tensor:
        return 1 / (1 - t)


@dataclass(frozen=True)
class JensenShannon(_Bracketed):
    r"""Jensen–Shannon, unnormalised: :math:`f = x \log x - (x+1) \log\frac{x+1}{2}`, :math:`f^* = -\log(2 - e^t)` for t < log 2.

    It is :math:`KL(P\|\frac{P+Q}2) + KL(Q\|\frac{P+Q}2)`: twice the divergence that some call Jensen–Shannon; at most 2 log 2.
    """

    def f(self, x: Tensor) -> Tensor:
        return torch.xlogy(x, x) - (x + 1) * torch.log((x + 1) / 2)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.log(2 * x / (x + 1))

    def curvature(self, x: Tensor) -> Tensor:
        return 1 / (x * (x + 1))

    def _log_slope(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return torch.nn.functional.logsigmoid(u) + math.log(2), torch.sigmoid(-u)

    def _beside(self, s: Tensor, epsilon: float) -> Tensor:
        c = s.clamp(min=0)
        return torch.where(s > 0, -c - torch.log(2 - torch.exp(-c)), ((-s - math.log(2)) / epsilon).clamp(min=0))

    def conjugate(self, t: Tensor) -> Tensor:
        return -torch.log1p(-torch.expm1(t))

    def conjugate_derivative(self, t: Tensor) -> Tensor:
        return t.exp() / (1 - torch.expm1(t))


@dataclass(frozen=True)
class Alpha(_Bracketed):
    r"""Alpha divergence: :math:`f = \frac{x^α - αx + α - 1}{α(α-1)}`, :math:`f^* = \frac{(1 + (α-1)t)_+^{α/(α-1)} - 1}{α}`.

    Its conjugate grows like a power, so it copes with heavy tails where KL does not (arXiv 2210.17230, Section 5).
    Target points with φ − ν ≤ −1/(α−1) have density 0 and pull nothing.

    Arguments:
        order: The order α, above 1; 2 is half of Pearson's χ².

    Raises:
        ValueError: If ``order`` is not above 1.
    """

    order: float = 2.0

    def __post_init__(self) -> None:
        if not 1 < self.order < float("inf"):
            raise ValueError(f"order must be above 1, not {self.order}; the limit order → 1 is the divergence kl")

    def f(self, x: Tensor) -> Tensor:
        a = self.order
        return (x**a - a * x + a - 1) / (a * (a - 1))

    def derivative(self, x: Tensor) -> Tensor:
        return (x ** (self.order - 1) - 1) / (self.order - 1)

    def curvature(self, x: Tensor) -> Tensor:
        return x ** (self.order - 2)

    def _log_slope(self, u: Tensor) -> tuple[Tensor, Tensor]:
        a = self.order - 1
        return torch.expm1(a * u) / a, torch.exp(a * u)

    def _beside(self, s: Tensor, epsilon: float) -> Tensor:
        right = torch.minimum(-s / epsilon, self.conjugate_derivative(-s).log())
        return torch.where(s > 0, 0.0, right)

    def conjugate(self, t: Tensor) -> Tensor:
        a = self.order
        return ((1 + (a - 1) * t).clamp(min=0) ** (a / (a - 1)) - 1) / a

    def conjugate_derivative(self, t: Tensor) -> Tensor:
        a = self.order
        return (1 + (a - 1) * t).clamp(min=0) ** (1 / (a - 1))


@dataclass(frozen=True)
class W1(Divergence):
    r"""Wasserstein-1: f is 0 at 1 and infinite elsewhere, :math:`f^*(t) = t`; then :math:`D = L \, W_1(P, Q)`.

    Any ν is optimal; ``nu`` answers :math:`E_Q φ`.
    """

    def f(self, x: Tensor) -> Tensor:
        return torch.where(x == 1, 0.0, torch.inf).to(x.dtype)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.where(x == 1, 0.0, torch.where(x > 1, torch.inf, -torch.inf)).to(x.dtype)

    def curvature(self, x: Tensor) -> Tensor:
        return torch.full_like(x, torch.inf)

    def conjugate(self, t: Tensor) -> Tensor:
        return t

    def conjugate_derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def nu(self, values: Tensor, q: Cloud) -> Tensor:
        return q.mean(values.detach())

    def density(self, values: Tensor, q: Cloud) -> Tensor:
        return torch.ones_like(values)

    def marginal(self, s: Tensor, epsilon: float) -> Tensor:
        return s

    def objective(self, on_p: Tensor, on_q: Tensor, p: Cloud, q: Cloud) -> Tensor:
        return p.mean(on_p) - q.mean(on_q)
