"""Sums over all pairs against dense formulas in float64, and the costs and kernels against their definitions."""

import logging
import math
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from problems import DOUBLE, normal
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from particles import Key
from particles.kernels import (
    Distance,
    Gaussian,
    Huber,
    InverseMultiquadric,
    Laplacian,
    Multiquadric,
    Riesz,
    Squared,
)
from particles.pairwise import keops, tiled
from particles.pairwise.sums import kernel_gradient, kernel_product, softmean, softmin, softmin_gradient

# (the function, its value at distance r, its derivative in r)
COSTS = [
    (Distance(2.0), lambda r: 2 * r, lambda r: 2 + 0 * r),
    (Squared(), lambda r: r**2 / 2, lambda r: r),
    (
        Huber(2.0, 1.5),
        lambda r: np.where(r < 1.5, r**2 / 1.5, 2 * r - 1.5),
        lambda r: 2 * np.minimum(r / 1.5, 1),
    ),
]
KERNELS = [
    (Gaussian(1.5), lambda r: np.exp(-(r**2) / 4.5), lambda r: -r / 2.25 * np.exp(-(r**2) / 4.5)),
    (Laplacian(1.5), lambda r: np.exp(-r / 1.5), lambda r: -np.exp(-r / 1.5) / 1.5),
    (InverseMultiquadric(2.0), lambda r: 2 / np.sqrt(4 + r**2), lambda r: -2 * r / (4 + r**2) ** 1.5),
    (Multiquadric(0.5), lambda r: -np.sqrt(0.25 + r**2), lambda r: -r / np.sqrt(0.25 + r**2)),
    *(
        (Riesz(beta), lambda r, beta=beta: -(r**beta), lambda r, beta=beta: -beta * np.maximum(r, 1e-300) ** (beta - 1))
        for beta in (0.5, 1.0, 1.5)
    ),
]
DIMENSIONS = [1, 2, tiled.DIRECT, tiled.DIRECT + 1, 60]
FINITE = [kernel for kernel, _, _ in KERNELS if math.isfinite(kernel.steepness)]
REPR = {"ids": lambda value: repr(value[0]) if isinstance(value, tuple) else None}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of 6 × 10 pairs, the last ones smaller; blocks of one or two rows where things are differentiated; cells."""
    monkeypatch.setitem(tiled.PAIRS, "cpu", 64)
    monkeypatch.setitem(tiled.RECOMPUTED, "cpu", 64)
    monkeypatch.setattr(tiled, "CELLED", 4)
    monkeypatch.setattr(tiled, "STEEP", 0)
    monkeypatch.setattr(tiled, "COLUMNS", 10)
    monkeypatch.setattr(keops, "broken", [])


def points(d, dtype=DOUBLE, m=23, n=37):
    """Points of which five coincide, with typical distances of about 2 in any dimension."""
    x, y = normal(m, d, "x") / math.sqrt(d) + 0.5 / math.sqrt(d), normal(n, d, "y") * 2 / math.sqrt(d)
    x[:5] = y[-5:]
    return x.to(dtype), y.to(dtype)


def numbers(n, name, dtype=DOUBLE):
    return normal(n, 1, name)[:, 0].to(dtype)


def dense(x, y, function, derivative):
    """Values and gradients for all pairs, from the coordinates as they are."""
    difference = x.detach().double().numpy()[:, None] - y.detach().double().numpy()
    r = np.linalg.norm(difference, axis=-1)
    direction = np.divide(difference, r[..., None], out=np.zeros_like(difference), where=r[..., None] > 0)
    return function(r), derivative(r)[..., None] * direction


def dense_softmin(x, y, g, case, epsilon):
    """The softmin, its gradient and its weights."""
    cost, gradient = dense(x, y, *case[1:])
    scores = (g.detach().double().numpy() - cost) / epsilon
    top = scores.max(1, keepdims=True)
    weight = np.exp(scores - top)
    mass = weight.sum(1, keepdims=True)
    weight /= mass
    return -epsilon * (top + np.log(mass))[:, 0], np.einsum("ij,ijk->ik", weight, gradient), weight


def close(found, expected, tolerance):
    """Within ``tolerance`` of the largest number expected."""
    found = found.detach()
    np.testing.assert_allclose(
        found.double().numpy(), expected, rtol=0, atol=tolerance * np.abs(expected).max() + 1e-17
    )


# Against dense formulas


TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
EVERYWHERE = [
    pytest.mark.parametrize("differentiated", [False, True], ids=["fast", "autograd"]),
    pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["32", "64"]),
    pytest.mark.parametrize("d", DIMENSIONS),
]


def everywhere(test):
    for mark in EVERYWHERE:
        test = mark(test)
    return test


@everywhere
@pytest.mark.parametrize("case", COSTS, **REPR)
def test_softmin(case, d, dtype, differentiated):
    x, y = points(d, dtype)
    g = numbers(len(y), "g", dtype)
    values, gradient, weight = dense_softmin(x, y, g, case, 0.3)
    v = normal(len(y), 3, "v").to(dtype)
    x.requires_grad_(differentiated)
    close(softmin(x, y, g, case[0], 0.3), values, TOLERANCE[dtype])
    close(softmean(x, y, g, v, case[0], 0.3), weight @ v.double().numpy(), TOLERANCE[dtype])
    found = softmin_gradient(x, y, g, case[0], 0.3)
    close(found[0], values, TOLERANCE[dtype])
    close(found[1], gradient, TOLERANCE[dtype])


@everywhere
@pytest.mark.parametrize("case", KERNELS, **REPR)
def test_kernel_sums(case, d, dtype, differentiated):
    x, y = points(d, dtype)
    b = numbers(len(y), "b", dtype)
    values, gradients = dense(x, y, *case[1:])
    x.requires_grad_(differentiated)
    tolerance = max(TOLERANCE[dtype], 1e-8 if case[0] == Riesz(0.5) else 0)  # √r has to stop somewhere
    close(kernel_product(x, y, b, case[0]), values @ b.double().numpy(), tolerance)
    close(kernel_gradient(x, y, b, case[0]), np.einsum("ijk,j->ik", gradients, b.double().numpy()), tolerance)


@pytest.mark.parametrize("differentiated", [False, True], ids=["fast", "autograd"])
@pytest.mark.parametrize("offset", ["one coordinate", "all coordinates"])
@pytest.mark.parametrize("apart", [1e-4, 1e-6])
@pytest.mark.parametrize("d", DIMENSIONS)
def test_small_distances_far_away(d, apart, offset, differentiated):
    """Distances of 1e-4 and 1e-6 in float32, at 1000: no digits cancel that the coordinates still have."""
    y = normal(37, d, "y")
    y[:, : 1 if offset == "one coordinate" else d] += 1000
    y = y.float()
    x = (y[:23].double() + apart * torch.nn.functional.normalize(normal(23, d, "step"))).float()
    x.requires_grad_(differentiated)
    g = torch.zeros(37)
    cost, kernel = (
        (Distance(1.0), lambda r: r, lambda r: 1 + 0 * r),
        (Laplacian(apart), lambda r: np.exp(-r / apart), lambda r: -np.exp(-r / apart) / apart),
    )
    values, gradient, _ = dense_softmin(x, y, g, cost, apart / 4)
    close(softmin(x, y, g, cost[0], apart / 4), values, 1e-5)
    close(softmin_gradient(x, y, g, cost[0], apart / 4)[1], gradient, 1e-5)
    b = torch.ones(37)
    values, gradients = dense(x, y, *kernel[1:])
    close(kernel_product(x, y, b, kernel[0]), values.sum(1), 1e-5)
    close(kernel_gradient(x, y, b, kernel[0]), gradients.sum(1), 1e-5)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_distances_of_all_sizes(d):
    """One pair at a time, in float32, from near to far: the distance to a part in a thousand, its slope at most 1."""
    y = normal(200, d, "y").float()
    x = (y.double() + torch.logspace(-6, 2, 200)[:, None] * torch.nn.functional.normalize(normal(200, d, "u"))).float()
    distance = (x.double() - y.double()).norm(dim=1)
    for k in range(0, 200, 3):
        g = torch.full((200,), -math.inf)
        g[k] = 0.0
        value, gradient = softmin_gradient(x[k : k + 1], y, g, Distance(), 1.0)
        assert float(value) == pytest.approx(float(distance[k]), rel=1e-3)
        assert float(gradient.norm()) == pytest.approx(1, abs=1e-3)


def test_tiles_do_not_matter(monkeypatch):
    x, y = points(3)
    g = numbers(len(y), "g")
    tiled = softmin_gradient(x, y, g, Huber(), 0.1)
    monkeypatch.undo()
    for a, b in zip(tiled, softmin_gradient(x, y, g, Huber(), 0.1)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# Derivatives


@pytest.mark.parametrize("d", [2, tiled.DIRECT + 1])
@pytest.mark.parametrize("case", COSTS + KERNELS, **REPR)
def test_gradients_are_those_of_the_values(case, d):
    x, y = points(d)
    g = numbers(len(y), "g")
    x.requires_grad_()
    if case in COSTS:
        value, found = softmin(x, y, g, case[0], 0.2), softmin_gradient(x.detach(), y, g, case[0], 0.2)[1]
    else:
        value, found = kernel_product(x, y, g, case[0]), kernel_gradient(x.detach(), y, g, case[0])
    (expected,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def leaves(d=2, k=2):
    """Few points, none of them in one place."""
    return [
        tensor.requires_grad_()
        for tensor in (normal(4, d, "x"), normal(17, d, "y"), numbers(17, "g"), normal(17, k, "v"))
    ]


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("case", COSTS, **REPR)
def test_derivatives_of_softmin(case, d):
    x, y, g, v = leaves(d)
    cost = case[0]
    assert gradcheck(lambda x, y, g: softmin(x, y, g, cost, 0.5), (x, y, g))
    assert gradcheck(lambda x, y, g: softmin_gradient(x, y, g, cost, 0.5), (x, y, g))
    assert gradcheck(lambda x, y, g, v: softmean(x, y, g, v, cost, 0.5), (x, y, g, v))


@pytest.mark.parametrize("case", KERNELS, **REPR)
def test_derivatives_of_kernel_sums(case):
    x, y, b, _ = leaves()
    assert gradcheck(lambda x, y, b: kernel_product(x, y, b, case[0]), (x, y, b))
    assert gradcheck(lambda x, y, b: kernel_gradient(x, y, b, case[0]), (x, y, b))


@pytest.mark.parametrize("radial", [Huber(2.0, 1.5), Squared(), Gaussian(1.5)], ids=repr)
def test_second_derivatives(radial):
    x, y, g, _ = leaves()
    if isinstance(radial, Gaussian):
        assert gradgradcheck(lambda x, y, b: kernel_product(x, y, b, radial), (x, y, g))
    else:
        assert gradgradcheck(lambda x, y, g: softmin(x, y, g, radial, 0.5), (x, y, g))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["32", "64"])
@pytest.mark.parametrize("radial", [Squared(), Huber(2.0, 1.5), Gaussian(1.5)], ids=repr)
def test_smooth_functions_have_hessians_where_points_coincide(radial, dtype):
    """One pair at distance 0: the Hessian is the slope at 0 times the identity."""
    x, one = torch.ones(1, 2, dtype=dtype, requires_grad=True), torch.ones(1, dtype=dtype)
    if isinstance(radial, Gaussian):
        gradient = kernel_gradient(x, torch.ones(1, 2, dtype=dtype), one, radial)
    else:
        gradient = softmin_gradient(x, torch.ones(1, 2, dtype=dtype), one, radial, 1.0)[1]
    hessian = torch.stack([torch.autograd.grad(gradient[0, k], x, retain_graph=True)[0][0] for k in range(2)])
    expected = {Squared: 1.0, Huber: 2 / 1.5, Gaussian: -1 / 2.25}[type(radial)]
    torch.testing.assert_close(hessian, expected * torch.eye(2, dtype=dtype))


# Masses and bounds

BACKENDS = ["tiled", "autograd", "keops"]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="KeOps needs g++")


def with_backend(backend, x):
    """The points, and the backend's name; KeOps and torch's two ways."""
    if backend == "keops" and shutil.which("g++") is None:
        pytest.skip("KeOps needs g++")
    return x.clone().requires_grad_(backend == "autograd"), "keops" if backend == "keops" else "tiled"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("out", [slice(3, 4), slice(0, 10), slice(0, 25), slice(10, 20), slice(30, 37), slice(0, 36)])
def test_points_of_no_mass_are_left_out(out, backend):
    x, y = points(2)
    g, v = numbers(len(y), "g"), normal(len(y), 2, "v")
    g[out] = -math.inf
    there = torch.isfinite(g)
    values, gradient = softmin_gradient(x, y[there], g[there], Distance(), 0.3)
    mean = softmean(x, y[there], g[there], v[there], Distance(), 0.3)
    x, name = with_backend(backend, x)
    close(softmin(x, y, g, Distance(), 0.3, backend=name), values.numpy(), 1e-10)
    found = softmin_gradient(x, y, g, Distance(), 0.3, backend=name)
    close(found[0], values.numpy(), 1e-10)
    close(found[1], gradient.numpy(), 1e-10)
    close(softmean(x, y, g, v, Distance(), 0.3, backend=name), mean.numpy(), 1e-10)
    assert not keops.broken


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_softmin_over_nothing_is_infinite(backend):
    x, y = points(2)
    x, name = with_backend(backend, x)
    found = softmin(x, y, torch.full((len(y),), -math.inf, dtype=DOUBLE), Distance(), 0.3, backend=name)
    assert torch.equal(found.detach(), torch.full((len(x),), math.inf, dtype=DOUBLE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["32", "64"])
@pytest.mark.parametrize("backend", ["tiled", "autograd"])
@pytest.mark.parametrize("shift", [-1e6, 0.0, 1e6])
def test_large_scores_do_not_overflow(shift, backend, dtype):
    """With g = shift + 1000 j and ε = 1e-3 only the last point counts."""
    x, y = points(2, dtype)
    g = shift + 1000 * torch.arange(len(y), dtype=dtype)
    x, name = with_backend(backend, x)
    value, gradient = softmin_gradient(x, y, g, Squared(), 1e-3, backend=name)
    expected = (x - y[-1]).square().sum(1) / 2 - g[-1]
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, x - y[-1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(softmin(x, y, g, Squared(), 1e-3, backend=name), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(softmean(x, y, g, y, Squared(), 1e-3, backend=name), y[-1].expand(len(x), 2))


@everywhere
@pytest.mark.parametrize("cost", [Distance(3.0), Huber(3.0, 0.2)], ids=repr)
def test_gradients_are_at_most_l(cost, d, dtype, differentiated):
    """Also for points that coincide or nearly do."""
    x, y = points(d, dtype)
    x[5:15] = y[5:15] + torch.logspace(-9, 0, 10, dtype=dtype)[:, None]
    x.requires_grad_(differentiated)
    norms = softmin_gradient(x, y, numbers(len(y), "g", dtype), cost, 1e-3)[1].detach().norm(dim=1)
    assert float(norms.max()) <= 3 * (1 + (1e-4 if dtype == torch.float32 and d > tiled.DIRECT else 1e-5))
    assert float(norms.max()) >= 2.9


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that an operation returned."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return result


@pytest.mark.parametrize("differentiated", [False, True], ids=["fast", "autograd"])
@pytest.mark.parametrize("spread", ["one cloud", "two clusters"])
@pytest.mark.parametrize("d", [3, 20])
def test_memory_is_bounded(monkeypatch, d, spread, differentiated):
    """With 500² pairs in blocks of 10⁴ no tensor has more entries than a block or the results."""
    monkeypatch.setitem(tiled.PAIRS, "cpu", 10_000)
    monkeypatch.setitem(tiled.RECOMPUTED, "cpu", 10_000)
    monkeypatch.setattr(tiled, "COLUMNS", 100)
    x, y = points(d, m=500, n=500)
    if spread == "two clusters":
        x[::2] += 1000
        y[::2] += 1000
    g, v = numbers(500, "g"), normal(500, 2, "v")
    x.requires_grad_(differentiated)
    with Largest() as largest:
        results = (
            softmin(x, y, g, Distance(), 0.1),
            *softmin_gradient(x, y, g, Huber(), 0.1),
            softmean(x, y, g, v, Squared(), 0.1),
            kernel_product(x, y, g, Gaussian()),
            kernel_gradient(x, y, g, Laplacian()),
        )
        if differentiated:
            torch.autograd.grad(sum(result.sum() for result in results), x)
    assert 1000 < largest.entries <= max(10_000, 500 * (d + 2))


# Costs and kernels


@pytest.mark.parametrize("case", COSTS + KERNELS, **REPR)
def test_formulas(case):
    """Values by their definition, slopes by autograd; the value in place is the value."""
    radial, value, derivative = case
    s = torch.logspace(-6, 3, 50, dtype=DOUBLE, requires_grad=True)
    r = s.detach().sqrt().numpy()
    close(radial.value(s), value(r), 1e-13)
    (slope,) = torch.autograd.grad(radial.value(s).sum(), s)
    torch.testing.assert_close(radial.slope(s), 2 * slope, rtol=1e-9, atol=0)
    np.testing.assert_allclose((radial.slope(s) * s.sqrt()).detach().numpy(), derivative(r), rtol=1e-9)
    s = s.detach()
    values = radial.unit_(s.clone(), torch.empty_like(s)) * radial.value_factor
    torch.testing.assert_close(values, radial.value(s), rtol=1e-12, atol=1e-15)
    slopes = radial.unit_slope_(s.clone(), torch.empty_like(s)) * radial.slope_factor
    torch.testing.assert_close(slopes * torch.ones_like(s), radial.slope(s), rtol=1e-12, atol=1e-15)
    values, slopes = radial.units_(s.clone(), torch.empty_like(s))
    torch.testing.assert_close(values * radial.value_factor, radial.value(s), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(slopes * radial.slope_factor * torch.ones_like(s), radial.slope(s), rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", COSTS + KERNELS, **REPR)
def test_formulas_at_zero(case):
    """The values are their limits and a slope times no difference is none, in both precisions."""
    for dtype in (torch.float32, torch.float64):
        zero = torch.zeros(1, dtype=dtype)
        assert float(case[0].value(zero)) == pytest.approx(float(case[1](np.zeros(1))[0]), abs=2e-9)
        assert float(case[0].slope(zero) * zero) == 0


def test_huber_is_an_infimal_convolution():
    lipschitz, radius = 3.0, 0.7
    cost = Huber(lipschitz, radius)
    t = np.linspace(0, 5, 500_001)
    for r in (0.0, 0.1, 0.69, 0.7, 0.71, 2.0, 4.0):
        least = np.min(lipschitz * np.abs(r - t) + lipschitz / (2 * radius) * t**2)
        assert float(cost.value(torch.tensor(r, dtype=DOUBLE) ** 2)) == pytest.approx(least, abs=1e-9)
        if r >= radius:
            beyond = float(Distance(lipschitz).value(torch.tensor(r, dtype=DOUBLE) ** 2)) - lipschitz * radius / 2
            assert beyond == pytest.approx(least, abs=1e-9)
    around = torch.tensor([0.7 - 1e-9, 0.7 + 1e-9], dtype=DOUBLE) ** 2
    torch.testing.assert_close(cost.slope(around), torch.full((2,), lipschitz / radius, dtype=DOUBLE))


@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
def test_power_huber_is_an_infimal_convolution(power):
    """Of L r and L/(p R^(p−1)) r^p; its slope is that of the value, times r at most L."""
    lipschitz, radius = 3.0, 0.7
    cost = Huber(lipschitz, radius, power)
    t = np.linspace(0, 5, 500_001)
    r = torch.tensor([0.0, 0.1, 0.69, 0.7, 0.71, 2.0, 4.0], dtype=DOUBLE)
    paid = lipschitz / (power * radius ** (power - 1)) * t**power
    least = torch.tensor([np.min(lipschitz * np.abs(float(at) - t) + paid) for at in r], dtype=DOUBLE)
    torch.testing.assert_close(cost.value(r**2), least, rtol=0, atol=2e-9)
    unit = cost.unit_(r**2, torch.empty_like(r))
    torch.testing.assert_close(unit * cost.value_factor, least, rtol=0, atol=2e-9)
    r, step = torch.logspace(-2, 1, 50, dtype=DOUBLE), 1e-6
    slope = (cost.value((r + step) ** 2) - cost.value((r - step) ** 2)) / (2 * step)
    torch.testing.assert_close(cost.slope(r**2) * r, slope, rtol=1e-6, atol=1e-8)
    for dtype in (torch.float32, DOUBLE):
        s = torch.cat((torch.zeros(1), torch.logspace(-30, 6, 100))).to(dtype)
        pull = cost.slope(s) * s.sqrt()
        assert float(pull.max()) <= lipschitz * (1 + 1e-5)
        assert bool(pull.isfinite().all())
        assert float(pull[0]) == 0


@pytest.mark.parametrize("d", [2, tiled.DIRECT + 1])
@pytest.mark.parametrize("power", [1.5, 3.0])
def test_power_huber_has_gradients(power, d):
    x, y = points(d)
    g, cost = numbers(len(y), "g"), Huber(2.0, 1.5, power)
    x.requires_grad_()
    value, (_, found) = softmin(x, y, g, cost, 0.2), softmin_gradient(x.detach(), y, g, cost, 0.2)
    torch.testing.assert_close(value, softmin(x.detach(), y, g, cost, 0.2), rtol=1e-9, atol=1e-9)
    (expected,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert float(found.norm(dim=1).max()) <= 2 * (1 + 1e-9)


def test_huber_lies_between_its_limits():
    """It is the distance for small radii, and the square L r² / 2R for large ones."""
    s = torch.logspace(-4, 2, 30, dtype=DOUBLE)
    torch.testing.assert_close(Huber(2.0, 1e-9).value(s), Distance(2.0).value(s), rtol=0, atol=2e-9)
    torch.testing.assert_close(Huber(50.0, 50.0).value(s), Squared().value(s))
    assert bool((Huber(2.0, 0.5).value(s) <= Distance(2.0).value(s)).all())


@pytest.mark.parametrize("case", KERNELS, **REPR)
def test_kernels_are_positive_definite(case):
    """On all coefficients, or on those that sum to zero alone."""
    x = normal(30, 3, "x")
    matrix = case[0].value((x[:, None] - x).square().sum(-1))
    centre = torch.eye(30, dtype=DOUBLE) - 1 / 30
    assert float(torch.linalg.eigvalsh(centre @ matrix @ centre)[0]) >= -1e-12  # 0 for the constants
    assert (float(torch.linalg.eigvalsh(matrix)[0]) > 0) == case[0].definite


@pytest.mark.parametrize("case", KERNELS, **REPR)
def test_steepness(case):
    """||k_x - k_y||² = 2 k(0) - 2 k(r)."""
    kernel = case[0]
    r = torch.logspace(-3 if kernel in FINITE else -12, 2, 400, dtype=DOUBLE)
    ratio = (2 * (kernel.value(0 * r) - kernel.value(r**2))).sqrt() / r
    if kernel in FINITE:
        assert float(ratio.max()) <= kernel.steepness * (1 + 1e-9)
        assert float(ratio.max()) >= kernel.steepness * (1 - 1e-5)
    else:
        assert float(ratio.max()) > 1000
        assert isinstance(kernel, Laplacian | Riesz)


# Errors

X, Y, G = torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: softmin(X[:, 0], Y, G, Distance(), 1.0), r"shapes \(M, d\) and \(N, d\), not \(3,\) and \(4, 2\)"),
        (lambda: softmin(X, Y[:, :1], G, Distance(), 1.0), r"not \(3, 2\) and \(4, 1\)"),
        (lambda: softmin_gradient(X[:0], Y, G, Distance(), 1.0), r"not \(0, 2\) and \(4, 2\)"),
        (lambda: kernel_product(X, Y[:0], G[:0], Gaussian()), r"not \(3, 2\) and \(0, 2\)"),
        (lambda: softmin(X, Y, G[:3], Distance(), 1.0), r"one number per summed point is needed, shape \(4,\), not"),
        (lambda: softmean(X, Y, G[:, None], Y, Distance(), 1.0), r"shape \(4,\), not \(4, 1\)"),
        (lambda: kernel_gradient(X, Y, G[:3], Gaussian()), r"shape \(4,\), not \(3,\)"),
        *(
            (lambda bad=bad: softmin_gradient(X, Y, G, Distance(), bad), "epsilon must be positive and finite")
            for bad in (0.0, -1.0, math.inf, math.nan)
        ),
        (lambda: softmin(X, Y, G, Distance(), 1.0, backend="gpu"), "unknown backend 'gpu'; choose from auto, tiled"),
        (lambda: kernel_product(X, Y, G, Gaussian(), backend="gpu"), "unknown backend 'gpu'"),
        (lambda: softmean(X, Y, G, Y[:3], Distance(), 1.0), r"shape"),
        (lambda: softmean(X, Y, G, G, Distance(), 1.0), r"shape"),
        (lambda: Distance(0.0), "lipschitz must be positive and finite, not 0.0"),
        (lambda: Distance(math.inf), "lipschitz must be positive and finite, not inf"),
        (lambda: Huber(-1.0), "lipschitz must be positive"),
        (lambda: Huber(1.0, -1.0), "radius must be .*finite, not -1.0"),
        (lambda: Huber(1.0, math.nan), "radius must be .*finite, not nan"),
        *((lambda bad=bad: Huber(1.0, 1.0, bad), "power must be above 1, not") for bad in (0.5, 1.0)),
        *((lambda bad=bad: Huber(1.0, 1.0, bad), "power must be positive and finite") for bad in (0.0, math.nan)),
        *(
            (lambda make=make: make(0.0), "bandwidth must be positive and finite, not 0.0")
            for make in (Gaussian, Laplacian, InverseMultiquadric, Multiquadric)
        ),
        *((lambda bad=bad: Riesz(bad), "exponent must be between 0 and 2") for bad in (0.0, 2.0, -1.0, math.nan)),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# KeOps: two dimensions and float64 alone, so that few formulas are compiled


@needs_compiler
def test_keops_softmin(capfd):
    x, y = points(2)
    g, v = numbers(len(y), "g"), normal(len(y), 2, "v")

    def everything(name):
        settings = (Distance(), 0.3)
        inputs = [tensor.clone().requires_grad_() for tensor in (x, y, g)]
        derivatives = torch.autograd.grad(softmin(*inputs, *settings, backend=name).sum(), inputs)
        gradient = softmin_gradient(x, y, g, *settings, backend=name)
        return *derivatives, *gradient, softmean(x, y, g, v, *settings, backend=name)

    found = everything("keops"), everything("tiled")
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert not keops.broken
    assert capfd.readouterr().out == ""


@needs_compiler
def test_keops_kernel_sums(capfd):
    """Formulas with a power and with a clamp."""
    x, y = points(2)
    b = numbers(len(y), "b")
    for function, radial in (
        (kernel_product, Riesz(1.5)),
        (kernel_product, Huber(2.0, 1.5, 1.5)),
        (kernel_gradient, Huber(2.0, 1.5)),
        (kernel_gradient, Huber(2.0, 1.5, 3.0)),
    ):
        ours, theirs = (function(x, y, b, radial, backend=name) for name in ("keops", "tiled"))
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert not keops.broken
    assert capfd.readouterr().out == ""


def test_without_keops(monkeypatch, caplog):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(keops, "lazy", fail)
    x, y = points(2)
    g, v = numbers(len(y), "g"), normal(len(y), 2, "v")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for ours, theirs in (
                (softmin(x, y, g, Distance(), 0.3, backend=name) for name in ("keops", "tiled")),
                (softmin_gradient(x, y, g, Distance(), 0.3, backend=name)[1] for name in ("keops", "tiled")),
                (softmean(x, y, g, v, Distance(), 0.3, backend=name) for name in ("keops", "tiled")),
                (kernel_product(x, y, g, Gaussian(), backend=name) for name in ("keops", "tiled")),
                (kernel_gradient(x, y, g, Gaussian(), backend=name) for name in ("keops", "tiled")),
            ):
                assert torch.equal(ours, theirs)
    assert [record.getMessage() for record in caplog.records] == [
        "KeOps does not work here, so large sums go by tiles of torch: OSError: no space left"
    ]
    assert keops.broken == ["no space left"]


@needs_compiler
def test_an_error_of_the_caller_is_not_one_of_keops():
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        softmean(X, Y, G, Y[:3], Distance(), 1.0, backend="keops")
    assert not keops.broken


PROGRAM = """
import torch
from particles.kernels import Distance
from particles.pairwise.keops import broken
from particles.pairwise.sums import softmin
x, y = torch.zeros(2, 2, dtype=torch.float64), torch.tensor([[3.0, 4.0], [6.0, 8.0]], dtype=torch.float64)
for _ in range(2):
    value = softmin(x, y, torch.zeros(2, dtype=torch.float64), Distance(), 2.0, backend="keops")
assert bool(((value - (5 - 2 * torch.tensor(-2.5).exp().log1p())).abs() < 1e-6).all()), value
assert bool(broken) is %s, broken
"""


@pytest.mark.parametrize("lacking", ["nothing", "a compiler", "a folder"])
def test_keops_in_a_process_of_its_own(tmp_path, lacking):
    """Without g++, or with no place to write to, it is said once and the answer is right; nothing goes to stdout."""
    if lacking != "a compiler" and shutil.which("g++") is None:
        pytest.skip("KeOps needs g++")
    env = {name: value for name, value in os.environ.items() if name not in ("KEOPS_VERBOSE", "PYKEOPS_VERBOSE", "CXX")}
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    if lacking == "a compiler":
        env |= {"PATH": str(tmp_path / "empty"), "KEOPS_CACHE_FOLDER": str(tmp_path / "empty")}
    if lacking == "a folder":
        env |= {"KEOPS_CACHE_FOLDER": str(tmp_path / "file")}
    program = PROGRAM % (lacking != "nothing")
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert len(re.findall("KeOps does not work here", done.stderr)) == (lacking != "nothing"), done.stderr


@pytest.mark.parametrize("d", [2, 10])
@pytest.mark.parametrize("epsilon", [0.5, 0.01])
def test_pairs_that_keep_nothing_say_what_those_say_that_keep_costs(monkeypatch, d, epsilon):
    from particles.kernels import Distance
    from particles.pairwise import sums

    x, y = (torch.randn(n, d, generator=Key.of(n).generator(), dtype=torch.double) for n in (300, 200))
    f, g = (torch.randn(n, generator=Key.of(n).fold("dual").generator(), dtype=torch.double) for n in (300, 200))
    kept = sums.Pairs(x, y, Distance())
    monkeypatch.setattr(sums, "KEPT", 0)
    streamed = sums.Pairs(x, y, Distance())
    assert kept.costs is not None
    assert streamed.costs is None
    torch.testing.assert_close(streamed.rows(g, epsilon), kept.rows(g, epsilon), rtol=0, atol=1e-12)
    torch.testing.assert_close(streamed.columns(f, epsilon), kept.columns(f, epsilon), rtol=0, atol=1e-12)
    values, slopes = streamed.gradient(g, epsilon)
    torch.testing.assert_close(values, kept.rows(g, epsilon), rtol=0, atol=1e-12)
    torch.testing.assert_close(slopes, sums.softmin_gradient(x, y, g, Distance(), epsilon)[1], rtol=0, atol=1e-12)


def test_a_fit_is_the_same_whether_costs_are_kept_or_not(monkeypatch):
    from particles import KL, Cloud
    from particles.pairwise import sums
    from particles.potentials.transport import TransportPotential

    p, q = (Cloud(torch.randn(n, 2, generator=Key.of(n).generator(), dtype=torch.double)) for n in (60, 50))
    found = []
    for most in (sums.KEPT, 0):
        monkeypatch.setattr(sums, "KEPT", most)
        potential = TransportPotential(KL(), epsilon=0.1, tolerance=1e-9)
        found.append((potential.fit(p, q, Key.of(0))["divergence"], potential.grad(p)))
        assert (potential.slopes is None) == bool(most)  # where nothing is kept, the gradient comes with the fit
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
