"""Flows about a potential: persistency, noise, classes; and the paths of particles."""

import copy
import math

import numpy as np
import pytest
import torch
from problems import DOUBLE, cloud, normal

from particles import KL, Cloud, Euler, Evolve, GradientFlow, Key, Memory, simulate
from particles.flows.persistent import PersistentBatch, PersistentPotential
from particles.kernels import Gaussian
from particles.metrics.paths import path_length, straightness
from particles.potentials.base import Potential
from particles.potentials.kantorovich import ExactKantorovich
from particles.potentials.kernel import KernelPotential, mmd
from particles.potentials.per_class import PerClass
from particles.potentials.transport import TransportPotential

KEY = Key.of(0)
POTENTIALS = {
    "exact": ExactKantorovich,
    "kernel": lambda: KernelPotential(KL(), Gaussian(), penalty=0.1),
    "ball": lambda: KernelPotential(KL(), Gaussian(), lipschitz=1.0),
    "transport": lambda: TransportPotential(KL(), epsilon_start=1.0, halving=2),
}
EACH = pytest.mark.parametrize("name", list(POTENTIALS))


class Bures(Potential):
    """The W2 potential between Gaussians on the line with the moments of the two clouds, known everywhere."""

    fits = 0
    moments = (0.0, 1.0, 0.0, 1.0)

    def fit(self, p, q, key):
        self.fits += 1
        self.moments = tuple(float(m) for c in (p, q) for m in (c.x.mean(), c.x.std(correction=0)))
        m0, s0, m1, s1 = self.moments
        return {"divergence": ((m0 - m1) ** 2 + (s0 - s1) ** 2) / 2}

    def phi(self, cloud):
        m0, s0, m1, s1 = self.moments
        z = cloud.x[:, 0] - m0
        return (1 - s1 / s0) * z.square() / 2 + (m0 - m1) * z

    def grad(self, cloud):
        m0, s0, m1, s1 = self.moments
        return cloud.x - m1 - s1 / s0 * (cloud.x - m0)

    def state_dict(self):
        return {"moments": self.moments}

    def load_state_dict(self, state):
        self.moments = state["moments"]


def quantiles(n, m=0.0, s=1.0):
    grid = torch.special.ndtri((torch.arange(n, dtype=DOUBLE) + 0.5) / n)[:, None]
    return Cloud(m + s * grid / grid.std(correction=0))


def process(flow, p, h=0.1):
    return Evolve(flow, Euler(), p, step_size=h, key=KEY)


def path(flow, p, steps, h=0.1):
    """The places after every step, with shape (steps + 1, n, d), and the rows."""
    store = Memory(log_every=1)
    simulate(process(flow, p, h), steps, store)
    return torch.stack([after.x for after in store.clouds]), store.rows


# The potential persists


@pytest.mark.parametrize(("persistency", "h"), [(4, 0.1), (4, 0.25), (5, 0.3), (3, 0.5)])
def test_a_frozen_potential_goes_all_the_way_and_beyond(persistency, h):
    """K steps towards a translate by m go K·h·m: what is left is m (1 − K h) per round, beyond it iff K h > 1."""
    p, potential = quantiles(51), Bures()
    x, rows = path(PersistentPotential(GradientFlow(potential, Cloud(p.x + 3)), persistency), p, 3 * persistency, h)
    assert potential.fits == 3
    for k in range(3 * persistency + 1):
        rounds, into = divmod(k, persistency)
        left = 3 * (1 - persistency * h) ** rounds * (1 - into * h)
        torch.testing.assert_close(x[k], p.x + 3 - left, rtol=0, atol=1e-12)
    assert bool((x[persistency] > p.x + 3 + 1e-9).all()) == (persistency * h > 1)
    values = [row["divergence"] for row in rows[1:]]  # of the last fit
    assert values == pytest.approx(
        [4.5 * (1 - persistency * h) ** (2 * (k // persistency)) for k in range(3 * persistency)]
    )


@pytest.mark.parametrize(("h", "persistency"), [(0.25, 4), (0.5, 3)])
def test_a_frozen_exact_potential_goes_all_the_way_and_beyond(h, persistency):
    """On a grid on which every step ends: particles find the partner of the one whose place they reach."""
    p = Cloud(1 / 16 + torch.arange(256, dtype=DOUBLE)[:, None] / 8)
    m = 4.0
    flow = PersistentPotential(GradientFlow(ExactKantorovich(), Cloud(p.x + m)), persistency)
    x, _ = path(flow, p, persistency + 1, h)
    inside = slice(0, 256 - int(persistency * h * m * 8))  # those that never leave the source's grid
    for k in range(persistency + 1):
        assert torch.equal(x[k][inside], (p.x + k * h * m)[inside])
    # the next fit looks at where they are; their order, and so their partners, are still the same
    again = x[persistency] + h * (p.x + m - x[persistency])
    torch.testing.assert_close(x[persistency + 1], again, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("s0", "s1"), [(1.0, 0.5), (0.5, 2.0)])
def test_a_frozen_potential_between_gaussians(s0, s1):
    """σ (1 + h (s₁/σ − 1))^K per round, and s₁ − (s₁ − σ)(1 − h)^K where it is fitted anew."""
    h, persistency, s = 0.2, 4, s0
    p, q = quantiles(101, 1.0, s0), quantiles(101, 1.0, s1)
    x, _ = path(PersistentPotential(GradientFlow(Bures(), q), persistency), p, 12, h)
    for rounds in range(1, 4):
        s *= (1 + h * (s1 / s - 1)) ** persistency
        assert float(x[4 * rounds].std(correction=0)) == pytest.approx(s, rel=1e-12)
    x, _ = path(GradientFlow(Bures(), q), p, 12, h)
    assert float(x[12].std(correction=0)) == pytest.approx(s1 - (s1 - s0) * (1 - h) ** 12, rel=1e-12)


def test_a_frozen_exact_potential_between_gaussians():
    """The same by linear programming and c-transforms, where the clouds shrink: to the spacing of the grid, σ/100."""
    p, q = quantiles(401, 0.0, 1.0), quantiles(401, 0.0, 0.5)
    x, _ = path(PersistentPotential(GradientFlow(ExactKantorovich(), q), 3), p, 3, 0.2)
    assert float(x[3].std(correction=0)) == pytest.approx((1 - 0.2 / 2) ** 3, abs=0.005)
    x, _ = path(GradientFlow(ExactKantorovich(), q), p, 3, 0.2)
    assert float(x[3].std(correction=0)) == pytest.approx(1 - 0.5 * (1 - 0.8**3), rel=1e-10)  # 0.756, not 0.729


@EACH
def test_one_velocity_per_fit_is_the_flow(name):
    p, q = Cloud(normal(20, 2, "p") + 1), cloud(25, 2, "q")
    p = p.join(cloud(3, 2, "riders"))
    plain, rows = path(GradientFlow(POTENTIALS[name](), q, noise=0.1), p, 6)
    x, rows_ = path(PersistentPotential(GradientFlow(POTENTIALS[name](), q, noise=0.1), 1), p, 6)
    assert torch.equal(x, plain)
    assert rows == rows_


def test_a_persistency_below_one_is_refused():
    flow = GradientFlow(Bures(), quantiles(5))
    with pytest.raises(ValueError, match="persistency"):
        PersistentPotential(flow, 0)
    for size, persistency in ((1, 3), (3, 0)):
        with pytest.raises(ValueError, match="minibatch"):
            PersistentBatch(flow, size, persistency)


# The minibatch persists


def test_so_many_particles_move_for_so_many_steps():
    p = Cloud(normal(40, 2, "p") + 4).join(cloud(3, 2, "riders"))
    x, _ = path(PersistentBatch(GradientFlow(mmd(Gaussian(3.0)), cloud(25, 2, "q")), 8, 3), p, 15)
    moved = (x[1:] != x[:-1]).any(2)  # (15, 43)
    assert bool(moved[:, 40:].all())
    rounds = [set(torch.where(moved[k, :40])[0].tolist()) for k in range(15)]
    assert all(len(members) == 8 for members in rounds)
    kept = [rounds[k] == rounds[k + 1] for k in range(14)]
    assert kept == [k % 3 != 2 for k in range(14)]


def test_the_minibatch_moves_as_if_alone():
    """The potential is fitted to it, and not to those that rest."""
    p, q = Cloud(normal(40, 2, "p") + 2), cloud(25, 2, "q")
    flow = PersistentBatch(GradientFlow(mmd(Gaussian(2.0)), q), 8, 3)
    velocity, info = flow.velocity(0.0, p, KEY)
    alone, info_ = GradientFlow(mmd(Gaussian(2.0)), q).velocity(0.0, p.take(flow.index), KEY)
    assert torch.equal(velocity[flow.index], alone)
    assert {name: float(v) for name, v in info.items()} == {name: float(v) for name, v in info_.items()}


@EACH
def test_a_minibatch_of_all_is_the_flow(name):
    p, q = Cloud(normal(20, 2, "p") + 1), cloud(25, 2, "q")
    plain, _ = path(GradientFlow(POTENTIALS[name](), q), p, 4)
    x, _ = path(PersistentBatch(GradientFlow(POTENTIALS[name](), q), 20, 2), p, 4)
    assert torch.equal(x, plain)


# Both go on where they were


@EACH
@pytest.mark.parametrize(
    "make", [lambda flow: PersistentPotential(flow, 4), lambda flow: PersistentBatch(flow, 8, 4)], ids=["phi", "batch"]
)
@pytest.mark.parametrize("cut", [2, 4, 7])
def test_a_run_cut_in_the_middle_of_a_round_goes_on_bit_for_bit(name, make, cut):
    p, q = Cloud(normal(20, 2, "p") + 1).join(cloud(2, 2, "riders")), cloud(25, 2, "q")
    whole = process(make(GradientFlow(POTENTIALS[name](), q, noise=0.05)), p)
    state = whole.init()
    for k in range(10):
        if k == cut:
            saved, at = copy.deepcopy(whole.state_dict()), state
        state, info = whole.step(state)
    rest = process(make(GradientFlow(POTENTIALS[name](), q, noise=0.05)), p)
    rest.load_state_dict(saved)
    for _ in range(cut, 10):
        at, info_ = rest.step(at)
    assert torch.equal(at.cloud.x, state.cloud.x)
    assert {k: float(v) for k, v in info.items()} == {k: float(v) for k, v in info_.items()}


# Noise


class Bowl(Bures):
    """∇φ is the place itself."""

    def grad(self, cloud):
        return cloud.x.clone()


def shaken(t, key=KEY, riders=0, **noise):
    """By how much the places are moved before the gradient is taken there."""
    p = cloud(4000, 2, "p")
    p = p.join(cloud(riders, 2, "riders")) if riders else p
    velocity, _ = GradientFlow(Bowl(), quantiles(5), **noise).velocity(t, p, key)
    return -velocity - p.x


def test_noise_is_normal_and_halves():
    first = shaken(0.0, noise=0.3, noise_halving=2.0)
    assert float(first.mean()) == pytest.approx(0, abs=4 * 0.3 / math.sqrt(8000))
    assert float(first.std()) == pytest.approx(0.3, rel=4 / math.sqrt(2 * 8000))
    assert float((first / 0.3).pow(4).mean()) == pytest.approx(
        3, abs=4 * math.sqrt(96 / 8000)
    )  # as normal numbers have
    for t, factor in ((2.0, 0.5), (3.0, 2**-1.5), (8.0, 1 / 16)):
        torch.testing.assert_close(shaken(t, noise=0.3, noise_halving=2.0), first * factor, rtol=0, atol=1e-14)
    assert torch.equal(shaken(100.0, noise=0.3), shaken(0.0, noise=0.3))  # it is kept unless it is said to fall


def test_the_same_key_gives_the_same_noise():
    assert torch.equal(shaken(0.0, noise=1.0), shaken(0.0, noise=1.0))
    for other in (KEY.fold(1), Key.of(1)):
        assert abs(float((shaken(0.0, noise=1.0) * shaken(0.0, other, noise=1.0)).mean())) < 4 / math.sqrt(8000)


def test_riders_have_a_noise_of_their_own_and_leave_that_of_the_particles():
    both = shaken(0.0, riders=4000, noise=1.0)
    assert torch.equal(both[:4000], shaken(0.0, noise=1.0))
    assert abs(float((both[:4000] * both[4000:]).mean())) < 4 / math.sqrt(8000)
    assert float(both[4000:].std()) == pytest.approx(1, rel=4 / math.sqrt(2 * 8000))


@EACH
def test_no_noise_is_the_flow(name):
    p, q = Cloud(normal(20, 2, "p") + 1), cloud(25, 2, "q")
    plain, _ = path(GradientFlow(POTENTIALS[name](), q), p, 4)
    x, _ = path(GradientFlow(POTENTIALS[name](), q, noise=0.0, noise_halving=1.0), p, 4)
    assert torch.equal(x, plain)
    noisy, _ = path(GradientFlow(POTENTIALS[name](), q, noise=0.5), p, 4)
    assert not torch.equal(noisy, plain)


def test_with_noise_the_gradient_is_that_at_the_moved_points():
    """And the fit is to the points as they are."""
    p, q = Cloud(normal(20, 2, "p") + 1), cloud(25, 2, "q")
    flow = GradientFlow(mmd(Gaussian()), q, noise=0.3)
    velocity, info = flow.velocity(0.0, p, KEY)
    jolt = torch.randn(20, 2, generator=KEY.fold("noise").generator(), dtype=DOUBLE)
    alone = mmd(Gaussian())
    assert float(alone.fit(p, q, KEY)["divergence"]) == float(info["divergence"])
    torch.testing.assert_close(-velocity, alone.grad(p.at(p.x + 0.3 * jolt)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"noise": -1.0}, "noise must be"),
        ({"noise": math.inf}, "noise must be"),
        ({"noise": 1.0, "noise_halving": 0.0}, "noise_halving must be positive"),
    ],
)
def test_bad_noise_is_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        GradientFlow(Bures(), quantiles(5), **chosen)


# Classes


def labelled(n, name, classes, shift=0.0, masses=False):
    label = torch.arange(n) % classes
    weight = torch.softmax(normal(n, 1, f"w-{name}")[:, 0], 0) if masses else None
    return Cloud(normal(n, 2, name) + shift + label[:, None], label, weight)


def of(c, cloud):
    return torch.where(cloud.label == c)[0]


@EACH
@pytest.mark.parametrize("masses", [False, True])
def test_each_class_has_its_own_potential(name, masses):
    p, q = labelled(30, "p", 3, 1.0, masses), labelled(41, "q", 3, 0.0, masses)
    potential = PerClass(POTENTIALS[name], 3)
    info = potential.fit(p, q, KEY)
    other = labelled(17, "elsewhere", 3)
    value = 0.0
    for c in range(3):
        alone = POTENTIALS[name]()
        measured = alone.fit(p.take(of(c, p)), q.take(of(c, q)), KEY)
        for at in (p, other):
            assert torch.equal(potential.phi(at)[of(c, at)], alone.phi(at.take(of(c, at))))
            assert torch.equal(potential.grad(at)[of(c, at)], alone.grad(at.take(of(c, at))))
        value += float(q.mass[of(c, q)].sum()) * float(measured["divergence"])
    assert float(info["divergence"]) == pytest.approx(value, rel=1e-12)


def test_w2_per_class_is_w2_between_labelled_clouds():
    """Equal shares: a label as a coordinate that is a thousand long."""
    p, q = labelled(30, "p", 3, 1.0), labelled(30, "q", 3)
    apart = [Cloud(torch.cat((c.x, 1000.0 * c.label[:, None]), 1)) for c in (p, q)]
    value = PerClass(ExactKantorovich, 3).fit(p, q, KEY)["divergence"]
    assert float(value) == pytest.approx(ExactKantorovich().fit(*apart, KEY)["divergence"], rel=1e-8)


def test_riders_follow_their_own_class():
    p, q = labelled(30, "p", 3, 1.0), labelled(30, "q", 3)
    riding = p.join(Cloud(p.x[:6], p.label[:6]))
    x, _ = path(GradientFlow(PerClass(ExactKantorovich, 3), q), riding, 5)
    assert torch.equal(x[:, 30:], x[:, :6])
    alone, _ = path(GradientFlow(PerClass(ExactKantorovich, 3), q), p, 5)
    assert torch.equal(x[:, :30], alone)


def test_a_class_without_target_points_is_left_out():
    """Of class 1 of three there is nothing on either side; points of it feel no force."""
    keep = torch.arange(30) % 3 != 1
    p, q = (labelled(30, name, 3, shift).take(torch.where(keep)[0]) for name, shift in (("p", 1.0), ("q", 0.0)))
    potential = PerClass(ExactKantorovich, 3)
    value = float(potential.fit(p, q, KEY)["divergence"])
    parts = [ExactKantorovich().fit(p.take(of(c, p)), q.take(of(c, q)), KEY)["divergence"] for c in (0, 2)]
    assert value == pytest.approx(sum(parts) / 2, rel=1e-12)
    assert float(potential.grad(p).norm(dim=1).min()) > 0
    assert (potential.grad(labelled(3, "p", 3)).norm(dim=1) > 0).tolist() == [True, False, True]


def test_state_per_class():
    p, q = labelled(30, "p", 3, 1.0), labelled(30, "q", 3)
    one, two = (PerClass(POTENTIALS["transport"], 3) for _ in range(2))
    one.fit(p, q, KEY)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(one.grad(p), two.grad(p))
    moved = p.at(p.x - 0.1)
    assert float(one.fit(moved, q, KEY)["divergence"]) == float(two.fit(moved, q, KEY)["divergence"])
    assert torch.equal(one.grad(p), two.grad(p))


# Paths


def test_a_straight_path():
    """Of steps of any sizes, forward: its length is the displacement."""
    start, way = np.random.default_rng(0).normal(size=(2, 5, 3))
    trajectory = np.stack([start + s * way for s in (0, 0.1, 0.15, 0.8, 1)])
    assert path_length(trajectory) == pytest.approx(np.linalg.norm(way, axis=1).mean(), rel=1e-12)
    assert straightness(trajectory) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("pieces", [2, 10, 1000])
def test_half_a_circle(pieces):
    """The length of the inscribed broken line, pieces · 2 sin(π / 2 pieces), over the diameter: π/2 in the limit."""
    angle = np.linspace(0, np.pi, pieces + 1)[:, None]
    radius = np.array([1.0, 3.0])  # two particles
    trajectory = np.stack((radius * np.cos(angle), radius * np.sin(angle)), -1)
    assert path_length(trajectory) == pytest.approx(2 * 2 * pieces * math.sin(math.pi / (2 * pieces)), rel=1e-12)
    assert straightness(trajectory) == pytest.approx(pieces * math.sin(math.pi / (2 * pieces)), rel=1e-12)
    if pieces == 1000:
        assert straightness(trajectory) == pytest.approx(math.pi / 2, rel=1e-6)


def test_there_and_back_and_nothing():
    """Means are taken before they are divided: one that goes there and back counts with its length."""
    trajectory = np.array([[[0.0], [0.0]], [[1.0], [1.0]], [[0.0], [2.0]]])
    assert path_length(trajectory) == 2
    assert straightness(trajectory) == 2
    assert path_length(trajectory[:1]) == 0
    assert math.isnan(straightness(trajectory[:1]))
    assert math.isnan(straightness(np.ones((4, 3, 2))))
