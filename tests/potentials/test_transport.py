"""The discriminator by transport against convex programs, POT, closed forms and its own inequalities."""

import copy
import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DOUBLE, cloud, convex_program, huber, normal, semi_relaxed
from scipy.special import logsumexp

from particles import KL, W1, Alpha, Cloud, Euler, Evolve, GradientFlow, JensenShannon, Key, ReverseKL, w2
from particles.data.toy import eight_gaussians, four_gaussians
from particles.names import DIVERGENCES, make
from particles.potentials.transport import TransportPotential

NAMES = list(DIVERGENCES)
SMOOTH = [KL(), ReverseKL(), JensenShannon(), Alpha(2.0), Alpha(1.2), Alpha(5.0)]
BOTH = pytest.mark.parametrize("debias", [False, True])


def potential(divergence=None, lipschitz=1.0, **chosen):
    """Fitted far beyond what a flow needs."""
    chosen = {"epsilon": 0.1, "tolerance": 1e-10, "max_iterations": 3000, **chosen}
    return TransportPotential(divergence or KL(), lipschitz, **chosen)


def fit(fitted, p, q):
    return {name: float(value) for name, value in fitted.fit(p, q, Key.of(0)).items()}


def weighted(n, d, name, shift=0.0):
    return Cloud(normal(n, d, name) + shift, weight=torch.softmax(normal(n, 1, f"w-{name}")[:, 0], 0))


def costs(p, q, lipschitz=1.0, radius=0.0):
    r = np.linalg.norm(p.x.numpy()[:, None] - q.x.numpy(), axis=-1)
    near = np.minimum(r, radius)
    return lipschitz * (r if radius == 0 else near * (r - near / 2) / radius)


def plan(fitted, p, q, cost):
    """The dual potential f and the plan that the duals on the target stand for, from their definition."""
    a, b, g, epsilon = p.mass.double().numpy(), q.mass.double().numpy(), fitted.duals["g"].numpy(), fitted.now
    f = -epsilon * logsumexp((g - cost) / epsilon, axis=1, b=b)
    return f, np.outer(a, b) * np.exp((f[:, None] + g - cost) / epsilon)


def transport(fitted, p, q, cost):
    """What the plan costs, and the divergence of its second marginal: an upper bound of D that has no ε."""
    gamma = plan(fitted, p, q, cost)[1]
    b = q.mass.double().numpy()
    density = torch.from_numpy(gamma.sum(0) / b)
    paid = 0.0 if isinstance(fitted.divergence, W1) else float(b @ fitted.divergence.f(density).numpy())
    return float((gamma * cost).sum()) + paid


# Against other solvers


@pytest.mark.parametrize("name", ["kl", "reverse-kl", "alpha", "w1"])
def test_two_convex_programs_agree(name):
    """The oracle of this file, the primal, and that of the others, the dual."""
    p, q = Cloud(normal(20, 2, "p") + 1.5), cloud(25, 2, "q")
    dual = convex_program(name, p.x.numpy(), q.x.numpy(), 2.0)
    assert semi_relaxed(name, costs(p, q, 2.0)) == pytest.approx(dual, rel=1e-6)


@pytest.mark.parametrize("radius", [0.0, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_value_against_the_convex_program(name, radius):
    """φ is feasible for the dual, the plan is for the primal: they enclose the exact value, and both are near it."""
    p, q = Cloud(normal(60, 2, "p") + 2), cloud(80, 2, "q")
    cost = costs(p, q, 1.0, radius)
    exact = semi_relaxed(name, cost)
    fitted = potential(
        make("divergence", name, DIVERGENCES), radius=radius, epsilon=0.003, debias=False, tolerance=1e-3
    )
    info = fit(fitted, p, q)
    assert info["gap"] <= 1e-3 * info["epsilon"]
    above = transport(fitted, p, q, cost)
    if name != "w1":  # whose plan has to have the second marginal exactly
        assert exact * (1 - 1e-6) <= above <= info["divergence"] + info["gap"]
    assert above == pytest.approx(exact, rel=0.005)
    assert exact * (1 - 1e-6) <= info["divergence"] + info["gap"] <= exact * 1.01
    if radius == 0:  # the discriminator of another cost is not a function but a pair of them
        below = float(fitted.divergence.objective(fitted.phi(p), fitted.phi(q), p, q))
        assert exact * 0.995 <= below <= exact * (1 + 1e-6)


@pytest.mark.parametrize("radius", [0.0, 0.7])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_against_the_convex_program(name, radius):
    """The derivative of the exact value in a particle's place is its mass times ∇φ."""
    p, q, step = Cloud(normal(8, 2, "p") + 1), cloud(10, 2, "q"), 1e-4
    fitted = potential(make("divergence", name, DIVERGENCES), radius=radius, epsilon=1e-3, debias=False, tolerance=1e-4)
    fit(fitted, p, q)
    gradient = fitted.grad(p)
    for i, k in [(0, 0), (3, 1), (5, 0)]:
        values = []
        for sign in (1, -1):
            x = p.x.clone()
            x[i, k] += sign * step
            values.append(semi_relaxed(name, costs(p.at(x), q, 1.0, radius)))
        slope = (values[0] - values[1]) / (2 * step)
        assert len(p) * slope == pytest.approx(float(gradient[i, k]), abs=0.01)


@pytest.mark.parametrize(("epsilon", "lipschitz"), [(0.05, 1.0), (0.5, 2.0)])
def test_plan_and_value_are_those_of_pot(epsilon, lipschitz):
    """POT's semi-relaxed Sinkhorn with the same entropy, KL to the product of the masses."""
    p, q = weighted(30, 2, "p", 1.0), weighted(40, 2, "q")
    cost = costs(p, q, lipschitz)
    theirs = ot.unbalanced.sinkhorn_unbalanced(
        p.mass.numpy(), q.mass.numpy(), cost, epsilon, (math.inf, 1.0), stopThr=1e-13, numItermax=100_000
    )
    fitted = potential(KL(), lipschitz, epsilon=epsilon, debias=False)
    info = fit(fitted, p, q)
    gamma = plan(fitted, p, q, cost)[1]
    np.testing.assert_allclose(gamma, theirs, atol=1e-6)
    np.testing.assert_allclose(gamma.sum(0), theirs.sum(0), atol=1e-6)
    np.testing.assert_allclose(gamma.sum(1), p.mass.numpy(), rtol=1e-10)
    ratio = theirs / np.outer(p.mass.numpy(), q.mass.numpy())
    entropy = (theirs * np.log(ratio)).sum()
    density = theirs.sum(0) / q.mass.numpy()
    value = (theirs * cost).sum() + epsilon * entropy + (theirs.sum(0) * np.log(density)).sum()
    assert info["divergence"] == pytest.approx(value, rel=1e-7)


def test_balanced_plan_is_that_of_pot():
    p, q = weighted(30, 2, "p", 1.0), weighted(40, 2, "q")
    theirs = ot.sinkhorn(p.mass.numpy(), q.mass.numpy(), costs(p, q), 0.1, stopThr=1e-13, numItermax=100_000)
    fitted = potential(W1(), debias=False, tolerance=1e-7)
    fit(fitted, p, q)
    np.testing.assert_allclose(plan(fitted, p, q, costs(p, q))[1], theirs, atol=1e-7)


# Closed forms


@BOTH
@pytest.mark.parametrize("radius", [0.0, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_dirac_against_dirac(name, radius, debias):
    """D is the cost between them, L‖a − b‖ or Huber's, for every f and every ε; ∇φ has length L."""
    a, b = (Cloud(torch.tensor([x], dtype=DOUBLE)) for x in ([1.0, 2.0], [4.0, 6.0]))
    fitted = potential(make("divergence", name, DIVERGENCES), 2.0, radius=radius, debias=debias)
    assert fit(fitted, a, b)["divergence"] == pytest.approx(2 * (5 - radius / 2), rel=1e-12)
    torch.testing.assert_close(fitted.grad(a), torch.tensor([[-1.2, -1.6]], dtype=DOUBLE))


def test_dirac_against_a_sample():
    """For KL D = −log E exp(−L‖y − X|): nothing is to be chosen; entropy turns it into (1 + ε) of a colder one."""
    y, q, epsilon = Cloud(normal(1, 3, "y")), weighted(40, 3, "q"), 0.3
    r = (q.x - y.x).norm(dim=1)
    soft = -(1 + epsilon) * float(q.logmeanexp(-r / (1 + epsilon)))
    assert fit(potential(epsilon=epsilon, debias=False), y, q)["divergence"] == pytest.approx(soft, rel=1e-9)


@BOTH
@pytest.mark.parametrize("m", [0.5, 1.0, 3.0])
def test_gaussian_huber_function(m, debias):
    """N(m, 1) against N(0, 1) at L = 1, on a grid of points that carry the densities: ⅛, ½, 2.5."""
    x = torch.linspace(-5, 5 + m, 400, dtype=DOUBLE)[:, None]
    p, q = (Cloud(x, weight=torch.softmax(-((x[:, 0] - mean) ** 2) / 2, 0)) for mean in (m, 0.0))
    fitted = potential(epsilon=0.005, tolerance=1e-3, debias=debias)
    info, exact = fit(fitted, p, q), huber(m, 1.0, 1.0)
    if debias:
        assert info["divergence"] == pytest.approx(exact, rel=0.015)
        return
    below = float(fitted.divergence.objective(fitted.phi(p), fitted.phi(q), p, q))
    assert 0.99 * exact <= below <= exact * (1 + 1e-4)
    assert exact * (1 - 1e-4) <= transport(fitted, p, q, costs(p, q)) <= 1.01 * exact


@pytest.mark.parametrize("name", NAMES)
def test_slow_particles_see_w1(name):
    """D/L → W1 as L → 0, from below."""
    p, q, lipschitz = weighted(30, 2, "p", 2.0), weighted(40, 2, "q"), 1e-3
    w1 = ot.emd2(p.mass.numpy(), q.mass.numpy(), costs(p, q))
    fitted = potential(
        make("divergence", name, DIVERGENCES), lipschitz, epsilon=0.005 * lipschitz, debias=False, tolerance=1e-2
    )
    info = fit(fitted, p, q)
    below = float(fitted.divergence.objective(fitted.phi(p), fitted.phi(q), p, q))
    assert 0.99 * w1 <= below / lipschitz <= w1
    assert info["divergence"] / lipschitz == pytest.approx(w1, rel=0.02)


@BOTH
@pytest.mark.parametrize("epsilon", [0.01, 0.5])
@pytest.mark.parametrize("divergence", SMOOTH, ids=repr)
def test_fast_particles_see_the_f_divergence(divergence, epsilon, debias):
    """As L → ∞ nothing moves: D_f(P‖Q), + ½ε KL(P‖Q) or, with the blur, − ε E_P log q."""
    x = torch.arange(12, dtype=DOUBLE).view(6, 2)
    p, q = (Cloud(x, weight=torch.softmax(normal(6, 1, name)[:, 0], 0)) for name in "pq")
    ratio = p.mass / q.mass
    entropic = float(p.mean(ratio.log())) / 2 if debias else -float(p.mean(q.mass.log()))
    exact = float(q.mean(divergence.f(ratio))) + epsilon * entropic
    info = fit(potential(divergence, 1e4, epsilon=epsilon, debias=debias, tolerance=1e-8), p, q)
    assert info["divergence"] == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("name", NAMES)
def test_equal_clouds_have_no_divergence_and_no_force(name, epsilon):
    q = weighted(60, 2, "q")
    fitted = potential(make("divergence", name, DIVERGENCES), epsilon=epsilon, tolerance=1e-18, max_iterations=500)
    info = fit(fitted, q, q)
    assert abs(info["divergence"]) < (max(1e-9, info["gap"]) if name == "w1" else 1e-9)  # W1's gap has a long tail
    assert float(fitted.grad(q).norm(dim=1).max()) < (1e-3 if name == "w1" else 1e-5)


@given(
    m=st.integers(1, 12), n=st.integers(1, 12), seed=st.integers(0, 999), epsilon=st.sampled_from([0.03, 0.3, 3.0]),
    name=st.sampled_from(NAMES), lipschitz=st.sampled_from([0.5, 3.0]), debias=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None, derandomize=True)
def test_laws_of_small_clouds(m, n, seed, epsilon, name, lipschitz, debias):
    """0 ≤ D, with equality at P = Q alone; ‖∇φ‖ ≤ L at every place, 2L if debiased."""
    random = np.random.default_rng(seed)
    p, q = (Cloud(torch.from_numpy(random.normal(size=(k, 2)))) for k in (m, n))
    fitted = potential(make("divergence", name, DIVERGENCES), lipschitz, epsilon=epsilon, debias=debias, tolerance=1e-6)
    info = fit(fitted, p, q)
    assert info["divergence"] > 0
    places = Cloud(torch.cat((p.x, q.x, torch.from_numpy(5 * random.normal(size=(20, 2))))))
    assert float(fitted.grad(places).norm(dim=1).max()) <= lipschitz * (2 if debias else 1) * (1 + 1e-9)


@pytest.mark.parametrize("name", ["reverse-kl", "jensen-shannon"])
@pytest.mark.parametrize("epsilon", [2.0, 20.0])
def test_a_large_epsilon_stays_in_the_domain(name, epsilon):
    """The target's own potential alone lies beyond the edge of the domain of f*."""
    p, q = Cloud(normal(10, 2, "p") + 1), cloud(20, 2, "q")
    info = fit(potential(make("divergence", name, DIVERGENCES), epsilon=epsilon), p, q)
    assert 0 < info["divergence"] < float(ot.emd2([], [], costs(p, q)))
    assert info["gap"] <= 1e-10 * epsilon


# The Huber cost


def test_huber_value_is_a_proximal_step():
    """inf_ρ D(ρ‖Q) + (L/2R) W2²(P, ρ): both terms at the endpoints of the plan, which minimise it."""
    p, q, lipschitz, radius = Cloud(normal(8, 2, "p") + 2), cloud(10, 2, "q"), 1.5, 1.2
    cost = costs(p, q, lipschitz, radius)
    fitted = potential(KL(), lipschitz, radius=radius, epsilon=2e-3, debias=False, tolerance=1e-3)
    fit(fitted, p, q)
    mass = torch.from_numpy(plan(fitted, p, q, cost)[1]).flatten()
    way = (q.x - p.x[:, None]).flatten(0, 1)  # z − x₀
    moved = torch.clamp(radius / way.norm(dim=1, keepdim=True), max=1) * way
    kept = mass > 1e-12
    end = Cloud((p.x[:, None] + moved.view(8, 10, 2)).flatten(0, 1)[kept], weight=mass[kept] / mass[kept].sum())
    rest = potential(KL(), lipschitz, epsilon=0.01, debias=False, tolerance=1e-3)
    fit(rest, end, q)
    kinetic = lipschitz / (2 * radius) * float(mass @ moved.square().sum(1))
    exact = semi_relaxed("kl", cost)
    below = float(KL().objective(rest.phi(end), rest.phi(q), end, q))
    assert 0.99 * exact <= kinetic + below
    assert kinetic + transport(rest, end, q, costs(end, q, lipschitz)) <= 1.01 * exact


@pytest.mark.parametrize("name", NAMES)
def test_step_is_the_mean_endpoint_of_the_plan(name):
    """With R = hL the step −h ∇φ leads to the plan's mean of x₀ + min(1, R/r) (z − x₀), and never further than R."""
    p, q, lipschitz, h = weighted(20, 3, "p", 0.5), weighted(30, 3, "q"), 2.0, 0.4
    radius = h * lipschitz
    fitted = potential(make("divergence", name, DIVERGENCES), lipschitz, radius=radius, debias=False, tolerance=1e-4)
    fit(fitted, p, q)
    gamma = torch.from_numpy(plan(fitted, p, q, costs(p, q, lipschitz, radius))[1])
    way = q.x - p.x[:, None]
    moved = torch.clamp(radius / way.norm(dim=2, keepdim=True), max=1) * way
    expected = (gamma[:, :, None] * moved).sum(1) / p.mass[:, None]
    torch.testing.assert_close(-h * fitted.grad(p), expected, rtol=1e-8, atol=1e-10)
    far = Cloud(100 * normal(50, 3, "far"))
    assert float((h * fitted.grad(far)).norm(dim=1).max()) <= radius * (1 + 1e-12)


def test_a_step_lands_on_an_atom_within_reach():
    """The soft threshold: within R = hL exactly onto it, beyond by R towards it."""
    atom, h, lipschitz = torch.tensor([[1.0, -1.0]], dtype=DOUBLE), 0.3, 2.0
    way = normal(50, 2, "way")
    r = way.norm(dim=1, keepdim=True)
    p = Cloud(atom + way)
    fitted = potential(lipschitz=lipschitz, radius=h * lipschitz, debias=False)
    fit(fitted, p, Cloud(atom))
    assert 5 < int((r < h * lipschitz).sum()) < 45
    end = p.x - h * fitted.grad(p)
    torch.testing.assert_close(end, atom + way * (1 - h * lipschitz / r).clamp(min=0), rtol=0, atol=1e-14)


# φ and its gradient


@BOTH
@pytest.mark.parametrize("radius", [0.0, 0.5])
def test_gradient_is_that_of_phi(radius, debias):
    p, q, step = weighted(13, 3, "p"), weighted(21, 3, "q", 0.5), 1e-6
    fitted = potential(lipschitz=2.0, radius=radius, debias=debias)
    fit(fitted, p, q)
    places = Cloud(2 * normal(40, 3, "places"))
    gradient = fitted.grad(places)
    for k in range(3):
        ahead, back = (places.at(places.x + sign * step * torch.eye(3, dtype=DOUBLE)[k]) for sign in (1, -1))
        torch.testing.assert_close(
            (fitted.phi(ahead) - fitted.phi(back)) / (2 * step), gradient[:, k], rtol=1e-6, atol=1e-8
        )


@BOTH
@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_derivative_of_the_value(name, debias):
    """At every ε the force on a particle is the derivative of what is reported, in its place, per mass."""
    p, q, step = weighted(13, 2, "p"), weighted(21, 2, "q", 0.5), 1e-4
    fitted = potential(make("divergence", name, DIVERGENCES), epsilon=0.3, debias=debias, tolerance=1e-13)
    fit(fitted, p, q)
    gradient, way = fitted.grad(p), normal(13, 2, "way")
    ahead, back = (fit(fitted, p.at(p.x + sign * step * way), q)["divergence"] for sign in (1, -1))
    slope = float(p.mean((gradient * way).sum(1)))
    assert (ahead - back) / (2 * step) == pytest.approx(slope, rel=1e-5, abs=1e-7)


# Gap and starts


@BOTH
@pytest.mark.parametrize("iterations", [1, 3, 3000])
@pytest.mark.parametrize("divergence", SMOOTH, ids=repr)
def test_gap_is_primal_less_dual(divergence, iterations, debias):
    p, q, epsilon = weighted(20, 2, "p", 0.5), weighted(30, 2, "q"), 0.1
    cost = costs(p, q)
    fitted = potential(divergence, epsilon=epsilon, debias=debias, tolerance=1e-6, max_iterations=iterations)
    info = fit(fitted, p, q)
    f, gamma = plan(fitted, p, q, cost)
    a, b, g = p.mass.numpy(), q.mass.numpy(), fitted.duals["g"].numpy()
    own_p, own_q = fitted.duals["own_p"].numpy(), fitted.duals["own_q"].numpy()
    density = gamma.sum(0) / b
    dual = a @ (f - own_p) - b @ divergence.conjugate(torch.from_numpy(own_q - g)).numpy()
    entropy = (gamma * np.log(gamma / np.outer(a, b))).sum()
    price = b @ divergence.f(torch.from_numpy(density)).numpy() - b @ (density * own_q) - a @ own_p
    primal = (gamma * cost).sum() + epsilon * entropy + price
    assert info["divergence"] == pytest.approx(dual, abs=1e-10)
    assert info["gap"] == pytest.approx(primal - dual, abs=1e-10)
    assert (info["gap"] <= 1e-6 * epsilon) == (iterations == 3000)


@BOTH
@pytest.mark.parametrize("name", NAMES)
def test_warm_fit_is_one_iteration(name, debias):
    p, q = Cloud(normal(60, 2, "p") + 1), cloud(80, 2, "q")
    fitted = potential(make("divergence", name, DIVERGENCES), debias=debias, tolerance=1e-7)
    first, second = fit(fitted, p, q), fit(fitted, p, q)
    assert second["iterations"] == 1
    assert second["divergence"] == pytest.approx(first["divergence"], abs=1e-7)


def test_particles_on_the_data_are_no_obstacle():
    """Sixty small problems in which most particles lie on atoms of the target: the plain iteration takes at most 5000."""
    for seed in range(60):
        random = np.random.default_rng(seed)
        m, n = sorted(random.integers(2, 11, 2))
        atoms = random.normal(size=(n, 2))
        x = atoms[random.integers(n, size=m)] + random.normal(size=(m, 2)) * (random.random((m, 1)) < 0.4)
        fitted = TransportPotential(KL(), 1.5, epsilon=10 ** random.uniform(-3, -2), max_iterations=5000)
        info = fit(fitted, Cloud(torch.from_numpy(x)), Cloud(torch.from_numpy(atoms)))
        assert info["gap"] <= 1e-3 * info["epsilon"], (seed, info)


@BOTH
@pytest.mark.parametrize("name", ["kl", "w1"])
@pytest.mark.parametrize("coarse", [10, 50])
def test_cold_start_from_few_points_is_one_from_all(name, coarse, debias):
    p, q = Cloud(normal(500, 2, "p") + 2), cloud(450, 2, "q")
    few, all_ = (
        potential(make("divergence", name, DIVERGENCES), debias=debias, coarse=size, tolerance=1e-6)
        for size in (coarse, 10_000)
    )
    assert fit(few, p, q)["divergence"] == pytest.approx(fit(all_, p, q)["divergence"], abs=1e-5)
    torch.testing.assert_close(few.grad(p), all_.grad(p), rtol=0, atol=2e-3)


# Invariances


def permuted(p, q):
    i, j = (torch.randperm(len(c), generator=Key.of(1).generator()) for c in (p, q))
    return p.take(i), q.take(j), i, 1.0


def doubled(p, q):
    """The first point of each twice, at half its weight."""
    twice = [torch.cat((torch.arange(len(c)), torch.tensor([0]))) for c in (p, q)]
    weights = [c.mass[i] * torch.where(i == 0, 0.5, 1.0) for c, i in zip((p, q), twice)]
    return *(Cloud(c.x[i], weight=w) for c, i, w in zip((p, q), twice, weights)), twice[0], 1.0


def scaled(p, q):
    return p.at(100 * p.x), q.at(100 * q.x), slice(None), 100.0


def translated(p, q):
    return p.at(p.x + 1e3), q.at(q.x + 1e3), slice(None), 1.0


@BOTH
@pytest.mark.parametrize("change", [permuted, doubled, scaled, translated])
@pytest.mark.parametrize("name", NAMES)
def test_invariance(name, change, debias):
    """Of D and ∇φ; with x → c x and L → L/c D stays, and ∇φ falls by c."""
    p, q = weighted(13, 2, "p", 0.5), weighted(21, 2, "q")
    one, other = (
        potential(make("divergence", name, DIVERGENCES), 1 / c, debias=debias, tolerance=1e-12, max_iterations=1000)
        for c in (1.0, change(p, q)[3])
    )
    changed_p, changed_q, rows, c = change(p, q)
    assert fit(other, changed_p, changed_q)["divergence"] == pytest.approx(fit(one, p, q)["divergence"], rel=1e-8)
    torch.testing.assert_close(c * other.grad(changed_p), one.grad(p)[rows], rtol=1e-5, atol=1e-6)


@BOTH
@pytest.mark.parametrize("name", NAMES)
def test_single_precision(name, debias):
    values, gradients = [], []
    for dtype in (torch.float32, DOUBLE):
        p, q = Cloud(normal(60, 2, "p").to(dtype) + 1), Cloud(normal(80, 2, "q").to(dtype))
        fitted = potential(make("divergence", name, DIVERGENCES), debias=debias, tolerance=1e-5, max_iterations=300)
        values.append(fit(fitted, p, q)["divergence"])
        gradients.append(fitted.grad(p))
        assert fitted.phi(p).dtype == gradients[-1].dtype == dtype
    assert values[0] == pytest.approx(values[1], rel=1e-3)
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=0, atol=0.02)


# Flows


def test_state_continues_bit_for_bit():
    p, q, key = cloud(30, 2, "p"), Cloud(normal(40, 2, "q") + 3), Key.of(0)
    one, other = (TransportPotential(ReverseKL(), epsilon_start=math.inf, halving=2, coarse=10) for _ in range(2))
    for k in range(8):
        info = one.fit(p, q, key.fold(k))
        if k >= 4:
            theirs = other.fit(p, q, key.fold(k))
            assert all(torch.equal(torch.as_tensor(info[name]), torch.as_tensor(theirs[name])) for name in info)
            assert torch.equal(one.grad(p), other.grad(p))
            assert torch.equal(one.phi(q), other.phi(q))
        p = p.at(p.x - 0.3 * one.grad(p))
        if k == 3:
            other.load_state_dict(copy.deepcopy(one.state_dict()))


@pytest.mark.parametrize("start", [3.0, math.inf])
def test_annealing_halves_epsilon(start):
    p, q, lipschitz = cloud(10, 2, "p"), Cloud(normal(20, 2, "q") + 3), 0.5
    fitted = TransportPotential(KL(), lipschitz, epsilon=0.4, epsilon_start=start, halving=4)
    epsilons = [fit(fitted, p, q)["epsilon"] for _ in range(20)]
    first = min(start, 2 * lipschitz * math.sqrt((costs(p, q) ** 2).mean()))
    np.testing.assert_allclose(epsilons, [max(0.4, first / 2 ** (k / 4)) for k in range(20)])


@pytest.mark.parametrize("divergence", [*SMOOTH[:4], W1()], ids=repr)
def test_energy_dissipation(divergence):
    """Huber's cost bends by L/R at most, so a step of h = R/L loses at least h E‖∇φ‖²/2, whatever h is."""
    p, q, lipschitz, radius = Cloud(normal(40, 2, "p")), Cloud(normal(50, 2, "q") + 2), 2.0, 0.6
    h = radius / lipschitz
    fitted = potential(divergence, lipschitz, radius=radius, epsilon=0.05, debias=False, tolerance=1e-4)
    before = math.inf
    for _ in range(30):
        info = fit(fitted, p, q)
        slack = 1e-12 if not isinstance(divergence, W1) else info["gap"]
        assert info["divergence"] <= before + slack
        gradient = fitted.grad(p)
        p = p.at(p.x - h * gradient)
        before = info["divergence"] + info["gap"] - h * float(p.mean(gradient.square().sum(1))) / 2


@pytest.mark.parametrize(
    ("law", "divergence", "n", "scale", "near"),
    [(eight_gaussians, KL(), 500, 1.0, 0.4), (four_gaussians, W1(), 200, 0.5, 0.15)],
    ids=["eight-gaussians", "four-gaussians"],
)
def test_flow_arrives(law, divergence, n, scale, near):
    """As near to new points as the target itself is, and at rest there."""
    target, fresh = (Cloud(torch.from_numpy(law(k, Key.of(seed))).float()) for k, seed in ((n, 1), (2000, 2)))
    start = Cloud(scale * normal(n, 2, "start", torch.float32))
    fitted = TransportPotential(divergence, radius=0.5, epsilon_start=math.inf)
    process = Evolve(GradientFlow(fitted, target), Euler(), start, step_size=0.5, key=Key.of(0))
    state, energies = process.init(), []
    for _ in range(200):
        state, info = process.step(state)
        energies.append(float(info["kinetic_energy"]))
    assert w2(state.cloud, target) < near
    assert w2(state.cloud, fresh) < 1.1 * w2(target, fresh)
    assert np.mean(energies[-20:]) < 3e-3 * energies[0]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"lipschitz": 0.0}, "lipschitz must be positive"),
        ({"lipschitz": math.inf}, "lipschitz must be positive and finite"),
        ({"radius": -1.0}, "radius must be at least 0"),
        ({"radius": math.nan}, "radius must be at least 0"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"epsilon": math.nan}, "epsilon must be positive"),
        ({"epsilon": 0.2, "epsilon_start": 0.1}, r"epsilon_start must be at least epsilon \(0.2\), not 0.1"),
        ({"epsilon_start": math.nan}, "epsilon_start must be at least epsilon"),
        ({"halving": 0}, "halving must be positive"),
        ({"tolerance": -1e-3}, "tolerance must be positive"),
        ({"max_iterations": 0}, "max_iterations must be at least 1"),
        ({"coarse": 0}, "coarse must be at least 4"),
        ({"backend": "cuda"}, "unknown backend 'cuda'; choose from auto, tiled, keops"),
    ],
)
def test_bad_settings(chosen, message):
    with pytest.raises(ValueError, match=message):
        TransportPotential(KL(), **chosen)
