"""Flows and potentials against formulas: the W2 flow, the W1 flow, the W1 ⊕ W2 proximal step, and the divergence they descend."""

import itertools
import math

import numpy as np
import ot
import pytest
import torch
from problems import DOUBLE, cloud, normal

from particles import (
    KL,
    W1,
    Adaptive,
    Alpha,
    Cloud,
    Euler,
    Evolve,
    ExactKantorovich,
    GradientFlow,
    HopfLaxFlow,
    JensenShannon,
    Key,
    Memory,
    PlannedFlow,
    Proximal,
    ReverseKL,
    RunningCost,
    SinkhornKantorovich,
    TransportPotential,
    heun,
    rk4,
    simulate,
    w2,
)
from particles.networks.lipschitz import slope_penalty
from particles.potentials.base import Potential

pytestmark = pytest.mark.slow

KEY = Key.of(0)
SMOOTH = [KL(), ReverseKL(), JensenShannon(), Alpha(2.0)]
EVERY = [*SMOOTH, W1()]


def run(potential, stepper, p, q, step_size, steps):
    """The clouds and rows of a flow; a row says what was found before its step."""
    store = Memory(log_every=1)
    simulate(Evolve(GradientFlow(potential, q), stepper, p, step_size=step_size), steps, store)
    return store.clouds, store.rows


def divergences(rows):
    return np.array([row["divergence"] for row in rows[1:]])


def quantiles(n, deviation=1.0):
    """Of a normal law, brought to that deviation exactly."""
    grid = torch.special.ndtri((torch.arange(n, dtype=DOUBLE) + 0.5) / n)
    return deviation * grid / grid.std(correction=0)


def pair(shift=2.0):
    return Cloud(normal(30, 2, "p") + shift), cloud(40, 2, "q")


# The W2 flow


def partners(p, q):
    potential = ExactKantorovich()
    potential.fit(p, q, KEY)
    return potential.images


@pytest.mark.parametrize(("stepper", "terms"), [(Euler(), 1), (heun, 2), (rk4, 4)], ids=["euler", "heun", "rk4"])
@pytest.mark.parametrize("h", [0.1, 0.5])
def test_a_step_of_order_k_takes_the_taylor_polynomial_of_exp_of_what_is_left(stepper, terms, h):
    """W2 flow: Y_t = e^−t Y_0 + (1 − e^−t) T(Y_0), and a step of order k has 1 − h + ... ± h^k / k! for e^−h (arXiv 2406.13619)."""
    p, q = pair()
    q = q.take(slice(0, 30))
    goal, factor = partners(p, q), sum((-h) ** k / math.factorial(k) for k in range(terms + 1))
    clouds, _ = run(ExactKantorovich(), stepper() if callable(stepper) else stepper, p, q, h, 4)
    for k, after in enumerate(clouds):
        torch.testing.assert_close(after.x, goal + factor**k * (p.x - goal), rtol=0, atol=1e-9)
    rest = h ** (terms + 1) / math.factorial(terms + 1)  # of an alternating series
    assert 0 < abs(w2(clouds[1], q) / w2(p, q) - math.exp(-h)) <= rest


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_adaptive_steps_follow_the_exponential(tolerance):
    """W2 flow: e^−t is met to the tolerance of all substeps, which the flow's contraction only lessens (arXiv 2406.13619).

    Up to a third, that is: on x' = −x the estimate is h³ (1 − h) / 48, above the error of about h⁴ / 24 for small h alone.
    """
    p, q = pair()
    q = q.take(slice(0, 30))
    goal = partners(p, q)
    clouds, rows = run(ExactKantorovich(), Adaptive(tolerance), p, q, 0.3, 10)
    substeps = 0.0
    for row, after in zip(rows[1:], clouds[1:]):
        substeps += row["substeps"]
        error = after.x - (goal + math.exp(-row["time"]) * (p.x - goal))
        assert 0 < float(error.norm(dim=1).max()) <= tolerance * substeps
        assert w2(after, q) / w2(p, q) == pytest.approx(math.exp(-row["time"]), abs=tolerance * substeps / w2(p, q))
    assert substeps > 10


@pytest.mark.parametrize("h", [0.3, 1.0, 1.5, 2.0, 2.5])
def test_the_loss_falls_by_the_part_h_times_two_less_h(h):
    """W2 flow: J_n − J_(n+1) = h (2 − h) J_n; for h > 1 where the extrapolated map stays optimal, as of a translation (arXiv 2406.13619)."""
    p, m = cloud(25, 2, "p"), torch.tensor([0.3, -0.4], dtype=DOUBLE)
    clouds, rows = run(ExactKantorovich(), Euler(), p, Cloud(p.x + m), h, 5)
    losses = divergences(rows)
    assert losses[0] == pytest.approx(1 / 8)
    assert losses[1:] == pytest.approx((1 - h) ** 2 * losses[:-1], rel=1e-9, abs=1e-15)
    assert losses[:-1] - losses[1:] == pytest.approx(h * (2 - h) * losses[:-1], rel=1e-9, abs=1e-15)
    assert [row["kinetic_energy"] for row in rows[1:]] == pytest.approx(losses, rel=1e-9, abs=1e-15)
    torch.testing.assert_close(clouds[-1].x, p.x + m - (1 - h) ** 5 * m, rtol=0, atol=1e-12)


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values) @ vectors.T


def test_moments_follow_the_geodesic_of_bures():
    """Gaussians: the covariance is M S₀ M with M = e^−t I + (1 − e^−t) A, A = S₀^−½ (S₀^½ S₁ S₀^½)^½ S₀^−½ (arXiv 2406.13619).

    The target is an affine image of the sample by a positive matrix: the slope of a convex function, so the best map of the
    samples too. It does not commute with the covariance, so nothing is right by chance.
    """
    scale, shift = torch.tensor([[1.5, 0.6], [0.6, 0.5]], dtype=DOUBLE), torch.tensor([2.0, -1.0], dtype=DOUBLE)
    p = Cloud(normal(60, 2, "p") * torch.tensor([1.0, 0.4], dtype=DOUBLE))
    q = Cloud((p.x @ scale + shift)[torch.randperm(60, generator=Key.of(1).generator())])
    (m0, s0), (m1, s1) = ((c.x.numpy().mean(0), np.cov(c.x.numpy().T, bias=True)) for c in (p, q))
    half = root(s0)
    a = np.linalg.inv(half) @ root(half @ s1 @ half) @ np.linalg.inv(half)
    assert a == pytest.approx(scale.numpy(), abs=1e-10)
    assert np.abs(a @ s0 - s0 @ a).max() > 0.1
    clouds, rows = run(ExactKantorovich(), rk4(), p, q, 0.05, 40)
    start = np.sum((m0 - m1) ** 2) + np.trace(s0 + s1 - 2 * root(half @ s1 @ half))
    for k in (0, 10, 39):
        t = rows[k]["time"]
        x, m = clouds[k].x.numpy(), math.exp(-t) * np.eye(2) + (1 - math.exp(-t)) * a
        assert x.mean(0) == pytest.approx(math.exp(-t) * m0 + (1 - math.exp(-t)) * m1, abs=1e-6)
        assert np.cov(x.T, bias=True) == pytest.approx(m @ s0 @ m, abs=1e-6)
        assert 2 * rows[k + 1]["divergence"] == pytest.approx(math.exp(-2 * t) * start, rel=1e-6)


@pytest.mark.parametrize("n", [1, 30])
@pytest.mark.parametrize("epsilon", [0.02, 0.5, 5.0])
def test_the_potential_of_a_translation_is_linear_at_every_epsilon(n, epsilon):
    """Translation by m: ψ(y) = −m · y + c everywhere and the loss is ‖m‖²/2; entropy, debiased, changes neither (arXiv 2406.13619)."""
    m, p = torch.tensor([1.0, -0.5], dtype=DOUBLE), cloud(n, 2, "p")
    potential = SinkhornKantorovich(epsilon, tolerance=1e-9, max_iterations=5000)
    info = potential.fit(p, Cloud(p.x + m), KEY)
    assert float(info["divergence"]) == pytest.approx(1.25 / 2, rel=1e-6)
    places = Cloud(2 * normal(20, 2, "places"))
    torch.testing.assert_close(potential.grad(places), (-m).expand(20, 2), rtol=0, atol=2e-3)
    values = potential.phi(places) + places.x @ m
    torch.testing.assert_close(values, values.mean().expand(20), rtol=0, atol=2e-3)


class OtherSide(Potential):
    """What a flow would descend that took the data's potential φ for the particles' ψ and went along +∇φ."""

    def __init__(self):
        self.swapped = ExactKantorovich()

    def fit(self, p, q, key):
        return self.swapped.fit(q, p, key)

    def phi(self, cloud):
        return -self.swapped.phi(cloud)

    def grad(self, cloud):
        return -self.swapped.grad(cloud)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_the_wrong_potential_gives_the_logistic_curve_and_ours_does_not():
    """Wrong potential: σ' = σ (1 − σ/2), 1.8958 at t = 4 from ½; the flow has σ = 2 − 1.5 e^−t, 1.9725 (arXiv 2406.13619)."""
    p, q = Cloud(quantiles(101, 0.5)[:, None]), Cloud(quantiles(101, 2.0)[:, None])
    ends = {}
    for name, potential, error in (("right", ExactKantorovich(), 1e-5), ("wrong", OtherSide(), 0.02)):
        clouds, rows = run(potential, rk4(), p, q, 0.2, 20)
        for row, after in zip(rows, clouds):
            t = row["time"]
            exact = 2 - 1.5 * math.exp(-t) if name == "right" else 2 / (1 + 3 * math.exp(-t))
            assert float(after.x.std(correction=0)) == pytest.approx(exact, abs=error)
        ends[name] = float(clouds[-1].x.std(correction=0))
    assert ends["right"] == pytest.approx(1.9725, abs=1e-4)
    assert ends["wrong"] == pytest.approx(1.8958, abs=0.02)
    assert ends["right"] - ends["wrong"] > 0.05


# The W1 flow


def row_of(n):
    """Points one apart, side by side: towards a translate across the row no other way is nearly as cheap."""
    return Cloud(torch.stack((torch.arange(n, dtype=DOUBLE), torch.zeros(n, dtype=DOUBLE)), 1))


@pytest.mark.parametrize("divergence", EVERY, ids=repr)
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize(("h", "lipschitz"), [(0.3, 1.0), (0.07, 2.5)])
def test_an_explicit_step_goes_to_and_fro_about_a_translate(divergence, n, h, lipschitz):
    """W1 flow of a translation: ‖m‖ − k h L until below h L, then a 2-cycle of that amplitude at most (arXiv 2405.16351)."""
    p, m, step = row_of(n), torch.tensor([0.0, 2.05], dtype=DOUBLE), h * lipschitz
    potential = TransportPotential(divergence, lipschitz, epsilon=0.005 * lipschitz, debias=False)
    whole = math.floor(2.05 / step)
    clouds, rows = run(potential, Euler(), p, Cloud(p.x + m), h, whole + 6)
    last = 2.05 - whole * step
    assert 0.01 < last < step - 0.01
    for k, after in enumerate(clouds):
        left = 2.05 - k * step if k <= whole else (last - step if (k - whole) % 2 else last)
        expected = p.x + m - left * torch.tensor([0.0, 1.0], dtype=DOUBLE)
        torch.testing.assert_close(after.x, expected, rtol=0, atol=1e-8)
        if k < len(rows) - 1:
            entropy = 0.005 * lipschitz * math.log(n)  # the price of a plan that pairs n points off
            assert rows[k + 1]["divergence"] == pytest.approx(lipschitz * abs(left) + entropy, rel=1e-4)
    assert all(torch.equal(torch.sign((a.x - p.x - m)[:, 1]), -torch.sign((b.x - p.x - m)[:, 1]))
               for a, b in itertools.pairwise(clouds[whole:]))  # fmt: skip


@pytest.mark.parametrize("divergence", EVERY, ids=repr)
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("kind", ["radius", "semi-implicit"])
def test_an_implicit_step_arrives_at_a_translate_and_rests(divergence, n, kind):
    """W1 flow of a translation: with implicit steps max(‖m‖ − k h L, 0) is left, and nothing moves any more (arXiv 2405.16351)."""
    p, m, h, lipschitz = row_of(n), torch.tensor([0.0, 2.05], dtype=DOUBLE), 0.3, 1.0
    radius = h * lipschitz if kind == "radius" else 0.0
    stepper = Euler() if kind == "radius" else Proximal("semi-implicit", tolerance=1e-9)
    potential = TransportPotential(divergence, lipschitz, radius=radius, epsilon=0.005, debias=False)
    clouds, _ = run(potential, stepper, p, Cloud(p.x + m), h, 10)
    for k, after in enumerate(clouds):
        expected = p.x + m - max(2.05 - k * h, 0.0) * torch.tensor([0.0, 1.0], dtype=DOUBLE)
        torch.testing.assert_close(after.x, expected, rtol=0, atol=1e-8)


# The divergence


@pytest.mark.parametrize("m", [0.4, 0.8, 3.0])
def test_the_potential_between_normals_is_linear_with_the_slope_of_the_shift_or_the_bound(m):
    """N(m, 1) against N(0, 1), L = 1: φ(x) = a x + const, a = min(m, 1), and a m − a²/2 is what any slope a gives (arXiv 2210.17230)."""
    x = torch.linspace(-5, 5 + m, 300, dtype=DOUBLE)[:, None]
    p, q = (Cloud(x, weight=torch.softmax(-((x[:, 0] - mean) ** 2) / 2, 0)) for mean in (m, 0.0))
    wide = torch.linspace(-12, 12 + m, 3000, dtype=DOUBLE)[:, None]
    whole = [Cloud(wide, weight=torch.softmax(-((wide[:, 0] - mean) ** 2) / 2, 0)) for mean in (m, 0.0)]
    for a in (0.3, 1.0, m, 2.0):
        line = a * wide[:, 0] + 7
        assert float(KL().objective(line, line, *whole)) == pytest.approx(a * m - a**2 / 2, abs=1e-9)
        raw = line - 7 - a**2 / 2 + 1  # the height at which E exp(φ − 1) is one
        exponential = float(whole[0].mean(raw) - whole[1].mean((raw - 1).exp()))
        assert exponential == pytest.approx(a * m - a**2 / 2, abs=1e-9)
    potential = TransportPotential(KL(), 1.0, epsilon=0.005, debias=False)
    potential.fit(p, q, KEY)
    inside = torch.linspace(-1.5, 1.5 + m, 40, dtype=DOUBLE)[:, None]
    away = potential.phi(Cloud(inside)) - min(m, 1.0) * inside[:, 0]
    assert float((away - away.mean()).abs().max()) <= 0.03


def bristles(lipschitz):
    """Three places on the first axis, far apart, and normal quantiles across it about each: P is singular to Q for any f."""
    places, across = 10 * torch.arange(3, dtype=DOUBLE), quantiles(20)
    p = Cloud(torch.stack((places.repeat_interleave(20), across.repeat(3)), 1))
    return p, Cloud(torch.stack((places, torch.zeros(3, dtype=DOUBLE)), 1)), 0.005 * lipschitz


@pytest.mark.parametrize("divergence", EVERY, ids=repr)
@pytest.mark.parametrize("lipschitz", [0.5, 4.0])
def test_the_divergence_from_a_manifold_is_the_bound_times_the_mean_distance(divergence, lipschitz):
    """Orthogonal noise about a manifold: D = L E|x₂| and φ = L |x₂|, though the f-divergence is infinite (arXiv 2407.11901)."""
    p, q, epsilon = bristles(lipschitz)
    potential = TransportPotential(divergence, lipschitz, epsilon=epsilon, debias=False, tolerance=1e-6)
    exact = lipschitz * float(p.x[:, 1].abs().mean())
    assert exact / lipschitz == pytest.approx(math.sqrt(2 / math.pi), abs=0.03)  # of the normal law itself
    assert float(potential.fit(p, q, KEY)["divergence"]) == pytest.approx(exact + epsilon * math.log(3), rel=1e-6)
    slope = potential.grad(p)
    torch.testing.assert_close(slope[:, 0], torch.zeros(60, dtype=DOUBLE), rtol=0, atol=1e-8)
    torch.testing.assert_close(slope[:, 1], lipschitz * p.x[:, 1].sign(), rtol=0, atol=1e-8)
    feet = Cloud(p.x * torch.tensor([1.0, 0.0], dtype=DOUBLE))
    heights = potential.phi(p) - potential.phi(feet)
    torch.testing.assert_close(heights, lipschitz * p.x[:, 1].abs(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("divergence", EVERY, ids=repr)
@pytest.mark.parametrize("h", [0.05, 0.4])
def test_implicit_steps_land_on_a_manifold_where_explicit_ones_rattle(divergence, h):
    """The implicit step is the soft threshold sign(x₂) (|x₂| − h L)₊; Euler's goes to and fro within h L (arXiv 2407.11901)."""
    p, q, epsilon = bristles(1.0)
    x1, x2 = p.x.T
    potential = TransportPotential(divergence, radius=h, epsilon=epsilon, debias=False)
    clouds, _ = run(potential, Euler(), p, q, h, 4)
    for k, after in enumerate(clouds):
        expected = torch.stack((x1, x2.sign() * (x2.abs() - k * h).clamp(min=0)), 1)
        torch.testing.assert_close(after.x, expected, rtol=0, atol=1e-8)
    clouds, _ = run(TransportPotential(divergence, epsilon=epsilon, debias=False), Euler(), p, q, h, math.ceil(2.5 / h))
    amplitude = clouds[-1].x[:, 1].abs()
    assert h / 2 < float(amplitude.max()) <= h * (1 + 1e-6)


def bracket(divergence, lipschitz, p, q, epsilon):
    """Two numbers that hold D: what the potential, which is L-Lipschitz, gives, and the value of the dual with its gap."""
    potential = TransportPotential(
        divergence, lipschitz, epsilon=epsilon, debias=False, tolerance=1e-2, max_iterations=2000
    )
    info = potential.fit(p, q, KEY)
    below = float(divergence.objective(potential.phi(p), potential.phi(q), p, q))
    return below, float(info["divergence"] + info["gap"])


@pytest.mark.parametrize("lipschitz", [0.1, 0.5, 1.0, 3.0])
def test_the_divergence_between_laws_on_two_points(lipschitz):
    """(a, 1 − a) against (b, 1 − b) at the distance r: φ differs by t, at most L r, and D = a t − log(b e^t + 1 − b) (arXiv 2210.17230)."""
    a, b, r = 0.8, 0.3, 1.7
    x = torch.tensor([[0.0], [r]], dtype=DOUBLE)
    p, q = (Cloud(x, weight=torch.tensor([first, 1 - first], dtype=DOUBLE)) for first in (a, b))
    t = min(math.log(a / b) - math.log((1 - a) / (1 - b)), lipschitz * r)
    exact = a * t - math.log(b * math.exp(t) + 1 - b)
    below, above = bracket(KL(), lipschitz, p, q, 1e-3 * lipschitz)
    assert below - 1e-9 <= exact <= above + 1e-9
    assert below == pytest.approx(exact, rel=0.005)
    assert above == pytest.approx(exact, abs=0.005 * lipschitz)


@pytest.mark.parametrize("divergence", SMOOTH, ids=repr)
def test_the_divergence_grows_with_the_bound_between_nothing_and_its_two_limits(divergence):
    """0 ≤ D ≤ min(D_f, L W1); D grows with L, and D/L falls, as D is the least of functions affine in L (arXiv 2210.17230)."""
    x = cloud(12, 2, "x").x
    p, q = (Cloud(x, weight=torch.softmax(normal(12, 1, name)[:, 0], 0)) for name in "pq")
    w1 = ot.emd2(p.mass.numpy(), q.mass.numpy(), torch.cdist(x, x).numpy())
    f_divergence = float(q.mean(divergence.f(p.mass / q.mass)))
    bounds = np.array([0.02, 0.1, 0.4, 1.6, 6.4, 500.0])
    below, above = np.array([bracket(divergence, bound, p, q, min(0.01 * bound, 0.02)) for bound in bounds]).T
    assert (below > 0).all()
    assert (below <= np.minimum(f_divergence, bounds * w1) * (1 + 1e-9)).all()
    assert (below <= above + 1e-12).all()
    assert (np.diff(below) > 0).all()
    assert (np.diff(below / bounds) < 0).all()
    assert below[0] == pytest.approx(bounds[0] * w1, rel=0.04)
    assert below[-1] == pytest.approx(f_divergence, rel=0.01)


@pytest.mark.parametrize("lipschitz", [0.5, 2.0, 10.0])
def test_the_penalty_of_a_linear_function_and_its_slope(lipschitz):
    """φ = a · x has the penalty (‖a‖²/L² − 1)₊ wherever it is taken, and pulls a by 2a/L² where it is above 0 (arXiv 2407.11901)."""
    a = torch.tensor([1.0, -2.0, 2.0, 0.5], dtype=DOUBLE, requires_grad=True)  # ‖a‖² = 9.25
    for n in (1, 50):
        x = normal(n, 4, "x").requires_grad_()
        penalty = slope_penalty(x @ a - 3, x, lipschitz)
        assert float(penalty.detach()) == pytest.approx(max(9.25 / lipschitz**2 - 1, 0), rel=1e-12)
        (pull,) = torch.autograd.grad(penalty, a)
        expected = 2 * a.detach() / lipschitz**2 if lipschitz < math.sqrt(9.25) else torch.zeros_like(a)
        torch.testing.assert_close(pull, expected)


# The accounts of implicit steps


def paid(clouds, h):
    """The kinetic energy W2²/2h of each step."""
    return np.array([w2(a, b) ** 2 / (2 * h) for a, b in itertools.pairwise(clouds)])


@pytest.mark.parametrize("h", [0.05, 0.5, 5.0])
def test_kinetic_energies_of_the_w2_flow_telescope(h):
    """Of J = ½ W2² implicit steps leave J₀ / (1 + h)^2n and pay (J₀ − J_n) / (2 + h): half of what is lost as h → 0 (arXiv 2407.11901)."""
    p, q = pair()
    q, steps = q.take(slice(0, 30)), 5
    clouds, rows = run(ExactKantorovich(), Proximal(tolerance=1e-8, max_inner=50), p, q, h, steps)
    begin, end = w2(p, q) ** 2 / 2, w2(clouds[-1], q) ** 2 / 2
    assert end == pytest.approx(begin / (1 + h) ** (2 * steps), rel=1e-5)
    assert paid(clouds, h).sum() == pytest.approx((begin - end) / (2 + h), rel=1e-5)
    assert begin - end == pytest.approx(paid(clouds, h).sum() + sum(row["descent"] for row in rows[1:]), rel=1e-6)


@pytest.mark.parametrize("divergence", EVERY, ids=repr)
def test_kinetic_energies_on_the_way_to_a_point_telescope(divergence):
    """To an atom every whole step loses h L² and pays half of it, the last one of length r loses L r and pays r²/2h (arXiv 2407.11901)."""
    h, lipschitz, away = 0.3, 2.0, 3.3
    a, b = (Cloud(torch.tensor([[x, 1.0]], dtype=DOUBLE)) for x in (away, 0.0))
    potential = TransportPotential(divergence, lipschitz, radius=h * lipschitz, debias=False)
    clouds, _ = run(potential, Euler(), a, b, h, 8)
    whole, rest = divmod(away, h * lipschitz)
    assert paid(clouds, h).sum() == pytest.approx(whole * h * lipschitz**2 / 2 + rest**2 / (2 * h))
    assert paid(clouds, h).sum() < lipschitz * away
    assert w2(clouds[-1], b) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("h", [0.1, 2.0])
@pytest.mark.parametrize("divergence", [KL(), ReverseKL()], ids=repr)
def test_kinetic_energies_of_any_implicit_steps_telescope(divergence, h):
    """D(ρ_k+1) + W2²(ρ_k, ρ_k+1)/2h ≤ D(ρ_k) for each of several steps, so all together pay D(ρ_0) at most (arXiv 2407.11901)."""
    p, q = pair()
    fitted = TransportPotential(divergence, epsilon=0.05, debias=False, tolerance=1e-6)
    clouds, rows = run(fitted, Proximal(), p, q, h, 7)
    values, energies = divergences(rows), paid(clouds, h)[:-1]
    assert (values[1:] + energies <= values[:-1] + 1e-6).all()
    assert energies.sum() <= values[0] - values[-1] + 1e-6
    assert energies.sum() > (values[0] - values[-1]) / 4  # not for nothing: about a half for small steps
    for before, after in itertools.pairwise(clouds):
        assert float((after.x - before.x).norm(dim=1).max()) <= h * (1 + 1e-9)
        assert w2(before, after) <= h * (1 + 1e-9)


# The two limits of the price of the way


def hopf_lax(p, q, divergence, alpha, lipschitz=1.0, horizon=1.0, epsilon=0.05, tolerance=1e-4):
    cost = RunningCost(alpha)
    potential = TransportPotential(
        divergence, lipschitz, radius=cost.reach(lipschitz, horizon), epsilon=epsilon, debias=False,
        tolerance=tolerance, max_iterations=5000,
    )  # fmt: skip
    flow = HopfLaxFlow(potential, q, cost, lipschitz, horizon)
    flow.velocity(0.0, p, KEY)
    return flow


@pytest.mark.parametrize("divergence", [KL(), ReverseKL(), W1()], ids=repr)
def test_a_dear_way_is_one_explicit_step_of_the_divergence(divergence):
    """α → ∞: nothing moves, at the rate x_T = x_0 − (T/α) ∇φ(x_0), φ the potential where the particles are (arXiv 2407.11901)."""
    (p, q), horizon, lipschitz = pair(), 0.7, 1.3
    stay = TransportPotential(divergence, lipschitz, epsilon=0.05, debias=False, tolerance=1e-4, max_iterations=5000)
    value, slope = float(stay.fit(p, q, KEY)["divergence"]), stay.grad(p)
    errors = []
    for alpha in (1e2, 1e3, 1e4):
        flow = hopf_lax(p, q, divergence, alpha, lipschitz, horizon)
        moved = flow.transport(p, 3).x - p.x
        assert float(moved.norm(dim=1).max()) <= horizon * lipschitz / alpha * (1 + 1e-9)
        errors.append(float((alpha / horizon * moved + slope).norm(dim=1).max()))
        energy = alpha * horizon * float((moved / horizon).square().sum(1).mean()) / 2
        assert value - lipschitz**2 * horizon / (2 * alpha) - 1e-4 <= flow.found["divergence"] <= value + 1e-4
        assert energy <= lipschitz**2 * horizon / (2 * alpha) * (1 + 1e-9)
    assert errors[1] < errors[0] / 4
    assert errors[2] < 0.01


@pytest.mark.parametrize("divergence", [KL(), W1()], ids=repr)
@pytest.mark.parametrize("solver", ["hopf-lax", "plan"])
def test_a_cheap_way_ends_on_the_target_by_optimal_transport(divergence, solver):
    """α → 0: the divergence is made as small as it can be, 0, by the way that costs least, ½ W2²/T (arXiv 2407.11901)."""
    (p, q), horizon, alpha = pair(), 2.0, 1e-3
    p, q = p.take(slice(0, 20)), q.take(slice(0, 20))
    blur = 0.1
    if solver == "plan":
        flow = PlannedFlow(divergence, q, RunningCost(alpha), 1.0, horizon, KEY)
        flow.velocity(0.0, p, KEY)
    else:
        flow = hopf_lax(p, q, divergence, alpha, 1.0, horizon, alpha * blur**2 / horizon, 1e-2)
    ends, way = flow.transport(p, 20), w2(p, q)
    assert w2(ends, q) <= 2 * blur
    kinetic = float((ends.x - p.x).square().sum(1).mean()) / (2 * horizon)
    assert kinetic == pytest.approx(way**2 / (2 * horizon), rel=0.05)
    assert flow.found["divergence"] == pytest.approx(alpha * way**2 / (2 * horizon), rel=0.05)


@pytest.mark.parametrize("solver", ["hopf-lax", "plan"])
@pytest.mark.parametrize("alpha", [0.01, 0.4, 3.0, 100.0])
def test_between_the_limits_the_step_of_a_translation_is_cut_where_the_bound_binds(solver, alpha):
    """A row of points to its translate by m: min(‖m‖, T L/α) of the way, for W1 and every α (arXiv 2407.11901)."""
    p, m, horizon, lipschitz = row_of(6), 1.3, 0.6, 1.5
    q = Cloud(p.x + torch.tensor([0.0, m], dtype=DOUBLE))
    moved = min(m, horizon * lipschitz / alpha)
    if solver == "plan":
        flow = PlannedFlow(W1(), q, RunningCost(alpha), lipschitz, horizon, KEY)
        flow.velocity(0.0, p, KEY)
    else:
        flow = hopf_lax(p, q, W1(), alpha, lipschitz, horizon, epsilon=0.005 * min(alpha, 1.0))
    for steps in (1, 6):
        ends = flow.transport(p, steps)
        torch.testing.assert_close(ends.x - p.x, (moved / m * (q.x - p.x)), rtol=0, atol=1e-6)
