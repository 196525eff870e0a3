"""The W1 + W2 proximal flow: slopes, closed forms, what training goes down, and the flows without a network."""

import itertools
import math

import numpy as np
import pytest
import torch
from problems import DOUBLE, cloud, normal

from particles import (
    KL,
    W1,
    Cloud,
    DenseNetwork,
    Diverged,
    HopfLaxFlow,
    Key,
    Memory,
    NeuralPotential,
    PlannedFlow,
    Potential,
    ProximalFlow,
    Run,
    RunningCost,
    TimedNetwork,
    Train,
    TransportPotential,
    proximal_plan,
    realised_lipschitz,
    simulate,
    w2,
)
from particles.data import toy
from particles.experiment.build import build
from particles.experiment.specification import Specification
from particles.potentials.base import NotFitted
from particles.proximal.network import Slopes
from particles.proximal.training import Stratified

POWERS = [1.5, 2.0, 3.0]


def uneven(d=2, widths=(9, 8), power=2.0, classes=0, name="net", **settings):
    """A network none of whose weights is 0."""
    network = TimedNetwork(d, widths, power=power, classes=classes, key=Key.of(0), **settings).to(DOUBLE)
    with torch.no_grad():
        for i, weight in enumerate(network.parameters()):
            fresh = torch.randn(weight.shape, generator=Key.of(1).fold(name, i).generator(), dtype=DOUBLE)
            weight += 0.3 * fresh
    return network


def flat(parameters):
    return torch.cat([p.detach().flatten() for p in parameters])


def numerical(function, weights, step=1e-6):
    """The gradient of a function of the weights, by central differences in double precision."""
    found = []
    with torch.no_grad():
        for weight in weights:
            entries = weight.view(-1)
            for i in range(len(entries)):
                there = float(entries[i])
                entries[i] = there + step
                above = float(function())
                entries[i] = there - step
                below = float(function())
                entries[i] = there
                found.append((above - below) / (2 * step))
    return torch.tensor(found, dtype=DOUBLE)


# The network


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("classes", [0, 3])
def test_slopes_are_those_of_the_values(power, classes):
    network = uneven(3, power=power, classes=classes, horizon=1.7, size=2.3, scale=0.6, delta=0.1)
    x = normal(7, 3, "x").mul(2).requires_grad_()
    t = (torch.rand(7, 1, generator=Key.of(3).generator(), dtype=DOUBLE) * 1.7).requires_grad_()
    label = torch.arange(7) % 3 if classes else None
    value, in_x, in_t = network.slopes(x, t, label)
    by_x, by_t = torch.autograd.grad(value.sum(), (x, t), retain_graph=True)
    torch.testing.assert_close(in_x, by_x)
    torch.testing.assert_close(in_t, by_t[:, 0])
    step = 1e-6
    with torch.no_grad():
        later, sooner = network(x, t + step, label), network(x, t - step, label)
        torch.testing.assert_close((later - sooner) / (2 * step), in_t.detach(), rtol=1e-6, atol=1e-7)
        for i in range(3):
            e = step * torch.eye(3, dtype=DOUBLE)[i]
            slope = (network(x + e, t, label) - network(x - e, t, label)) / (2 * step)
            torch.testing.assert_close(slope, in_x[:, i].detach(), rtol=1e-6, atol=1e-7)
    assert torch.equal(network(x, t, label), value)
    if classes:
        torch.testing.assert_close(network.slopes(x[2:3], t[2:3], label[2:3]).in_x, in_x[2:3])
        assert not torch.allclose(network.slopes(x, t, (label + 1) % 3).in_x, in_x)


def test_one_time_for_all_is_that_time_for_each():
    network, x = uneven(), normal(5, 2, "x")
    for one, each in zip(network.slopes(x, 0.3), network.slopes(x, torch.full((5, 1), 0.3, dtype=DOUBLE))):
        assert torch.equal(one, each)


def test_a_network_is_zero_at_first():
    network = TimedNetwork(2, (8, 8), classes=2, key=Key.of(5))
    assert not any(entry.any() for entry in network.slopes(torch.randn(6, 2), 0.4, torch.arange(6) % 2))


@pytest.mark.parametrize("classes", [0, 2])
def test_gradients_of_slopes_in_the_weights(classes):
    """A loss made of slopes, differentiated once, as training does."""
    network, x = uneven(2, (5, 4), classes=classes, horizon=1.5, size=1.4), normal(6, 2, "x")
    label = torch.arange(6) % 2 if classes else None

    def loss():
        value, in_x, in_t = network.slopes(x, 0.6, label)
        return value.sin().sum() + in_x.square().sum() + (in_t - in_x[:, 0]).square().sum()

    weights = list(network.parameters())
    exact = flat(torch.autograd.grad(loss(), weights))
    torch.testing.assert_close(exact, numerical(loss, weights), rtol=1e-5, atol=1e-6)
    assert all(bool(part.any()) for part in torch.autograd.grad(loss(), weights))


@pytest.mark.parametrize("name", ["last", "slant"])
def test_each_class_has_weights_of_its_own(name):
    network, x, label = uneven(classes=3), normal(9, 2, "x"), torch.arange(9) % 3
    before = network(x, 0.3, label)
    with torch.no_grad():
        getattr(network, name)[1] += 1
    assert torch.equal(network(x, 0.3, label) != before, label == 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimension": 0}, "positive dimension and positive widths, not 0"),
        ({"widths": ()}, r"positive widths, not 2 and \(\)"),
        ({"widths": (4, 0)}, r"positive widths, not 2 and \(4, 0\)"),
        *(
            ({name: 0.0}, f"{name} must be positive and finite, not 0")
            for name in ("horizon", "size", "scale", "delta")
        ),
        *(({name: math.inf}, f"{name} must be positive and finite, not inf") for name in ("horizon", "scale")),
        ({"size": math.nan}, "size must be positive and finite, not nan"),
    ],
)
def test_bad_networks(change, message):
    with pytest.raises(ValueError, match=message):
        TimedNetwork(**{"dimension": 2, **change})


# The price of velocities


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("alpha", [0.4, 2.5])
def test_velocity_is_the_cheapest(power, alpha):
    """Of all v, it makes α/p ‖v‖^p + ∇U · v least; the least value is −(1 − 1/p) α^(1−q) ‖∇U‖^q."""
    cost, slope = RunningCost(alpha, power), normal(50, 3, "slope")

    def price(v):
        return alpha * cost.kinetic(v) + (slope * v).sum(1)

    best = cost.velocity(slope)
    least, q = price(best), power / (power - 1)
    torch.testing.assert_close(least, -(alpha ** (1 - q)) / q * slope.norm(dim=1) ** q)
    for scale, i in itertools.product((1e-3, 0.1, 1.0), range(5)):
        assert bool((price(best + scale * normal(50, 3, f"other {i}")) > least).all())
    torch.testing.assert_close(cost.kinetic(best), best.norm(dim=1) ** power / power)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_nothing_moves_where_the_potential_is_flat(power, dtype):
    """And no derivative has a pole there, where every training begins."""
    cost, slope = RunningCost(0.7, power), torch.zeros(3, 2, dtype=dtype, requires_grad=True)
    velocity = cost.velocity(slope)
    assert not velocity.any()
    total = cost.kinetic(velocity).sum() + cost.residual(slope, torch.zeros(3, dtype=dtype)).sum()
    assert float(total.detach()) == pytest.approx(0, abs=1e-20)
    assert not torch.autograd.grad(total, slope)[0].any()


def test_reach():
    assert RunningCost(0.5).reach(2.0, 3.0) == pytest.approx(12)
    assert RunningCost(0.5, 3.0).reach(2.0, 3.0) == pytest.approx(6)
    assert RunningCost(0.5, 1.5).reach(2.0, 3.0) == pytest.approx(48)
    assert RunningCost(0.5).reach(math.inf, 1.0) == math.inf


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "alpha"),
        ((math.inf,), "alpha"),
        ((math.nan,), "alpha"),
        ((1.0, 1.0), "power"),
        ((1.0, math.inf), "power"),
    ],
)
def test_bad_prices(arguments, message):
    with pytest.raises(ValueError, match=f"{message} must be .* and finite"):
        RunningCost(*arguments)


# Closed forms


class Formula:
    """A potential in space and time that is known."""

    def __init__(self, horizon, value, in_x, in_t):
        self.horizon, self.value, self.in_x, self.in_t = horizon, value, in_x, in_t

    def slopes(self, x, t, label=None):
        return Slopes(self.value(x, t), self.in_x(x, t), self.in_t(x, t))

    def __call__(self, x, t, label=None):
        return self.value(x, t)


def translation(a, cost, horizon):
    """B3: U = a · x − (T − t) α^(1−q) ‖a‖^q / q."""
    q = cost.power / (cost.power - 1)
    rate = float(cost.alpha ** (1 - q) * a.norm() ** q / q)
    return Formula(
        horizon,
        lambda x, t: x @ a - (horizon - t) * rate,
        lambda x, t: a + 0 * x,
        lambda x, t: torch.full_like(x[:, 0], rate) + 0 * x[:, 0],
    )


def bowl(end, alpha, horizon, noise=0.0):
    """B4: U = k(t) ‖x‖² / 2 + c(t), k = k_T / (1 + (T − t) k_T / α), and c' = −σ² d k / 2 with noise."""

    def k(t):
        return end / (1 + (horizon - t) * end / alpha)

    def c(t, d):
        return alpha * noise**2 / 2 * d * math.log(1 + (horizon - t) * end / alpha)

    return Formula(
        horizon,
        lambda x, t: k(t) / 2 * x.square().sum(1) + c(t, x.shape[1]),
        lambda x, t: k(t) * x,
        lambda x, t: k(t) ** 2 / (2 * alpha) * x.square().sum(1) - noise**2 / 2 * x.shape[1] * k(t),
    )


class Known(Potential):
    """A discriminator that is given, and what it was fitted to."""

    def __init__(self, height, slope, value=0.0):
        self.height, self.slope, self.value, self.fits = height, slope, value, []

    def fit(self, p, q, key):
        self.fits.append((p, q))
        return {"divergence": self.value}

    def phi(self, cloud):
        return self.height(cloud.x)

    def grad(self, cloud):
        return self.slope(cloud.x)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def quadratic(place=(0.5, -1.0), steep=(1.0, 2.0)):
    place, steep = torch.tensor(place, dtype=DOUBLE), torch.tensor(steep, dtype=DOUBLE)
    return Known(lambda x: (steep * (x - place).square()).sum(1) / 2, lambda x: steep * (x - place))


def narrowed(start, h):
    """The width of the Gaussian of width ``start`` after the step h of JKO for KL against N(0, 1)."""
    return (start + math.sqrt(start**2 + 4 * h * (1 + h))) / (2 * (1 + h))


STEPS = [1, 4, 64]


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("steps", STEPS)
def test_a_translation_is_exact_in_any_number_of_steps(power, steps):
    """B3, B5, B7, B8, B15: all go −T α^(1−q) ‖a‖^(q−2) a, straight, and the residual is 0; with the other sign it would not be."""
    alpha, horizon, p = 0.8, 1.7, cloud(30, 3, "p")
    cost, a = RunningCost(alpha, power), torch.tensor([0.3, -1.0, 2.0], dtype=DOUBLE)
    flow, q = ProximalFlow([translation(a, cost, horizon)], cost), power / (power - 1)
    way = -horizon * alpha ** (1 - q) * a.norm() ** (q - 2) * a
    torch.testing.assert_close(flow.transport(p, steps).x, p.x + way, rtol=0, atol=1e-12)
    found = flow.diagnose(p, steps, Known(None, lambda x: a + 0 * x))
    speed = float(way.norm()) / horizon
    assert found["kinetic_energy"] == pytest.approx(speed**power / power)
    assert found["straightness"] == pytest.approx(1, abs=1e-12)
    assert found["terminal_cosine"] == pytest.approx(1)
    for name in ("hj_residual", "shift_2", "shift_32", "terminal_residual"):
        assert found[name] == pytest.approx(0, abs=1e-12)
    slope, in_t = flow.networks[0].slopes(p.x, 0.3)[1:]
    wrong = cost.residual(slope, -in_t)
    torch.testing.assert_close(wrong, torch.full((30,), 2 * (1 - 1 / power) * alpha * speed**power, dtype=DOUBLE))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("start", "h", "energy"), [(3.0, 0.5, 0.7145), (0.2, 2.0, 0.1058)])
def test_the_gaussian_step_is_exact_in_any_number_of_steps(steps, start, h, energy):
    """B4 to B8: s = (s₀ + √(s₀² + 4h(1 + h))) / 2(1 + h), kinetic energy (s − s₀)² / 2T."""
    alpha = 0.8
    horizon = h * alpha
    s = narrowed(start, h)
    assert s == pytest.approx(start - h * (s - 1 / s))
    end = 1 - 1 / s**2
    p = cloud(40, 1, "p")
    p = p.at(start * p.x / p.x.square().mean().sqrt())
    flow = ProximalFlow([bowl(end, alpha, horizon)], RunningCost(alpha))
    torch.testing.assert_close(flow.transport(p, steps).x, p.x * s / start, rtol=0, atol=1e-12)
    found = flow.diagnose(p, steps, Known(None, lambda x: end * x))
    exact = (s - start) ** 2 / (2 * horizon)
    assert horizon * found["kinetic_energy"] == pytest.approx(exact, rel=1e-12)
    assert alpha * exact == pytest.approx(
        energy, rel=2e-3 if start < 1 else 1e-4
    )  # the value printed is that of α = 1, T = h
    assert found["straightness"] == pytest.approx(1, abs=1e-12)
    assert found["terminal_cosine"] == pytest.approx(1)
    for name in ("hj_residual", "shift_2", "shift_32", "terminal_residual"):
        assert found[name] == pytest.approx(0, abs=1e-12)


def test_energy_is_taken_where_and_when_a_step_begins():
    """B6: for s₀ = 3, h = ½ and one step it is .7145; at the place of arrival it would be .369."""
    start, h = 3.0, 0.5
    s = narrowed(start, h)
    network = bowl(1 - 1 / s**2, 1.0, h)
    flow, p = ProximalFlow([network], RunningCost(1.0)), Cloud(torch.tensor([[start], [-start]], dtype=DOUBLE))
    way = flow.ways(network, p, [0.0, h], Key.of(0))[-1]
    assert float(way.kinetic.mean()) == pytest.approx(0.7145, abs=5e-5)
    arrived = h * flow.cost.kinetic(flow.cost.velocity(network.slopes(way.x, 0.0).in_x))
    assert float(arrived.mean()) == pytest.approx(0.369, abs=5e-4)
    slope, in_t = network.slopes(p.x, 0.0)[1:]
    wrong = flow.cost.residual(slope, -in_t)  # B7: twice the kinetic energy, for λ = 1
    torch.testing.assert_close(wrong, 2 * flow.cost.kinetic(flow.cost.velocity(slope)))


@pytest.mark.parametrize("place", [-1.0, 2.0])
def test_residual_and_cosine_at_the_end_of_another_discriminator(place):
    """U(·, T) has the slope a; φ has b: ‖a − b‖ and their cosine."""
    a, b = torch.tensor([3.0, 4.0], dtype=DOUBLE), torch.tensor([place, 0.0], dtype=DOUBLE)
    cost = RunningCost(1.0)
    found = ProximalFlow([translation(a, cost, 1.0)], cost).diagnose(
        cloud(9, 2, "p"), 3, Known(None, lambda x: b + 0 * x)
    )
    assert found["terminal_residual"] == pytest.approx(float((a - b).norm()))
    assert found["terminal_cosine"] == pytest.approx(math.copysign(0.6, place))


@pytest.mark.parametrize("steps", [1, 7])
def test_noise_has_the_variance_of_its_time(steps):
    """With a linear U: X_T − X_0 has the mean −T a / α and the variance σ² T in each coordinate."""
    noise, horizon, n = 0.6, 1.5, 20000
    cost, a = RunningCost(0.5), torch.tensor([1.0, -0.5], dtype=DOUBLE)
    flow = ProximalFlow([translation(a, cost, horizon)], cost, noise)
    p = cloud(n, 2, "p")
    moved = flow.transport(p, steps, Key.of(4)).x - p.x
    assert torch.equal(moved, flow.transport(p, steps, Key.of(4)).x - p.x)
    assert not torch.equal(moved, flow.transport(p, steps, Key.of(5)).x - p.x)
    spread = noise * math.sqrt(horizon)
    assert bool(((moved.mean(0) + horizon * a / 0.5).abs() <= 4 * spread / math.sqrt(n)).all())
    assert bool(((moved.var(0) / spread**2 - 1).abs() <= 4 * math.sqrt(2 / n)).all())
    assert abs(float(torch.corrcoef(moved.T)[0, 1])) <= 4 / math.sqrt(n)


def test_residual_with_noise_has_the_laplacian():
    """U = k/2 ‖x‖² + c solves −∂_t U + ‖∇U‖² / 2α − σ²/2 ΔU = 0; without its last term it misses by σ² d k / 2."""
    noise, alpha, horizon, d = 0.7, 0.8, 1.3, 3
    network, p = bowl(0.9, alpha, horizon, noise), cloud(20, d, "p")
    times = [0.0, 0.4, 0.9, horizon]
    flow = ProximalFlow([network], RunningCost(alpha), noise)
    assert float(flow.ways(network, p, times, Key.of(0))[-1].residual.max()) <= 1e-12
    plain = ProximalFlow([network], RunningCost(alpha)).ways(network, p, [0.0, 0.1], Key.of(0))[-1]
    k = 0.9 / (1 + horizon * 0.9 / alpha)
    torch.testing.assert_close(plain.residual, torch.full((20,), 0.1 * noise**2 * d * k / 2, dtype=DOUBLE))
    found = ProximalFlow([translation(torch.ones(d).double(), flow.cost, 2.0)], flow.cost, noise).diagnose(p, 40)
    assert {"shift_2", "shift_32"}.isdisjoint(found)
    assert found["kinetic_energy"] == pytest.approx(d / (2 * alpha**2))  # that of the velocity, not of the jolts
    assert found["hj_residual"] == pytest.approx(0, abs=1e-12)


def test_laplacian_of_a_network():
    """By differences of its slopes."""
    network, x, noise = uneven(3, classes=2), normal(6, 3, "x"), 0.9
    label = torch.arange(6) % 2
    flow, step = ProximalFlow([network], RunningCost(1.0), noise), 1e-6
    with torch.no_grad():
        sides = [
            (network.slopes(x + e, 0.2, label).in_x - network.slopes(x - e, 0.2, label).in_x)[:, i] / (2 * step)
            for i, e in enumerate(step * torch.eye(3, dtype=DOUBLE))
        ]
        _, slope, in_t = network.slopes(x, 0.2, label)
        expected = flow.cost.residual(slope, in_t) - noise**2 / 2 * torch.stack(sides).sum(0)
        way = flow.ways(network, Cloud(x, label), [0.2, 0.3], Key.of(0))[-1]
    torch.testing.assert_close(way.residual, 0.1 * expected.abs(), rtol=1e-5, atol=1e-7)


# Steps and stages


def test_steps_are_those_that_were_asked_for():
    """∂_t U = 0 and ∇U = −t e: Euler's n steps of T = 1 go (n − 1) / 2n, not ½."""
    e = torch.tensor([1.0, 0.0], dtype=DOUBLE)
    network = Formula(1.0, lambda x, t: -t * x[:, 0], lambda x, t: -t * e + 0 * x, lambda x, t: -x[:, 0])
    p = cloud(5, 2, "p")
    flow = ProximalFlow([network], RunningCost(1.0))
    for steps in (1, 2, 5, 10):
        path = flow.path(p, steps)
        assert len(path) == steps + 1
        for i, there in enumerate(path):
            expected = p.x + i * (i - 1) / (2 * steps**2) * e
            torch.testing.assert_close(there.x, expected, rtol=0, atol=1e-14)
        assert torch.equal(flow.transport(p, steps).x, path[-1].x)
    found = flow.diagnose(p, 5)
    assert found["shift_2"] == pytest.approx(0.05)
    assert found["shift_32"] == pytest.approx(0.1 - 0.5 / 160)


def test_a_stage_begins_where_the_last_one_ended():
    cost, p = RunningCost(0.5), cloud(6, 2, "p")
    a, b = torch.tensor([1.0, 0.0], dtype=DOUBLE), torch.tensor([0.0, -2.0], dtype=DOUBLE)
    flow = ProximalFlow([translation(a, cost, 1.5), translation(b, cost, 1.5)], cost)
    assert flow.horizon == 3
    path = flow.path(p, 3)
    assert len(path) == 7
    torch.testing.assert_close(path[3].x, p.x - 3 * a)
    torch.testing.assert_close(path[-1].x, p.x - 3 * a - 3 * b)
    for t, slope in ((0.0, a), (1.49, a), (1.5, b), (2.9, b), (3.0, b)):
        velocity, info = flow.velocity(t, p, Key.of(0))
        torch.testing.assert_close(velocity, (-2 * slope).expand(6, 2))
        assert float(info["kinetic_energy"]) == pytest.approx(2 * float(slope @ slope))
        assert float(info["max_gradient"]) == pytest.approx(float(slope.norm()))
    found = flow.diagnose(p, 3, Known(None, lambda x: b + 0 * x))
    assert found["kinetic_energy"] == pytest.approx((2 + 8) / 2)
    assert found["terminal_residual"] == pytest.approx(0, abs=1e-12)
    assert found["hj_residual"] == pytest.approx(0, abs=1e-12)
    assert found["straightness"] == pytest.approx(9 / math.hypot(3, 6))
    torch.testing.assert_close(flow.phi(p), p.x @ b)


def test_bad_flows_and_steps():
    cost, network = RunningCost(1.0), uneven()
    with pytest.raises(ValueError, match="at least one network"):
        ProximalFlow([], cost)
    with pytest.raises(ValueError, match=r"the same horizon, not \[1.0, 2.0\]"):
        ProximalFlow([network, uneven(horizon=2.0)], cost)
    for noise in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="noise must be at least 0"):
            ProximalFlow([network], cost, noise)
    exact = HopfLaxFlow(TransportPotential(W1(), debias=False), cloud(5, 2, "q"), cost, 1.0)
    for flow in (ProximalFlow([network], cost), exact):
        with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
            flow.path(cloud(4, 2, "p"), 0)


def test_weights_of_a_flow_survive():
    p, cost = cloud(5, 2, "p"), RunningCost(1.0)
    flow = ProximalFlow([uneven(), uneven(name="second")], cost)
    other = ProximalFlow([TimedNetwork(2, (9, 8)).to(DOUBLE) for _ in range(2)], cost)
    assert not torch.equal(flow.transport(p, 3).x, other.transport(p, 3).x)
    other.load_state_dict(flow.state_dict())
    assert torch.equal(flow.transport(p, 3).x, other.transport(p, 3).x)
    with pytest.raises(ValueError, match="zip"):
        ProximalFlow([uneven()], cost).load_state_dict(flow.state_dict())


# What training goes down


class Caught(Train):
    """Keeps the gradient instead of using it."""

    def _descend(self, loss, since):
        self.gradients = torch.autograd.grad(loss, self.weights)


def training(kind=Train, networks=None, discriminator=None, source=None, noise=0.0, power=2.0, **settings):
    source = source or Cloud(normal(8, 2, "p"), weight=torch.softmax(normal(8, 1, "w")[:, 0], 0))
    flow = ProximalFlow(networks or [uneven(2, (5, 4), power=power, horizon=1.3)], RunningCost(0.7, power), noise)
    target = cloud(8, 2, "q", source.x.dtype)
    return kind(flow, discriminator or quadratic(), source, target, **{"time_steps": 3, "key": Key.of(8), **settings})


def objective(train, key, kinetic, hj, terminal):
    """The same integrals again, step by step, from values and slopes of the learner alone."""
    network, cost, phi, p = train.learner, train.flow.cost, train.discriminator, train.source
    times = train._times(key)
    x, paid, missed = p.x, 0.0, 0.0
    for now, then in itertools.pairwise(times):
        slope, in_t = network.slopes(x, now)[1:]
        g = slope.norm(dim=1, keepdim=True)
        v = -slope * g ** ((2 - cost.power) / (cost.power - 1)) / cost.alpha ** (1 / (cost.power - 1))
        hamiltonian = (
            (1 - 1 / cost.power) * g[:, 0] ** (cost.power / (cost.power - 1)) / cost.alpha ** (1 / (cost.power - 1))
        )
        paid = paid + (then - now) * v.norm(dim=1) ** cost.power / cost.power
        missed = missed + (then - now) * (hamiltonian - in_t).abs()
        x = x + (then - now) * v
    total = p.mean(phi.height(x)) + kinetic * cost.alpha * p.mean(paid) + hj * p.mean(missed)
    slope = network.slopes(train.end, network.horizon).in_x
    return total + terminal * p.mean((slope - phi.slope(train.end)).square().sum(1))


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize(
    ("kinetic", "hj", "terminal"),
    [(True, 0.0, 0.0), (False, 0.0, 0.0), (True, 0.4, 0.0), (True, 0.4, 0.3), (False, 0.0, 0.3)],
)
def test_training_goes_down_the_objective(power, kinetic, hj, terminal):
    """E φ(x_T) + α KE + w₁ HJ + w₂ E‖∇U − ∇φ‖² with gradients through all positions, but for the ends in the last term."""
    train = training(Caught, power=power, kinetic=kinetic, hj=hj, terminal=terminal)
    key = train.key.fold(0)
    state, info = train.step(train.init())
    train.end = train.discriminator.fits[0][0].x
    again = lambda: objective(train, key, kinetic, hj, terminal)
    scale = float(flat(train.gradients).abs().max())
    torch.testing.assert_close(flat(train.gradients), numerical(again, train.weights), rtol=1e-6, atol=2e-9 * scale)
    assert state.k == 1
    energy = 0.7 * 1.3 * float(info["kinetic_energy"]) if kinetic else 0.0
    assert float(info["objective"]) == pytest.approx(float(info["divergence"]) + energy)


def test_training_goes_down_the_objective_with_noise():
    """Whose residual has the Laplacian, with the same jolts."""
    train = training(Caught, noise=0.5, hj=0.4)
    key = train.key.fold(0)
    train.step(train.init())

    def again():
        with torch.enable_grad():
            way = train.flow.ways(train.learner, train.source, train._times(key), key.fold("noise"))[-1]
        p = train.source
        return p.mean(train.discriminator.height(way.x)) + 0.7 * p.mean(way.kinetic) + 0.4 * p.mean(way.residual)

    torch.testing.assert_close(flat(train.gradients), numerical(again, train.weights), rtol=1e-5, atol=1e-6)


def test_times_of_training():
    """From 0 to T, n of them one step apart and shifted by a random part of a step."""
    train = training(time_steps=4)
    for k in range(20):
        times = np.array(train._times(Key.of(k)))
        assert len(times) == 6
        assert (times[0], times[-1]) == (0, 1.3)
        assert np.diff(times).min() >= 0
        np.testing.assert_allclose(np.diff(times[1:-1]), 1.3 / 4)
    assert not np.array_equal(train._times(Key.of(0)), train._times(Key.of(1)))


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("settings", [{}, {"hj": 0.1}, {"noise": 0.3, "hj": 0.1}])
def test_training_leaves_zero(power, settings):
    """Where it begins: no power has a pole there, and where U = 0 is as good as stationary, rounding leaves it."""
    network = TimedNetwork(2, (6, 6), power=power, horizon=1.3, key=Key.of(0))
    far = Known(lambda x: x.sum(1), lambda x: torch.ones_like(x))
    train = training(
        networks=[network],
        power=power,
        discriminator=far,
        learning_rate=0.01,
        source=cloud(8, 2, "p", torch.float32),
        **settings,
    )
    state = train.init()
    for _ in range(20):
        state, _ = train.step(state)
    for weight in (network.last, network.slant, network.bend):
        assert bool(weight.isfinite().all())
    moved = (train.flow.transport(train.source, 3).x - train.source.x).mean(0)
    assert bool((moved < -0.01).all())


def test_a_discriminator_without_numbers_changes_nothing():
    """The flow stays as it was, and the run says in which step it was."""
    good = quadratic()

    def slope(x):
        return good.slope(x) if len(failing.fits) <= 3 else good.slope(x) * math.nan

    failing = Known(good.height, slope)
    train, kept = training(discriminator=failing), Memory()
    with pytest.raises(Diverged, match="step 4: the discriminator runs away: its slope is nan"):
        simulate(train, 10, kept)
    same = training()
    end = simulate(same, 3)
    assert len(failing.fits) == 4
    for one, other in zip(train.flow.networks[0].parameters(), same.flow.networks[0].parameters()):
        assert torch.equal(one, other)
    assert torch.equal(kept.clouds[-1].x, end.cloud.x)


def test_stages_are_trained_one_after_the_other():
    """The k-th on points that the earlier ones have transported; those stay as they are."""
    networks = [TimedNetwork(2, (6, 6), horizon=1.5, key=Key.of(i)).to(DOUBLE) for i in (0, 1)]
    phi = quadratic()
    train = training(networks=networks, discriminator=phi, stage_steps=4, learning_rate=0.05, batch_size=100)
    weights = lambda k: flat(networks[k].parameters())
    first = weights(0), weights(1)
    state = train.init()
    for _ in range(4):
        state, _ = train.step(state)
    between = weights(0), weights(1)
    assert not torch.equal(first[0], between[0])
    assert torch.equal(first[1], between[1])
    half = ProximalFlow(networks[:1], train.flow.cost).transport(train.source, 3)
    for _ in range(7):
        state, _ = train.step(state)
    with torch.no_grad():
        there = train.flow.ways(train.learner, half, train._times(train.key.fold(11)), Key.of(0))[-1]
    state, _ = train.step(state)
    torch.testing.assert_close(phi.fits[11][0].x, there.x)
    assert not torch.allclose(phi.fits[11][0].x, half.x)
    assert torch.equal(weights(0), between[0])
    assert not torch.equal(weights(1), between[1])
    assert torch.equal(phi.fits[4][0].x, half.x)  # the second stage is 0 when it begins
    path = train.path(state)
    assert [there.k for there in path] == [12] * 7
    assert [there.t for there in path] == pytest.approx([0.5 * i for i in range(7)])
    torch.testing.assert_close(path[3].cloud.x, half.x)
    assert not torch.equal(path[-1].cloud.x, half.x)


@pytest.mark.parametrize("average", [1.0, 1.5, math.inf])
def test_the_flow_has_the_mean_of_the_weights(average):
    """Over the last ``average`` steps, a tenth of all at first; the first one whole, so that nothing of the beginning is left."""
    train = training(average=average, learning_rate=0.05)
    state, mean = train.init(), torch.zeros(1, dtype=DOUBLE)
    for k in range(12):
        state, _ = train.step(state)
        mean = torch.lerp(mean, flat(train.learner.parameters()), 1 / min(average, 1 + k / 10))
        torch.testing.assert_close(flat(train.flow.networks[0].parameters()), mean)
    assert torch.equal(mean, flat(train.learner.parameters())) == (average == 1)


def test_a_folder_shows_the_path_of_the_source(tmp_path):
    """All Euler steps of all stages along the flow as it is, from time 0 to its end, and the end as particles."""
    settings = {"target": "moons", "target_size": 30, "particles": 20, "network": (8, 8), "carried": 2, "scale": "none"}
    spec = Specification(
        **settings, flow="proximal", stages=2, time_steps=3, horizon=1.5, steps=6, log_every=3, metric_every=3
    )
    simulation = build(spec)
    end = simulate(simulation.process, 6, simulation.store(tmp_path), simulation.observers)
    found, flow = Run.open(tmp_path), simulation.process.flow
    assert found.trajectory.shape == (7, 22, 2)
    np.testing.assert_allclose(found.times, 0.5 * np.arange(7))
    assert list(found.series["step"]) == [0, 3, 6]
    assert end.t == flow.horizon == 3
    path = flow.path(simulation.process.source, 3)
    for there, seen in zip(path, found.trajectory):
        np.testing.assert_array_equal(there.x.numpy(), seen)
    assert torch.equal(end.cloud.x, path[-1].x)
    assert float((path[-1].x - path[0].x).norm(dim=1).min()) > 0
    assert found.series["w2"].iloc[-1] == pytest.approx(w2(end.cloud.active, simulation.target), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({name: 0}, f"{name} must be at least 1, not 0") for name in ("time_steps", "batch_size")),
        ({"stage_steps": -1}, "stage_steps must be at least 1, not -1"),
        *(({name: 0.0}, f"{name} must be positive, not 0") for name in ("learning_rate", "decay")),
        *(({name: -1.0}, f"{name} must be at least 0, not -1") for name in ("hj", "terminal")),
        ({"terminal": math.nan}, "terminal must be at least 0, not nan"),
        ({"average": 0.5}, "average must be at least 1, not 0.5"),
        ({"networks": [uneven(), uneven()]}, "needs stage_steps"),
    ],
)
def test_bad_training(change, message):
    with pytest.raises(ValueError, match=message):
        training(**change)


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_new_points_go_where_carried_ones_go(noise):
    """Carried points influence nothing, and the flow takes any others along in the same way."""
    source, new = Cloud(normal(8, 2, "p")), Cloud(normal(3, 2, "new"))
    alone, among = (
        training(source=c, noise=noise, batch_size=5, learning_rate=0.05) for c in (source, source.join(new))
    )
    ends = [simulate(train, 10).cloud for train in (alone, among)]
    if not noise:  # whose jolts are drawn for all points together
        assert torch.equal(ends[0].x, ends[1].active.x)
        torch.testing.assert_close(alone.flow.transport(new, 3).x, ends[1].riders.x)
    assert torch.equal(flat(alone.flow.networks[0].parameters()), flat(among.flow.networks[0].parameters()))
    assert float((ends[1].riders.x - new.x).norm(dim=1).min()) > 0.01


@pytest.mark.parametrize("solver", ["network", "transport", "plan"])
def test_global_generators_are_left_alone(solver):
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    settings = {"target": "moons", "target_size": 30, "particles": 20, "network": (8, 8), "time_steps": 3}
    noise = {"noise": 0.2} if solver == "network" else {}
    simulate(build(Specification(**settings, **noise, flow="proximal", solver=solver)).process, 3)
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_before, torch.get_rng_state())


SHIFT = torch.tensor([2.0, 1.0])


def shifted(n=40):
    """A narrow source at 0 and a narrow target at ``SHIFT``, with W2² = ‖SHIFT‖² but for their noise."""
    return (Cloud(0.05 * normal(n, 2, name, torch.float32) + at) for name, at in (("p", 0 * SHIFT), ("q", SHIFT)))


def discriminator(name, lipschitz):
    if name == "transport":
        return TransportPotential(W1(), lipschitz, epsilon=0.02 * lipschitz, debias=False)
    network = DenseNetwork(2, (32, 32), lipschitz, "groupsort", key=Key.of(0))
    return NeuralPotential(W1(), network, learning_rate=2e-3, decay=75)


@pytest.mark.parametrize(("power", "name"), [(2.0, "network"), (2.0, "transport"), (1.5, "transport")])
def test_training_finds_the_shift(power, name):
    """Everything goes straight at constant speed: the least energy with which the target can be reached."""
    p, q = shifted()
    alpha = 0.3
    network = TimedNetwork(2, (32, 32), size=2.0, scale=alpha * 2**power, power=power)
    flow = ProximalFlow([network], RunningCost(alpha, power))
    train = Train(
        flow, discriminator(name, 1.0), p, q,
        time_steps=3, batch_size=40, learning_rate=1e-2, decay=75, average=50,
    )  # fmt: skip
    end = simulate(train, 250, Memory(50)).cloud
    moved = (end.x - p.x).mean(0)
    assert float((moved - SHIFT).norm()) <= 0.05 * float(SHIFT.norm())
    found = flow.diagnose(p, 3, train.discriminator)
    least = w2(p, q) ** 2 / 2 if power == 2 else float(SHIFT.norm()) ** power / power
    assert found["kinetic_energy"] == pytest.approx(least, rel=0.1)
    assert found["straightness"] <= 1.05
    assert found["shift_32"] <= 0.1 * float(SHIFT.norm())


# Without a network: Hopf and Lax


def fitted(p, q, divergence=None, cost=None, lipschitz=1.0, horizon=1.0, **settings):
    """A Hopf and Lax flow that has seen its particles."""
    cost = cost or RunningCost(1.0)
    chosen = {"epsilon": 0.01, "tolerance": 1e-2, "max_iterations": 3000, **settings}
    radius = cost.reach(lipschitz, horizon)
    potential = TransportPotential(
        divergence or W1(), lipschitz, radius=radius, power=cost.power, debias=False, **chosen
    )
    flow = HopfLaxFlow(potential, q, cost, lipschitz, horizon)
    flow.velocity(0.0, p, Key.of(0))
    return flow


@pytest.mark.parametrize("power", POWERS)
def test_first_slope_is_that_of_the_potential(power):
    """At time 0 U is the Huber potential of the whole horizon; afterwards no slope is above L either."""
    q, new = cloud(40, 2, "q"), normal(50, 2, "new") * 3
    flow = fitted(Cloud(normal(30, 2, "p") + 2), q, KL(), RunningCost(0.6, power), 1.4, 0.8, epsilon=0.1)
    torch.testing.assert_close(flow.slope(0.0, new), flow.potential.grad(Cloud(new)), rtol=0, atol=1e-14)
    for t in (0.0, 0.3, 0.7, 0.8):
        slope = flow.slope(t, new)
        assert float(slope.norm(dim=1).max()) <= 1.4 * (1 + 1e-12)
        value = lambda x, t=t: flow_value(flow, t, x)
        numerical_slope = torch.stack(
            [(value(new + e) - value(new - e)) / 2e-6 for e in 1e-6 * torch.eye(2).double()], 1
        )
        torch.testing.assert_close(slope, numerical_slope, rtol=1e-5, atol=1e-6)


def flow_value(flow, t, x):
    """U from its definition: −ε log Σ_j q_j exp((g_j − H_{T−t}(‖x − x_j‖)) / ε)."""
    lipschitz, cost, left = flow.lipschitz, flow.cost, flow.horizon - t
    r = torch.cdist(x, flow.target.x)
    reach = left * (lipschitz / cost.alpha) ** (1 / (cost.power - 1))
    near = cost.alpha / cost.power * r**cost.power / left ** (cost.power - 1) if left else r
    price = torch.where(r <= reach, near, lipschitz * r - (1 - 1 / cost.power) * lipschitz * reach)
    epsilon = flow.potential.now
    return -epsilon * torch.logsumexp((flow.potential.duals["g"] - price) / epsilon + flow.target.mass.log(), 1)


def test_the_end_value_is_that_of_hopf_and_lax():
    q, new = cloud(40, 2, "q"), normal(50, 2, "new") * 3
    flow = fitted(Cloud(normal(30, 2, "p") + 2), q, KL(), epsilon=0.1)
    torch.testing.assert_close(flow.phi(Cloud(new)), flow_value(flow, 1.0, new))


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("steps", [1, 4, 33])
def test_to_a_point_everything_goes_straight(power, steps):
    """B10: speed min((L/α)^(1/(p−1)), r/T), to the target or as far as T (L/α)^(1/(p−1)) towards it."""
    cost, lipschitz, horizon = RunningCost(0.6, power), 0.9, 1.4
    place = torch.tensor([[3.0, -1.0]], dtype=DOUBLE)
    p = Cloud(torch.cat((place + 0.7 * normal(20, 2, "near"), place + 5 * normal(20, 2, "far"))))
    flow = fitted(p, Cloud(place), W1(), cost, lipschitz, horizon)
    r = (place - p.x).norm(dim=1, keepdim=True)
    reach = horizon * (lipschitz / cost.alpha) ** (1 / (power - 1))
    assert bool((r < reach).any() and (r > reach).any())
    way = (place - p.x) / r * r.clamp(max=reach)
    path = flow.path(p, steps)
    for i, there in enumerate(path):
        torch.testing.assert_close(there.x, p.x + i / steps * way, rtol=0, atol=1e-9)
    _, info = flow.velocity(0.0, p, Key.of(0))
    speed = way.norm(dim=1) / horizon
    found = flow.diagnose(p, steps)
    assert found["kinetic_energy"] == pytest.approx(float((speed**power / power).mean()))
    assert found["straightness"] == pytest.approx(1)
    assert max(found["shift_2"], found["shift_32"]) <= 1e-9
    assert float(info["kinetic_energy"]) == pytest.approx(float((speed**power / power).mean()))
    assert float(info["max_gradient"]) == pytest.approx(lipschitz)


@pytest.mark.parametrize("divergence", [KL(), W1()], ids=repr)
@pytest.mark.parametrize("power", [2.0, 3.0])
def test_value_is_that_of_the_plan(divergence, power):
    """Within 1 % of it where ε is small, on 60 and 80 points."""
    p, q, cost = Cloud(normal(60, 2, "p") + 2), cloud(80, 2, "q"), RunningCost(0.7, power)
    flow = fitted(p, q, divergence, cost, 1.2, 0.8, epsilon=0.004)
    plan = proximal_plan(p, q, divergence, lipschitz=1.2, alpha=0.7, horizon=0.8, power=power)
    assert flow.found["divergence"] == pytest.approx(plan.value, rel=0.01)


def test_hopf_and_lax_in_any_number_of_steps():
    """Where ε is small the ends of 1, 5 and 50 steps are nearly the same, and are those of the plan."""
    p, q = Cloud(normal(40, 2, "p") + 2), cloud(40, 2, "q")
    flow = fitted(p, q, W1(), RunningCost(0.3), epsilon=1e-3)
    blur = math.sqrt(1e-3 / 0.3)
    plan = proximal_plan(p, q, W1(), lipschitz=1.0, alpha=0.3)
    for steps in (1, 5, 50):
        apart = (flow.transport(p, steps).x - plan.drawn(Key.of(0))).square().sum(1).mean().sqrt()
        assert float(apart) <= 2 * blur
    path = flow.path(p, 50)
    for before, after in itertools.pairwise(path):
        assert float((after.x - before.x).norm(dim=1).max()) <= 1 / 0.3 / 50 * (1 + 1e-9)


def test_hopf_and_lax_survive_and_take_any_point():
    p, q, new = Cloud(normal(20, 2, "p") + 2), cloud(30, 2, "q"), cloud(7, 2, "new")
    flow, other = fitted(p, q, KL()), HopfLaxFlow(
        TransportPotential(KL(), radius=1.0, epsilon=0.01, debias=False), q, RunningCost(1.0), 1.0
    )  # fmt: skip
    with pytest.raises(NotFitted):
        other.transport(new, 3)
    other.load_state_dict(flow.state_dict())
    assert torch.equal(flow.transport(new, 5).x, other.transport(new, 5).x)
    assert other.velocity(0.2, p, Key.of(0))[1] == flow.velocity(0.2, p, Key.of(0))[1]
    end = flow.transport(p.join(new), 5)
    torch.testing.assert_close(end.riders.x, flow.transport(new, 5).x)
    torch.testing.assert_close(end.active.x, flow.transport(p, 5).x)
    with pytest.raises(ValueError, match="not debiased"):
        HopfLaxFlow(TransportPotential(KL()), q, RunningCost(1.0), 1.0)


# Without a network: the plan


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("power", [2.0, 3.0])
def test_the_plan_goes_to_its_ends(steps, power):
    p, q, cost = Cloud(normal(30, 2, "p") + 2), cloud(30, 2, "q"), RunningCost(0.7, power)
    planned = PlannedFlow(W1(), q, cost, 1.2, 0.8, Key.of(3))
    _, info = planned.velocity(0.0, p, Key.of(0))
    plan = proximal_plan(p, q, W1(), lipschitz=1.2, alpha=0.7, horizon=0.8, power=power)
    torch.testing.assert_close(planned.transport(p, steps).x, plan.drawn(Key.of(3)), rtol=0, atol=1e-12)
    assert 0.8 * float(info["kinetic_energy"]) == pytest.approx(plan.kinetic_energy)
    assert float(info["divergence"]) == pytest.approx(plan.value)
    assert float(info["max_gradient"]) <= 1.2 * (1 + 1e-12)
    other = PlannedFlow(W1(), q, cost, 1.2, 0.8, Key.of(3))
    other.load_state_dict(planned.state_dict())
    assert torch.equal(other.transport(p, steps).x, planned.transport(p, steps).x)


def test_the_plan_draws_the_ends_of_split_points_by_its_own_key():
    p, q = Cloud(normal(20, 2, "p") + 2), cloud(35, 2, "q")
    planned = PlannedFlow(KL(), q, RunningCost(0.3), 1.0, 1.0, Key.of(3))
    planned.velocity(0.0, p, Key.of(0))
    plan = proximal_plan(p, q, KL(), lipschitz=1.0, alpha=0.3)
    torch.testing.assert_close(planned.transport(p, 2).x, plan.drawn(Key.of(3)), rtol=0, atol=1e-12)
    assert not torch.allclose(planned.transport(p, 2).x, plan.drawn(Key.of(0)))


def test_the_plan_knows_its_own_particles_alone():
    p, q = cloud(6, 2, "p"), cloud(9, 2, "q")
    planned = PlannedFlow(KL(), q, RunningCost(1.0), 1.0, 1.0, Key.of(0))
    with pytest.raises(ValueError, match="the particles that it was made for"):
        planned.transport(p, 2)
    with pytest.raises(ValueError, match="carry none"):
        planned.velocity(0.0, p.join(cloud(2, 2, "new")), Key.of(0))
    planned.velocity(0.0, p, Key.of(0))
    with pytest.raises(ValueError, match="the particles that it was made for"):
        planned.transport(q, 2)
    with pytest.raises(ValueError, match="no potential"):
        planned.phi(p)


# Batches that are spread evenly


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_every_point_is_drawn_as_often_as_its_mass_says(weighted, labelled):
    n, size, draws = 150, 20, 3000
    x = normal(n, 2, "x")
    weight = torch.softmax(normal(n, 1, "w")[:, 0], 0) if weighted else None
    whole = Cloud(x, torch.arange(n) % 3 if labelled else None, weight)
    batches = Stratified(whole)
    rows = {tuple(point): i for i, point in enumerate(x.tolist())}
    counts = torch.zeros(n, dtype=DOUBLE)
    for k in range(draws):
        batch = batches.draw(size, Key.of(2).fold(k))
        assert len(batch) == size
        assert batch.weight is None
        index = torch.tensor([rows[tuple(point)] for point in batch.x.tolist()])
        counts.index_add_(0, index, torch.ones(size, dtype=DOUBLE))
        if labelled:
            assert torch.equal(batch.label, whole.label[index])
    mass = whole.mass.double()
    error = (counts / (size * draws) - mass).abs() / (mass / (size * draws)).sqrt()
    assert float(error.max()) <= 4.5
    assert float(error.square().sum()) <= n + 5 * math.sqrt(
        2 * n
    )  # less than in independent draws, whose χ² this bounds


def test_batches_vary_less_than_independent_ones():
    """The variance of the mean of a linear function over 50 points is several times below Var / 50."""
    whole = Cloud(normal(2000, 2, "x"))
    batches, heights = Stratified(whole), whole.x @ torch.tensor([1.0, 2.0], dtype=DOUBLE)
    means = torch.stack([batches.draw(50, Key.of(k)).x.mean(0) for k in range(300)]) @ torch.tensor(
        [1.0, 2.0], dtype=DOUBLE
    )
    assert float(means.var()) <= float(heights.var()) / 50 / 5
    assert abs(float(means.mean() - heights.mean())) <= 4 * math.sqrt(float(means.var()) / 300)


def test_batches_have_the_classes_in_their_shares():
    label = torch.cat((torch.zeros(300), torch.ones(600), torch.full((100,), 2))).long()
    whole = Cloud(normal(1000, 2, "x"), label[torch.randperm(1000, generator=Key.of(0).generator())])
    batches = Stratified(whole)
    for k in range(20):
        batch = batches.draw(20, Key.of(k))
        assert torch.bincount(batch.label).tolist() == [6, 12, 2]


def test_batches_as_large_as_the_cloud_and_the_same_bits():
    whole = Cloud(normal(30, 2, "x"), weight=torch.softmax(normal(30, 1, "w")[:, 0], 0))
    batches = Stratified(whole)
    assert batches.draw(30, Key.of(0)) is whole
    assert batches.draw(99, Key.of(0)) is whole
    assert torch.equal(batches.draw(10, Key.of(1)).x, Stratified(whole).draw(10, Key.of(1)).x)
    assert not torch.equal(batches.draw(10, Key.of(1)).x, batches.draw(10, Key.of(2)).x)
    same = Stratified(Cloud(torch.ones(50, 2)))
    assert torch.equal(same.draw(7, Key.of(0)).x, torch.ones(7, 2))


SCALES = {"moons": (toy.moons, 4.2), "pinwheel": (toy.pinwheel, 1.4)}


@pytest.mark.parametrize("name", list(SCALES))
def test_the_trained_flow_pays_what_the_exact_plan_pays(name):
    """α = 0.5 and L = 1, so that neither the way nor the end is for nothing."""
    key, alpha, steps, n = Key.of(0), 0.5, 300, 600
    law, scale = SCALES[name]

    def target(size, key):
        return Cloud(torch.tensor(scale * law(size, key), dtype=torch.float32))

    def source(size, key):
        return Cloud(torch.randn(size, 2, generator=key.generator()))

    p, q = source(n, key.fold("p")), target(n, key.fold("q"))
    size = float(q.x.square().sum(1).mean()) ** 0.5
    network = TimedNetwork(2, (64, 64), size=size, scale=alpha * size**2, key=key.fold("flow"))
    critic = DenseNetwork(2, (64, 64), activation="groupsort", key=key.fold("critic"))
    discriminator = NeuralPotential(KL(), critic, learning_rate=3e-3, decay=steps / 4, inner_steps=3)
    train = Train(
        ProximalFlow([network], RunningCost(alpha)),
        discriminator,
        source(20_000, key.fold("source")),
        target(20_000, key.fold("target")),
        learning_rate=5e-3,
        batch_size=300,
        decay=steps / 4,
        key=key,
    )
    state = train.init()
    for _ in range(steps):
        state, _ = train.step(state)

    plan = proximal_plan(p, q, KL(), lipschitz=1.0, alpha=alpha)
    many, reference = source(20_000, key.fold("fresh")), target(20_000, key.fold("reference"))
    ends = train.flow.transport(many, 5)
    kinetic = train.flow.diagnose(many, 5)["kinetic_energy"]
    value = discriminator.divergence.objective(discriminator.phi(ends), discriminator.phi(reference), ends, reference)
    assert float(value) + alpha * kinetic == pytest.approx(plan.value, rel=0.1)
    # The discriminator's value is a lower bound. That of the samples is an upper one, but for what two samples of one law have.
    few = train.flow.transport(p, 5)
    of_samples, floor = (
        proximal_plan(cloud, q, KL(), lipschitz=1.0, alpha=1e7).value for cloud in (few, target(n, key.fold("other")))
    )
    assert of_samples + alpha * kinetic < 1.1 * (plan.value + floor)
    assert kinetic < 1.2 * w2(p, few) ** 2 / 2
    assert float(realised_lipschitz(discriminator, few, q)) <= 1 + 1e-5
