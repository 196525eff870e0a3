"""Discriminators in a kernel's Hilbert space against direct sums, convex programs, limits and their inequalities."""

import copy
import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from problems import DOUBLE, cloud, normal

from particles import KL, W1, Alpha, Cloud, JensenShannon, Key, ReverseKL, energy_distance
from particles.kernels import Gaussian, InverseMultiquadric, Laplacian, Multiquadric, Riesz
from particles.potentials import kernel as module
from particles.potentials.base import NotFitted
from particles.potentials.kernel import KernelPotential, kale, mmd

FORMULAS = {  # k(r) by its definition
    Gaussian(0.8): lambda r: np.exp(-(r**2) / (2 * 0.8**2)),
    Laplacian(1.3): lambda r: np.exp(-r / 1.3),
    InverseMultiquadric(0.7): lambda r: 1 / np.sqrt(1 + r**2 / 0.7**2),
    Multiquadric(0.9): lambda r: -np.sqrt(0.9**2 + r**2),
    Riesz(1.0): lambda r: -r,
    Riesz(0.6): lambda r: -(r**0.6),
    Riesz(1.5): lambda r: -(r**1.5),
}
KERNELS = pytest.mark.parametrize("kernel", list(FORMULAS), ids=repr)
FEW = pytest.mark.parametrize("kernel", [Gaussian(0.8), Laplacian(1.3), Multiquadric(0.9), Riesz(1.0)], ids=repr)
SMOOTH = pytest.mark.parametrize("kernel", [k for k in FORMULAS if math.isfinite(k.steepness)], ids=repr)
DIVERGENCES = pytest.mark.parametrize("divergence", [KL(), ReverseKL(), JensenShannon(), Alpha(2.0)], ids=repr)
DOMAIN = pytest.mark.parametrize("divergence", [KL(), Alpha(2.0)], ids=repr)
KEY = Key.of(0)


def weighted(n, name, shift=0.0):
    return Cloud(normal(n, 2, name) + shift, weight=torch.softmax(normal(n, 1, f"w-{name}")[:, 0], 0))


def pair():
    """Particles and target of different numbers and masses."""
    return weighted(20, "p", 0.7), weighted(25, "q")


def common():
    """Two laws on the same 12 points, P with the masses a and Q with b."""
    x = normal(12, 2, "common") * 3
    a, b = (torch.softmax(normal(12, 1, name)[:, 0], 0) for name in "ab")
    return Cloud(x, weight=a), Cloud(x, weight=b)


def paid(divergence, p, q):
    """D_f on common points."""
    return float(q.mean(divergence.f(p.mass / q.mass)))


def gram(kernel, x, y):
    return FORMULAS[kernel](np.linalg.norm(x.numpy()[:, None] - y.numpy(), axis=-1))


def fit(potential, p, q):
    return {name: float(value) for name, value in potential.fit(p, q, KEY).items()}


def root(kernel, p, q):
    """C with CC' = K on both clouds' points; for a conditionally definite kernel the one based at the first point."""
    z = torch.cat((p.x, q.x))
    matrix = gram(kernel, z, z)
    if not kernel.definite:
        matrix = matrix - matrix[:1] - matrix[:, :1] + matrix[0, 0]
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return vectors * np.sqrt(values.clip(0))


def dual(divergence, kernel, p, q, penalty=None, norm=None, normalised=True):
    """max over all functions in the span of the kernel at both clouds' points: an oracle that has no θ and no γ."""
    c = root(kernel, p, q)
    h, nu = cp.Variable(c.shape[1]), cp.Variable()
    on_p, t = c[: len(p)] @ h, c[len(p) :] @ h - nu
    a, b = p.mass.numpy(), q.mass.numpy()
    conjugate = {
        KL: lambda: cp.exp(t) - 1,
        ReverseKL: lambda: -cp.log(1 - t),
        JensenShannon: lambda: -cp.log(2 - cp.exp(t)),
        Alpha: lambda: (cp.square(cp.pos(1 + t)) - 1) / 2,
        W1: lambda: t,
    }[type(divergence)]()
    value = a @ on_p - nu - b @ conjugate
    limits = [] if normalised else [nu == 0]
    if norm is None:
        value = value - penalty / 2 * cp.sum_squares(h)
    else:
        limits.append(cp.norm(h) <= norm)
    return float(cp.Problem(cp.Maximize(value), limits).solve(solver=cp.CLARABEL))


def primal(divergence, kernel, p, q, penalty=None, norm=None, normalised=True):
    """min over the masses γ on Q's points of the kernel's distance to P, plus the divergence from Q."""
    c = root(kernel, p, q)
    a, b = p.mass.numpy(), q.mass.numpy()
    gamma = cp.Variable(len(q), nonneg=True)
    apart = c[: len(p)].T @ a - c[len(p) :].T @ gamma
    density = cp.multiply(gamma, 1 / b)
    one = np.ones(len(q))
    f = {
        KL: lambda: cp.kl_div(density, one),
        ReverseKL: lambda: density - 1 - cp.log(density),
        JensenShannon: lambda: cp.rel_entr(density, (density + 1) / 2) + cp.rel_entr(one, (density + 1) / 2),
        Alpha: lambda: cp.square(density - 1) / 2,
    }[type(divergence)]()
    distance = cp.sum_squares(apart) / (2 * penalty) if norm is None else norm * cp.norm(apart)
    limits = [cp.sum(gamma) == 1] if normalised else []
    return float(cp.Problem(cp.Minimize(distance + b @ f), limits).solve(solver=cp.CLARABEL))


def slopes(potential, x, step=1e-5):
    """∇φ by central differences of φ."""
    columns = []
    for k in range(x.shape[1]):
        shift = step * torch.eye(x.shape[1], dtype=x.dtype)[k]
        columns.append((potential.phi(Cloud(x + shift)) - potential.phi(Cloud(x - shift))) / (2 * step))
    return torch.stack(columns, 1)


# MMD


@KERNELS
@pytest.mark.parametrize("masses", [False, True])
def test_mmd_against_direct_sums(kernel, masses):
    p, q = pair() if masses else (Cloud(normal(20, 2, "p") + 0.7), cloud(25, 2, "q"))
    a, b = p.mass.numpy(), q.mass.numpy()
    square = a @ gram(kernel, p.x, p.x) @ a + b @ gram(kernel, q.x, q.x) @ b - 2 * a @ gram(kernel, p.x, q.x) @ b
    potential = mmd(kernel)
    info = fit(potential, p, q)
    assert info["divergence"] == pytest.approx(square / 2, rel=1e-9)
    assert info["norm"] == pytest.approx(math.sqrt(square), rel=1e-9)
    assert potential.theta.numpy() == pytest.approx(b, abs=1e-12)
    z = normal(30, 2, "elsewhere") * 2
    witness = gram(kernel, z, p.x) @ a - gram(kernel, z, q.x) @ b
    assert potential.phi(Cloud(z)).numpy() == pytest.approx(witness, abs=1e-10)
    torch.testing.assert_close(potential.grad(Cloud(z)), slopes(potential, z), atol=1e-7, rtol=1e-6)


def test_mmd_with_the_distance_is_half_the_energy_distance():
    p, q = pair()
    assert fit(mmd(Riesz(1.0)), p, q)["divergence"] == pytest.approx(energy_distance(p, q) / 2, rel=1e-9)


@KERNELS
def test_the_slope_of_half_mmd_squared_in_a_particle_is_its_mass_times_the_gradient(kernel):
    p, q = pair()
    potential, step = mmd(kernel), 1e-5
    fit(potential, p, q)
    gradient = potential.grad(p)
    for i, k in [(0, 0), (7, 1)]:
        shift = torch.zeros_like(p.x)
        shift[i, k] = step
        above, below = (fit(mmd(kernel), p.at(p.x + s * shift), q)["divergence"] for s in (1, -1))
        assert (above - below) / (2 * step) == pytest.approx(float(p.mass[i] * gradient[i, k]), abs=1e-8)


# The divergences against convex programs


@DIVERGENCES
@pytest.mark.parametrize("bounded", [{"penalty": 0.1}, {"norm": 2.0}], ids=str)
def test_two_convex_programs_agree(divergence, bounded):
    p, q = pair()
    values = [solve(divergence, Gaussian(0.8), p, q, **bounded) for solve in (dual, primal)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


@FEW
@DIVERGENCES
@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_penalty_against_the_convex_program(divergence, kernel, penalty):
    p, q = pair()
    info = fit(KernelPotential(divergence, kernel, penalty=penalty), p, q)
    exact = dual(divergence, kernel, p, q, penalty)
    assert info["divergence"] == pytest.approx(exact, rel=1e-6, abs=1e-8)
    assert info["newton_steps"] <= 25  # with a wrong curvature it takes more, or all 50


@SMOOTH
@DIVERGENCES
@pytest.mark.parametrize("lipschitz", [0.2, 2.0])
def test_ball_against_the_convex_program(divergence, kernel, lipschitz):
    p, q = pair()
    potential = KernelPotential(divergence, kernel, lipschitz=lipschitz)
    info = fit(potential, p, q)
    norm = lipschitz / kernel.steepness
    assert info["divergence"] == pytest.approx(primal(divergence, kernel, p, q, norm=norm), rel=1e-5)
    assert info["norm"] == pytest.approx(norm, rel=1e-5)


def test_w1_in_the_ball_is_the_norm_times_mmd():
    p, q = pair()
    square = 2 * fit(mmd(Gaussian(0.8)), p, q)["divergence"]
    info = fit(KernelPotential(W1(), Gaussian(0.8), lipschitz=1.5), p, q)
    assert info["divergence"] == pytest.approx(1.5 * 0.8 * math.sqrt(square), rel=1e-5)


@pytest.mark.parametrize("kernel", [k for k in FORMULAS if k.definite], ids=repr)
@pytest.mark.parametrize("penalty", [0.01, 0.3, 10.0])
def test_kale_against_the_convex_program(kernel, penalty):
    p, q = pair()
    values = [(1 + penalty) * solve(KL(), kernel, p, q, penalty, normalised=False) for solve in (dual, primal)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    potential = kale(kernel, penalty)
    assert fit(potential, p, q)["divergence"] == pytest.approx(values[0], rel=1e-6)
    # the definition, at the h that was found
    h = [potential.phi(c) / (1 + penalty) for c in (p, q)]
    norm = dual_norm(potential, p, q) / (1 + penalty)
    value = 1 + float(p.mean(h[0]) - q.mean(h[1].exp())) - penalty / 2 * norm**2
    assert (1 + penalty) * value == pytest.approx(values[0], rel=1e-6)


def dual_norm(potential, p, q):
    """The norm of φ, from its coefficients on the points."""
    c = torch.cat((p.mass, -potential.theta)).numpy() * potential.scale / potential.price
    z = torch.cat((p.x, q.x))
    return math.sqrt(c @ gram(potential.kernel, z, z) @ c)


@DIVERGENCES
@pytest.mark.parametrize("bounded", [{"penalty": 0.05}, {"norm": 1.0}], ids=str)
def test_the_slope_of_the_value_in_a_particle_is_its_mass_times_the_gradient(divergence, bounded):
    p, q, step, kernel = *pair(), 1e-3, InverseMultiquadric(0.7)
    chosen = {"penalty": 0.05} if "penalty" in bounded else {"lipschitz": kernel.steepness}
    potential = KernelPotential(divergence, kernel, tolerance=1e-9, **chosen)
    fit(potential, p, q)
    gradient = potential.grad(p)
    for i, k in [(3, 0), (11, 1)]:
        shift = torch.zeros_like(p.x)
        shift[i, k] = step
        above, below = (primal(divergence, kernel, p.at(p.x + s * shift), q, **bounded) for s in (1, -1))
        assert (above - below) / (2 * step) == pytest.approx(float(p.mass[i] * gradient[i, k]), abs=2e-5)


# Limits and inequalities


def test_kale_tends_to_half_mmd_squared():
    p, q = pair()
    square = 2 * fit(mmd(Gaussian(0.8)), p, q)["divergence"]
    errors = [abs(fit(kale(Gaussian(0.8), at), p, q)["divergence"] / (square / 2) - 1) for at in (1e2, 1e3, 1e4)]
    assert errors[2] < 1e-3
    assert errors[1] == pytest.approx(10 * errors[2], rel=0.1)  # the error is of order 1/λ
    assert errors[0] == pytest.approx(10 * errors[1], rel=0.1)


@DIVERGENCES
@pytest.mark.parametrize("kernel", [Gaussian(0.8), Laplacian(1.3)], ids=repr)
def test_the_divergence_is_the_limit_of_small_prices(divergence, kernel):
    """On common points, and from below: 0 ≤ D ≤ D_f."""
    p, q = common()
    exact = paid(divergence, p, q)
    falling = [fit(KernelPotential(divergence, kernel, penalty=at), p, q)["divergence"] for at in (10, 1e-2, 1e-5)]
    assert 0 <= falling[0] < falling[1] < falling[2] <= exact * (1 + 1e-9)
    assert falling[2] == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("divergence", [KL(), ReverseKL()], ids=repr)
def test_the_divergence_is_the_limit_of_large_bounds(divergence):
    p, q = common()
    exact = paid(divergence, p, q)
    rising = [
        fit(KernelPotential(divergence, Gaussian(0.8), lipschitz=at), p, q)["divergence"] for at in (0.1, 1.0, 100.0)
    ]
    assert 0 <= rising[0] < rising[1] < rising[2] <= exact * (1 + 1e-6)  # sums of 1e-16 over a price of 1e-9
    assert rising[2] == pytest.approx(exact, rel=1e-4)


def test_kale_tends_to_kl():
    p, q = common()
    exact = paid(KL(), p, q)
    values = [fit(kale(Gaussian(0.8), at), p, q)["divergence"] / (1 + at) for at in (1e-3, 1e-5)]
    assert values[0] < values[1] <= exact * (1 + 1e-9)
    assert values[1] == pytest.approx(exact, rel=1e-3)


@FEW
@DIVERGENCES
def test_nothing_at_equal_clouds(divergence, kernel):
    q = weighted(25, "q")
    potential = KernelPotential(divergence, kernel, penalty=0.1)
    assert fit(potential, q, q)["divergence"] == pytest.approx(0, abs=1e-12)
    assert float(potential.grad(q).norm(dim=1).max()) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_nothing_at_equal_clouds_in_the_ball(dtype):
    q = Cloud(weighted(25, "q").x.to(dtype))
    potential = KernelPotential(KL(), Multiquadric(0.9), lipschitz=1.0)
    value = fit(potential, q, q)["divergence"]
    assert float(potential.grad(q).norm(dim=1).max()) < (0.02 if dtype == torch.float32 else 1e-6)  # of a bound of 1
    assert value == pytest.approx(0, abs=1e-5)


@SMOOTH
@DIVERGENCES
def test_no_slope_is_above_the_bound(divergence, kernel):
    """On and near the points and far from them, for a bound that is attained in norm."""
    p, q = pair()
    potential = KernelPotential(divergence, kernel, lipschitz=0.5)
    fit(potential, p, q)
    z = torch.cat((p.x, q.x, normal(2000, 2, "near"), normal(1000, 2, "far") * 10))
    assert 0 < float(potential.grad(Cloud(z)).norm(dim=1).max()) <= 0.5 * (1 + 1e-5)


@SMOOTH
def test_steepness_is_attained(kernel):
    """sup ‖k(x, ·) − k(y, ·)‖ / ‖x − y‖ is that of near points: the ball is as large as it may be."""
    r = np.array([1e-3, 1e-2, 0.1, 1, 10])
    k = FORMULAS[kernel]
    steep = np.sqrt(2 * k(0 * r) - 2 * k(r)) / r
    assert (steep <= kernel.steepness * (1 + 1e-4)).all()
    assert steep[0] == pytest.approx(kernel.steepness, rel=1e-3)


# The solver


@DIVERGENCES
@FEW
def test_phi_and_its_gradient(divergence, kernel):
    p, q = pair()
    potential = KernelPotential(divergence, kernel, penalty=0.1, scale=1.7)
    fit(potential, p, q)
    z = normal(20, 2, "elsewhere") * 2
    torch.testing.assert_close(potential.grad(Cloud(z)), slopes(potential, z), atol=1e-6, rtol=1e-5)


@DIVERGENCES
@pytest.mark.parametrize("chosen", [{"penalty": 0.02}, {"lipschitz": 1.0}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_conjugate_gradients_find_what_cholesky_does(monkeypatch, divergence, chosen, dtype):
    p, q = (Cloud(c.x.to(dtype), weight=c.weight.to(dtype)) for c in pair())
    found = []
    for most in (2000, 0):
        monkeypatch.setattr(module, "EXACT", most)
        potential = KernelPotential(divergence, Gaussian(0.8), **chosen)
        found.append((fit(potential, p, q)["divergence"], potential.theta, potential.grad(p)))
    (value, theta, gradient), (value_, theta_, gradient_) = found
    tight = 1e-5 if dtype == DOUBLE else 2e-4
    assert value_ == pytest.approx(value, rel=tight)
    assert float((theta - theta_).abs().sum()) < 10 * tight
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient_, gradient, rtol=0, atol=50 * tight * float(gradient.abs().max()))


@DOMAIN
def test_penalty_without_normalised_masses(divergence):
    p, q = pair()
    info = fit(KernelPotential(divergence, Gaussian(0.8), penalty=0.1, normalised=False), p, q)
    exact = primal(divergence, Gaussian(0.8), p, q, 0.1, normalised=False)
    assert info["divergence"] == pytest.approx(exact, rel=1e-6)


@DIVERGENCES
@pytest.mark.parametrize("chosen", [{"penalty": 0.1}, {"lipschitz": 1.0}], ids=str)
def test_single_precision(divergence, chosen):
    p, q = pair()
    double, single = (KernelPotential(divergence, Gaussian(0.8), **chosen) for _ in range(2))
    expected = fit(double, p, q)
    p32, q32 = (Cloud(c.x.float(), weight=c.weight.float()) for c in (p, q))
    found = fit(single, p32, q32)
    assert found["divergence"] == pytest.approx(expected["divergence"], rel=1e-4)
    assert single.phi(p32).dtype == single.grad(p32).dtype == torch.float32
    torch.testing.assert_close(single.grad(p32).double(), double.grad(p), rtol=0, atol=1e-4)


@DIVERGENCES
@pytest.mark.parametrize("chosen", [{"penalty": 0.02}, {"lipschitz": 1.0}], ids=str)
def test_a_warm_start_ends_where_a_cold_one_does(divergence, chosen):
    p, q = pair()
    warm, cold = (KernelPotential(divergence, Gaussian(0.8), tolerance=1e-9, **chosen) for _ in range(2))
    fit(warm, p.at(p.x + 3), q)
    if "penalty" in chosen:
        fit(warm, q, q)
    again = fit(warm, p, q)
    expected = fit(cold, p, q)
    assert again["divergence"] == pytest.approx(expected["divergence"], rel=1e-5)  # the ball's norm is met to 1e-6
    torch.testing.assert_close(warm.grad(p), cold.grad(p), rtol=0, atol=1e-5)


@DIVERGENCES
def test_tiny_prices_and_large_bounds_converge(divergence):
    """On separate points, where the values of φ are in the hundreds: against the convex program's upper side."""
    p, q = weighted(20, "p", 2.0), weighted(25, "q")
    kernel = Laplacian(1.3)
    potential = KernelPotential(divergence, kernel, penalty=1e-4, max_iterations=200)
    info = fit(potential, p, q)
    assert info["divergence"] == pytest.approx(primal(divergence, kernel, p, q, 1e-4), rel=1e-4)
    residual = q.mass * divergence.density(potential.phi(q), q) - potential.theta
    assert float(residual.abs().sum()) < 1e-4
    ball = fit(KernelPotential(divergence, Gaussian(0.8), lipschitz=50.0, max_iterations=200), p, q)
    assert ball["divergence"] == pytest.approx(primal(divergence, Gaussian(0.8), p, q, norm=40.0), rel=1e-4)


def test_a_target_of_another_size_starts_cold():
    p, q = pair()
    warm, cold = (KernelPotential(KL(), Gaussian(0.8), penalty=0.1) for _ in range(2))
    fit(warm, p, weighted(7, "other"))
    assert fit(warm, p, q)["divergence"] == fit(cold, p, q)["divergence"]


@pytest.mark.parametrize("chosen", [{"penalty": 0.1}, {"lipschitz": 1.0}], ids=str)
def test_state(chosen):
    """φ is there after loading, without a fit; and the next fit goes on from it."""
    p, q = pair()
    one, two = (KernelPotential(KL(), Gaussian(0.8), **chosen) for _ in range(2))
    with pytest.raises(NotFitted):
        one.phi(p)
    two.load_state_dict(one.state_dict())
    with pytest.raises(NotFitted):
        two.grad(p)
    fit(one, p, q)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(one.phi(q), two.phi(q))
    assert torch.equal(one.grad(q), two.grad(q))
    moved = p.at(p.x + 0.1)
    assert fit(one, moved, q) == fit(two, moved, q)
    assert torch.equal(one.grad(q), two.grad(q))


@pytest.mark.parametrize(
    ("kernel", "chosen", "message"),
    [
        (Gaussian(), {}, "either penalty or lipschitz"),
        (Gaussian(), {"penalty": 1.0, "lipschitz": 1.0}, "not both"),
        (Gaussian(), {"penalty": 0.0}, "penalty must be positive"),
        (Gaussian(), {"penalty": math.inf}, "penalty must be positive and finite"),
        (Gaussian(), {"lipschitz": -1.0}, "lipschitz must be positive"),
        (Gaussian(), {"penalty": 1.0, "scale": math.nan}, "scale must be positive"),
        (Gaussian(), {"penalty": 1.0, "tolerance": 0.0}, "tolerance must be positive"),
        (Gaussian(), {"penalty": 1.0, "max_iterations": 0}, "max_iterations must be at least 1"),
        (Gaussian(), {"penalty": 1.0, "backend": "cuda"}, "backend"),
        (Laplacian(), {"lipschitz": 1.0}, "no bounded slope"),
        (Riesz(), {"lipschitz": 1.0}, "no bounded slope"),
        (Multiquadric(), {"penalty": 1.0, "normalised": False}, "positive definite"),
        (Riesz(), {"penalty": 1.0, "normalised": False}, "positive definite"),
    ],
)
def test_bad_arguments(kernel, chosen, message):
    with pytest.raises(ValueError, match=message):
        KernelPotential(KL(), kernel, **chosen)


@pytest.mark.parametrize(("kernel", "penalty"), [(Gaussian(), 0.0), (Riesz(), 1.0)])
def test_bad_arguments_of_kale(kernel, penalty):
    with pytest.raises(ValueError, match=r"must be positive|has to be positive"):
        kale(kernel, penalty)


@pytest.mark.parametrize("divergence", [ReverseKL(), JensenShannon()], ids=repr)
def test_conjugates_with_an_edge_need_normalised_masses(divergence):
    with pytest.raises(ValueError, match="conjugate has to be finite everywhere"):
        KernelPotential(divergence, Gaussian(0.8), penalty=0.1, normalised=False)
