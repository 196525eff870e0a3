"""Bounds and derivatives of networks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import normal

from particles import DenseNetwork, Key
from particles.names import ACTIVATIONS as NAMES
from particles.networks.activations import ACTIVATIONS
from particles.networks.lipschitz import BoundedRows, BoundedWeight, by_squaring, slope_penalty


def slopes(network, x, label=None):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(network(x, label).sum(), x)[0].norm(dim=1)


def test_names_are_those_of_the_table():
    assert tuple(ACTIVATIONS) == NAMES


@given(
    activation=st.sampled_from(NAMES),
    lipschitz=st.floats(1e-3, 1e3),
    stretch=st.floats(0.1, 100),
    widths=st.lists(st.sampled_from([2, 6, 16]), min_size=1, max_size=4),
    dimension=st.integers(1, 9),
    classes=st.integers(0, 3),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=150, deadline=None)
def test_slope_never_exceeds_the_bound(activation, lipschitz, stretch, widths, dimension, classes, seed):
    network = DenseNetwork(dimension, widths, lipschitz, activation, classes, Key.of(seed))
    generator = Key.of(seed).fold("perturb").generator()
    with torch.no_grad():
        for parameter in network.parameters():  # weights as no optimiser would leave them
            parameter.add_(stretch * torch.randn(parameter.shape, generator=generator))
    network.eval()
    x = 10 * torch.randn(64, dimension, generator=generator)
    label = torch.randint(classes, (64,), generator=generator) if classes else None
    assert float(slopes(network, x, label).max()) <= lipschitz * (1 + 1e-5)
    a, b = network(x, label).detach(), network(x.flip(0), label).detach()
    assert bool(((a - b).abs() <= lipschitz * (x - x.flip(0)).norm(dim=1) * (1 + 1e-4) + 1e-4 * a.abs()).all())


def test_power_iteration_finds_the_operator_norm():
    matrix = BoundedWeight(20, 30, 1.0, Key.of(0).generator()).double()
    with torch.no_grad():
        matrix.weight.copy_(5 * normal(20, 30, "w"))
    for _ in range(300):
        bounded = matrix()
    assert float(torch.linalg.matrix_norm(bounded, 2).detach()) == pytest.approx(1, rel=1e-6)
    torch.testing.assert_close(matrix.eval()(), bounded.detach(), rtol=1e-6, atol=1e-6)
    assert not matrix().requires_grad


def test_a_weight_within_the_bound_is_left_alone():
    matrix = BoundedWeight(4, 3, 10.0, Key.of(0).generator()).double()
    with torch.no_grad():
        matrix.weight.mul_(0.5)
    torch.testing.assert_close(matrix(), matrix.weight)
    torch.testing.assert_close(matrix.eval()(), matrix.weight)


@pytest.mark.parametrize("stretch", [0.5, 3.0])
@pytest.mark.parametrize("kind", [BoundedWeight, BoundedRows])
def test_bounded_weights_are_differentiated_rightly(kind, stretch):
    """Against finite differences of W ↦ ⟨A, W min(1, b / ‖W‖)⟩, with the norm by SVD."""
    matrix = kind(4, 3, 1.5, Key.of(0).generator()).double()
    with torch.no_grad():
        matrix.weight.mul_(stretch)
    for _ in range(200):
        matrix()
    a = normal(4, 3, "a")

    def exact(w):
        dim = 1 if kind is BoundedRows else (0, 1)
        norm = w.norm(dim=1, keepdim=True) if dim == 1 else torch.linalg.matrix_norm(w, 2)
        return (a * w * (1.5 / norm).clamp(max=1)).sum()

    (gradient,) = torch.autograd.grad((a * matrix()).sum(), matrix.weight)
    weight = matrix.weight.detach().requires_grad_()
    (expected,) = torch.autograd.grad(exact(weight), weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("lipschitz", [0.7, math.inf])
def test_the_written_out_pass_is_the_network(activation, classes, lipschitz):
    network = DenseNetwork(5, (8, 6), lipschitz, activation, classes, Key.of(3)).double()
    x = normal(20, 5, "x").requires_grad_()
    label = torch.arange(20) % 3 if classes else None
    weight = normal(20, 1, "w")[:, 0]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for training in (True, False):
        network.train(training)
        inputs = [x, *network.parameters()] if training else [x]
        answers = []
        for values in (network.forward, network.smooth):
            network.load_state_dict(state)  # the same step of power iteration for both
            answers.append((values(x, label), torch.autograd.grad((values(x, label) * weight).sum(), inputs)))
        torch.testing.assert_close(answers[0], answers[1], rtol=1e-12, atol=1e-12)


def test_heads_are_chosen_by_label():
    network = DenseNetwork(2, (4,), classes=3, key=Key.of(1)).eval()
    x = normal(6, 2, "x", torch.float32)
    label = torch.tensor([0, 1, 2, 0, 1, 2])
    everything = torch.stack([network(x, torch.full((6,), c)) for c in range(3)], 1)
    torch.testing.assert_close(network(x, label), everything[torch.arange(6), label])


def test_loading_in_evaluation_mode_brings_the_norm_along():
    a, b = (DenseNetwork(3, (8, 8), key=Key.of(seed)).eval() for seed in (0, 1))
    with torch.no_grad():
        for parameter in a.parameters():
            parameter.mul_(3)
    b.load_state_dict(a.train().eval().state_dict())
    x = normal(5, 3, "x", torch.float32)
    assert torch.equal(a(x), b(x))
    assert float(slopes(b, x).max()) <= 1 + 1e-6


def test_slope_penalty_is_that_of_the_full_gradient():
    """φ = Σ x_i in 9 dimensions has slope 3: the penalty at L = 1 is 3² − 1, where coordinatewise it would be 0."""
    x = normal(7, 9, "x").requires_grad_()
    assert float(slope_penalty(x.sum(1), x, 1.0)) == pytest.approx(8)
    assert float(slope_penalty(x.sum(1), x, 3.0)) == pytest.approx(0, abs=1e-12)
    assert float(slope_penalty(x.sum(1), x, 6.0)) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lipschitz": 0}, "lipschitz must be positive"),
        ({"lipschitz": math.nan}, "lipschitz must be positive"),
        ({"lipschitz": 1e-320}, "lipschitz is too small"),
        ({"lipschitz": 1e-90}, "lipschitz is too small"),
        ({"lipschitz": 1e300}, "lipschitz is too large"),
        ({"widths": ()}, "positive widths"),
        ({"widths": (3,), "activation": "groupsort"}, "even widths"),
        ({"activation": "tanh"}, "'tanh' is not one of relu"),
        ({"dimension": 0}, "positive dimension"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DenseNetwork(**{"dimension": 2} | settings)


def test_full_slope_can_be_reached():
    """One unit per layer, all weights at their bound: the product of the true norms is L, not a fraction of it."""
    network = DenseNetwork(2, (4, 4), 3.0, key=Key.of(0))
    with torch.no_grad():
        for weight in network.matrices:
            weight.weight.zero_()
            weight.weight[0, 0] = 100.0
    x = torch.rand(10, 2, generator=Key.of(0).generator()) + 1
    assert float(slopes(network.eval(), x).min()) == pytest.approx(3, rel=1e-5)


@pytest.mark.parametrize("squarings", [5, 22])
def test_norms_by_squaring_are_above_the_largest_eigenvalue_and_near_it(squarings):
    """Above it by n^(1/2^(K+1)) at most, which is attained where all eigenvalues are equal."""
    turned = torch.linalg.qr(torch.randn(6, 6, generator=Key.of(0).generator(), dtype=torch.float64)).Q
    spectra = torch.tensor([[4.0] * 6, [4.0, 4 - 1e-9, 1, 1, 0, 0], [9, 1e-3, 0, 0, 0, 0], [0.0] * 6]).double()
    ratio = by_squaring(turned @ torch.diag_embed(spectra) @ turned.mT, squarings)[:3] / spectra[:3, 0]
    most = 6 ** (1 / 2 ** (squarings + 1))
    assert float(ratio[0]) == pytest.approx(most, rel=1e-12)
    assert ((ratio >= 1 - 1e-12) & (ratio <= most + 1e-12)).all()
    assert float(by_squaring(torch.zeros(6, 6).double(), squarings)) < 1e-100
