"""Convolutions as linear operators, and the discriminator made of them."""

import copy
import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from particles import KL, W1, Cloud, GradientFlow, Key, NeuralPotential
from particles.names import ACTIVATIONS as NAMES
from particles.networks.conv import BoundedKernel, ConvNetwork, Convolution

SIZES = [  # outputs, inputs, kernel, height, width, stride, padding
    (4, 1, 3, 8, 8, 1, 1),
    (4, 2, 3, 7, 10, 2, 1),
    (6, 3, 5, 9, 8, 2, 2),
    (2, 5, 3, 5, 5, 3, 0),
    (3, 2, 4, 11, 6, 2, 1),
    (8, 1, 5, 24, 24, 2, 2),  # from here on through Lanczos
    (6, 4, 3, 16, 14, 1, 1),
    (8, 4, 5, 14, 14, 2, 2),
]


def noise(*shape, name="x", dtype=torch.float64):
    return torch.randn(shape, generator=Key.of(0).fold(name, *shape).generator(), dtype=dtype)


def matrix(convolution, weight):
    """The operator, one place of the kernel after the other, with nothing of torch's convolutions in it."""
    outputs, inputs, kernel, _ = weight.shape
    _, height, width = convolution.image
    stride, padding = convolution.stride, convolution.padding
    rows, columns = (height + 2 * padding - kernel) // stride + 1, (width + 2 * padding - kernel) // stride + 1
    full = np.zeros((outputs, rows, columns, inputs, height, width))
    for i, j, a, b in np.ndindex(rows, columns, kernel, kernel):
        y, x = i * stride + a - padding, j * stride + b - padding
        if 0 <= y < height and 0 <= x < width:
            full[:, i, j, :, y, x] += weight[:, :, a, b].numpy()
    return full.reshape(outputs * rows * columns, -1)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_norm_is_that_of_the_operator(size):
    convolution = Convolution(*size)
    weight = noise(*convolution.weight_shape)
    exact = np.linalg.norm(matrix(convolution, weight), 2)
    for dtype in (torch.float64, torch.float32):
        found = convolution.norm(weight.to(dtype))
        assert found == pytest.approx(exact, rel=1e-4)
        assert found >= exact * (1 - 1e-7)
        guessed = convolution.norm(weight.to(dtype), noise(1, *convolution.image, name="guess", dtype=dtype))
        assert guessed == pytest.approx(exact, rel=1e-4)


def test_norm_is_found_from_a_guess_that_knows_nothing_of_it():
    """The guess is an exact singular vector of another singular value: power iteration would stay there."""
    convolution = Convolution(8, 1, 5, 24, 24, 2, 2)
    weight = noise(8, 1, 5, 5)
    _, values, right = np.linalg.svd(matrix(convolution, weight))
    guess = torch.from_numpy(right[40]).view(1, 1, 24, 24)
    assert convolution.norm(weight, guess) == pytest.approx(values[0], rel=1e-4)
    assert values[40] < 0.95 * values[0]


def test_norm_of_nothing():
    for size in (SIZES[0], SIZES[-1]):
        convolution = Convolution(*size)
        assert convolution.norm(torch.zeros(convolution.weight_shape)) == 0


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_convolution_and_adjoint_are_matrix_and_transpose(size):
    convolution = Convolution(*size)
    weight = noise(*convolution.weight_shape)
    full = torch.from_numpy(matrix(convolution, weight))
    x, y = noise(3, *convolution.image), noise(3, *convolution.result, name="y")
    torch.testing.assert_close(convolution(x, weight).flatten(1), x.flatten(1) @ full.mT)
    torch.testing.assert_close(convolution.adjoint(y, weight).flatten(1), y.flatten(1) @ full)


@pytest.mark.parametrize("size", [SIZES[0], SIZES[2]], ids=str)
def test_power_iteration_finds_the_norm(size):
    kernel = BoundedKernel(Convolution(*size), 2.0, Key.of(0).generator()).double()
    with torch.no_grad():
        kernel.weight.copy_(5 * noise(*kernel.weight.shape))
    for _ in range(1000):
        bounded = kernel()
    norm = np.linalg.norm(matrix(kernel.convolution, bounded.detach()), 2)
    assert norm == pytest.approx(2, rel=1e-5)
    torch.testing.assert_close(kernel.eval()(), bounded.detach(), rtol=1e-4, atol=1e-6)
    assert not kernel().requires_grad


def test_kernels_within_the_bound_are_left_alone():
    kernel = BoundedKernel(Convolution(*SIZES[0]), 10.0, Key.of(0).generator())
    with torch.no_grad():
        kernel.weight.mul_(0.5)
    assert torch.equal(kernel(), kernel.weight)
    assert torch.equal(kernel.eval()(), kernel.weight)


@pytest.mark.parametrize("stretch", [0.5, 3.0])
def test_bounded_kernels_are_differentiated_rightly(stretch):
    """Against autograd through the SVD of the assembled operator."""
    convolution = Convolution(2, 2, 3, 5, 4, 2, 1)
    kernel = BoundedKernel(convolution, 1.5, Key.of(0).generator()).double()
    with torch.no_grad():
        kernel.weight.mul_(stretch)
    for _ in range(1000):
        kernel()
    a = noise(*kernel.weight.shape, name="a")
    (gradient,) = torch.autograd.grad((a * kernel()).sum(), kernel.weight)
    weight = kernel.weight.detach().requires_grad_()
    full = convolution(torch.eye(40, dtype=torch.float64).view(40, 2, 5, 4), weight).flatten(1)
    (expected,) = torch.autograd.grad(
        (a * weight * (1.5 / torch.linalg.matrix_norm(full, 2)).clamp(max=1)).sum(), weight
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


@given(
    activation=st.sampled_from(NAMES),
    lipschitz=st.floats(1e-2, 1e2),
    stretch=st.floats(0.1, 30),
    shape=st.sampled_from([(5, 7), (8, 8), (6, 4, 3), (20, 20)]),
    channels=st.lists(st.sampled_from([2, 6]), min_size=1, max_size=3),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    classes=st.integers(0, 3),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_slope_never_exceeds_the_bound(activation, lipschitz, stretch, shape, channels, kernel, stride, classes, seed):
    network = ConvNetwork(shape, channels, kernel, stride, 8, lipschitz, activation, classes, Key.of(seed))
    generator = Key.of(seed).fold("perturb").generator()
    with torch.no_grad():
        for parameter in network.parameters():  # weights as no optimiser would leave them
            parameter.add_(stretch * torch.randn(parameter.shape, generator=generator))
    network.double().eval()
    x = 10 * torch.randn(16, math.prod(shape), generator=generator, dtype=torch.float64)
    label = torch.randint(classes, (16,), generator=generator) if classes else None
    z = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(network(z, label).sum(), z)
    assert float(slope.norm(dim=1).max()) <= lipschitz * (1 + 1e-6)
    y = x.flip(0)
    apart = (network(x, label) - network(y, label)).abs()
    assert bool((apart <= lipschitz * (x - y).norm(dim=1) * (1 + 1e-6)).all())


def test_full_slope_can_be_reached():
    """Kernels that pass one pixel through: the product of the true norms is L, not a fraction of it."""
    network = ConvNetwork((8, 8), (2, 2), 3, 1, 4, 3.0, key=Key.of(0))
    with torch.no_grad():
        for kernel in network.kernels:
            kernel.weight.zero_()
            kernel.weight[0, 0, 1, 1] = 100.0
        for weight in network.weights:
            weight.weight.zero_()
            weight.weight[0, 0] = 100.0
    x = (torch.rand(10, 64, generator=Key.of(0).generator()) + 1).requires_grad_()
    (slope,) = torch.autograd.grad(network.eval()(x).sum(), x)
    assert float(slope.norm(dim=1).max()) == pytest.approx(3, rel=1e-4)


def test_channels_come_last():
    """A kernel that looks at the second channel alone is blind to the others, wherever they are."""
    network = ConvNetwork((4, 5, 3), (2,), 3, key=Key.of(0)).eval()
    with torch.no_grad():
        network.kernels[0].weight[:, [0, 2]] = 0
    network.eval()
    x = noise(6, 60, dtype=torch.float32)
    blind = x.view(6, 20, 3).clone()
    blind[:, :, [0, 2]] = 7
    assert torch.equal(network(x), network(blind.flatten(1)))
    blind[:, :, 1] += 1
    assert not torch.allclose(network(x), network(blind.flatten(1)))


def test_a_moved_image_has_the_moved_features():
    """One step of the stride, away from the borders: what makes the network convolutional."""
    network = ConvNetwork((16, 16), (4,), 3, 2, 4, key=Key.of(0)).eval()
    image = torch.zeros(2, 16, 16)
    image[0, 4:8, 4:8] = image[1, 6:10, 8:12] = noise(4, 4, dtype=torch.float32)
    convolution = network.kernels[0].convolution
    features = convolution(image[:, None], network.kernels[0]())
    torch.testing.assert_close(features[0, :, 1:4, 1:4], features[1, :, 2:5, 3:6])


def test_heads_are_chosen_by_label():
    network = ConvNetwork((4, 4), (2,), 3, classes=3, key=Key.of(1)).eval()
    x, label = noise(6, 16, dtype=torch.float32), torch.tensor([0, 1, 2, 0, 1, 2])
    everything = torch.stack([network(x, torch.full((6,), c)) for c in range(3)], 1)
    torch.testing.assert_close(network(x, label), everything[torch.arange(6), label])
    assert float((everything[:, 0] - everything[:, 1]).abs().max()) > 1e-3


def strokes(count, vertical, name):
    """Bright lines of random place in 8 × 8 images."""
    generator = Key.of(0).fold(name).generator()
    x = 0.1 * torch.rand(count, 8, 8, generator=generator)
    x[torch.arange(count), torch.randint(1, 7, (count,), generator=generator)] += 1
    return Cloud((x.mT if vertical else x).flatten(1))


def test_value_is_positive_and_below_the_exact_distance():
    """W1 regularised by L is L W1, and no L-Lipschitz φ, trained or not, gives more; KL gives less than W1."""
    p, q, lipschitz = strokes(40, False, "p"), strokes(40, True, "q"), 2.0
    uniform = np.full(40, 1 / 40)
    exact = lipschitz * ot.emd2(uniform, uniform, ot.dist(p.x.double().numpy(), q.x.double().numpy(), "euclidean"))
    found = {}
    for divergence in (W1(), KL()):
        network = ConvNetwork((8, 8), (16,), lipschitz=lipschitz, activation="groupsort", key=Key.of(0))
        fitted = NeuralPotential(divergence, network, inner_steps=60, learning_rate=5e-3, momentum=0.5)
        values = [float(fitted.fit(p, q, Key.of(0).fold(i))["divergence"]) for i in range(3)]
        assert max(values) <= exact * (1 + 1e-5)
        found[type(divergence)] = values[-1]
    assert found[W1] > 0.5 * exact
    assert found[KL] > 0.3 * exact
    assert found[KL] <= exact * (1 + 1e-5)


def potential(key=0, classes=0, **options):
    network = ConvNetwork((8, 8), (4, 4), 3, width=16, classes=classes, key=Key.of(key))
    return NeuralPotential(KL(), network, inner_steps=5, **options)


def test_gradient_in_evaluation_mode_is_that_of_the_values():
    p, q = (Cloud(strokes(12, v, "g").x.double(), torch.arange(12) % 2) for v in (False, True))
    fitted = potential(classes=2)
    fitted.network.double()
    fitted = NeuralPotential(KL(), fitted.network, inner_steps=20, learning_rate=1e-2)
    fitted.fit(p, q, Key.of(0))
    direction = noise(12, 64, name="direction")
    step = 1e-6
    up, down = (fitted.phi(Cloud(p.x + s * direction, p.label)) for s in (step, -step))
    slope = (fitted.grad(p) * direction).sum(1)
    torch.testing.assert_close((up - down) / (2 * step), slope, rtol=1e-4, atol=1e-7)
    assert float(fitted.grad(p).norm(dim=1).max()) <= 1 + 1e-6
    assert float(slope.abs().max()) > 1e-3


def test_same_seed_same_bits():
    p, q = strokes(20, False, "p"), strokes(20, True, "q")
    answers = []
    for seed in (0, 0, 1):
        fitted = potential(seed)
        fitted.fit(p, q, Key.of(0))
        answers.append(fitted.grad(p))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


def test_state_and_copies_continue_bit_by_bit():
    p, q = strokes(20, False, "p"), strokes(20, True, "q")
    first, other = potential(0), potential(1)
    for i in range(2):
        first.fit(p, q, Key.of(0).fold(i))
    twin = copy.deepcopy(first.network)
    other.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(first.phi(p), other.phi(p))
    assert torch.equal(first.network(p.x), twin(p.x))
    before = first.phi(p)
    first.fit(p, q, Key.of(5))
    other.fit(p, q, Key.of(5))
    assert torch.equal(first.grad(q), other.grad(q))
    assert torch.equal(twin(p.x), before)  # a copy shares nothing
    twin.load_state_dict(first.network.state_dict())
    assert torch.equal(twin(p.x), first.phi(p))


def test_a_flow_of_images_comes_nearer():
    p, q = strokes(30, False, "p"), strokes(30, True, "q")
    uniform = np.full(30, 1 / 30)

    def distance(x):
        return ot.emd2(uniform, uniform, ot.dist(x.double().numpy(), q.x.double().numpy(), "euclidean"))

    network = ConvNetwork((8, 8), (16,), activation="groupsort", key=Key.of(0))
    flow = GradientFlow(NeuralPotential(KL(), network, inner_steps=5, learning_rate=5e-3), q)
    x = p
    for step in range(50):
        velocity, _ = flow.velocity(0.08 * step, x, Key.of(0).fold(step))
        x = Cloud(x.x + 0.08 * velocity)
    moved = (x.x - p.x).norm(dim=1)
    assert distance(x.x) < 0.75 * distance(p.x)
    assert float(moved.max()) <= 50 * 0.08 * (1 + 1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (8,)}, r"\(height, width\)"),
        ({"shape": (8, 0)}, r"not \(8, 0\)"),
        ({"lipschitz": 0}, "lipschitz must be positive"),
        ({"channels": ()}, "positive channels"),
        ({"kernel": 4}, "kernel must be odd"),
        ({"channels": (3,), "activation": "groupsort"}, "even channels"),
        ({"activation": "tanh"}, "'tanh' is not one of relu"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        ConvNetwork(**{"shape": (8, 8)} | options)


def test_kernel_has_to_fit():
    with pytest.raises(ValueError, match="5 × 5 kernel with stride 1 and padding 0 does not fit an image of 4 × 9"):
        Convolution(1, 1, 5, 4, 9, 1, 0)


def test_plain_networks_are_not_scaled():
    network = ConvNetwork((6, 6), (2,), 3, lipschitz=math.inf, key=Key.of(0)).eval()
    assert torch.equal(network.kernels[0](), network.kernels[0].weight)
