r"""One large proximal step, solved: the exact answer to a W1 ⊕ W2 proximal flow (arXiv 2407.11901), with no network.

The flow's objective is a divergence of its end and the kinetic energy on the way. The latter is least on straight lines
at constant speed (Benamou and Brenier), so all that is sought is the end,

.. math:: \inf_\rho \; D(\rho \| Q) + \tfrac{\alpha}{2T} W_2^2(\rho_0, \rho),
    \qquad D(\rho \| Q) = \inf_\gamma \; L \, W_1(\rho, \gamma) + D_f(\gamma \| Q).

Infimal convolutions of transport costs are transport costs: it is semi-relaxed transport of :math:`\rho_0` to γ with
Huber's cost, of radius :math:`R = LT/\alpha`. A point that the plan sends from x to z travels the part min(1, R/r) of
the way, r = ‖z − x‖; the rest is what :math:`L \, W_1` pays. For a running cost :math:`\frac{\alpha}{p} \|v\|^p` it is
the cost of power p and :math:`R = T (L/\alpha)^{1/(p-1)}`.

**Certified.** Entropy only guides the search for γ; neither bound has any. Every γ gives an upper bound, with a plan by
the network simplex, and every dual potential g a lower one, by the transform :math:`f_i = \min_j C_{ij} - g_j`. The
entropy's ε is halved until the two are near.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from particles.cloud import Cloud, mean_square
from particles.divergences import W1, Divergence
from particles.kernels import Huber
from particles.keys import Key
from particles.pairwise.exact import network_simplex
from particles.potentials.transport import Problem, charged


@dataclass(frozen=True, eq=False)
class Plan:
    r"""Who goes where: the nonzero entries of a transport plan, and the straight flow that they stand for.

    An entry moves its mass from :math:`x_0`, a source point, towards z, a target point, to the end
    :math:`x_T = x_0 + \min(1, R/r) (z - x_0)`. A point whose mass goes several ways is split.

    Arguments:
        source: The particles, M points, without carried ones.
        target: The target, N points.
        index_source: The row of each of K entries in the source, with shape :math:`(K,)`, in increasing order.
        index_target: Its row in the target, with shape :math:`(K,)`.
        mass: Its mass, with shape :math:`(K,)`, in double precision; they sum to one.
        value: What this plan costs, divergence and kinetic energy: an upper bound of the least value.
        lower: A lower bound of it.
        lipschitz: The bound L on the discriminator's slope, in units of the divergence per length.
        alpha: The weight α of the kinetic energy.
        horizon: The time T that the flow takes.
        power: The power p of the speed in the running cost.
    """

    source: Cloud
    target: Cloud
    index_source: Tensor
    index_target: Tensor
    mass: Tensor
    value: float
    lower: float
    lipschitz: float
    alpha: float
    horizon: float
    power: float

    @property
    def radius(self) -> float:
        r"""The length R that no point moves further than, :math:`T (L/\alpha)^{1/(p-1)}`."""
        return _radius(self.lipschitz, self.alpha, self.horizon, self.power)

    @property
    def ends(self) -> Cloud:
        """The ends of all entries, a weighted cloud of K points with the source's labels.

        The k-th comes from ``source.x[index_source[k]]``.
        """
        label = None if self.source.label is None else self.source.label[self.index_source]
        return Cloud(self._ends().to(self.source.x.dtype), label, self.mass.to(self.source.x.dtype))

    @property
    def kinetic_energy(self) -> float:
        r""":math:`E \int_0^T \frac1p \|v\|^p dt`, without α; for p = 2 it is :math:`\frac{1}{2T} E\|x_T - x_0\|^2`."""
        paid = self.horizon / self.power * (self._lengths() / self.horizon) ** self.power
        return float(self.mass @ paid)

    @property
    def divergence(self) -> float:
        """The divergence of the ends from the target by this plan, L W1 + D_f: the value without the kinetic energy."""
        return self.value - self.alpha * self.kinetic_energy

    @property
    def max_speed(self) -> float:
        r"""The speed of the fastest point; at most :math:`(L/\alpha)^{1/(p-1)}`."""
        return float(self._lengths().max()) / self.horizon

    @property
    def slope(self) -> float:
        r"""The discriminator's slope at the end of the fastest point, :math:`\alpha \|v\|^{p-1}`; at most L."""
        return float(self.alpha * self.max_speed ** (self.power - 1))

    def drawn(self, key: Key) -> Tensor:
        """One end for each source point, drawn by the masses of its entries, with shape :math:`(M, d)`.

        On average over keys they have the law of ``ends``. A point that is not split has no choice.

        Arguments:
            key: The randomness; the same key gives the same bits.
        """
        rows = torch.arange(len(self.source), device=self.mass.device)
        first = torch.searchsorted(self.index_source, rows)
        last = torch.searchsorted(self.index_source, rows, right=True) - 1
        reached = self.mass.cumsum(0)
        before = reached[first] - self.mass[first]
        chance = torch.rand(len(rows), generator=key.generator(), dtype=torch.double).to(reached.device)
        chosen = torch.searchsorted(reached, before + chance * (reached[last] - before), right=True)
        drawn: Tensor = self._ends()[chosen.clamp(first, last)]
        return drawn.to(self.source.x.dtype)

    def _ends(self) -> Tensor:
        """In double precision; exactly the target's points where they are within reach."""
        start, goal = self.source.x.double()[self.index_source], self.target.x.double()[self.index_target]
        r = (goal - start).norm(dim=1, keepdim=True)
        ends: Tensor = torch.where(r <= self.radius, goal, start + self.radius / r * (goal - start))
        return ends

    def _lengths(self) -> Tensor:
        """How far the entries move, with shape (K,)."""
        start, goal = self.source.x.double()[self.index_source], self.target.x.double()[self.index_target]
        lengths: Tensor = (goal - start).norm(dim=1)
        return lengths.clamp(max=self.radius)


def proximal_plan(
    source: Cloud,
    target: Cloud,
    divergence: Divergence,
    *,
    lipschitz: float,
    alpha: float,
    horizon: float = 1.0,
    power: float = 2.0,
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
) -> Plan:
    r"""The flow from the source that makes :math:`D(\rho_T \| Q) + \alpha E \int_0^T \frac1p \|v\|^p dt` least.

    With labels in both clouds mass stays in its class. A discriminator of slope L moves no point further than
    :math:`R = T (L/\alpha)^{1/(p-1)}`: choose L, α and T so that R is no less than the distance to cover. All costs
    are in memory, in double precision, and the time grows like the cube of the number of points: a few thousand at most.

    Arguments:
        source: The particles :math:`\rho_0`; carried ones are left out.
        target: The data Q.
        divergence: The f-divergence; with ``W1`` the plan is exact.
        lipschitz: The bound L on the discriminator's slope, in units of the divergence per length.
        alpha: The weight α of the kinetic energy; large ones hold the points back.
        horizon: The time T that the flow takes.
        power: The power p of the speed in the running cost, above 1.
        tolerance: The search ends when ``value`` − ``lower`` is below this part of ``value``.
        max_iterations: The most Sinkhorn iterations (for each class); a search that ends so says so in ``lower``.

    Raises:
        ValueError: If a number is out of its range, the dimensions differ, one cloud alone has labels, or a class has
            another share of the source than of the target.
    """
    numbers = {"lipschitz": lipschitz, "alpha": alpha, "horizon": horizon, "tolerance": tolerance}
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive and finite, not {number}")
    if not 1 < power < math.inf:
        raise ValueError(f"power must be above 1 and finite, not {power}")
    if abs(math.log(lipschitz / alpha)) > 60 * (power - 1):
        raise ValueError(f"power must be further above 1 than {power} for lipschitz / alpha = {lipschitz / alpha:g}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, not {max_iterations}")
    source, target = source.active, target.active
    if source.dimension != target.dimension:
        raise ValueError(f"the clouds have dimensions {source.dimension} and {target.dimension}; they must be the same")
    cost = Huber(lipschitz, _radius(lipschitz, alpha, horizon, power), power)
    value = lower = 0.0
    entries = []
    for rows, columns, share in _classes(source, target):
        found = _Bracket(_double(source.take(rows)), _double(target.take(columns)), cost, divergence)
        found.close(tolerance, max_iterations)
        i, j = found.plan.nonzero(as_tuple=True)
        entries.append((rows[i], columns[j], share * found.plan[i, j]))
        value, lower = value + share * found.value, lower + share * found.lower
    index_source, index_target, mass = (torch.cat(parts).to(source.x.device) for parts in zip(*entries))
    order = index_source.argsort(stable=True)
    return Plan(
        source, target, index_source[order], index_target[order], mass[order] / mass.sum(),
        value, lower, lipschitz, alpha, horizon, power,
    )  # fmt: skip


def _radius(lipschitz: float, alpha: float, horizon: float, power: float) -> float:
    return float(horizon * (lipschitz / alpha) ** (1 / (power - 1)))


class _Bracket:
    """The best plan of a semi-relaxed problem so far, what it costs, and the best lower bound."""

    def __init__(self, p: Cloud, q: Cloud, cost: Huber, divergence: Divergence):
        self.p, self.q, self.cost, self.divergence = p, q, cost, divergence
        squares = torch.cdist(p.x, q.x, compute_mode="donot_use_mm_for_euclid_dist").square_()
        self.costs = cost.unit_(squares, torch.empty_like(squares)).mul_(cost.value_factor)
        self.plan = torch.zeros(0, 0, dtype=torch.double)
        self.value, self.lower = math.inf, -math.inf

    def close(self, tolerance: float, most: int) -> None:
        """Narrows the bracket to a part of the value, in at most so many iterations."""
        self._try(self.q.mass)
        if isinstance(self.divergence, W1):
            return
        g = torch.zeros_like(self.q.mass)
        self._lift(g)  # exact between equal clouds
        epsilon = scale = float(self.cost.value(4 * mean_square(self.p, self.q)))
        problem = Problem(self.p, self.q, self.cost, self.divergence, "tiled")
        own, left = torch.zeros_like(g), most
        while left > 0 and epsilon > 1e-10 * scale and self._wide(tolerance, scale):
            f, g, _, iterations = problem.solve(g, own, epsilon, 0.1, min(left, 100))
            left -= iterations
            if epsilon <= 10 * tolerance * self.value or not left:  # above, it stays wider
                self._lift(g)
                self._try(self.q.mass * self.divergence.density(-g, self.q))
                if self._wide(tolerance, scale):  # the marginal of the plan itself; it is the better one for small ε
                    s = problem.pairs.columns(charged(self.p, f, epsilon), epsilon)
                    self._try(torch.softmax((g - s) / epsilon + self.q.mass.log(), 0))
            epsilon /= 2

    def _wide(self, tolerance: float, scale: float) -> bool:
        return self.value - self.lower > tolerance * self.value + 1e-12 * scale

    def _try(self, gamma: Tensor) -> None:
        """The cheapest plan to γ, of shape (N,), for an upper bound, and its dual potential for a lower one."""
        gamma = gamma / gamma.sum()
        found, dual, _ = network_simplex(self.p.mass.numpy(), gamma.numpy(), self.costs.numpy())
        plan = torch.from_numpy(found)
        density = gamma / self.q.mass
        paid = 0.0 if isinstance(self.divergence, W1) else float(self.q.mean(self.divergence.f(density)))
        value = float((plan * self.costs).sum()) + paid
        if value < self.value:
            self.plan, self.value = plan, value
        self._lift(torch.from_numpy(dual))

    def _lift(self, g: Tensor) -> None:
        """The dual objective at g, with shape (N,), raised as far as the f that belongs to it allows."""
        f = (self.costs - g).amin(1)
        g = (self.costs - f[:, None]).amin(0)
        dual = float(self.divergence.objective(f, -g, self.p, self.q))
        self.lower = min(max(self.lower, dual), self.value)  # rounding could take it above an exact value


def _double(cloud: Cloud) -> Cloud:
    """The points in double precision where POT can read them, with weights that sum to one to the last digit."""
    mass = cloud.mass.detach().cpu().double()
    return Cloud(cloud.x.detach().cpu().double(), weight=mass / mass.sum())


def _classes(source: Cloud, target: Cloud) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Rows of the source and of the target between which mass moves, and their share of it."""
    if (source.label is None) != (target.label is None):
        raise ValueError("labels are needed in both clouds or in neither")
    if source.label is None or target.label is None:
        yield torch.arange(len(source)), torch.arange(len(target)), 1.0
        return
    for c in sorted(set(source.label.tolist()) | set(target.label.tolist())):
        rows, columns = (torch.where(cloud.label == c)[0].cpu() for cloud in (source, target))
        share, wanted = (
            float(cloud.mass.double()[members].sum() / cloud.mass.double().sum())
            for cloud, members in ((source, rows), (target, columns))
        )
        if abs(share - wanted) > 1e-5:
            raise ValueError(
                f"class {c} has the share {share:g} of the source and {wanted:g} of the target; mass stays in its "
                "class, so they must be equal: take as many source points of each class as the target has, or weights"
            )
        yield rows, columns, share
