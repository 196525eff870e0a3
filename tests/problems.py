"""Problems whose answers are known."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import torch

from particles import Cloud, Flow, Key

DOUBLE = torch.float64


def normal(n: int, d: int, name: str, dtype: torch.dtype = DOUBLE) -> torch.Tensor:
    return torch.randn(n, d, generator=Key.of(0).fold(name).generator(), dtype=dtype)


def huber(m: float, s: float, lipschitz: float) -> float:
    """D(N(m, s² I) ‖ N(0, s² I)) for KL: quadratic for near means, linear for far ones."""
    if m <= lipschitz * s**2:
        return m**2 / (2 * s**2)
    return lipschitz * m - lipschitz**2 * s**2 / 2


def convex_program(divergence: str, y: np.ndarray, x: np.ndarray, lipschitz: float) -> float:
    """The Lipschitz-regularised divergence between two samples: max over all L-Lipschitz functions on their points."""
    z = np.concatenate((y, x))
    distance = np.linalg.norm(z[:, None] - z[None], axis=-1)
    phi = cp.Variable(len(z))
    nu = cp.Variable()
    on_p, t = phi[: len(y)], phi[len(y) :] - nu
    n = len(x)
    conjugate = {
        "kl": lambda: cp.sum(cp.exp(t) - 1) / n,
        "reverse-kl": lambda: cp.sum(-cp.log(1 - t)) / n,
        "alpha": lambda: cp.sum(cp.square(cp.pos(1 + t)) - 1) / (2 * n),  # alpha = 2
        "w1": lambda: cp.sum(t) / n,
    }[divergence]()
    i, j = np.triu_indices(len(z), 1)
    apart = phi[i] - phi[j]
    bound = lipschitz * distance[i, j]
    program = cp.Problem(cp.Maximize(cp.sum(on_p) / len(y) - nu - conjugate), [apart <= bound, apart >= -bound])
    return float(program.solve(solver=cp.CLARABEL))


def semi_relaxed(divergence: str, cost: np.ndarray) -> float:
    """min over γ of the cost of transport from uniform rows to γ, plus the divergence of γ to uniform columns."""
    m, n = cost.shape
    plan = cp.Variable((m, n), nonneg=True)
    density = cp.sum(plan, axis=0) * n
    paid = {
        "kl": lambda: cp.sum(cp.kl_div(density, np.ones(n))) / n,
        "reverse-kl": lambda: cp.sum(density - 1 - cp.log(density)) / n,
        "jensen-shannon": lambda: (
            cp.sum(cp.rel_entr(density, (density + 1) / 2) + cp.rel_entr(np.ones(n), (density + 1) / 2)) / n
        ),
        "alpha": lambda: cp.sum_squares(density - 1) / (2 * n),  # alpha = 2
        "w1": lambda: 0,
    }[divergence]()
    kept = [cp.sum(plan, axis=1) == 1 / m] + ([density == 1] if divergence == "w1" else [])
    program = cp.Problem(cp.Minimize(cp.sum(cp.multiply(cost, plan)) + paid), kept)
    return float(program.solve(solver=cp.CLARABEL))


class Analytic(Flow):
    """A velocity field given by a formula in time and place, and the potential whose slope it is, if it is one."""

    def __init__(self, formula, height=None):
        self.formula = formula
        self.height = height

    def velocity(self, t, cloud, key):
        v, info = self.field(t, cloud, key)
        if self.height is not None:
            info["divergence"] = cloud.active.mean(self.phi(cloud.active))
        return v, info

    def field(self, t, cloud, key):
        v = self.formula(t, cloud.x)
        return v, {"kinetic_energy": v.square().sum(1).mean() / 2}

    def phi(self, cloud):
        return self.height(cloud.x)

    def landscape(self, t, cloud):
        return self.phi(cloud), -self.formula(t, cloud.x)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def rotating(t, x):
    """A turn about the origin at a rate that grows with time, and a pull inwards: x' = (1 + t) J x − x."""
    turn = torch.stack((-x[:, 1], x[:, 0]), 1)
    return (1 + t) * turn - x


def rotated(x, t):
    """Where the points of ``rotating`` are at time t."""
    angle = t + t**2 / 2
    c, s = np.cos(angle), np.sin(angle)
    return np.exp(-t) * x @ torch.tensor([[c, s], [-s, c]], dtype=x.dtype)


def cloud(n: int, d: int, name: str, dtype: torch.dtype = DOUBLE) -> Cloud:
    return Cloud(normal(n, d, name, dtype))
