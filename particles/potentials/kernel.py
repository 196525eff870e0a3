r"""Discriminators in a reproducing kernel Hilbert space: convex problems with as many unknowns as target points.

With the squared norm as a price, or with a ball as its limit, the dual of an f-divergence is a convex problem whose primal
replaces the transport cost of a Lipschitz-regularised divergence by the kernel's own distance,

.. math:: \inf_\gamma \; \tfrac{1}{2\lambda} \mathrm{MMD}^2(P, \gamma) + D_f(\gamma\|Q)
          \qquad\text{or}\qquad \inf_\gamma \; R \, \mathrm{MMD}(P, \gamma) + D_f(\gamma\|Q).

The discriminator is :math:`\varphi = \frac1\lambda (E_P k(y, \cdot) - \sum_j \theta_j k(x_j, \cdot))` with θ the masses of γ. MMD itself
is the case in which γ must be Q.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.divergences import KL, W1, Alpha, Divergence
from particles.kernels import Kernel
from particles.keys import Key
from particles.pairwise.keops import choose_backend
from particles.pairwise.sharded import shared_kernel_product
from particles.pairwise.sums import kernel_gradient, kernel_product
from particles.potentials.base import Info, NotFitted, Potential, recalled, restored, unlabelled

EXACT = 2000
"""The largest number of target points for which the kernel matrix is made and factorised; above, conjugate gradients do."""


class KernelPotential(Potential):
    r"""An f-divergence whose discriminator is in a reproducing kernel Hilbert space (MMD-regularised: arXiv 2402.04613).

    Exactly one of ``penalty`` and ``lipschitz`` is given. The problem is solved by Newton's method on the coefficients θ, with the kernel
    matrix factorised in double precision up to 2,000 target points, by conjugate gradients over ``pairwise`` above.

    Arguments:
        divergence: The f-divergence.
        kernel: The kernel.
        penalty: The price λ of half the squared norm, no unit.
        lipschitz: A bound L on the slope instead, in 1 / length: the norm is at most L over the kernel's steepness (Lσ for
            a Gaussian kernel), so that φ is L-Lipschitz.
        scale: A factor of φ, of its gradient and of the value.
        normalised: Whether the reweighted target has mass one, as in METHODS; if not, a constant cannot be added to φ for
            nothing (KALE is so).
        tolerance: Newton's method ends when the mean error of the density is below this; a bound on the slope that costs less
            in the divergence is not attained.
        max_iterations: The most Newton steps per fit.
        backend: ``auto``, ``tiled`` or ``keops``, see ``pairwise``.

    Raises:
        ValueError: If a number is out of its range, or the kernel is not fit for the problem.
    """

    def __init__(
        self,
        divergence: Divergence,
        kernel: Kernel,
        *,
        penalty: float | None = None,
        lipschitz: float | None = None,
        scale: float = 1.0,
        normalised: bool = True,
        tolerance: float = 1e-6,
        max_iterations: int = 50,
        backend: str = "auto",
    ):
        if (penalty is None) == (lipschitz is None):
            raise ValueError("either penalty or lipschitz has to be given, and not both")
        numbers = {"penalty": penalty, "lipschitz": lipschitz, "scale": scale, "tolerance": tolerance}
        for name, value in numbers.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {value}")
        if max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, not {max_iterations}")
        if lipschitz is not None and math.isinf(kernel.steepness):
            raise ValueError(
                f"functions of a {type(kernel).__name__} kernel have no bounded slope; "
                "choose Gaussian, InverseMultiquadric or Multiquadric"
            )
        if not normalised and not isinstance(divergence, KL | Alpha | W1):
            raise ValueError(f"without normalised masses the conjugate has to be finite everywhere, not {divergence}'s")
        if not normalised and not kernel.definite:
            raise ValueError(
                f"without normalised masses the kernel has to be positive definite, not {type(kernel).__name__}"
            )
        self.divergence = divergence
        self.kernel = kernel
        self.penalty = penalty
        self.bound = None if lipschitz is None else lipschitz / kernel.steepness
        self.scale = scale
        self.normalised = normalised
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.backend = choose_backend(backend)
        self.theta: Tensor | None = None
        self.price = penalty or 1.0
        self.fitted: tuple[Cloud, Cloud] | None = None

    def fit(self, p: Cloud, q: Cloud, key: Key) -> Info:
        p, q = p.gathered(), q.gathered()
        dual = _Dual(self, p, q)
        theta = self.theta if self.theta is not None and len(self.theta) == len(q) else dual.q
        if self.bound is None:
            theta, steps = dual.maximise(theta, self.price)
        else:
            theta, steps = self._in_ball(dual, theta, self.bound)
        self.theta, self.fitted = theta, (p, q)
        values = dual.values(theta, self.price)
        norm = dual.square(theta).clamp(min=0).sqrt() / self.price
        value = dual.mean_on_p(theta, self.price) - dual.paid(values)
        if self.bound is None:
            value = value - self.price / 2 * norm.square()
        return {"divergence": self.scale * value, "norm": norm, "penalty": self.price, "newton_steps": float(steps)}

    def _in_ball(self, dual: _Dual, theta: Tensor, bound: float) -> tuple[Tensor, int]:
        """The coefficients at the price at which the norm is the bound; the least price tried if it never is."""
        total = 0

        def excess(log_price: float) -> float:
            nonlocal theta, total
            self.price = math.exp(log_price)
            theta, steps = dual.maximise(theta, self.price)
            total += steps
            return float(dual.square(theta).clamp(min=0).sqrt()) / self.price / bound - 1

        # Below the first price no more than the tolerance is left to gain; below the second φ would be rounding over the price.
        rounding = 100 * torch.finfo(dual.cloud.x.dtype).eps * float(dual.own.abs().sqrt()) / bound
        lowest = math.log(max(2 * self.tolerance / bound**2, rounding))
        _root(excess, max(math.log(self.price), lowest), lowest)
        return theta, total

    def phi(self, cloud: Cloud) -> Tensor:
        return self._sum(kernel_product, cloud)

    def grad(self, cloud: Cloud) -> Tensor:
        return self._sum(kernel_gradient, cloud)

    def _sum(self, product: Callable[..., Tensor], cloud: Cloud) -> Tensor:
        if self.fitted is None or self.theta is None:
            raise NotFitted("the potential has not been fitted yet")
        p, q = self.fitted
        points = torch.cat((p.x, q.x))
        coefficients = torch.cat((p.mass.double(), -self.theta)) * (self.scale / self.price)
        return product(cloud.x, points, coefficients.to(cloud.x.dtype), self.kernel, backend=self.backend)

    def state_dict(self) -> dict[str, Any]:
        fitted = None if self.fitted is None else [cloud.state_dict() for cloud in self.fitted]
        return {"theta": self.theta, "price": self.price, "fitted": fitted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.theta, self.price, self.fitted = state["theta"], state["price"], restored(state["fitted"])

    def record(self) -> dict[str, Any]:
        return {"theta": self.theta, "price": self.price, "particles": unlabelled(self.fitted)}

    def recall(self, record: dict[str, Any], q: Cloud) -> None:
        self.theta, self.price, self.fitted = record["theta"], record["price"], recalled(record["particles"], q)


def mmd(kernel: Kernel, backend: str = "auto") -> KernelPotential:
    r"""The maximum mean discrepancy: :math:`\varphi = E_P k(y, \cdot) - E_Q k(x, \cdot)`, value :math:`\frac12 \mathrm{MMD}^2` (arXiv 1906.04370).

    Its flow gets stuck where the kernel sees nothing; noise in the flow helps (``GradientFlow(noise=...)``).
    """
    return KernelPotential(W1(), kernel, penalty=1.0, backend=backend)


def kale(kernel: Kernel, penalty: float, backend: str = "auto") -> KernelPotential:
    r"""The KL approximate lower bound estimator (arXiv 2106.08929).

    :math:`(1 + \lambda) \max_h \{1 + E_P h - E_Q e^h - \frac\lambda2 \|h\|^2\}`: KL as λ → 0, :math:`\frac12 \mathrm{MMD}^2` as λ → ∞.

    Arguments:
        kernel: A positive definite kernel.
        penalty: The λ.
        backend: ``auto``, ``tiled`` or ``keops``.

    Raises:
        ValueError: If λ is not positive, or the kernel is not positive definite.
    """
    return KernelPotential(KL(), kernel, penalty=penalty, scale=1 + penalty, normalised=False, backend=backend)


class _Dual:
    r"""The dual problem in the coefficients θ, all in double precision.

    :math:`J(\theta) = E_P h - \inf_\nu \{\nu + E_Q f^*(h - \nu)\} - \frac\lambda2 \|h\|^2` with
    :math:`h = \frac1\lambda (\mu_P - \sum_j \theta_j k(x_j, \cdot))` is concave, and its gradient is :math:`\frac1\lambda K (q a - \theta)`, with
    a the density (f*)'(h − ν).
    """

    def __init__(self, potential: KernelPotential, p: Cloud, q: Cloud):
        self.divergence, self.normalised = potential.divergence, potential.normalised
        self.tolerance, self.max_iterations = potential.tolerance, potential.max_iterations
        kernel, backend = potential.kernel, potential.backend
        self.cloud, self.q = q, q.mass.double()
        x, y, mass = q.x.double(), p.x.double(), p.mass.double()
        exact = len(q) <= EXACT
        if not exact:
            x, y = q.x, p.x
        self.matrix = (
            kernel.value(torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()) if exact else None
        )
        self.product = (
            (lambda b: self.matrix @ b)
            if exact
            else (lambda b: shared_kernel_product(x, x, b.to(x.dtype), kernel, backend).double())
        )
        charges = mass.to(x.dtype)
        self.on_q = shared_kernel_product(x, y, charges, kernel, backend).double()  # μ_P at the target points
        self.own = mass @ shared_kernel_product(y, y, charges, kernel, backend).double()  # ‖μ_P‖²

    def square(self, theta: Tensor) -> Tensor:
        """‖λh‖²: the squared MMD of P and γ."""
        return self.own - 2 * self.on_q @ theta + theta @ self.product(theta)

    def values(self, theta: Tensor, price: float) -> Tensor:
        return (self.on_q - self.product(theta)) / price

    def mean_on_p(self, theta: Tensor, price: float) -> Tensor:
        return (self.own - self.on_q @ theta) / price

    def paid(self, values: Tensor) -> Tensor:
        """What the objective takes for the values on Q."""
        if self.normalised:
            nothing = values.new_zeros(len(values))
            return -self.divergence.objective(nothing, values, self.cloud, self._double)
        return self.q @ self.divergence.conjugate(values)

    @property
    def _double(self) -> Cloud:
        return Cloud(self.cloud.x.double(), weight=self.q)

    def density(self, values: Tensor) -> Tensor:
        return (
            self.divergence.density(values, self._double)
            if self.normalised
            else self.divergence.conjugate_derivative(values)
        )

    def objective(self, theta: Tensor, values: Tensor, price: float) -> float:
        quadratic = self.own - theta @ (self.on_q - values * price)  # ‖μ_P‖² − θ'Kθ
        return float(quadratic / (2 * price) - self.paid(values))

    def maximise(self, theta: Tensor, price: float) -> tuple[Tensor, int]:
        """The best coefficients, by damped Newton steps, and how many there were.

        Where the first values lie so far apart that densities would overflow, the price falls to its value in steps.
        """
        spread = self.values(theta, price)
        falling = [price]
        while float(spread.max() - spread.min()) * price / falling[-1] > 10:
            falling.append(8 * falling[-1])
        total = 0
        for higher in reversed(falling):
            theta, steps = self._climb(theta, higher)
            total += steps
        return theta, total

    def _climb(self, theta: Tensor, price: float) -> tuple[Tensor, int]:
        for step in range(self.max_iterations):
            values = self.values(theta, price)
            density = self.density(values)
            error = self.q * density - theta
            if float(error.abs().sum()) <= self.tolerance:
                return theta, step
            direction = self._newton(error, density, price)
            theta = self._ahead(theta, values, direction, error, price)
        return theta, self.max_iterations

    def _newton(self, error: Tensor, density: Tensor, price: float) -> Tensor:
        """The solution δ of (λ + D K) δ = λ·error, with D the derivative of the masses in the values.

        By Woodbury's identity δ = error − B'(λ + B K B')⁻¹ B K error, where D = B'B.
        """
        slope = torch.where(density > 0, self.q / self.divergence.curvature(density.clamp(min=1e-300)), 0.0)
        root = slope.sqrt()
        unit = root / root.norm() if self.normalised and float(root.norm()) > 0 else torch.zeros_like(root)

        def through(v: Tensor) -> Tensor:  # B'v: a common shift of the values changes no mass
            return root * (v - unit * (unit @ v))

        def into(v: Tensor) -> Tensor:  # B v
            v = root * v
            return v - unit * (unit @ v)

        right = into(self.product(error))
        if not float(right.abs().max()):
            return error
        if self.matrix is not None:
            system = root[:, None] * self.matrix * root
            if self.normalised:
                across = system @ unit
                system = (
                    system
                    - torch.outer(unit, across)
                    - torch.outer(across, unit)
                    + torch.outer(unit, unit) * (unit @ across)
                )
            system.diagonal().add_(price + 1e-14 * float(system.diagonal().sum()))
            answer = torch.cholesky_solve(right[:, None], torch.linalg.cholesky(system))[:, 0]
        else:
            answer = _conjugate_gradients(lambda v: price * v + into(self.product(through(v))), right)
        return error - through(answer)

    def _ahead(self, theta: Tensor, values: Tensor, direction: Tensor, error: Tensor, price: float) -> Tensor:
        """The longest of the step's halvings that raises the objective enough."""
        change = self.product(direction) / price
        now, slope = self.objective(theta, values, price), float(error @ change)
        length = 1.0
        while length > 1e-10:
            there = theta + length * direction
            reached = self.objective(there, values - length * change, price)
            if reached >= now + 1e-4 * length * slope - 1e-12 * (1 + abs(now)):
                return there
            length /= 2
        return theta


def _conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor, tolerance: float = 1e-4) -> Tensor:
    """The solution of a symmetric positive definite system, to a relative residual."""
    x, residual = torch.zeros_like(right), right
    direction, square = residual, residual @ residual
    end = tolerance**2 * square
    for _ in range(200):
        if bool(square <= end):
            break
        image = product(direction)
        step = square / (direction @ image)
        x, residual = x + step * direction, residual - step * image
        before, square = square, residual @ residual
        direction = residual + square / before * direction
    return x


def _root(function: Callable[[float], float], start: float, lowest: float, tolerance: float = 1e-6) -> None:
    """Leaves a falling function at an argument where its value is within ``tolerance`` of 0, or at ``lowest`` if it is below 0 there."""
    low, high = -math.inf, math.inf
    at, value = start, function(start)
    step = 1.0 if value > 0 else -1.0
    while abs(value) > tolerance:
        if value > 0:
            low, low_value = at, value
        else:
            high, high_value = at, value
        if math.isinf(high) or math.isinf(low):
            if at <= lowest and value < 0:
                return
            at, step = max(at + step, lowest), 2 * step
        elif high - low < 1e-12:
            return
        else:  # the secant, kept off the ends of the bracket
            part = low_value / (low_value - high_value)
            at = low + min(max(part, 0.05), 0.95) * (high - low)
        value = function(at)
