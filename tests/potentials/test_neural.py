"""The trained discriminator against closed forms and the convex program."""

import math

import pytest
import torch
from problems import cloud, convex_program, huber, normal

from particles import KL, Alpha, Cloud, DenseNetwork, Key, NeuralPotential
from particles.names import DIVERGENCES, make


def potential(
    d, divergence=None, lipschitz=1.0, widths=(32, 32, 32), activation="relu", classes=0, dtype=None, **settings
):
    network = DenseNetwork(d, widths, lipschitz, activation, classes, Key.of(0)).to(dtype or torch.float32)
    return NeuralPotential(divergence or KL(), network, **settings)


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_dirac_against_dirac(name):
    """D = L‖a − b‖ for every f, and ∇φ = L (a − b)/‖a − b‖ at a."""
    a, b = Cloud(torch.tensor([[1.0, 2.0]])), Cloud(torch.tensor([[4.0, 6.0]]))
    fitted = potential(2, make("divergence", name, DIVERGENCES), lipschitz=2.0, inner_steps=600, learning_rate=5e-3)
    value = float(fitted.fit(a, b, Key.of(0))["divergence"])
    assert value == pytest.approx(10, rel=0.01)
    assert value <= 10 * (1 + 1e-5)
    gradient = fitted.grad(a)[0]
    assert float(gradient.norm()) == pytest.approx(2, rel=0.02)
    torch.testing.assert_close(gradient / gradient.norm(), torch.tensor([-0.6, -0.8]), rtol=0.05, atol=0.05)


def test_dirac_against_a_sample():
    q = cloud(40, 2, "q", torch.float32)
    y = Cloud(torch.tensor([[3.0, 0.0]]))
    exact = -math.log(float(torch.exp(-(q.x - y.x).norm(dim=1)).mean()))
    fitted = potential(2, inner_steps=800, learning_rate=1e-2, momentum=0.9, activation="groupsort")
    assert exact * 0.92 <= float(fitted.fit(y, q, Key.of(0))["divergence"]) <= exact * (1 + 1e-5)


@pytest.mark.parametrize(("d", "tolerance"), [(2, 0.05), (10, 0.10)])
@pytest.mark.parametrize("m", [1.0, 4.0])
def test_gaussian_huber_function(d, tolerance, m):
    """N(m, I) against N(0, I) at L = 1: ½ for m = 1, 3.5 for m = 4; measured on points that the fit never saw."""
    shift = torch.zeros(d)
    shift[0] = m
    n = 4000
    p, q = Cloud(normal(n, d, "p", torch.float32) + shift), Cloud(normal(n, d, "q", torch.float32))
    fitted = potential(d, inner_steps=400, learning_rate=5e-3, batch_size=1000)
    fitted.fit(p, q, Key.of(0))
    fresh = normal(20000, d, "fresh", torch.float32)
    p, q = Cloud(fresh + shift), Cloud(fresh)
    value = float(fitted.divergence.objective(fitted.phi(p), fitted.phi(q), p, q))
    assert value == pytest.approx(huber(m, 1.0, 1.0), rel=tolerance)


@pytest.mark.parametrize("name", ["kl", "reverse-kl", "alpha", "w1"])
def test_value_is_below_the_convex_program_and_near_it(name):
    """Any L-Lipschitz φ gives at most the program's value; a trained one comes close."""
    p, q = Cloud(normal(20, 2, "p") + 1.5), cloud(25, 2, "q")
    exact = convex_program(name, p.x.numpy(), q.x.numpy(), 1.0)
    fitted = potential(
        2, make("divergence", name, DIVERGENCES), dtype=torch.float64, activation="groupsort", inner_steps=1500,
        learning_rate=1e-2, momentum=0.9,
    )  # fmt: skip
    value = float(fitted.fit(p, q, Key.of(0))["divergence"])
    assert 0.85 * exact <= value <= exact + 1e-6


def test_equal_clouds_have_no_divergence():
    q = cloud(100, 3, "q", torch.float32)
    fitted = potential(3, inner_steps=50)
    assert float(fitted.fit(q, q, Key.of(0))["divergence"]) <= 1e-6


def test_penalty_bounds_the_slope():
    p, q = Cloud(normal(100, 2, "p", torch.float32) + 3), cloud(100, 2, "q", torch.float32)
    free = potential(2, lipschitz=math.inf, inner_steps=300, learning_rate=5e-3)
    free.fit(p, q, Key.of(0))
    kept = potential(2, lipschitz=math.inf, inner_steps=300, learning_rate=5e-3, penalty=10.0)
    value = float(kept.fit(p, q, Key.of(0))["divergence"])
    assert float(free.grad(p).norm(dim=1).max()) > 2
    assert float(kept.grad(p).norm(dim=1).max()) < 1.25
    assert value == pytest.approx(huber(3 * math.sqrt(2), 1.0, 1.0), rel=0.2)


def test_warm_fits_continue_one_another():
    """Two fits of 5 steps are one fit of 10: network, moments and power iteration live on."""
    p, q = cloud(30, 2, "p"), cloud(40, 2, "q")
    once, twice = potential(2, inner_steps=10, dtype=torch.float64), potential(2, inner_steps=5, dtype=torch.float64)
    once.fit(p, q, Key.of(0))
    for _ in range(2):
        twice.fit(p, q, Key.of(0))
    assert torch.equal(once.phi(p), twice.phi(p))


def test_tolerance_fits_until_the_gain_is_small():
    p, q = Cloud(normal(60, 2, "p", torch.float32) + 3), cloud(60, 2, "q", torch.float32)
    short = potential(2, inner_steps=10).fit(p, q, Key.of(0))
    long = potential(2, inner_steps=10, tolerance=1e-3).fit(p, q, Key.of(0))
    assert short["inner_steps"] == 10
    assert 20 <= long["inner_steps"] <= 1000
    assert float(long["divergence"]) > float(short["divergence"])
    warm = potential(2, inner_steps=10, tolerance=1e-3)
    warm.fit(p, q, Key.of(0))
    assert warm.fit(p, q, Key.of(0))["inner_steps"] <= long["inner_steps"]


def test_chunks_change_nothing_but_rounding():
    q = cloud(101, 3, "q")
    whole, parts = (potential(3, dtype=torch.float64, chunk_size=size) for size in (1000, 10))
    torch.testing.assert_close(whole.phi(q), parts.phi(q))
    torch.testing.assert_close(whole.grad(q), parts.grad(q))


def test_gradient_is_that_of_phi():
    q = cloud(6, 3, "q")
    fitted = potential(3, dtype=torch.float64, activation="softplus", inner_steps=20)
    fitted.fit(q, cloud(6, 3, "other"), Key.of(0))
    gradient, step = fitted.grad(q), 1e-6
    for i in range(3):
        ahead, back = (q.at(q.x + sign * step * torch.eye(3, dtype=q.x.dtype)[i]) for sign in (1, -1))
        torch.testing.assert_close(
            (fitted.phi(ahead) - fitted.phi(back)) / (2 * step), gradient[:, i], rtol=1e-5, atol=1e-7
        )


def test_minibatches_come_from_the_key():
    p, q = cloud(50, 2, "p"), cloud(60, 2, "q")
    values = []
    for key in (0, 0, 1):
        fitted = potential(2, dtype=torch.float64, batch_size=8)
        fitted.fit(p, q, Key.of(key))
        values.append(fitted.phi(p))
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_nothing_touches_the_global_generator():
    before = torch.get_rng_state()
    p = cloud(50, 2, "p")
    potential(2, dtype=torch.float64, batch_size=8, penalty=1.0).fit(p, p, Key.of(0))
    assert torch.equal(before, torch.get_rng_state())


def test_conditional_divergence_is_that_of_the_joint_law():
    """Two classes whose points have traded places: without labels the clouds agree, with labels they are far apart."""
    left, right = normal(40, 2, "l", torch.float32) - 4, normal(40, 2, "r", torch.float32) + 4
    label = torch.arange(2).repeat_interleave(40)
    p, q = Cloud(torch.cat((left, right)), label), Cloud(torch.cat((right, left)), label)
    blind = potential(2, inner_steps=200).fit(Cloud(p.x), Cloud(q.x), Key.of(0))
    seeing = potential(2, inner_steps=400, learning_rate=5e-3, classes=2)
    assert float(blind["divergence"]) < 1e-3
    assert float(seeing.fit(p, q, Key.of(0))["divergence"]) > 5
    direction = -seeing.grad(p)
    assert float(direction[:40].sum(1).min()) > 0  # the class on the left is sent to the right, and the other way
    assert float(direction[40:].sum(1).max()) < 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be positive"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"inner_steps": 0}, "inner_steps must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"penalty": -1}, "penalty must not be negative"),
        ({"tolerance": 0}, "tolerance must be positive"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        potential(2, **settings)


def test_heavy_tails_stay_finite():
    """Alpha and KL on Cauchy-like tails with radius 1e4: the authors' KL overflows at a radius of 88 / L."""
    x = normal(200, 2, "x", torch.float32) * torch.logspace(0, 4, 200)[:, None]
    for divergence in (KL(), Alpha(2.0)):
        value = potential(2, divergence, inner_steps=20).fit(cloud(200, 2, "p", torch.float32), Cloud(x), Key.of(0))
        assert math.isfinite(float(value["divergence"]))


def test_adam_is_torchs():
    """Against torch.optim.Adam, which takes its steps down."""
    from particles.networks.adam import Adam

    ours, theirs = ([normal(3, 2, "w").requires_grad_(), normal(4, 1, "v").requires_grad_()] for _ in range(2))
    a, b = Adam(ours, 1e-2, 0.7), torch.optim.Adam(theirs, 1e-2, betas=(0.7, 0.999))
    for step in range(5):
        gradients = [normal(*w.shape, f"g{step}") for w in ours]
        a.ascend(gradients)
        for weight, gradient in zip(theirs, gradients):
            weight.grad = -gradient
        b.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_any_module_is_a_network():
    """A user's own network, by autograd, gives what the written-out pass gives."""

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = DenseNetwork(2, (8, 8), key=Key.of(0)).double()

        def forward(self, x, label=None):
            return self.inner.smooth(x, label)

    p, q = cloud(20, 2, "p"), cloud(30, 2, "q")
    ours = NeuralPotential(KL(), DenseNetwork(2, (8, 8), key=Key.of(0)).double(), inner_steps=10)
    theirs = NeuralPotential(KL(), Plain(), inner_steps=10)
    torch.testing.assert_close(ours.fit(p, q, Key.of(0)), theirs.fit(p, q, Key.of(0)), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.grad(p), theirs.grad(p), rtol=1e-9, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_a_fit_does_not_wait_for_the_device(name):
    """No host synchronisation in a fit of several steps with minibatches, nor in the gradient."""
    p, q = (Cloud(normal(50, 2, n, torch.float32).cuda()) for n in "pq")
    network = DenseNetwork(2, (16, 16), key=Key.of(0)).cuda()
    fitted = NeuralPotential(make("divergence", name, DIVERGENCES), network, inner_steps=5, batch_size=20)
    fitted.fit(p, q, Key.of(0))  # libraries wait once, when they start
    fitted.grad(p)
    torch.cuda.set_sync_debug_mode("error")
    try:
        fitted._block(p, q, Key.of(1))
        fitted.grad(p)
    finally:
        torch.cuda.set_sync_debug_mode("default")
