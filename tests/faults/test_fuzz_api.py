"""Random arguments and clouds: what is made works, to finite numbers, or is refused with a ValueError; nothing turns into NaN unsaid."""

import math

import numpy as np
import pytest
import torch
from fuzzing import fuzz, limited
from hypothesis import given
from hypothesis import strategies as st

import particles as pt
from particles.potentials.kernel import kale, mmd
from particles.steppers import adaptive

pytestmark = pytest.mark.slow

NUMBER = st.one_of(
    st.sampled_from(
        [
            0.0,
            -0.0,
            1e-320,
            1e-30,
            1e-6,
            0.1,
            0.5,
            1.0,
            2.0,
            10.0,
            1e6,
            1e30,
            1e308,
            -1.0,
            math.inf,
            -math.inf,
            math.nan,
        ]
    ),
    st.floats(1e-3, 10),
)
COUNT = st.sampled_from([0, 1, 2, 3, 5, 8, -1, 10**6])
DIVERGENCES = st.one_of(
    st.sampled_from([pt.KL(), pt.ReverseKL(), pt.JensenShannon(), pt.W1()]), st.floats(1.01, 8).map(pt.Alpha)
)
POINT = pt.Cloud(torch.zeros(1, 1))
KERNELS = {
    "Gaussian": "bandwidth",
    "Laplacian": "bandwidth",
    "InverseMultiquadric": "bandwidth",
    "Multiquadric": "bandwidth",
    "Riesz": "exponent",
}
STEPPERS = st.one_of(
    st.sampled_from([pt.Euler, pt.heun, pt.rk4]).map(lambda make: make()),
    st.integers(2, 4).map(pt.AdamsBashforth),
    st.sampled_from([1e-3, 0.1]).map(pt.Adaptive),
    st.builds(pt.Proximal, st.sampled_from(["implicit", "semi-implicit", "explicit"]), st.integers(1, 4)),
)


@st.composite
def clouds(draw, d, label=None):
    """A small cloud: at random, at few places, far apart, tiny, or far from 0; with weights or without."""
    n = draw(st.integers(1, 6))
    x = np.random.default_rng(draw(st.integers(0, 999))).normal(size=(n, d))
    kind = draw(st.sampled_from(["random", "places", "same", "far", "tiny", "away"]))
    x = {
        "random": x,
        "places": np.sign(x),
        "same": np.zeros_like(x) + 0.25,
        "far": x * 1e6,
        "tiny": x * 1e-12,
        "away": x + 1e6,
    }[kind]
    weight = None
    if draw(st.integers(0, 3)) == 0:
        weight = torch.tensor(draw(st.lists(st.floats(1e-3, 1), min_size=n, max_size=n)), dtype=torch.float64)
        weight = weight / weight.sum()
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return pt.Cloud(torch.tensor(x, dtype=dtype), weight=None if weight is None else weight.to(dtype))


@st.composite
def some(draw, **strategies):
    """Some of the arguments, each drawn."""
    names = draw(st.lists(st.sampled_from(sorted(strategies)), max_size=3, unique=True))
    return {name: draw(strategies[name]) for name in names}


@st.composite
def potentials(draw, d, dtype):
    """What makes a potential, and its words."""
    kind = draw(st.sampled_from(["transport", "neural", "kernel", "mmd", "kale", "exact", "sinkhorn", "dual"]))
    network = lambda: pt.DenseNetwork(d, (4, 4)).to(dtype)
    if kind == "transport":
        words = draw(
            some(lipschitz=NUMBER, radius=NUMBER, epsilon=NUMBER, epsilon_start=NUMBER, halving=NUMBER, debias=st.booleans(), tolerance=NUMBER, max_iterations=st.sampled_from([0, 1, 5, -1]), power=NUMBER)
        )  # fmt: skip
        return pt.TransportPotential, (draw(DIVERGENCES),), {"max_iterations": 30} | words
    if kind == "neural":
        words = draw(
            some(learning_rate=NUMBER, decay=NUMBER, momentum=NUMBER, inner_steps=st.sampled_from([0, 1, 4, -1]), tolerance=NUMBER, batch_size=COUNT, chunk_size=COUNT, penalty=NUMBER, lipschitz=NUMBER)
        )  # fmt: skip
        return (lambda divergence, **w: pt.NeuralPotential(divergence, network(), **w)), (draw(DIVERGENCES),), words
    if kind in ("kernel", "mmd", "kale"):
        name = draw(st.sampled_from(list(KERNELS)))
        length = draw(NUMBER)
        kernel = lambda: getattr(pt, name)(**{KERNELS[name]: length})
        if kind == "mmd":
            return (lambda: mmd(kernel())), (), {}
        if kind == "kale":
            return (lambda regularisation: kale(kernel(), regularisation)), (draw(NUMBER),), {}
        words = draw(some(scale=NUMBER, tolerance=NUMBER, max_iterations=st.sampled_from([0, 1, 5, -1])))
        bound = {draw(st.sampled_from(["penalty", "lipschitz"])): draw(NUMBER)}
        return (
            (lambda divergence, **w: pt.KernelPotential(divergence, kernel(), **w)),
            (draw(DIVERGENCES),),
            bound | words,
        )
    if kind == "exact":
        return pt.ExactKantorovich, (), {}
    if kind == "sinkhorn":
        words = draw(some(epsilon=NUMBER, scaling=NUMBER, tolerance=NUMBER, max_iterations=st.sampled_from([0, 1, 9])))
        return pt.SinkhornKantorovich, (), words
    words = draw(some(epsilon=NUMBER, learning_rate=NUMBER, momentum=NUMBER, inner_steps=st.sampled_from([0, 1, 3]), warmup=st.sampled_from([0, 3, -1]), batch_size=COUNT, chunk_size=COUNT))  # fmt: skip
    return (lambda **w: pt.NeuralKantorovich(network(), network(), **w)), (), {"warmup": 3} | words


@pytest.fixture(scope="module")
def few_substeps():
    """Fifty where no substep is small enough, not a thousand: with a fit of 20 ms these take a minute."""
    before, adaptive.MOST = adaptive.MOST, 50
    yield
    adaptive.MOST = before


@pytest.mark.usefixtures("few_substeps")
@fuzz(60)
@given(st.integers(1, 4), st.data())
def test_a_step_of_any_flow_is_finite_or_says_why(d, data):
    draw = data.draw
    source, target = draw(clouds(d)), draw(clouds(d))
    target = pt.Cloud(
        target.x.to(source.x.dtype), None, None if target.weight is None else target.weight.to(source.x.dtype)
    )
    make, given, words = draw(potentials(d, source.x.dtype))
    step_size, stepper = draw(st.one_of(st.sampled_from([0.1, 1.0]), NUMBER)), draw(STEPPERS)
    store = pt.Memory()
    try:
        potential = make(*given, **words)
        flow = pt.GradientFlow(
            potential, target, noise=draw(st.sampled_from([0.0, 0.0, 0.1, math.nan, math.inf, -1.0]))
        )
        process = pt.Evolve(flow, stepper, source, step_size=step_size)
        with limited():
            end = pt.simulate(process, 2, store)
    except (ValueError, FloatingPointError):
        return
    assert end.k == 2
    assert torch.isfinite(end.cloud.x).all()
    assert all(math.isfinite(value) for row in store.rows for value in row.values())
    assert torch.isfinite(flow.phi(end.cloud)).all()


@fuzz(150)
@given(st.sampled_from([*KERNELS, "Alpha"]), st.one_of(NUMBER, st.sampled_from(["x", None, True, np.float32(2)])))
def test_any_number_of_a_kernel_or_a_divergence(name, number):
    wrong = number is None or isinstance(number, str)
    try:
        made = getattr(pt, name)(number)
    except ValueError:
        return
    except TypeError:
        if wrong:
            return
        raise
    x = torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None]
    if name == "Alpha":
        values = made.conjugate(x.clamp(-0.5, 0.5))
    else:
        values = pt.Cloud(x).x
        assert not wrong
    assert torch.isfinite(values).all()


@fuzz(100)
@given(
    st.integers(-1, 4),
    st.lists(st.integers(-1, 6), max_size=3),
    NUMBER,
    st.sampled_from(["relu", "leaky-relu", "softplus", "groupsort", "x", ""]),
    st.integers(-1, 3),
)
def test_any_network_is_bounded_or_refused(dimension, widths, lipschitz, activation, classes):
    try:
        network = pt.DenseNetwork(dimension, widths, lipschitz, activation, classes)
    except ValueError:
        return
    x = torch.randn(5, dimension, generator=torch.Generator().manual_seed(0))
    label = torch.arange(5) % classes if classes else None
    with torch.no_grad():
        values = network(x) if label is None else network(x, label)
    if lipschitz < 1e30:
        assert torch.isfinite(values).all()
        slopes = (values[1:] - values[:-1]).abs() / (x[1:] - x[:-1]).norm(dim=1)
        if label is None:
            assert (slopes <= lipschitz * (1 + 1e-3) + 1e-6).all()


SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@fuzz(150)
@given(
    SHAPES,
    st.one_of(st.none(), SHAPES),
    st.one_of(st.none(), SHAPES),
    st.integers(-1, 4),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64]),
)
def test_any_cloud(shape, label, weight, carried, dtype):
    try:
        cloud = pt.Cloud(
            torch.ones(shape, dtype=dtype),
            None if label is None else torch.zeros(label, dtype=torch.long),
            None if weight is None else torch.full(weight, 1 / max(1, math.prod(weight))),
            carried,
        )
    except ValueError:
        return
    n, d = cloud.x.shape
    assert 0 <= cloud.carried < n == len(cloud)
    assert len(cloud.active) + (0 if cloud.riders is None else len(cloud.riders)) == n
    assert cloud.dimension == d
    assert float(cloud.active.mass.sum()) == pytest.approx(1)


@fuzz(100)
@given(
    st.one_of(st.integers(), st.floats(), st.text(max_size=3), st.none(), st.booleans()),
    st.lists(st.one_of(st.integers(), st.text(max_size=4)), max_size=3),
)
def test_any_key(seed, steps):
    try:
        key = pt.Key.of(seed).fold(*steps)
    except (ValueError, OverflowError, TypeError):
        assert not isinstance(seed, int)
        return
    assert 0 <= key.seed < 2**63
    assert torch.equal(torch.rand(3, generator=key.generator()), torch.rand(3, generator=key.generator()))


@fuzz(60)
@given(st.data())
def test_any_setting_of_a_stepper(data):
    draw = data.draw
    number, count = draw(NUMBER), draw(COUNT)
    makers = {
        "adaptive": lambda: pt.Adaptive(number),
        "proximal": lambda: pt.Proximal(draw(st.sampled_from(["implicit", "x", ""])), count, number),
        "adams": lambda: pt.AdamsBashforth(count),
        "decay": lambda: pt.Evolve(
            pt.GradientFlow(pt.ExactKantorovich(), POINT), pt.Euler(), POINT, step_size=1.0, decay=number
        ),
        "step_size": lambda: pt.Evolve(
            pt.GradientFlow(pt.ExactKantorovich(), POINT), pt.Euler(), POINT, step_size=number
        ),
        "cfl": lambda: pt.cfl(draw(clouds(2)), number),
        "cost": lambda: pt.RunningCost(number, draw(NUMBER)),
        "timed": lambda: pt.TimedNetwork(2, (4,), horizon=number),
    }
    try:
        found = makers[draw(st.sampled_from(list(makers)))]()
    except ValueError:
        return
    assert not isinstance(found, float) or (math.isfinite(found) and found > 0)
