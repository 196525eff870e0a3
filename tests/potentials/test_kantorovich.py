"""Potentials of the W2 loss against sorting, POT, geomloss, Gaussians, and the law of the flow."""

import copy
import math

import numpy as np
import ot
import pytest
import torch
from geomloss import SamplesLoss
from problems import DOUBLE, normal
from scipy.special import logsumexp

from particles import Cloud, DenseNetwork, Euler, Evolve, GradientFlow, Key, Memory, simulate, w2
from particles.metrics.paths import straightness
from particles.potentials.base import NotFitted
from particles.potentials.kantorovich import ExactKantorovich, NeuralKantorovich, SinkhornKantorovich

KEY = Key.of(0)
WEIGHTED = pytest.mark.parametrize("masses", [False, True])


def weights(n, name):
    return torch.softmax(normal(n, 1, f"w-{name}")[:, 0], 0)


def clouds(m, n, masses=False, d=2):
    p, q = normal(m, d, "p") * 0.7 + 1, normal(n, d, "q")
    return Cloud(p, weight=weights(m, "p") if masses else None), Cloud(q, weight=weights(n, "q") if masses else None)


def fit(potential, p, q):
    return {name: float(value) for name, value in potential.fit(p, q, KEY).items()}


def costs(p, q):
    return ((p.x[:, None] - q.x).square().sum(2) / 2).numpy()


def flowing(potential, p, q, step_size, steps):
    store = Memory(log_every=1)
    simulate(Evolve(GradientFlow(potential, q), Euler(), p, step_size=step_size), steps, store)
    return store


def slopes(potential, x, step=1e-6):
    """∇φ by central differences of φ."""
    columns = []
    for k in range(x.shape[1]):
        shift = step * torch.eye(x.shape[1], dtype=x.dtype)[k]
        columns.append((potential.phi(Cloud(x + shift)) - potential.phi(Cloud(x - shift))) / (2 * step))
    return torch.stack(columns, 1)


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values) @ vectors.T


def affine(p, q):
    """The optimal map between the Gaussians of two clouds' moments, y ↦ m + A (y − m₀), and their ½ W2² (Bures)."""
    (m0, s0), (m1, s1) = ((c.x.double().numpy().mean(0), np.cov(c.x.double().numpy().T, bias=True)) for c in (p, q))
    half = root(s0)
    middle = root(half @ s1 @ half)
    a = np.linalg.inv(half) @ middle @ np.linalg.inv(half)
    value = (np.sum((m0 - m1) ** 2) + np.trace(s0 + s1 - 2 * middle)) / 2
    return a, (lambda y: m1 + (y - m0) @ a.T), value


# Exact


@pytest.mark.parametrize(("h", "d", "n"), [(0.1, 2, 60), (0.3, 5, 40), (0.9, 1, 30)])
def test_w2_shrinks_by_exactly_one_less_the_step(h, d, n):
    p, q = clouds(n, n, d=d)
    first = ExactKantorovich()
    first.fit(p, q, KEY)
    store = flowing(ExactKantorovich(), p, q, h, 8)
    start = w2(p, q)
    for k, after in enumerate(store.clouds):
        # the plan is known: no linear program's rounding
        assert float((after.x - first.images).square().sum(1).mean().sqrt()) == pytest.approx(
            (1 - h) ** k * start, rel=1e-10
        )
        assert w2(after, q) == pytest.approx((1 - h) ** k * start, rel=1e-8, abs=3e-9)  # costs of 1e-16
    values = [row["divergence"] for row in store.rows[1:]]
    assert values == pytest.approx([start**2 / 2 * (1 - h) ** (2 * k) for k in range(8)], rel=1e-8)
    energies = [row["kinetic_energy"] for row in store.rows[1:]]  # ½ E|∇ψ|² is ½ W2²
    assert energies == pytest.approx(values, rel=1e-8)
    assert straightness(np.stack([after.x.numpy() for after in store.clouds])) == pytest.approx(1, abs=1e-12)


def test_a_step_of_one_arrives():
    p, q = clouds(30, 30)
    end = flowing(ExactKantorovich(), p, q, 1.0, 1).clouds[-1].x
    assert sorted(map(tuple, end.tolist())) == [
        pytest.approx(row, abs=1e-14) for row in sorted(map(tuple, q.x.tolist()))
    ]


def test_small_steps_follow_the_geodesic():
    """W2(μ_t, Q) = e^−t W2(μ_0, Q), to the error of Euler's method, at most h/2e of it."""
    p, q = clouds(30, 30)
    store = flowing(ExactKantorovich(), p, q, 0.02, 60)
    for row, after in zip(store.rows[::20], store.clouds[::20]):
        assert w2(after, q) / w2(p, q) == pytest.approx(math.exp(-row["time"]), abs=0.02 / (2 * math.e))


def test_on_the_line_it_is_sorting():
    p, q = clouds(50, 50, d=1)
    potential = ExactKantorovich()
    value = fit(potential, p, q)["divergence"]
    ranks = p.x[:, 0].argsort().argsort()
    images = q.x[:, 0].sort().values[ranks, None]
    assert torch.equal(potential.images, images)
    assert torch.equal(potential.grad(p), p.x - images)
    assert value == pytest.approx(float((p.x - images).square().mean()) / 2, rel=1e-12)


@WEIGHTED
@pytest.mark.parametrize(("m", "n"), [(40, 40), (30, 50), (50, 20)])
def test_the_duals_are_feasible_and_tight_on_the_plan(m, n, masses):
    p, q = clouds(m, n, masses)
    potential = ExactKantorovich()
    value = fit(potential, p, q)["divergence"]
    cost = costs(p, q)
    a, b = p.mass.numpy(), q.mass.numpy()
    assert value == pytest.approx(ot.emd2(a, b, cost), rel=1e-9)
    psi, phi = potential.phi(p).numpy(), potential.dual.numpy()
    slack = cost - psi[:, None] - phi
    assert slack.min() >= -1e-12
    plan = ot.emd(a, b, cost)
    assert slack[plan > 1e-12] == pytest.approx(0, abs=1e-12)
    assert a @ psi + b @ phi == pytest.approx(value, rel=1e-9)
    means = plan @ q.x.numpy() / plan.sum(1, keepdims=True)
    assert potential.grad(p).numpy() == pytest.approx(p.x.numpy() - means, abs=1e-9)


def test_particles_of_double_mass_go_to_the_mean_of_their_partners():
    """Two of 1/2 against four of 1/4: each takes its two neighbours."""
    p, q = (
        Cloud(torch.tensor([[0.0], [10.0]], dtype=DOUBLE)),
        Cloud(torch.tensor([[-1.0], [3], [8], [9]], dtype=DOUBLE)),
    )
    potential = ExactKantorovich()
    assert fit(potential, p, q)["divergence"] == pytest.approx((1 + 9 + 4 + 1) / 8)
    assert potential.grad(p).tolist() == [[pytest.approx(-1)], [pytest.approx(1.5)]]


def test_elsewhere_the_gradient_is_that_of_the_c_transform():
    p, q = clouds(40, 40)
    potential = ExactKantorovich()
    fit(potential, p, q)
    x = normal(50, 2, "elsewhere")
    torch.testing.assert_close(potential.grad(Cloud(x)), slopes(potential, x), atol=1e-7, rtol=0)
    transform = (costs(Cloud(x), q) - potential.dual.numpy()).min(1)
    assert potential.phi(Cloud(x)).numpy() == pytest.approx(transform, abs=1e-12)
    mixed = Cloud(torch.cat((x[:5], p.x[:5])))
    torch.testing.assert_close(potential.grad(mixed)[5:], p.x[:5] - potential.images[:5], atol=0, rtol=0)


def test_a_rider_at_a_particles_place_goes_with_it():
    p, q = clouds(30, 30)
    riding = p.join(Cloud(torch.cat((p.x[:4], normal(3, 2, "riders")))))
    end = flowing(ExactKantorovich(), riding, q, 0.2, 5).clouds[-1]
    assert torch.equal(end.riders.x[:4], end.active.x[:4])
    assert torch.equal(end.active.x, flowing(ExactKantorovich(), p, q, 0.2, 5).clouds[-1].x)


def test_particles_at_one_place_part():
    """Each to its own target point; other points there to the mean of these."""
    p, q = Cloud(torch.zeros(4, 1, dtype=DOUBLE)), Cloud(torch.tensor([[1.0], [2], [3], [10]], dtype=DOUBLE))
    potential = ExactKantorovich()
    fit(potential, p, q)
    assert sorted(potential.grad(p)[:, 0].tolist()) == [-10, -3, -2, -1]
    assert potential.grad(p.take(slice(0, 2)))[:, 0].tolist() == [-4, -4]


def test_the_flow_descends_the_potential_on_its_own_side():
    """From 0.5 to 2 the std is 2 − 1.5 (1 − h)^n; along +∇φ of the other side it is logistic, 1.8958 at t = 4."""
    grid = torch.special.ndtri((torch.arange(201, dtype=DOUBLE) + 0.5) / 201)[:, None]
    grid = grid / grid.std(correction=0)
    store = flowing(ExactKantorovich(), Cloud(grid / 2), Cloud(2 * grid), 0.05, 80)
    stds = [float(after.x.std(correction=0)) for after in store.clouds]
    assert stds == pytest.approx([2 - 1.5 * 0.95**k for k in range(81)], rel=1e-10)
    assert stds[-1] == pytest.approx(1.9725, abs=0.003)
    assert abs(stds[-1] - 1.8958) > 0.07


def test_exact_state():
    p, q = clouds(20, 25, True)
    one, two = ExactKantorovich(), ExactKantorovich()
    with pytest.raises(NotFitted):
        one.grad(p)
    two.load_state_dict(one.state_dict())
    with pytest.raises(NotFitted):
        two.phi(p)
    fit(one, p, q)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for at in (p, q):
        assert torch.equal(one.phi(at), two.phi(at))
        assert torch.equal(one.grad(at), two.grad(at))


@pytest.mark.parametrize("far", [0.0, 1e3])
def test_exact_in_single_precision(far):
    """Costs are made in double precision about the target's mean: a shift of both clouds costs no digits."""
    p, q = (Cloud((c.x + far).float()) for c in clouds(40, 40))
    potential = ExactKantorovich()
    exact = costs(p.at(p.x.double()), q.at(q.x.double()))
    assert fit(potential, p, q)["divergence"] == pytest.approx(ot.emd2([], [], exact), rel=1e-9)
    assert potential.grad(p).dtype == torch.float32


# Sinkhorn


@WEIGHTED
def test_the_sinkhorn_divergence_tends_to_half_w2_squared(masses):
    p, q = clouds(40, 50, masses)
    exact = w2(p, q) ** 2 / 2
    values = [
        fit(SinkhornKantorovich(epsilon, tolerance=1e-4, max_iterations=2000), p, q)["divergence"]
        for epsilon in (1.0, 0.01, 1e-3)
    ]
    errors = [abs(value / exact - 1) for value in values]
    assert errors[2] < 3e-3
    assert errors[1] < 0.02
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("epsilon", [0.001, 0.1])
def test_no_divergence_and_no_force_at_equal_clouds(epsilon):
    q = clouds(40, 50, True)[1]
    potential = SinkhornKantorovich(epsilon, tolerance=1e-10)
    assert fit(potential, q, q)["divergence"] == pytest.approx(0, abs=1e-10)
    assert float(potential.grad(q).abs().max()) < 1e-3 * math.sqrt(epsilon)


def iterated(p, q, epsilon):
    """Sinkhorn's iterations to convergence: the dual value, and the barycentric images of the particles."""
    a, b, cost, g = p.mass.numpy(), q.mass.numpy(), costs(p, q), np.zeros(len(q))
    for _ in range(3000):
        f = -epsilon * logsumexp((g - cost) / epsilon, axis=1, b=b)
        new = -epsilon * logsumexp((f[:, None] - cost) / epsilon, axis=0, b=a[:, None])
        g, change = (g + new) / 2 if p is q else new, np.abs(new - g).max()
        if change < 1e-12:
            break
    f = -epsilon * logsumexp((g - cost) / epsilon, axis=1, b=b)
    plan = np.exp((f[:, None] + g - cost) / epsilon) * b
    return a @ f + b @ g, plan @ q.x.numpy() / plan.sum(1, keepdims=True)


@WEIGHTED
def test_against_converged_iterations_and_geomloss_own_loss(masses):
    p, q = clouds(40, 50, masses)
    epsilon, scaling = 0.5, 0.995
    potential = SinkhornKantorovich(epsilon, tolerance=1e-12)
    value = fit(potential, p, q)["divergence"]
    (across, images), (own, back), (other, _) = (iterated(*pair, epsilon) for pair in ((p, q), (p, p), (q, q)))
    assert value == pytest.approx(across - (own + other) / 2, rel=2e-6)
    assert potential.grad(p).numpy() == pytest.approx(back - images, abs=3e-3)  # |∇φ| is up to 1.9
    x = p.x.clone().requires_grad_()
    loss = SamplesLoss("sinkhorn", 2, math.sqrt(epsilon), scaling=scaling, backend="tensorized")(p.mass, x, q.mass, q.x)
    (gradient,) = torch.autograd.grad(loss, x)
    assert value == pytest.approx(float(loss.detach()), rel=2e-6)
    torch.testing.assert_close(potential.grad(p), gradient / p.mass[:, None], rtol=0, atol=5e-3)
    z = normal(20, 2, "elsewhere")
    torch.testing.assert_close(potential.grad(Cloud(z)), slopes(potential, z), rtol=0, atol=1e-6)


def test_sinkhorn_between_gaussians():
    """Samples of 1000 against Bures' formula at their own moments: what is left is their shapes' difference.

    The linear program's map of the same samples is 0.078 from the affine one, in relative L2.
    """
    p = Cloud(normal(1000, 2, "p"))
    q = Cloud(normal(1000, 2, "q") * torch.tensor([2.0, 0.5], dtype=DOUBLE) + torch.tensor([3.0, 1.0], dtype=DOUBLE))
    potential = SinkhornKantorovich(0.05)
    value = fit(potential, p, q)["divergence"]
    _, image, exact = affine(p, q)
    assert value == pytest.approx(exact, rel=0.01)
    expected = p.x.numpy() - image(p.x.numpy())
    error = potential.grad(p).numpy() - expected
    assert np.linalg.norm(error) / np.linalg.norm(expected) < 0.08
    # the mean force is the distance of the means, of whatever clouds
    assert potential.grad(p).mean(0).numpy() == pytest.approx((p.x.mean(0) - q.x.mean(0)).numpy(), abs=0.05)


def test_sinkhorn_flows_along_the_geodesic_of_gaussians():
    """Means and covariances of μ_t = (e^−t I + (1 − e^−t) T)_# μ_0, with (1 − h)^n for e^−t."""
    p = Cloud(normal(300, 2, "p"))
    q = Cloud(normal(300, 2, "q") * torch.tensor([2.0, 0.5], dtype=DOUBLE) + torch.tensor([3.0, 1.0], dtype=DOUBLE))
    a, _, _ = affine(p, q)
    (m0, m1), s0 = (c.x.numpy().mean(0) for c in (p, q)), np.cov(p.x.numpy().T, bias=True)
    store = flowing(SinkhornKantorovich(0.05), p, q, 0.2, 10)
    for k in (0, 3, 10):
        x, left = store.clouds[k].x.numpy(), 0.8**k
        m = left * np.eye(2) + (1 - left) * a
        assert x.mean(0) == pytest.approx(left * m0 + (1 - left) * m1, abs=0.05)
        assert np.cov(x.T, bias=True) == pytest.approx(m @ s0 @ m, abs=0.2)
    assert store.rows[10]["divergence"] / store.rows[1]["divergence"] == pytest.approx(0.8 ** (2 * 9), rel=0.1)


def test_sinkhorn_state():
    p, q = clouds(20, 25, True)
    one, two = SinkhornKantorovich(0.1), SinkhornKantorovich(0.1)
    with pytest.raises(NotFitted):
        one.grad(p)
    fit(one, p, q)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for at in (p, q):
        assert torch.equal(one.phi(at), two.phi(at))
        assert torch.equal(one.grad(at), two.grad(at))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"epsilon": math.inf}, "epsilon must be positive and finite"),
        ({"scaling": 1.0}, "scaling must be between 0 and 1"),
        ({"scaling": 1 - 1e-9}, "at most 0.999"),
        ({"backend": "online"}, "unknown backend 'online'"),
    ],
)
def test_bad_arguments_of_sinkhorn(chosen, message):
    with pytest.raises(ValueError, match=message):
        SinkhornKantorovich(**chosen)


# Neural


def networks(d=2, widths=(64, 64, 64)):
    return [DenseNetwork(d, widths, math.inf, "softplus", 1, KEY.fold(name)) for name in ("psi", "phi")]


def trained(p, q, d=2, widths=(64, 64, 64), further=8, **chosen):
    """A fitted potential, and its divergence on the mean of some further fits."""
    chosen = {"epsilon": 0.002, "learning_rate": 2e-3, "warmup": 2000, **chosen}
    potential = NeuralKantorovich(*networks(d, widths), **chosen)
    values = [float(potential.fit(p, q, KEY.fold(i))["divergence"]) for i in range(1 + further)]
    return potential, float(np.mean(values[1:]))


def test_neural_between_gaussians():
    scale, shift = torch.tensor([2.0, 0.5]), torch.tensor([3.0, 1.0])
    p, q = (Cloud(normal(5000, 2, name, torch.float32)) for name in "pq")
    potential, value = trained(p, q.at(q.x * scale + shift), further=10)
    assert value == pytest.approx((9 + 1 + 1 + 0.25) / 2, rel=0.05)
    unseen = normal(2000, 2, "unseen", torch.float32)
    expected = unseen - (unseen * scale + shift)
    error = potential.grad(Cloud(unseen)) - expected
    assert float(error.norm() / expected.norm()) < 0.1


@pytest.fixture(scope="module")
def scaled():
    """From N(0, 1/4) to N(0, 4) on the line."""
    p, q = (Cloud(normal(2000, 1, name, torch.float32) * s) for name, s in (("p", 0.5), ("q", 2.0)))
    return p, q, trained(p, q, 1, (32, 32), warmup=1000)[0]


def test_neural_potential_is_that_of_the_particles_side(scaled):
    """∇ψ = −3 y; the other side's is ∇φ = ¾ x, and +∇φ(y) instead of −∇ψ(y) a quarter of the speed."""
    y = torch.linspace(-1, 1, 101)[:, None]
    slope = float((scaled[2].grad(Cloud(y)) * y).sum() / y.square().sum())
    assert slope == pytest.approx(-3, rel=0.1)


def test_neural_translation():
    p = Cloud(normal(2000, 2, "p", torch.float32))
    shift = torch.tensor([1.0, -2.0])
    q = Cloud(normal(2000, 2, "q", torch.float32) + shift)
    potential, value = trained(p, q, widths=(32, 32), warmup=1000)
    assert value == pytest.approx(5 / 2, rel=0.05)
    error = potential.grad(p) + shift
    assert float(error.mean(0).norm() / shift.norm()) < 0.05


def test_one_atom_exceeds_its_cost_by_twice_epsilon():
    """max ψ + φ − (ψ + φ − c)²₊ / 4ε, whose plan's mass (ψ + φ − c) / 2ε is one."""
    epsilon = 0.05
    p, q = Cloud(torch.tensor([[0.3, 0.1]])), Cloud(torch.tensor([[1.3, 0.6]]))
    potential = NeuralKantorovich(*networks(2, (8,)), epsilon=epsilon, warmup=1500, learning_rate=1e-3)
    value = fit(potential, p, q)["divergence"]
    both = float(potential.phi(p)) + float(potential.other(q.x, torch.zeros(1, dtype=torch.long)))
    assert both == pytest.approx(1.25 / 2 + 2 * epsilon, abs=0.1 * epsilon)
    assert value == pytest.approx(1.25 / 2, abs=0.2 * epsilon)


def test_neural_state_goes_on_bit_for_bit(scaled):
    p, q, one = scaled
    two = NeuralKantorovich(*networks(1, (32, 32)), epsilon=0.002, learning_rate=2e-3, warmup=1000)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(one.phi(p), two.phi(p))
    assert fit(one, p, q) == fit(two, p, q)
    assert fit(two, p, q)["inner_steps"] == 5  # the warm-up is behind it
    fit(one, p, q)
    assert torch.equal(one.grad(p), two.grad(p))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"momentum": 1.0}, "momentum must be from 0 to below 1"),
        ({"inner_steps": 0}, "inner_steps must be at least 1"),
        ({"warmup": -1}, "warmup must be at least 0"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
    ],
)
def test_bad_arguments_of_neural(chosen, message):
    with pytest.raises(ValueError, match=message):
        NeuralKantorovich(*networks(2, (4,)), **chosen)
