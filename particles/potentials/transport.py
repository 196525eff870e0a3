r"""The discriminator without a network: the dual of a semi-relaxed transport problem.

The Lipschitz-regularised divergence is a transport problem whose second marginal is free at a price (arXiv 2210.17230,
Section 2; Birrell et al., arXiv 2011.05953),

.. math:: D(P\|Q) = \inf_\gamma \; T(P, \gamma) + D_f(\gamma \| Q), \qquad T \text{ the transport cost of } C = L\|x - y\|.

With entropy ε its dual potentials are found by Sinkhorn iterations in the log domain whose second half step is
``Divergence.marginal`` (Chizat et al., arXiv 1607.05816). Two things make them fast: the constant that may be moved from
one potential to the other is set to its optimum after every step (Séjourné et al., arXiv 2201.00730; it is the ν of the
divergence), and the potentials of the last fit are the next one's start.

**Debiasing.** Entropy blurs: without a remedy particles shrink to local means of the data (at ε = 1 on the mixture of four
Gaussians they end in one heap, W2 = 3.7). The remedy is the Sinkhorn divergence :math:`S(P, \gamma) = T(P, \gamma) - \frac12 T(P,
P) - \frac12 T(\gamma, \gamma)` in place of T, with the last term by its tangent at Q, so that the problem stays convex. Then
D is 0 at P = Q for every ε, and so is the force there. Subtracting :math:`\frac12 T(P, P)` alone also moves particles well, but leaves
a divergence and a marginal step that are biased at P = Q.

**Annealing.** As ε → 0 the exact discriminator of the samples is found, and that is not what particles should follow: it has a pit
at every data point, and holds particles there even where there are too many. ε has to be larger than the spacing of
the data (times L) until the masses are right. So by default a flow starts with ε at the scale of the whole problem and halves it every so
many fits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from particles.cloud import Cloud, mean_square
from particles.divergences import W1, Divergence
from particles.kernels import Distance, Huber, Radial
from particles.keys import Key
from particles.pairwise.keops import choose_backend
from particles.pairwise.sharded import SharedPairs, shared_softmin
from particles.pairwise.sums import check_epsilon, softmin, softmin_gradient
from particles.potentials.base import Info, NotFitted, Potential, recalled, restored, unlabelled

COARSER = 4
"""The factor in the number of points from one level of a cold start to the next."""


class TransportPotential(Potential):
    r"""The Lipschitz-regularised divergence by semi-relaxed Sinkhorn iterations: no network, no training, no randomness.

    The potential is known everywhere, :math:`\varphi(y) = -\varepsilon \log \sum_j q_j \exp((g_j - C(y, x_j))/\varepsilon)` less
    the same for the particles themselves if it is debiased, and so is its gradient, a softmax-weighted mean of vectors of length
    L at most: :math:`\|\nabla\varphi\| \le L` (2L in theory if debiased, the difference of two such means).

    Of several processes all have all points and the potentials; each does its part of the rows of every sum over pairs.

    Right for simulation and as the reference for trained discriminators; wrong for augmentation: it moves particles
    onto the data.

    Arguments:
        divergence: The f-divergence.
        lipschitz: The bound L on the discriminator's slope, in units of 1 / length.
        radius: The distance R below which the cost is quadratic instead, a length: the Huber cost. With :math:`R = hL` a
            step of size h along −∇φ is the W2-penalised (implicit) step instead of the explicit one: particles
            come to rest on the data instead of rattling about it. It also solves the W1 ⊕ W2 proximal problem
            (arXiv 2407.11901) for :math:`R = LT/\alpha`.
        power: The power of that cost below the distance R, if not 2.
        epsilon: The regularisation ε, in units of the divergence; ε / L is the length of its blur. By default 0.1 L.
        epsilon_start: The ε of the first fit, for annealing; ``None`` for ``epsilon``, ``inf`` for the cost at twice the root
            mean square distance between particles and target.
        halving: The number of fits after which ε is halved, until it is ``epsilon``.
        debias: Whether the blur is subtracted. Twice the work.
        tolerance: A fit ends when its dual gap is below this part of ε (for W1, whose gap is infinite until it is solved, when the
            marginal's error times the range of the potential is).
        max_iterations: The most Sinkhorn iterations in a fit; one that ends so says so in ``gap``.
        coarse: The largest number of points that a cold start begins with; above it, it goes from random subsamples
            to all points in factors of 4.
        backend: ``auto``, ``tiled`` or ``keops``, see ``pairwise``.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        divergence: Divergence,
        lipschitz: float = 1.0,
        *,
        radius: float = 0.0,
        power: float = 2.0,
        epsilon: float | None = None,
        epsilon_start: float | None = None,
        halving: float = 30,
        debias: bool = True,
        tolerance: float = 1e-3,
        max_iterations: int = 100,
        coarse: int = 2000,
        backend: str = "auto",
    ):
        self.divergence = divergence
        self.cost: Radial = Huber(lipschitz, radius, power) if radius else Distance(lipschitz)
        self.epsilon = 0.1 * lipschitz if epsilon is None else epsilon
        self.epsilon_start = self.epsilon if epsilon_start is None else epsilon_start
        for name, value in (("epsilon", self.epsilon), ("halving", halving), ("tolerance", tolerance)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {value}")
        if not self.epsilon_start >= self.epsilon:
            raise ValueError(f"epsilon_start must be at least epsilon ({self.epsilon:g}), not {epsilon_start}")
        for name, count, least in (("max_iterations", max_iterations, 1), ("coarse", coarse, COARSER)):
            if count < least:
                raise ValueError(f"{name} must be at least {least}, not {count}")
        choose_backend(backend)
        self.halving = halving
        self.debias = debias
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.coarse = coarse
        self.backend = backend
        self.fits = 0
        self.now = self.epsilon
        self.duals: dict[str, Tensor] = {}
        self.fitted: tuple[Cloud, Cloud] | None = None
        self.slopes: tuple[Tensor, Tensor] | None = None

    def fit(self, p: Cloud, q: Cloud, key: Key) -> Info:
        here, p, q = p, p.gathered(), q.gathered()
        epsilon = self._annealed(p, q)
        check_epsilon(epsilon, p.x.dtype)
        self.fits += 1
        own_p, own_q, warm = (self._warm(name, of) for name, of in (("own_p", p), ("own_q", q), ("g", q)))
        if warm is None:
            own_q, warm = self._cold(p, q, epsilon, key)
        problem = Problem(p, q, self.cost, self.divergence, self.backend)
        if self.debias:
            own_p = self_transport(p, own_p, epsilon, self.cost, self.tolerance, self.backend)
            own_q = self_transport(q, own_q, epsilon, self.cost, self.tolerance, self.backend)
        else:
            own_p, own_q = torch.zeros_like(p.mass).double(), torch.zeros_like(warm)
        f, g, gap, iterations = problem.solve(warm, own_q, epsilon, self.tolerance, self.max_iterations)
        self.duals = {"g": g, "own_p": own_p, "own_q": own_q}
        self.fitted, self.now = (p, q), epsilon
        self.slopes = None if problem.slopes is None else (here.x, here.local(problem.slopes))
        value = p.mean(f - own_p) - q.mean(self.divergence.conjugate(own_q - g))
        return {"divergence": value, "gap": gap, "iterations": float(iterations), "epsilon": epsilon}

    def _annealed(self, p: Cloud, q: Cloud) -> float:
        if math.isinf(self.epsilon_start):
            self.epsilon_start = max(self.epsilon, float(self.cost.value(4 * mean_square(p, q))))
        return max(self.epsilon, self.epsilon_start * 2 ** (-self.fits / self.halving))

    def _warm(self, name: str, cloud: Cloud) -> Tensor | None:
        found = self.duals.get(name)
        return found if found is not None and len(found) == len(cloud) else None

    def _cold(self, p: Cloud, q: Cloud, epsilon: float, key: Key) -> tuple[Tensor, Tensor]:
        """The target's own potential and g, from subsamples to all points; on the first one ε falls from the scale of the problem."""
        sizes = [max(len(p), len(q))]
        while sizes[-1] > self.coarse:
            sizes.append(sizes[-1] // COARSER)
        own = g = torch.zeros(0)
        coarse: tuple[Cloud, Cloud, Tensor, Tensor] | None = None
        for level, size in enumerate(reversed(sizes)):
            a, b = p.draw(size, key.fold("p", level)), q.draw(size, key.fold("q", level))
            if coarse is None:
                own = g = torch.zeros_like(b.mass).double()
                falling = max(epsilon, float(self.cost.value(4 * mean_square(a, b))))
            else:
                before_a, before_b, f, own = coarse
                own = self._extended(b, before_b, own, epsilon) if self.debias else torch.zeros_like(b.mass).double()
                s = self._extended(b, before_a, f, epsilon)
                g = own + self.divergence.marginal(s - own, epsilon)
                falling = epsilon
            if len(b) == len(q) and len(a) == len(p) and coarse is not None:
                break
            problem = Problem(a, b, self.cost, self.divergence, self.backend)
            while True:
                last = falling <= epsilon
                if self.debias:
                    own = self_transport(b, own, falling, self.cost, self.tolerance, self.backend)
                f, g, _, _ = problem.solve(g, own, falling, self.tolerance, self.max_iterations if last else 5)
                if last:
                    break
                falling = max(epsilon, falling / 2)
            coarse = a, b, f, own
        return own, g

    def _extended(self, cloud: Cloud, other: Cloud, dual: Tensor, epsilon: float) -> Tensor:
        """What a dual potential on the other cloud says at the points of this one, both of which all processes have."""
        charges = charged(other, dual, epsilon)
        return shared_softmin(cloud.x, other.x, charges, self.cost, epsilon, self.backend).double()

    def phi(self, cloud: Cloud) -> Tensor:
        value, *blur = (
            softmin(
                cloud.x, other.x, charged(other, dual, self.now), self.cost, self.now, backend=self.backend
            ).double()
            for other, dual in self._sides()
        )
        return (value - blur[0] if blur else value).to(cloud.x.dtype)

    def grad(self, cloud: Cloud) -> Tensor:
        sides = self._sides()
        known = []
        if self.slopes is not None and cloud.x is self.slopes[0]:
            known, sides = [self.slopes[1]], sides[1:]
        gradient, *blur = known + [
            softmin_gradient(
                cloud.x, other.x, charged(other, dual, self.now), self.cost, self.now, backend=self.backend
            )[1]
            for other, dual in sides
        ]
        return gradient - blur[0] if blur else gradient

    def _sides(self) -> list[tuple[Cloud, Tensor]]:
        """The clouds and duals that φ is made of: the target's, less the particles' own."""
        if self.fitted is None:
            raise NotFitted("the potential has not been fitted yet")
        p, q = self.fitted
        return [(q, self.duals["g"]), (p, self.duals["own_p"])][: 1 + self.debias]

    def state_dict(self) -> dict[str, Any]:
        return {
            "fits": self.fits,
            "now": self.now,
            "epsilon_start": self.epsilon_start,
            "duals": dict(self.duals),
            "fitted": None if self.fitted is None else [cloud.state_dict() for cloud in self.fitted],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.fits, self.now, self.epsilon_start = state["fits"], state["now"], state["epsilon_start"]
        self.duals, self.slopes = dict(state["duals"]), None
        self.fitted = restored(state["fitted"])

    def record(self) -> dict[str, Any]:
        duals = {name: dual for name, dual in self.duals.items() if name != "own_q"}
        return {"now": self.now, "duals": duals, "particles": unlabelled(self.fitted)}

    def recall(self, record: dict[str, Any], q: Cloud) -> None:
        self.now, self.duals, self.slopes = record["now"], dict(record["duals"]), None
        self.fitted = recalled(record["particles"], q)


class Problem:
    """Semi-relaxed transport from p to q. Duals are in double precision, sums over pairs in that of the points."""

    def __init__(self, p: Cloud, q: Cloud, cost: Radial, divergence: Divergence, backend: str):
        self.p, self.q, self.divergence = p, q, divergence
        self.pairs = SharedPairs(p.x, q.x, cost, backend)
        self.slopes: Tensor | None = None
        """The gradient of the softmin at the particles by the last g: where costs are not kept, it comes in the same pass."""

    def solve(
        self, g: Tensor, own: Tensor, epsilon: float, tolerance: float, most: int
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Potentials f on p and g on q, the dual gap, and the number of iterations.

        Arguments:
            g: The first guess, with shape (N,).
            own: The target's own potential, the zero of g in the price of the second marginal, with shape (N,).
            epsilon: The regularisation.
            tolerance: The gap to end at, in parts of ε.
            most: The most iterations.
        """
        iterations, past = 0, _Past()
        g = g + self.divergence.nu(own - g, self.q)  # into the domain of the conjugate
        while True:
            iterations += 1
            f = self._potential_on_p(charged(self.q, g, epsilon), epsilon).double()
            s = self.pairs.columns(charged(self.p, f, epsilon), epsilon).double()
            gap = self._gap(g, s, own, epsilon)
            if iterations >= most or bool(gap <= tolerance * epsilon):
                return f, g, gap, iterations
            answer = own + self.divergence.marginal(s - own, epsilon)
            g = past.mixed(g, answer, float(gap), self.q)
            g = g + self.divergence.nu(own - g, self.q)  # no constant is better

    def _potential_on_p(self, dual: Tensor, epsilon: float) -> Tensor:
        if self.pairs.kept:
            return self.pairs.rows(dual, epsilon)
        f, self.slopes = self.pairs.gradient(dual, epsilon)
        return f

    def _gap(self, g: Tensor, s: Tensor, own: Tensor, epsilon: float) -> Tensor:
        """The primal value less the dual one, in units of the divergence.

        After the half step that gives f the first marginal is exact, the second has the density exp((g − s)/ε), and all that is left is
        how far f, its conjugate and their arguments are from equality in Fenchel's inequality.
        """
        density = ((g - s) / epsilon).exp()
        if isinstance(self.divergence, W1):
            reach = torch.maximum(g.max() - g.min(), s.max() - s.min())
            return self.q.mean((density - 1).abs()) / 2 * reach
        t = own - g
        return self.q.mean(self.divergence.f(density) + self.divergence.conjugate(t) - density * t)


class _Past:
    """Anderson's acceleration of a fixed-point iteration: the last few steps tell where it is heading.

    The residual of a mixture of the last steps is made least. When the gap has grown, plain steps follow for a while, longer every time:
    they always converge. It takes the 60 against 80 points of the tests from 498 iterations to 78 at ε = 0.005 (KL), and
    4,000 against 4,000 points from 12 to 5 at 0.1.
    """

    def __init__(self, length: int = 5):
        self.length = length
        self.answers: list[Tensor] = []
        self.residuals: list[Tensor] = []
        self.best = math.inf
        self.plain, self.patience = 0, 5

    def mixed(self, g: Tensor, answer: Tensor, gap: float, q: Cloud) -> Tensor:
        """The next guess after ``g``, to which the plain iteration's answer is ``answer``."""
        if self.plain:
            self.plain -= 1
            self.best = gap
            return answer
        if not gap <= 1.5 * self.best:
            self.answers, self.residuals = [], []
            self.plain, self.patience = self.patience, 2 * self.patience
            return answer
        self.best = min(self.best, gap)
        self.answers = [*self.answers[-self.length :], answer]
        self.residuals = [*self.residuals[-self.length :], answer - g]
        if len(self.answers) == 1:
            return answer
        steps = torch.stack(self.answers, 1).diff(dim=1)  # (N, m)
        changes = torch.stack(self.residuals, 1).diff(dim=1)
        weighed = changes.t() * q.mass.double()
        gram = weighed @ changes
        gram.diagonal().add_(1e-10 * gram.trace() + torch.finfo(gram.dtype).tiny)
        mixture: Tensor = torch.linalg.solve(gram, weighed @ self.residuals[-1])
        return answer - steps @ mixture


def charged(cloud: Cloud, dual: Tensor, epsilon: float) -> Tensor:
    """A dual potential with the masses of its points, as the softmin wants it."""
    return (dual + epsilon * cloud.mass.double().log()).to(cloud.x.dtype)


def self_transport(
    cloud: Cloud, start: Tensor | None, epsilon: float, cost: Radial, tolerance: float, backend: str
) -> Tensor:
    """The symmetric potential of transport from a cloud to itself, by averaged iterations (Feydy et al., arXiv 1810.08278)."""
    pairs = SharedPairs(cloud.x, cloud.x, cost, backend)
    h = torch.zeros_like(cloud.mass).double() if start is None else start
    for _ in range(100):
        answer = pairs.rows(charged(cloud, h, epsilon), epsilon).double()
        log_density = (h - answer) / epsilon
        h = (h + answer) / 2
        if bool(cloud.mean(torch.exp(log_density) * log_density - torch.expm1(log_density)) <= tolerance):
            break
    return h
