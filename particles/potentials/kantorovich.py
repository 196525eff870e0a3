r"""The Kantorovich potential of the W2 loss :math:`\frac12 W_2^2(P, Q)` (arXiv 2406.13619).

The cost is :math:`\frac12\|x - y\|^2`, ψ is the potential on the particles' side and φ the one on the target's,
:math:`\psi(y) + \varphi(x) \le \frac12\|x - y\|^2`. Particles descend ψ: :math:`\nabla\psi(y) = y - T(y)` with T the optimal map, so an
Euler step of h goes the part h of the way along a straight line. (The authors' code steps along +∇φ, which is the same for
translations and wrong for changes of scale.)
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from particles import shards
from particles.cloud import Cloud, mean_square
from particles.divergences import W1
from particles.kernels import Squared
from particles.keys import Key
from particles.networks.adam import Adam
from particles.networks.dense import DenseNetwork
from particles.pairwise.exact import hush, network_simplex
from particles.pairwise.keops import choose_backend
from particles.pairwise.sums import check_epsilon, softmin, softmin_gradient
from particles.potentials.base import Info, NotFitted, Potential, recalled, restored, unlabelled
from particles.potentials.neural import NetworkPotential
from particles.potentials.transport import Problem, charged, self_transport


class ExactKantorovich(Potential):
    r"""The potential by linear programming (POT's network simplex), in double precision.

    At a particle ∇ψ is its place less the mean of the target points that it is matched to (for other points at its place: that all
    particles there are); anywhere else it is that of
    :math:`\psi(y) = \min_j \{\frac12\|x_j - y\|^2 - \varphi_j\}`, and points that are no particles (carried or new ones) head for one
    target point each, near ones for different ones. The time grows like the cube of the number of points: a few thousand at most.
    Between samples of equal size and without weights particles are matched one to one, the matching never changes along the flow,
    and W2 shrinks by exactly 1 − h per Euler step.
    """

    def __init__(self) -> None:
        self.dual = torch.zeros(0, dtype=torch.double)
        self.images = torch.zeros(0, 0, dtype=torch.double)
        self.fitted: tuple[Cloud, Cloud] | None = None
        self.particles = torch.zeros(0, 0), self.images  # of this process

    def fit(self, p: Cloud, q: Cloud, key: Key) -> Info:
        here, p, q = p, p.gathered(), q.gathered()
        value, dual, images = shards.once(lambda: self._solved(p, q))  # by one of the processes, for all
        self.dual = torch.as_tensor(dual, device=p.x.device)
        self.images = torch.as_tensor(images, device=p.x.device)
        self.fitted, self.particles = (p, q), (here.x, here.local(self.images))
        return {"divergence": value}

    @staticmethod
    def _solved(p: Cloud, q: Cloud) -> tuple[float, np.ndarray, np.ndarray]:
        """The value, the dual potential on the target, and the mean of the target points of each particle."""
        hush()
        import ot

        y, x = (cloud.x.detach().cpu().double().numpy() for cloud in (p, q))
        a, b = (cloud.mass.detach().cpu().double().numpy() for cloud in (p, q))
        a, b = a / a.sum(), b / b.sum()
        origin = x.mean(0)  # squared distances are differences of squares there: keep them small
        costs = ot.dist(y - origin, x - origin) / 2
        plan, dual, _ = network_simplex(a, b, costs)
        share = plan / plan.sum(1, keepdims=True)
        images = origin + share @ (x - origin)
        single = share.max(1) == 1
        images[single] = x[share[single].argmax(1)]  # not even rounding between a particle and its one partner
        return float((plan * costs).sum()), dual, images

    def phi(self, cloud: Cloud) -> Tensor:
        return self._nearest(cloud)[0].to(cloud.x.dtype)

    def grad(self, cloud: Cloud) -> Tensor:
        p, q = self._clouds()
        x, own = self.particles
        if torch.equal(cloud.x, x):  # particles at one place may have different partners
            return (x.double() - own).to(cloud.x.dtype)
        images = q.x.double()[self._nearest(cloud)[1]]
        places: dict[bytes, list[int]] = {}
        for i, row in enumerate(p.x.detach().cpu().numpy()):
            places.setdefault(row.tobytes(), []).append(i)
        for i, row in enumerate(cloud.x.detach().cpu().numpy()):
            if (there := places.get(row.tobytes())) is not None:
                share = p.mass.double()[there]
                images[i] = self.images[there[0]] if len(there) == 1 else share @ self.images[there] / share.sum()
        return (cloud.x.double() - images).to(cloud.x.dtype)

    def _nearest(self, cloud: Cloud) -> tuple[Tensor, Tensor]:
        """The values of ψ, and the target points that attain them."""
        _, q = self._clouds()
        x, mins = q.x.double(), []
        for y in cloud.x.double().split(1024):
            costs = torch.cdist(y, x, compute_mode="donot_use_mm_for_euclid_dist").square() / 2
            mins.append((costs - self.dual).min(1))
        return torch.cat([m.values for m in mins]), torch.cat([m.indices for m in mins])

    def _clouds(self) -> tuple[Cloud, Cloud]:
        if self.fitted is None:
            raise NotFitted("the potential has not been fitted yet")
        return self.fitted

    def state_dict(self) -> dict[str, Any]:
        fitted = None if self.fitted is None else [cloud.state_dict() for cloud in self.fitted]
        return {"dual": self.dual, "images": self.images, "fitted": fitted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.dual, self.images = state["dual"], state["images"]
        self._take(restored(state["fitted"]))

    def record(self) -> dict[str, Any]:
        return {"dual": self.dual, "images": self.images, "particles": unlabelled(self.fitted)}

    def recall(self, record: dict[str, Any], q: Cloud) -> None:
        self.dual, self.images = record["dual"], record["images"]
        self._take(recalled(record["particles"], q))

    def _take(self, fitted: tuple[Cloud, Cloud] | None) -> None:
        self.fitted = fitted
        if fitted is not None:
            self.particles = fitted[0].x, self.images


SLOWEST = 0.999


class SinkhornKantorovich(Potential):
    r"""The potential of the debiased Sinkhorn divergence (Feydy et al., arXiv 1810.08278).

    geomloss finds the first dual potentials, by annealing; it stops when it has reached ε, and the gradients are then a
    tenth off or more. So the iterations of ``transport`` go on from there, as they do from fit to fit, until they have converged. Values and
    gradients, anywhere, are softmins of the potentials.

    Arguments:
        epsilon: The regularisation ε, in units of the cost, length²; the blur is √ε.
        scaling: The ratio of successive blurs in geomloss' annealing, at most 0.999: nearer to 1 it would take millions of them.
        tolerance: A fit ends when the marginal's error times the range of the potential is below this part of the mean cost.
        max_iterations: The most iterations in a fit after the annealing; one that ends so says so in ``gap``.
        backend: ``auto``, ``tiled`` or ``keops``, see ``pairwise``. geomloss works on a cost matrix up to 5,000 × 5,000 points, above with KeOps.

    Raises:
        ValueError: If a number is out of its range, or the backend is unknown.
    """

    def __init__(
        self,
        epsilon: float = 0.0025,
        *,
        scaling: float = 0.9,
        tolerance: float = 1e-3,
        max_iterations: int = 100,
        backend: str = "auto",
    ):
        for name, value in (("epsilon", epsilon), ("tolerance", tolerance)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {value}")
        if not 0 < scaling <= SLOWEST:
            raise ValueError(f"scaling must be between 0 and 1, at most {SLOWEST}, not {scaling}")
        if max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, not {max_iterations}")
        self.epsilon = epsilon
        self.scaling = scaling
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.backend = choose_backend(backend)
        self.duals: dict[str, Tensor] = {}
        self.fitted: tuple[Cloud, Cloud] | None = None

    def fit(self, p: Cloud, q: Cloud, key: Key) -> Info:
        check_epsilon(self.epsilon, p.x.dtype)
        p, q = p.gathered(), q.gathered()
        clouds = {"own_p": p, "own_q": q, "g": q}
        warm = {name: self.duals.get(name) for name in clouds}
        warm = {
            name: dual if dual is not None and len(dual) == len(clouds[name]) else None for name, dual in warm.items()
        }
        g = shards.once(lambda: self._annealed(p, q)) if warm["g"] is None else warm["g"]
        cost = Squared()
        own_p, own_q = (
            self_transport(clouds[name], warm[name], self.epsilon, cost, self.tolerance, self.backend)
            for name in ("own_p", "own_q")
        )
        problem = Problem(p, q, cost, W1(), self.backend)
        enough = self.tolerance * float(mean_square(p, q)) / 2 / self.epsilon
        f, g, gap, iterations = problem.solve(g, torch.zeros_like(g), self.epsilon, enough, self.max_iterations)
        self.duals, self.fitted = {"g": g, "own_p": own_p, "own_q": own_q}, (p, q)
        value = p.mean(f - own_p) + q.mean(g - own_q)
        return {"divergence": value, "gap": gap, "iterations": float(iterations)}

    def _annealed(self, p: Cloud, q: Cloud) -> Tensor:
        hush()
        from geomloss import SamplesLoss

        backend = "tensorized" if len(p) * len(q) <= 5000**2 else "online"
        blur = math.sqrt(self.epsilon)
        loss = SamplesLoss("sinkhorn", 2, blur, scaling=self.scaling, debias=False, potentials=True, backend=backend)
        with torch.no_grad():
            _, g = loss(p.mass, p.x, q.mass, q.x)
        dual: Tensor = g.view(-1).double()
        return dual

    def phi(self, cloud: Cloud) -> Tensor:
        value, blur = (
            softmin(cloud.x, other.x, charged(other, dual, self.epsilon), Squared(), self.epsilon, backend=self.backend)
            for other, dual in self._sides()
        )
        return value - blur

    def grad(self, cloud: Cloud) -> Tensor:
        gradient, blur = (
            softmin_gradient(
                cloud.x, other.x, charged(other, dual, self.epsilon), Squared(), self.epsilon, backend=self.backend
            )[1]
            for other, dual in self._sides()
        )
        return gradient - blur

    def _sides(self) -> list[tuple[Cloud, Tensor]]:
        if self.fitted is None:
            raise NotFitted("the potential has not been fitted yet")
        p, q = self.fitted
        return [(q, self.duals["g"]), (p, self.duals["own_p"])]

    def state_dict(self) -> dict[str, Any]:
        fitted = None if self.fitted is None else [cloud.state_dict() for cloud in self.fitted]
        return {"duals": dict(self.duals), "fitted": fitted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.duals, self.fitted = dict(state["duals"]), restored(state["fitted"])

    def record(self) -> dict[str, Any]:
        duals = {name: dual for name, dual in self.duals.items() if name != "own_q"}
        return {"duals": duals, "particles": unlabelled(self.fitted)}

    def recall(self, record: dict[str, Any], q: Cloud) -> None:
        self.duals, self.fitted = dict(record["duals"]), recalled(record["particles"], q)


class NeuralKantorovich(NetworkPotential):
    r"""Two networks trained on the regularised dual (arXiv 2406.13619, Section 4; Seguy et al., arXiv 1711.02283)

    .. math:: \max_{\psi, \varphi} \; E_P \psi + E_Q \varphi - \tfrac{1}{4\varepsilon} E_{P \times Q} (\psi + \varphi - c)_+^2 .

    The penalty is taken at all pairs of a minibatch (the authors' code takes paired points only). The networks and their optimiser
    live on from fit to fit; the first fit has ``warmup`` further steps, in the first half of which ε falls to its value from that of the mean
    cost. The plan has the density :math:`(\psi + \varphi - c)_+ / 2\varepsilon`, so on one pair of points ψ + φ exceeds the cost by 2ε. The
    ``divergence`` is the cost of that plan, on the last minibatch.

    Arguments:
        psi: The network on the particles' side, with a bias in its output (``classes=1`` for points without labels).
        phi: The same on the target's side.
        epsilon: The regularisation ε, in units of the cost, length².
        learning_rate: The step of Adam.
        momentum: The decay of Adam's first moment, from 0 to 1.
        inner_steps: The number of ascent steps per fit.
        warmup: The number of further ones in the first fit.
        batch_size: The number of points that each step draws from each cloud; ``None`` for all.
        chunk_size: The most points that are evaluated at once outside of training.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        psi: DenseNetwork,
        phi: DenseNetwork,
        *,
        epsilon: float = 0.01,
        learning_rate: float = 1e-3,
        momentum: float = 0.9,
        inner_steps: int = 5,
        warmup: int = 1000,
        batch_size: int | None = 256,
        chunk_size: int = 65536,
    ):
        for name, value in (("epsilon", epsilon), ("learning_rate", learning_rate)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {value}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be from 0 to below 1, not {momentum}")
        for name, count, least in (
            ("inner_steps", inner_steps, 1),
            ("warmup", warmup, 0),
            ("batch_size", batch_size, 2),
            ("chunk_size", chunk_size, 1),
        ):
            if count is not None and count < least:
                raise ValueError(f"{name} must be at least {least}, not {count}")
        self.network, self.other = psi.eval(), phi.eval()
        self.epsilon = epsilon
        self.inner_steps = inner_steps
        self.warmup = warmup
        self.batch_size = batch_size
        self.chunk_size = chunk_size
        self.weights = [*psi.parameters(), *phi.parameters()]
        self.optimizer = Adam(self.weights, learning_rate, momentum)
        self.warm = False

    def fit(self, p: Cloud, q: Cloud, key: Key) -> Info:
        p, q = _labelled(p), _labelled(q)
        steps = self.inner_steps + (0 if self.warm else self.warmup)
        self.warm = True
        self.network.train()
        self.other.train()
        with torch.inference_mode():
            for step in range(steps):
                batch_p, batch_q = (  # of several processes all have the whole batch, and the same networks
                    cloud.draw(self.batch_size, key.fold(step, name)).gathered() for cloud, name in ((p, "p"), (q, "q"))
                )
                value = self._ascend(batch_p, batch_q, self._falling(p, q, steps - step - self.inner_steps))
        self.network.eval()
        self.other.eval()
        return {"divergence": value.clone(), "inner_steps": float(steps)}

    def _falling(self, p: Cloud, q: Cloud, left: int) -> float:
        """The ε of a step of the first fit, by how many steps of its warm-up are left."""
        part = 2 * left / max(self.warmup, 1) - 1
        if part <= 0:
            return self.epsilon
        return float(self.epsilon * max(1.0, float(mean_square(p, q)) / 2 / self.epsilon) ** part)

    def _ascend(self, p: Cloud, q: Cloud, epsilon: float) -> Tensor:
        """One step of both networks, and the cost of the plan before it."""
        psi, pull_psi = self.network.push(p.x, p.label)
        phi, pull_phi = self.other.push(q.x, q.label)
        costs = torch.cdist(p.x, q.x).square() / 2
        excess = (psi[:, None] + phi - costs).clamp_(min=0)  # (B, B)
        if p.label is not None and q.label is not None:
            excess.mul_(p.label[:, None] == q.label)  # between classes transport costs infinitely much
        mass_p, mass_q = p.mass, q.mass
        value: Tensor = p.mean(psi) + q.mean(phi) - mass_p @ excess.square() @ mass_q / (2 * epsilon)
        in_psi, _ = pull_psi(mass_p * (1 - excess @ mass_q / (2 * epsilon)), True, False)
        in_phi, _ = pull_phi(mass_q * (1 - mass_p @ excess / (2 * epsilon)), True, False)
        self.optimizer.ascend([*in_psi, *in_phi])
        return value

    def phi(self, cloud: Cloud) -> Tensor:
        return super().phi(_labelled(cloud))

    def grad(self, cloud: Cloud) -> Tensor:
        return super().grad(_labelled(cloud))

    def state_dict(self) -> dict[str, Any]:
        return {
            "psi": self.network.state_dict(),
            "phi": self.other.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "warm": self.warm,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["psi"])
        self.other.load_state_dict(state["phi"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.warm = state["warm"]


def _labelled(cloud: Cloud) -> Cloud:
    """The cloud, all of one class if it has none: the networks have an output with a bias per class."""
    if cloud.label is not None:
        return cloud
    return replace(cloud, label=torch.zeros(len(cloud), dtype=torch.long, device=cloud.x.device))
