"""The divergences against numerical suprema, closed forms and a convex program."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DOUBLE, cloud, convex_program, normal
from scipy.optimize import minimize_scalar
from scipy.special import wrightomega

from particles import KL, W1, Alpha, Cloud, JensenShannon, Key, ReverseKL
from particles.divergences import _Bracketed
from particles.names import DIVERGENCES, make

ALL = [make("divergence", name, DIVERGENCES) for name in DIVERGENCES] + [Alpha(1.2), Alpha(5.0)]
SMOOTH = [d for d in ALL if not isinstance(d, W1)]
EDGE = {ReverseKL: 1.0, JensenShannon: math.log(2)}  # where the domain of f* ends


def tensor(value):
    return torch.tensor(value, dtype=DOUBLE)


@pytest.mark.parametrize("divergence", SMOOTH, ids=repr)
@pytest.mark.parametrize("t", [-3.0, -0.7, 0.0, 0.4, 0.68])
def test_conjugate_is_the_supremum(divergence, t):
    best = minimize_scalar(
        lambda u: float(divergence.f(tensor(math.exp(u)))) - t * math.exp(u), bounds=(-30, 12), method="bounded"
    )
    at_zero = -float(divergence.f(tensor(1e-300)))  # the supremum may be at x = 0
    supremum = max(-best.fun, at_zero if math.isfinite(at_zero) else -math.inf)
    assert float(divergence.conjugate(tensor(t))) == pytest.approx(supremum, abs=2e-6)


@pytest.mark.parametrize("divergence", SMOOTH, ids=repr)
def test_derivatives(divergence):
    t = torch.tensor([-2.0, -0.3, 0.1, 0.6], dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(divergence.conjugate(t).sum(), t)
    torch.testing.assert_close(divergence.conjugate_derivative(t), slope)
    x = torch.tensor([0.2, 0.9, 1.0, 3.0], dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(divergence.f(x).sum(), x)
    torch.testing.assert_close(divergence.derivative(x), slope)
    torch.testing.assert_close(divergence.conjugate_derivative(divergence.derivative(x)), x)  # inverse functions


@pytest.mark.parametrize("divergence", SMOOTH, ids=repr)
def test_curvature(divergence):
    x = torch.tensor([0.05, 0.2, 0.9, 1.0, 3.0, 40.0], dtype=DOUBLE, requires_grad=True)
    (curvature,) = torch.autograd.grad(divergence.derivative(x).sum(), x)
    torch.testing.assert_close(divergence.curvature(x), curvature)
    t = divergence.derivative(x).detach().requires_grad_()
    (bend,) = torch.autograd.grad(divergence.conjugate_derivative(t).sum(), t)
    torch.testing.assert_close(1 / divergence.curvature(x), bend)


S = torch.cat((-torch.logspace(2.4, -3, 40, dtype=DOUBLE), tensor([0.0]), torch.logspace(-3, 2.4, 40, dtype=DOUBLE)))
MARGINAL = pytest.mark.parametrize("epsilon", [1e-3, 0.03, 0.3, 1.0, 10.0, 1e3])


@pytest.mark.parametrize("divergence", ALL, ids=repr)
@MARGINAL
def test_marginal_is_the_root(divergence, epsilon):
    """ε log (f*)'(−g) + s − g falls in g: above 0 just below the root, where −g may be beyond the domain."""
    g = divergence.marginal(S, epsilon)
    near = 1e-10 * (1 + S.abs())

    def excess(at):
        return (epsilon * divergence.conjugate_derivative(-at).log() + S - at).nan_to_num(math.inf, neginf=-math.inf)

    assert bool((excess(g - near) >= 0).all())
    assert bool((excess(g + near) <= 0).all())
    slope = g.diff() / S.diff()
    assert bool((slope >= -1e-9).all())  # of g in s
    assert bool((slope <= 1 + 1e-9).all())
    assert float(divergence.marginal(tensor(0.0), epsilon)) == pytest.approx(0, abs=1e-12)
    single = divergence.marginal(S.float(), epsilon)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), g, rtol=1e-5, atol=1e-6)


@MARGINAL
def test_marginal_in_closed_form(epsilon):
    assert torch.equal(W1().marginal(S, epsilon), S)
    torch.testing.assert_close(KL().marginal(S, epsilon), S / (1 + epsilon))
    # χ²: 1 − g = e^((g − s)/ε) is Lambert's function, W(x) = wrightomega(log x)
    closed = 1 - epsilon * wrightomega((1 - S.numpy()) / epsilon - math.log(epsilon))
    torch.testing.assert_close(Alpha(2.0).marginal(S, epsilon), torch.from_numpy(closed), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("divergence", SMOOTH, ids=repr)
def test_marginal_of_far_points_is_finite(divergence):
    far = tensor([-1e5, -1e3, 1e3, 1e5])
    g = divergence.marginal(far, 1.0)
    assert bool(torch.isfinite(g).all())
    assert bool((g.diff() >= -1e-9).all())  # to rounding: near the edge of the domain g is constant


@pytest.mark.parametrize("divergence", ALL, ids=repr)
def test_normalisation(divergence):
    one = tensor(1.0)
    assert float(divergence.f(one)) == pytest.approx(0, abs=1e-12)
    assert float(divergence.derivative(one)) == pytest.approx(0, abs=1e-12)
    assert float(divergence.conjugate(0 * one)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("divergence", ALL, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=["float32", "float64"])
def test_precision_in_is_precision_out(divergence, dtype):
    x, q = torch.tensor([0.5, 1.0, 2.0], dtype=dtype), Cloud(torch.zeros(3, 1, dtype=dtype))
    functions = [divergence.f, divergence.derivative, divergence.curvature, lambda x: divergence.density(-x, q)]
    functions += [
        lambda x: divergence.conjugate(-x),
        lambda x: divergence.conjugate_derivative(-x),
        lambda x: divergence.nu(x, q),
    ]
    functions += [lambda x: divergence.marginal(x, 1.0), lambda x: divergence.objective(x, -x, q, q)]
    assert {function(x).dtype for function in functions} == {dtype}


@pytest.mark.parametrize("divergence", SMOOTH, ids=repr)
@pytest.mark.parametrize("weighted", [False, True])
def test_nu_is_optimal(divergence, weighted):
    weight = torch.softmax(normal(50, 1, "w")[:, 0], 0) if weighted else None
    q = Cloud(normal(50, 2, "q"), weight=weight)
    values = 2 * normal(50, 1, "phi")[:, 0]
    nu = float(divergence.nu(values, q))
    if type(divergence) in EDGE:
        assert float(values.max()) - nu < EDGE[type(divergence)]
    assert float(q.mean(divergence.conjugate_derivative(values - nu))) == pytest.approx(1, abs=1e-9)
    assert float(q.mean(divergence.density(values, q))) == pytest.approx(1, abs=1e-9)

    def bound(v):
        answer = v + float(q.mean(divergence.conjugate(values - v)))
        return answer if math.isfinite(answer) else math.inf

    p = cloud(10, 2, "p")
    on_p = normal(10, 1, "on_p")[:, 0]
    value = float(divergence.objective(on_p, values, p, q))
    assert value == pytest.approx(float(on_p.mean()) - bound(nu), abs=1e-9)
    for step in (1e-3, 0.1):
        assert bound(nu) <= bound(nu + step)
        assert bound(nu) <= bound(nu - step)


@pytest.mark.parametrize("divergence", ALL, ids=repr)
def test_objective_has_the_stated_derivative(divergence):
    p, q = cloud(20, 2, "p"), cloud(30, 2, "q")
    on_p, on_q = normal(20, 1, "a")[:, 0].requires_grad_(), normal(30, 1, "b")[:, 0].requires_grad_()
    in_p, in_q = torch.autograd.grad(divergence.objective(on_p, on_q, p, q), (on_p, on_q))
    torch.testing.assert_close(in_p, p.mass)
    torch.testing.assert_close(in_q, -q.mass * divergence.density(on_q, q))
    shift = 1e-5 * normal(30, 1, "c")[:, 0]  # the envelope theorem: also along changes of ν
    with torch.no_grad():
        rise = divergence.objective(on_p, on_q + shift, p, q) - divergence.objective(on_p, on_q - shift, p, q)
    assert float(rise) / 2 == pytest.approx(float(in_q @ shift), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("divergence", ALL, ids=repr)
@given(scale=st.floats(0, 4), shift=st.floats(-1e4, 1e4), n=st.integers(1, 200), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_float32_potentials_up_to_ten_thousand(divergence, scale, shift, n, seed):
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=n)).float()
    values = (values * 10**scale + shift).clamp(-1e4, 1e4)
    q = Cloud(torch.zeros(n, 1))
    assert math.isfinite(float(divergence.objective(values, values, q, q)))
    assert math.isfinite(float(divergence.nu(values, q)))
    density = divergence.density(values, q)
    assert bool(torch.isfinite(density).all())
    assert float(density.double().mean()) == pytest.approx(1, abs=2e-3)
    # φ ↦ E_P φ − … is invariant under constants and at most E_P φ − E_Q φ, hence not above 0 here
    assert float(divergence.objective(values, values, q, q)) <= 1e-2


@pytest.mark.parametrize("divergence", ALL, ids=repr)
def test_float32_values_are_reckoned_with_in_double_precision(divergence):
    """To rounding at the end: the top of many far values has a density near their number, at the edge of the domain of f*."""
    values = torch.cat((torch.tensor([0.3]), -30 - normal(9999, 1, "far", torch.float32)[:, 0].abs())).requires_grad_()
    on_p = 100 * normal(50, 1, "on_p", torch.float32)[:, 0]
    p, q = Cloud(torch.zeros(50, 1)), Cloud(torch.zeros(10_000, 1))
    for of in (divergence.nu, divergence.density):
        single, double = of(values, q), of(values.double(), q)
        assert not single.requires_grad
        assert single.dtype == torch.float32
        torch.testing.assert_close(
            single.double(), double, rtol=1e-6 if isinstance(divergence, _Bracketed) else 1e-5, atol=1e-6
        )
    single = divergence.objective(on_p, values, p, q).detach()
    assert single.dtype == torch.float32
    double = divergence.objective(on_p.double(), values.detach().double(), p, q)
    assert float(single) == pytest.approx(float(double), rel=6e-8 if isinstance(divergence, _Bracketed) else 1e-5)


@pytest.mark.parametrize("divergence", SMOOTH, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("light", [0.3, 1e-3, 1.1e-6])
def test_a_light_point_far_above_the_others_bears_all_the_mass(divergence, dtype, light):
    """Then its density is one over its mass w, and ν = φ − f'(1 / w)."""
    q = Cloud(torch.zeros(2, 1, dtype=dtype), weight=torch.tensor([1 - light, light], dtype=dtype))
    values = torch.tensor([-1e25, 5.0], dtype=dtype)
    density = divergence.density(values, q)
    assert abs(float(density[0])) < 1e-4
    assert float(density[1] * q.weight[1]) == pytest.approx(1, rel=1e-5)
    level = 5 - float(divergence.derivative(1 / q.weight.double()[1]))
    assert float(divergence.nu(values, q)) == pytest.approx(level, rel=1e-5)


BRACKETED = pytest.mark.parametrize("divergence", [d for d in SMOOTH if isinstance(d, _Bracketed)], ids=repr)


@BRACKETED
@MARGINAL
def test_marginal_begins_beside_the_root(divergence, epsilon):
    """Below it where ε u + f'(e^u) + s is concave in u, above it where it is convex: at the root of a part of it, the nearest one."""
    u = divergence._beside(S, epsilon)
    slope, _ = divergence._log_slope(u)
    near = 1e-12 * (1 + S.abs())
    excess = epsilon * u + slope + S
    below, above = S < 0, S > 0
    if isinstance(divergence, Alpha):
        assert bool((excess >= -near).all())
        assert bool((torch.maximum(epsilon * u, slope) <= near - S)[below].all())
        assert not u[above].any()
    else:
        assert bool((excess <= near).all())
        torch.testing.assert_close(slope[above], -S[above], rtol=1e-9, atol=1e-12)
        edge = EDGE[type(divergence)]  # what f' tends to
        torch.testing.assert_close(u[below], (-S[below] - edge).clamp(min=0) / epsilon)


@BRACKETED
@MARGINAL
def test_marginal_takes_few_steps(divergence, epsilon, monkeypatch):
    """Newton's steps from the right side of a convex or concave function never pass the root, and end quadratically."""
    steps, slope = [], type(divergence)._log_slope
    monkeypatch.setattr(type(divergence), "_log_slope", lambda self, u: steps.append(1) or slope(self, u))
    divergence.marginal(S, epsilon)
    assert len(steps) <= 20


def test_nu_of_chi_square_is_the_mean():
    """To the last digit, as long as no point is outside the support: E (1 + φ − ν) = 1."""
    for k in range(20):
        values = 0.5 * torch.rand(50, generator=Key.of(k).generator(), dtype=DOUBLE)
        assert float(Alpha(2.0).nu(values, Cloud(torch.zeros(50, 1)))) == pytest.approx(float(values.mean()), abs=1e-15)


def test_order_of_alpha_is_two_unless_told():
    """Half of Pearson's χ²."""
    x = torch.linspace(0, 5, 11, dtype=DOUBLE)
    torch.testing.assert_close(Alpha().f(x), (x - 1) ** 2 / 2)


@pytest.mark.parametrize("divergence", ALL, ids=repr)
@pytest.mark.parametrize("lipschitz", [0.5, 3.0])
def test_dirac_against_dirac(divergence, lipschitz):
    a, b = Cloud(tensor([[1.0, 2.0]])), Cloud(tensor([[4.0, 6.0]]))
    on_p, on_q = tensor([0.0]), tensor([-lipschitz * 5.0])  # the steepest φ
    assert float(divergence.objective(on_p, on_q, a, b)) == pytest.approx(5 * lipschitz, rel=1e-12)


@pytest.mark.parametrize("divergence", SMOOTH, ids=repr)
def test_dirac_against_a_sample(divergence):
    """D = −inf_ν {ν + E_Q f*(−L|y − X| − ν)}; for KL −log E e^(−L|y − X|)."""
    q, y, lipschitz = cloud(40, 3, "q"), normal(1, 3, "y"), 2.0
    on_q = -lipschitz * (q.x - y).norm(dim=1)
    value = float(divergence.objective(tensor([0.0]), on_q, Cloud(y), q))
    top = float(on_q.max())
    edge = EDGE.get(type(divergence), math.inf)
    best = minimize_scalar(
        lambda v: v + float(q.mean(divergence.conjugate(on_q - v))),
        bounds=(max(top - edge + 1e-9, float(on_q.min())), top),
        method="bounded",
        options={"xatol": 1e-11},
    )
    assert value == pytest.approx(-best.fun, abs=1e-7)
    if isinstance(divergence, KL):
        assert value == pytest.approx(-math.log(float((on_q.exp()).mean())), rel=1e-12)


@pytest.mark.parametrize(("name", "alpha"), [("kl", 2), ("reverse-kl", 2), ("alpha", 2), ("w1", 2)])
def test_limits_of_the_convex_program(name, alpha):
    """0 ≤ D ≤ L W1, and D/L → W1 as L → 0: the oracle that other tests use obeys what it must."""
    y, x = normal(15, 2, "y").numpy(), 1 + normal(20, 2, "x").numpy()
    w1 = convex_program("w1", y, x, 1.0)
    for lipschitz in (0.01, 1.0):
        value = convex_program(name, y, x, lipschitz)
        assert -1e-7 <= value <= lipschitz * w1 + 1e-6
    assert convex_program(name, y, x, 0.01) / 0.01 == pytest.approx(w1, rel=0.02)


def test_alpha_tends_to_kl():
    values, q, p = normal(30, 1, "v")[:, 0], cloud(30, 1, "q"), cloud(30, 1, "p")
    kl = float(KL().objective(values.flip(0), values, p, q))
    assert float(Alpha(1 + 1e-6).objective(values.flip(0), values, p, q)) == pytest.approx(kl, abs=1e-5)


def test_w1_tells_equal_from_unequal():
    """f is 0 at 1 and infinite elsewhere: its slope is a wall on either side, and its curvature infinite."""
    x = tensor([0.5, 1.0, 2.0])
    assert W1().f(x).tolist() == [math.inf, 0, math.inf]
    assert W1().derivative(x).tolist() == [-math.inf, 0, math.inf]
    assert W1().curvature(x).tolist() == [math.inf] * 3
    for of in (W1().f, W1().derivative, W1().curvature, W1().conjugate_derivative):
        assert of(x.float()).dtype == torch.float32
    values = tensor([3.0, 5.0])
    q = Cloud(torch.zeros(2, 1, dtype=DOUBLE), weight=tensor([0.25, 0.75]))
    assert float(W1().nu(values, q)) == 4.5
    assert W1().density(values, q).tolist() == [1, 1]


def test_jensen_shannon_is_bounded():
    """2 log 2 is the most that it can be, for clouds however far apart."""
    p, q = cloud(5, 1, "p"), cloud(5, 1, "q")
    far = torch.full((5,), 1e3, dtype=DOUBLE)
    # φ − ν may not pass log 2 on the target, but on particles it may: the value is E_P φ − ν − E f* → L W1 here
    assert float(JensenShannon().objective(far, -far, p, q)) == pytest.approx(2e3)
    x = torch.linspace(1e-6, 50, 1000, dtype=DOUBLE)
    assert bool((JensenShannon().f(x) >= -1e-12).all())
    assert float(JensenShannon().f(tensor(0.0))) == pytest.approx(math.log(2))


@pytest.mark.parametrize("alpha", [1.0, 0.5, -1.0, math.inf, math.nan])
def test_alpha_must_be_above_one(alpha):
    with pytest.raises(ValueError, match="order must be above 1"):
        Alpha(alpha)
