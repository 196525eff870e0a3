"""The exact W1 ⊕ W2 proximal step against convex programs, direct minimisation, closed forms and inequalities."""

import math

import numpy as np
import pytest
import torch
from problems import DOUBLE, cloud, huber, normal, semi_relaxed
from scipy.optimize import minimize
from scipy.special import ndtri

from particles import KL, W1, Alpha, Cloud, JensenShannon, Key, ReverseKL, TransportPotential, proximal_plan, w2
from particles.kernels import Huber
from particles.names import DIVERGENCES, make

NAMES = list(DIVERGENCES)
DIVERGENT = [KL(), ReverseKL(), JensenShannon(), Alpha(2.0), W1()]


def solved(p, q, divergence=None, **chosen):
    """To a ten-thousandth of the value."""
    return proximal_plan(p, q, divergence or KL(), **{"lipschitz": 1.0, "alpha": 1.0, "tolerance": 1e-4, **chosen})


def pair(m=60, n=80, shift=2.0):
    return Cloud(normal(m, 2, "p") + shift), cloud(n, 2, "q")


def distances(p, q):
    return np.linalg.norm(p.x.numpy()[:, None] - q.x.numpy(), axis=-1)


def one(*place):
    return Cloud(torch.tensor([place], dtype=DOUBLE))


# The bracket


@pytest.mark.parametrize("alpha", [0.5, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_bracket_holds_the_convex_program(name, alpha):
    p, q = pair()
    exact = semi_relaxed(name, Huber(1.0, 1 / alpha).value(torch.from_numpy(distances(p, q)) ** 2).numpy())
    plan = solved(p, q, make("divergence", name, DIVERGENCES), alpha=alpha)
    assert plan.lower - 1e-6 <= exact <= plan.value + 1e-6
    assert plan.value - plan.lower <= (1e-12 if name == "w1" else 1e-4 * plan.value)


@pytest.mark.parametrize("power", [1.5, 3.0])
def test_bracket_of_other_powers(power):
    p, q = pair()
    radius = 0.8 * (1.5 / 0.7) ** (1 / (power - 1))
    exact = semi_relaxed("kl", Huber(1.5, radius, power).value(torch.from_numpy(distances(p, q)) ** 2).numpy())
    plan = solved(p, q, lipschitz=1.5, alpha=0.7, horizon=0.8, power=power)
    assert plan.radius == pytest.approx(radius)
    assert plan.lower - 1e-6 <= exact <= plan.value + 1e-6
    assert plan.value - plan.lower <= 1e-4 * plan.value


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-5])
def test_bracket_is_as_narrow_as_asked(tolerance):
    plan = solved(*pair(), tolerance=tolerance)
    assert 0 <= plan.value - plan.lower <= tolerance * plan.value


def test_bracket_of_a_search_cut_short():
    """It is wide, but it holds."""
    fine, short = solved(*pair()), solved(*pair(), max_iterations=1)
    assert short.lower < fine.lower <= fine.value < short.value


@pytest.mark.parametrize("divergence", DIVERGENT, ids=repr)
def test_nothing_moves_between_equal_clouds(divergence):
    q = cloud(50, 2, "q")
    plan = solved(q.take(torch.arange(50).flip(0)), q, divergence)
    assert (plan.value, plan.max_speed) == (0, 0)
    assert plan.lower == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("alpha", "above"), [(0.5, 0.04), (2.0, 0.005)])
def test_bracket_against_direct_minimisation(alpha, above):
    """D(P_Z ‖ Q) + α/2T mean ‖z − x‖² over 60 ends Z, one for each x: never below the bracket, and near it.

    Points that may not split stay above; more so for a small α, where most of them end on the data.
    """
    p, q = pair()
    flat = p.x.flatten().numpy()
    for epsilon in (0.1, 0.003):
        fitted = TransportPotential(KL(), epsilon=epsilon, debias=False, tolerance=1e-2, max_iterations=300)

        def objective(flat, fitted=fitted):
            ends = p.at(torch.from_numpy(flat).view(60, 2))
            info = fitted.fit(ends, q, Key.of(0))
            kinetic = alpha / 2 * float((ends.x - p.x).square().sum(1).mean())
            slope = (fitted.grad(ends) + alpha * (ends.x - p.x)) / 60
            return float(info["divergence"]) + kinetic, slope.flatten().numpy()

        flat = minimize(objective, flat, jac=True, method="L-BFGS-B").x
    ends = p.at(torch.from_numpy(flat).view(60, 2))
    direct = semi_relaxed("kl", distances(ends, q)) + alpha / 2 * float((ends.x - p.x).square().sum(1).mean())
    plan = solved(p, q, alpha=alpha)
    assert plan.lower <= direct <= (1 + above) * plan.value


# Closed forms


@pytest.mark.parametrize("divergence", DIVERGENT, ids=repr)
@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("far", [0.3, 4.0])
def test_from_a_point_to_a_point(divergence, power, far):
    """Huber's cost for every f: within R onto the target, beyond by R towards it, at the speed (L/α)^(1/(p−1))."""
    lipschitz, alpha, horizon = 1.5, 0.9, 0.7
    a, b = one(1.0, -1.0), one(1.0 + 0.6 * far, -1.0 + 0.8 * far)
    plan = solved(a, b, divergence, lipschitz=lipschitz, alpha=alpha, horizon=horizon, power=power)
    fastest = (lipschitz / alpha) ** (1 / (power - 1))
    moved = min(far, horizon * fastest)
    speed = moved / horizon
    kinetic = horizon / power * speed**power
    assert plan.value == pytest.approx(lipschitz * (far - moved) + alpha * kinetic)
    assert plan.lower == pytest.approx(plan.value)
    assert plan.kinetic_energy == pytest.approx(kinetic)
    assert plan.divergence == pytest.approx(lipschitz * (far - moved), abs=1e-12)
    assert plan.max_speed == pytest.approx(speed)
    assert plan.slope == pytest.approx(min(lipschitz, alpha * speed ** (power - 1)))
    expected = a.x + moved / far * (b.x - a.x)
    torch.testing.assert_close(plan.ends.x, expected)
    torch.testing.assert_close(plan.drawn(Key.of(0)), expected)


@pytest.mark.parametrize("distance", [1.0, 4.0])
def test_translation_of_normals(distance):
    """KL between normals of variance one, on 400 quantiles: d* = d₀/(1+τ), or d₀ − τL where L binds; no new shape."""
    lipschitz, alpha, horizon = 1.0, 0.5, 0.4
    tau = horizon / alpha
    left = distance / (1 + tau) if distance <= lipschitz * (1 + tau) else distance - tau * lipschitz
    quantiles = torch.from_numpy(ndtri((np.arange(400) + 0.5) / 400))[:, None]
    plan = solved(Cloud(quantiles + distance), Cloud(quantiles), lipschitz=lipschitz, alpha=alpha, horizon=horizon)
    ends = plan.ends
    assert float(ends.mean(ends.x[:, 0])) == pytest.approx(left, abs=0.02)
    assert float(ends.mean((ends.x[:, 0] - left).square())) == pytest.approx(1, abs=0.03)
    assert plan.kinetic_energy == pytest.approx((distance - left) ** 2 / (2 * horizon), rel=0.05)
    assert plan.divergence == pytest.approx(huber(left, 1.0, lipschitz), rel=0.05)


# Limits, bounds and invariances


@pytest.mark.parametrize("name", ["kl", "reverse-kl", "w1"])
def test_heavy_flow_stays(name):
    """α → ∞: the value is D(P ‖ Q), and its error α/2T W2² is at most L² T/2α."""
    p, q = pair()
    plan = solved(p, q, make("divergence", name, DIVERGENCES), alpha=1e4)
    exact = semi_relaxed(name, distances(p, q))
    assert plan.lower - 1e-6 <= exact <= plan.value + 1 / 2e4 + 1e-6
    torch.testing.assert_close(plan.ends.x, p.x[plan.index_source], rtol=0, atol=1.01e-4)


def test_light_flow_arrives():
    """α → 0: on the target. For W1 by the plan of W2."""
    p, q = pair()
    plan = solved(p, q, W1(), lipschitz=1e3, alpha=1e-3, horizon=2.0)
    assert plan.kinetic_energy == pytest.approx(w2(p, q) ** 2 / 4, rel=1e-9)
    assert plan.divergence == pytest.approx(0, abs=1e-9)
    assert torch.equal(plan.ends.x, q.x[plan.index_target])
    assert w2(plan.ends, q) == pytest.approx(0, abs=1e-6)
    light = solved(p, q, KL(), alpha=1e-3)
    assert light.value <= 1e-3 / 2 * w2(p, q) ** 2
    assert light.divergence == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize("divergence", DIVERGENT, ids=repr)
@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
def test_bounds(divergence, power):
    """No point moves further than R, no slope is above L; the value grows with L and is at most that of both extremes."""
    p, q, alpha, horizon = *pair(20, 25), 0.8, 0.5
    before = 0.0
    for lipschitz in (0.3, 1.0, 3.0, 10.0):
        plan = solved(p, q, divergence, lipschitz=lipschitz, alpha=alpha, horizon=horizon, power=power)
        radius = horizon * (lipschitz / alpha) ** (1 / (power - 1))
        moved = (plan.ends.x - p.x[plan.index_source]).norm(dim=1)
        assert float(moved.max()) <= radius * (1 + 1e-12)
        assert plan.max_speed <= radius / horizon * (1 + 1e-12)
        assert plan.slope <= lipschitz * (1 + 1e-12)
        assert before <= plan.value
        assert plan.divergence >= -1e-12
        stay = TransportPotential(divergence, lipschitz, epsilon=0.01 * lipschitz, debias=False).fit(p, q, Key.of(0))
        assert plan.lower <= float(stay["divergence"] + stay["gap"])
        before = plan.lower
    assert plan.lower <= solved(p, q, W1(), lipschitz=1e4, alpha=alpha, horizon=horizon, power=power).value


@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("divergence", DIVERGENT, ids=repr)
def test_accounts(divergence, power):
    """Masses, value and energies again, from the entries alone."""
    p, q, alpha, horizon, lipschitz = *pair(), 0.8, 0.5, 1.2
    plan = solved(p, q, divergence, lipschitz=lipschitz, alpha=alpha, horizon=horizon, power=power)
    i, j, mass = plan.index_source, plan.index_target, plan.mass
    torch.testing.assert_close(torch.zeros(60, dtype=DOUBLE).index_add(0, i, mass), torch.full((60,), 1 / 60).double())
    assert len(mass) <= 60 + 80 - 1
    assert bool((mass > 0).all())
    assert bool((i.diff() >= 0).all())
    ends = plan.ends
    moved, rest = (ends.x - p.x[i]).norm(dim=1), (q.x[j] - ends.x).norm(dim=1)
    kinetic = float(mass @ moved**power) / (power * horizon ** (power - 1))
    gamma = torch.zeros(80, dtype=DOUBLE).index_add(0, j, mass)
    price = 0.0 if isinstance(divergence, W1) else float(divergence.f(80 * gamma).mean())
    assert plan.kinetic_energy == pytest.approx(kinetic)
    assert plan.divergence == pytest.approx(lipschitz * float(mass @ rest) + price)
    assert plan.value == pytest.approx(alpha * kinetic + plan.divergence)
    torch.testing.assert_close(ends.weight, mass)
    if isinstance(divergence, W1):
        torch.testing.assert_close(gamma, torch.full((80,), 1 / 80).double())


def test_divergence_is_that_of_the_ends():
    """The plan goes on to the target along the same lines, and no other is cheaper."""
    p, q = pair(20, 25)
    plan = solved(p, q, tolerance=1e-6)
    ends = plan.ends
    stay = TransportPotential(KL(), epsilon=1e-3, debias=False, max_iterations=3000)
    info = stay.fit(ends, q, Key.of(0))
    assert float(KL().objective(stay.phi(ends), stay.phi(q), ends, q)) <= plan.divergence + 1e-6
    assert plan.divergence <= float(info["divergence"] + info["gap"])
    assert plan.kinetic_energy == pytest.approx(w2(p, ends) ** 2 / 2, rel=1e-6)


@pytest.mark.parametrize("divergence", DIVERGENT, ids=repr)
def test_scaling(divergence):
    """Of lengths by c with L → L/c and α → α/c², and of time with α."""
    p, q = pair()
    plan = solved(p, q, divergence, alpha=0.7)
    long = solved(p.at(100 * p.x), q.at(100 * q.x), divergence, lipschitz=0.01, alpha=0.7e-4)
    slow = solved(p, q, divergence, alpha=2.1, horizon=3.0)
    for other, length, time in ((long, 100, 1), (slow, 1, 3)):
        assert other.value == pytest.approx(plan.value, rel=1e-4)
        assert other.kinetic_energy == pytest.approx(length**2 / time * plan.kinetic_energy, rel=0.02)
        assert other.max_speed == pytest.approx(length / time * plan.max_speed, rel=0.02)


def test_weights():
    """A point twice at half its weight is the point."""
    p, q = (Cloud(c.x, weight=torch.softmax(c.x[:, 0], 0)) for c in pair(20, 30))
    twice = [torch.cat((torch.arange(len(c)), torch.tensor([0]))) for c in (p, q)]
    weights = [c.mass[i] * torch.where(i == 0, 0.5, 1.0) for c, i in zip((p, q), twice)]
    double = [Cloud(c.x[i], weight=w) for c, i, w in zip((p, q), twice, weights)]
    assert solved(*double, tolerance=1e-6).value == pytest.approx(solved(p, q, tolerance=1e-6).value, rel=3e-6)


def test_carried_points_and_single_precision():
    p, q = pair(30, 40)
    carried = Cloud(torch.cat((p.x, 100 + q.x[:5])).float(), carried=5)
    plan, expected = solved(carried, q.at(q.x.float()), W1(), alpha=0.1), solved(p, q, W1(), alpha=0.1)
    assert plan.value == pytest.approx(expected.value, rel=1e-6)
    assert plan.ends.x.dtype == plan.ends.weight.dtype == plan.drawn(Key.of(0)).dtype == torch.float32
    assert plan.drawn(Key.of(0)).shape == (30, 2)
    near = distances(p, q)[plan.index_source, plan.index_target] < 0.999 * plan.radius
    assert near.sum() > 0
    assert torch.equal(plan.ends.x[near], q.x.float()[plan.index_target][near])


# Classes


def test_classes_are_problems_of_their_own():
    p, q = pair()
    p, q = (Cloud(c.x, torch.arange(len(c)) % 4 // 3) for c in (p, q))  # one in four is of class 1
    plan = solved(p, q, tolerance=1e-5)
    parts = [solved(*(c.take(c.label == k) for c in (p, q)), tolerance=1e-5) for k in (0, 1)]
    for name in ("value", "lower", "divergence", "kinetic_energy"):
        expected = 0.75 * getattr(parts[0], name) + 0.25 * getattr(parts[1], name)
        assert getattr(plan, name) == pytest.approx(expected)
    assert torch.equal(p.label[plan.index_source], q.label[plan.index_target])
    assert torch.equal(plan.ends.label, p.label[plan.index_source])
    assert bool((plan.index_source.diff() >= 0).all())
    ends = plan.drawn(Key.of(3))
    way = (ends - p.x).norm(dim=1)
    assert float(way.max()) <= plan.radius * (1 + 1e-12)
    assert plan.value >= solved(Cloud(p.x), Cloud(q.x)).lower


# One end for each point


def test_drawn_ends_have_the_law_of_the_plan():
    p, q = Cloud(normal(4, 2, "p")), cloud(7, 2, "q")
    plan = solved(p, q, W1(), alpha=0.01)
    assert len(plan.mass) == 10
    keys = 2000
    counts = torch.zeros(10, dtype=DOUBLE)
    for k in range(keys):
        drawn = plan.drawn(Key.of(1).fold(k))
        hits = (drawn[plan.index_source] == plan.ends.x).all(1)
        assert int(hits.sum()) == 4
        counts += hits
    share = 4 * plan.mass
    assert bool(((counts / keys - share).abs() <= 5 * (share * (1 - share) / keys).sqrt()).all())


def test_drawn_ends_of_whole_points():
    """Between samples of one size no point is split and no key matters; elsewhere the same key gives the same bits."""
    p, q = pair(50, 50)
    whole = solved(p, q, W1())
    assert torch.equal(whole.drawn(Key.of(0)), whole.ends.x)
    assert torch.equal(whole.drawn(Key.of(1)), whole.ends.x)
    plan = solved(p, q)
    single = torch.bincount(plan.index_source)[plan.index_source] == 1
    assert 0 < int(single.sum()) < len(single)
    draws = [plan.drawn(Key.of(seed)) for seed in (0, 0, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])
    for drawn in draws:
        assert torch.equal(drawn[plan.index_source[single]], plan.ends.x[single])
        assert bool((drawn[plan.index_source] == plan.ends.x).all(1).any())


# Errors

LABELLED = Cloud(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({name: 0.0}, f"{name} must be positive and finite, not 0.0") for name in ("lipschitz", "alpha", "horizon")),
        *(({name: math.inf}, f"{name} must be positive and finite, not inf") for name in ("lipschitz", "alpha")),
        ({"horizon": math.nan}, "horizon must be positive and finite, not nan"),
        ({"tolerance": 0.0}, "tolerance must be positive and finite, not 0.0"),
        ({"power": 1.0}, "power must be above 1 and finite, not 1.0"),
        ({"power": math.inf}, "power must be above 1 and finite, not inf"),
        ({"power": 1.001, "alpha": 0.1}, "power must be further above 1 than 1.001 for lipschitz / alpha = 10"),
        ({"max_iterations": 0}, "max_iterations must be at least 1, not 0"),
        ({"source": Cloud(torch.zeros(3, 3))}, "dimensions 3 and 2"),
        ({"source": LABELLED}, "labels are needed in both clouds or in neither"),
        (
            {"source": LABELLED, "target": Cloud(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))},
            "class 0 has the share 0.75 of the source and 0.5 of the target",
        ),
    ],
)
def test_bad_arguments(change, message):
    chosen = {
        "source": Cloud(torch.zeros(3, 2)), "target": Cloud(torch.zeros(4, 2)), "divergence": KL(),
        "lipschitz": 1.0, "alpha": 1.0, **change,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        proximal_plan(**chosen)
