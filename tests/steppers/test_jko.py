"""The W2-penalised step, against what theory says of it."""

import math

import numpy as np
import pytest
import torch
from problems import DOUBLE, Analytic, cloud, normal

from particles import (
    KL,
    Cloud,
    Euler,
    Evolve,
    ExactKantorovich,
    Gaussian,
    GradientFlow,
    Key,
    Memory,
    Proximal,
    TransportPotential,
    mmd,
    simulate,
    w2,
)
from particles.flows.recording import Recorder, Replay
from particles.names import STEPPERS, make
from particles.run.loop import Diverged
from particles.steppers.jko import MODES, _length, _longest

BOWL = Analytic(lambda t, x: -x, lambda x: x.square().sum(1) / 2)
KEY = Key.of(0)


def valley(lipschitz, width=0.0):
    """φ = L |x₂| + width · x₁² / 2: a kink along the first axis."""
    slope = torch.tensor([width, 0.0], dtype=DOUBLE)
    across = torch.tensor([0.0, lipschitz], dtype=DOUBLE)
    return Analytic(
        lambda t, x: -(slope * x + across * x.sign()),
        lambda x: lipschitz * x[:, 1].abs() + width * x[:, 0].square() / 2,
    )


def transport_flow(n=40, epsilon=0.05):
    return GradientFlow(TransportPotential(KL(), 1.0, epsilon=epsilon, debias=False, tolerance=1e-6), cloud(n, 2, "q"))


def one(flow, stepper, y, h):
    end, memory, info = stepper.step(flow, 0.0, h, y, stepper.init(), KEY)
    assert all(isinstance(part, torch.Tensor) for part in memory)  # which can be saved
    return end, {name: float(value) for name, value in info.items()}


@pytest.mark.parametrize(
    "settings", [{"mode": "explicit"}, *({"mode": mode, "max_inner": 1} for mode in MODES)], ids=str
)
@pytest.mark.parametrize("make_flow", [transport_flow, lambda: valley(0.7)], ids=["transport", "valley"])
def test_one_inner_step_is_eulers(settings, make_flow):
    """B12, bit for bit, along a whole run and with all that is measured."""
    source = Cloud(normal(30, 2, "p") + 2).join(Cloud(normal(5, 2, "riders")))
    ends, rows = [], []
    for stepper in (Euler(), Proximal(**settings)):
        store = Memory()
        ends.append(simulate(Evolve(make_flow(), stepper, source, step_size=0.3), 6, store).cloud.x)
        rows.append(store.rows)
    assert torch.equal(*ends)
    assert rows[0] == rows[1]


@pytest.mark.parametrize("mode", ["semi-implicit", "implicit"])
@pytest.mark.parametrize("h", [0.1, 1.0, 3.0, 10.0])
def test_quadratic_zone(mode, h):
    """The ratio of a step is 1 / (1 + h) for every h, where Euler's 1 − h diverges for h > 2."""
    y = cloud(20, 2, "y")
    stepper = Proximal(mode, max_inner=50, tolerance=1e-8)
    end = simulate(Evolve(BOWL, stepper, y, step_size=h), 4).cloud.x
    torch.testing.assert_close(end, y.x / (1 + h) ** 4, rtol=1e-5, atol=1e-7)
    euler = simulate(Evolve(BOWL, Euler(), y, step_size=h), 4).cloud.x
    torch.testing.assert_close(euler, (1 - h) ** 4 * y.x)


@pytest.mark.parametrize("mode", ["semi-implicit", "implicit"])
def test_order_of_convergence(mode):
    """1, to the solution exp(−t) x."""
    x = normal(5, 2, "x")
    errors = []
    for steps in (20, 40, 80):
        process = Evolve(BOWL, Proximal(mode, tolerance=1e-8), Cloud(x), step_size=1 / steps)
        errors.append(float((simulate(process, steps).cloud.x - math.exp(-1) * x).norm()))
    np.testing.assert_allclose(-np.diff(np.log2(errors)), 1, atol=0.1)


@pytest.mark.parametrize(("mode", "delay"), [("semi-implicit", 0), ("implicit", 1)])
def test_time_of_the_potential(mode, delay):
    """φ = |x − t e|² / 2: the implicit step goes by the φ of its end, z = (y + h (t + h) e) / (1 + h); a frozen one is that of t."""
    flow = Analytic(lambda t, x: t - x, lambda x: 0 * x[:, 0])
    flow.velocity = lambda t, cloud, key: moved(flow, t, cloud, key)

    def moved(flow, t, cloud, key):
        flow.height = lambda x: (x - t).square().sum(1) / 2
        return Analytic.velocity(flow, t, cloud, key)

    y, t, h = cloud(20, 2, "y"), 3.0, 0.5
    end, _, _ = (stepper := Proximal(mode, max_inner=50, tolerance=1e-8)).step(flow, t, h, y, stepper.init(), KEY)
    torch.testing.assert_close(end.x, (y.x + h * (t + delay * h)) / (1 + h), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["semi-implicit", "implicit"])
@pytest.mark.parametrize("h", [0.3, 3.0])
def test_residual_is_a_speed(mode, h):
    """|z − y + h ∇φ(z)| / h for the particle with the largest one, at the place where the step has ended."""
    steep = torch.tensor([1.0, 5.0], dtype=DOUBLE)
    flow = Analytic(lambda t, x: -steep * x, lambda x: (steep * x.square()).sum(1) / 2)
    y = cloud(20, 2, "y")
    end, info = one(flow, Proximal(mode, max_inner=3), y, h)
    assert info["residual"] == pytest.approx(float((end.x - y.x + h * steep * end.x).norm(dim=1).max()) / h)
    assert info["residual"] > 1e-3


@pytest.mark.parametrize("max_inner", [2, 5])
def test_trial_points(max_inner):
    """The first is Euler's; each costs a velocity beyond that of the beginning, and their number is measured."""
    y, h, tried = cloud(20, 2, "y"), 0.3, []

    def spied(t, x):
        tried.append(x)
        return -x

    _, info = one(Analytic(spied, BOWL.height), Proximal("semi-implicit", max_inner=max_inner, tolerance=0), y, h)
    assert torch.equal(tried[0], y.x)
    torch.testing.assert_close(tried[1], (1 - h) * y.x)
    assert info["inner"] == len(tried) - 1 == max_inner


@pytest.mark.parametrize("max_inner", [2, 3])
def test_no_more_descents_than_asked_for(max_inner):
    """On φ = |x|⁴ none of them ends where F is lowest."""
    flow = Analytic(lambda t, x: -4 * x * x.square().sum(1, keepdim=True), lambda x: x.square().sum(1).square())
    _, info = one(flow, Proximal("implicit", max_inner=max_inner, tolerance=0), cloud(20, 2, "y"), 0.1)
    assert info["inner"] == max_inner


class Spied(Analytic):
    """Remembers where velocities were asked for; its divergence rises by so much each time, whatever happens."""

    def __init__(self, formula, height, drift=0.0):
        super().__init__(formula, height)
        self.drift = drift
        self.tried = []

    def velocity(self, t, cloud, key):
        v, info = super().velocity(t, cloud, key)
        info["divergence"] = info["divergence"] + self.drift * len(self.tried)
        self.tried.append(cloud.x)
        return v, info


def bowl(steepness, drift=0.0):
    return Spied(lambda t, x: -steepness * x, lambda x: steepness * x.square().sum(1) / 2, drift)


def lengths(flow, y):
    """How far the trial points are along the first velocity times h, in parts of what was the way to the first one."""
    ways = [float((x - y.x).flatten() @ (flow.tried[1] - y.x).flatten()) for x in flow.tried[1:]]
    return np.array(ways) / ways[0]


@pytest.mark.parametrize("hk", [1.5, 3.0, 8.0, 20.0, 90.0])
def test_trial_points_of_a_parabola(hk):
    """Where F rises the next one is at its lowest point, 1 / (1 + h k) of the way, or at a tenth of the last way and then there."""
    y, flow = cloud(20, 2, "y"), bowl(10 * hk)
    end, info = one(flow, Proximal(tolerance=1e-8), y, 0.1)
    best = 1 / (1 + hk)
    expected = [1.0] + [0.1] * (best < 0.1) + [0.01] * (best < 0.01) + [best]
    if hk == 20.0:  # at twice the lowest point and beyond F is higher than at y
        assert 2 * best < 0.1
    np.testing.assert_allclose(lengths(flow, y), expected, rtol=1e-9)
    assert info["inner"] == 1
    torch.testing.assert_close(end.x, best * y.x)


@pytest.mark.parametrize("h", [0.1, 0.5, 0.9])
def test_second_length_is_that_of_the_curvature(h):
    """On a parabola two points tell where the lowest one is; the length is remembered, and is right at once in the next step."""
    y, flow, stepper = cloud(20, 2, "y"), bowl(1.0), Proximal(tolerance=1e-8)
    end, memory, info = stepper.step(flow, 0.0, h, y, stepper.init(), KEY)
    assert info["inner"] == 2
    torch.testing.assert_close(end.x, y.x / (1 + h))
    assert float(memory[0]) == pytest.approx(1 / (1 + h))
    flow.tried.clear()
    again, memory, info = stepper.step(flow, 0.0, h, end, memory, KEY)
    assert (info["inner"], len(flow.tried)) == (1, 2)
    torch.testing.assert_close(again.x, y.x / (1 + h) ** 2)


@pytest.mark.parametrize("h", [0.5, 2.0])
def test_a_velocity_uphill_is_not_followed(h):
    """Half of the way again and again, ten times; then the step ends where it is, and the next one begins with the whole way."""
    y, stepper = cloud(20, 2, "y"), Proximal()
    flow = Spied(lambda t, x: x, lambda x: x.square().sum(1) / 2)
    end, memory, info = stepper.step(flow, 0.0, h, y, (torch.tensor(1.0, dtype=DOUBLE),), KEY)
    np.testing.assert_allclose(lengths(flow, y), 0.5 ** np.arange(11), rtol=1e-9)
    assert torch.equal(end.x, y.x)
    assert (info["inner"], info["descent"], float(memory[0])) == (0, 0, 1)


@pytest.mark.parametrize("h", [0.3, 3.0])
def test_a_divergence_that_rises_by_training_does_not_halt_the_way(h):
    """What counts is then that the new potential falls."""
    y, flow = cloud(20, 2, "y"), bowl(1.0, drift=10.0)
    end, info = one(flow, Proximal(tolerance=1e-8), y, h)
    torch.testing.assert_close(end.x, y.x / (1 + h), rtol=1e-6, atol=1e-9)
    height = float(y.x.square().sum(1).mean()) / 2
    assert info["descent"] == pytest.approx(height * h / (1 + h))  # of |y|² / 2, without the price of the way


def test_slopes_that_do_not_turn_ask_for_half_of_the_way():
    """φ is −|x|² / 2h, so r is the same all along: there is no parabola with a lowest point."""
    y, flow = (
        Cloud(torch.tensor([[1.0, -2.0], [4.0, 8.0]], dtype=DOUBLE)),
        Spied(lambda t, x: x, lambda x: -x[:, 0] * 0),
    )
    end, info = one(flow, Proximal(), y, 1.0)
    assert lengths(flow, y).tolist() == [0.5**k for k in range(11)]
    assert torch.equal(end.x, y.x)
    assert (info["inner"], info["descent"]) == (0, 0)


@pytest.mark.parametrize("drift", [math.inf, math.nan])
def test_a_divergence_that_is_not_finite_is_tried_once(drift):
    """Though φ fell: a shorter way would be no cure."""
    y, flow = cloud(5, 2, "y"), bowl(1.0)
    velocity = flow.velocity

    def later(t, cloud, key):
        v, info = velocity(t, cloud, key)
        return v, info | {"divergence": info["divergence"] + (drift if len(flow.tried) > 1 else 0)}

    flow.velocity = later
    end, info = one(flow, Proximal(), y, 0.5)
    assert len(flow.tried) == 2
    assert torch.equal(end.x, y.x)
    assert info["inner"] == 0
    assert not math.isfinite(info["descent"])


@pytest.mark.parametrize("carried", [0, 3])
def test_length_is_the_inverse_of_the_curvature(carried):
    """Barzilai and Borwein's shorter one, s · t / t · t; by masses, without those who ride along, and within its bounds."""
    moved = torch.tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 7.0], [1.0, 1.0], [1e3, 0.0]], dtype=DOUBLE)[: 2 + carried]
    c = Cloud(moved, weight=torch.tensor([0.25, 0.75], dtype=DOUBLE), carried=carried)

    def length(*rates):
        turned = moved.clone()
        turned[:2] *= torch.tensor(rates, dtype=DOUBLE)[:, None]
        return _length(BOWL, c, moved, turned)

    assert length(2.0, 4.0) == pytest.approx((0.25 * 2 + 3 * 4) / (0.25 * 4 + 3 * 16))
    assert length(0.5, 0.5) == 1
    assert length(1e8, 1e8) == 1e-6
    assert length(-2.0, -2.0) == 1
    assert length(0.0, 0.0) == 1  # neither moved nor turned
    assert _length(BOWL, c, moved, moved[:, [1, 0]]) == 1  # turned across the way
    assert float(_longest(c, moved)) == 2


def test_defaults():
    assert (Proximal.order, Proximal().mode, Proximal().max_inner, Proximal().tolerance) == (1, "implicit", 20, 1e-3)


def test_implicit_steps_end_at_kinks():
    """There the residual does not vanish, but steps become short; in other units it is the same problem."""
    found = []
    for scale in (1.0, 1 / 128):
        _, info = one(valley(0.7 * scale), Proximal(max_inner=60), Cloud(scale * normal(30, 2, "y")), 3.0)
        assert info["inner"] < 20
        found.append((info["inner"], info["descent"] / scale**2))
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_what_the_tolerance_leaves_of_the_descent():
    """Half a per cent at most, for a thousandth of the way."""
    y = cloud(30, 2, "y")
    found = [
        one(transport_flow(), Proximal(max_inner=60, tolerance=tolerance), y, 0.3)[1]["descent"]
        for tolerance in (1e-3, 1e-6)
    ]
    assert found[0] == pytest.approx(found[1], rel=5e-3)


@pytest.mark.parametrize("mode", ["semi-implicit", "implicit"])
def test_where_the_origin_is_and_who_rides_along_do_not_count(mode):
    """When inner steps end, and what is measured, depends on the ways of the particles alone."""
    steep, far = torch.tensor([1.0, 30.0], dtype=DOUBLE), torch.tensor([1e4, -1e4], dtype=DOUBLE)
    y, found = normal(20, 2, "y"), []
    riders = 50 * normal(5, 2, "riders")
    for centre, ride in ((0 * far, False), (far, False), (0 * far, True)):
        flow = Analytic(
            lambda t, x, c=centre: -steep * (x - c), lambda x, c=centre: (steep * (x - c).square()).sum(1) / 2
        )
        begin = Cloud(y + centre).join(Cloud(riders)) if ride else Cloud(y + centre)
        end, info = one(flow, Proximal(mode, max_inner=100, tolerance=1e-3), begin, 0.5)
        found.append((end.x[:20] - centre, info["descent"], info["inner"]))
    for x, descent, inner in found[1:]:
        assert descent == pytest.approx(found[0][1], rel=1e-6)
        if inner == found[0][2]:  # the riders of semi-implicit steps have inner steps of their own
            torch.testing.assert_close(x, found[0][0], rtol=0, atol=1e-6)
    assert found[1][2] == found[0][2]


@pytest.mark.parametrize("h", [3.0, 10.0])
def test_no_particle_is_stuck_between_two_wells(h):
    """φ = (x² − 1)² / 4 is not convex: a tangent plane that is above φ at y would forbid every step that is any use."""
    y = Cloud(torch.linspace(-3, 3, 41, dtype=DOUBLE)[:, None])
    flow = Analytic(lambda t, x: x - x**3, lambda x: ((x**2 - 1) ** 2).sum(1) / 4)
    end, info = one(flow, Proximal("semi-implicit", max_inner=30, tolerance=1e-8), y, h)
    fall = flow.height(y.x) - flow.height(end.x) - (end.x - y.x).square().sum(1) / (2 * h)
    assert info["descent"] == pytest.approx(float(fall.mean()))
    assert bool((fall >= 0).all())
    assert float(fall[(y.x - y.x**3).abs()[:, 0] > 0.5].min()) > 0.01


@pytest.mark.parametrize("mode", ["semi-implicit", "implicit"])
def test_inner_steps_end_when_they_are_short(mode):
    """The error is in proportion to the tolerance, and a small one costs more."""
    y, steep, inner = cloud(20, 2, "y"), torch.tensor([1.0, 30.0], dtype=DOUBLE), []
    flow = Analytic(lambda t, x: -steep * x, lambda x: (steep * x.square()).sum(1) / 2)
    for tolerance in (0.5, 0.1, 1e-2, 1e-4):
        end, info = one(flow, Proximal(mode, max_inner=100, tolerance=tolerance), y, 0.5)
        assert float((end.x - y.x / (1 + 0.5 * steep)).norm(dim=1).max()) < 5 * tolerance
        inner.append(info["inner"])
    assert inner == sorted(inner)
    assert inner[0] < inner[-1] < 30


@pytest.mark.parametrize("h", [0.01, 0.3, 1.0, 10.0])
def test_soft_threshold(h):
    """B2: the implicit step of φ = L |x₂| lands on the manifold, about which Euler's goes to and fro."""
    lipschitz = 0.7
    y = cloud(200, 2, "y")
    end, info = one(valley(lipschitz), Proximal("semi-implicit", tolerance=1e-8), y, h)
    x1, x2 = y.x.T
    expected = torch.stack((x1, x2.sign() * (x2.abs() - h * lipschitz).clamp(min=0)), 1)
    torch.testing.assert_close(end.x, expected, rtol=0, atol=1e-12)
    assert (end.x - y.x).norm(dim=1).max() <= h * lipschitz * (1 + 1e-12)
    moreau = (lipschitz * x2.abs() - lipschitz * expected[:, 1].abs() - (expected[:, 1] - x2) ** 2 / (2 * h)).mean()
    assert info["descent"] == pytest.approx(float(moreau))


def test_particles_stay_on_the_manifold():
    lipschitz, h = 0.7, 0.3
    y = cloud(50, 2, "y")
    runs = {}
    for name, stepper in (("euler", Euler()), ("proximal", Proximal("semi-implicit"))):
        runs[name] = simulate(Evolve(valley(lipschitz), stepper, y, step_size=h), 30).cloud.x[:, 1].abs()
    assert float(runs["proximal"].max()) < 1e-12
    assert h * lipschitz / 2 < float(runs["euler"].max()) <= h * lipschitz


@pytest.mark.parametrize(("h", "error"), [(0.1, 1e-6), (1.0, 0.02)])
def test_a_kink_does_not_halt_the_way_along_it(h, error):
    """φ = L |x₂| + x₁² / 2: to x₁ / (1 + h) along the kink; planes are slower to follow a curve, the more so for large h."""
    y = cloud(100, 2, "y")
    end, _ = one(valley(0.7, 1.0), Proximal("semi-implicit", max_inner=30, tolerance=1e-9), y, h)
    x1, x2 = y.x.T
    expected = torch.stack((x1 / (1 + h), x2.sign() * (x2.abs() - h * 0.7).clamp(min=0)), 1)
    torch.testing.assert_close(end.x, expected, rtol=0, atol=error)


@pytest.mark.parametrize("h", [0.1, 1.0, 10.0])
def test_ratio_of_w2(h):
    """A2: along the flow of W2² / 2 between clouds of one size W2 shrinks by 1 / (1 + h) per step."""
    q = cloud(40, 2, "q")
    store = Memory()
    process = Evolve(
        GradientFlow(ExactKantorovich(), q),
        Proximal(tolerance=1e-6),
        Cloud(normal(40, 2, "p") + torch.tensor([3.0, 0.0])),
        step_size=h,
    )
    end = simulate(process, 4, store)
    distances = [math.sqrt(2 * row["divergence"]) for row in store.rows[1:]] + [w2(end.cloud, q)]
    ratios = np.array(distances[1:]) / distances[:-1]
    np.testing.assert_allclose(ratios, 1 / (1 + h), rtol=1e-5)


@pytest.mark.parametrize("h", [0.1, 1.0])
def test_invariants_of_the_lipschitz_flow(h):
    """B10 and B13: no particle goes further than h L, and D falls by the price of the way at least."""
    y = Cloud(normal(40, 2, "p") + torch.tensor([2.0, 0.0]))
    flow = transport_flow()
    end, info = one(flow, Proximal(), y, h)
    _, after = flow.velocity(0.0, end, KEY)
    assert float((end.x - y.x).norm(dim=1).max()) <= h * (1 + 1e-9)
    paid = w2(y, end) ** 2 / (2 * h)
    assert float(after["divergence"]) + paid <= info["divergence"] + 1e-6
    assert info["descent"] > 0


@pytest.mark.parametrize("h", [0.01, 0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize(
    "make_flow", [transport_flow, lambda: GradientFlow(mmd(Gaussian(1.0)), cloud(40, 2, "q"))], ids=["transport", "mmd"]
)
def test_divergence_falls_for_every_step_size(make_flow, h):
    y = Cloud(normal(40, 2, "p") + torch.tensor([1.0, 0.5]))
    store = Memory()
    simulate(Evolve(make_flow(), Proximal(), y, step_size=h), 5, store)
    divergences = [row["divergence"] for row in store.rows[1:]]
    assert all(np.diff(divergences) <= 1e-6)
    assert divergences[-1] < divergences[0]
    assert min(row["descent"] for row in store.rows[1:]) >= 0


class GaussianKL(Analytic):
    """KL(N(0, s²) ‖ N(0, 1)) with s the root mean square of the particles."""

    def __init__(self):
        super().__init__(lambda t, x: -self.curvature * x, lambda x: self.curvature * x.square().sum(1) / 2)
        self.curvature = 0.0

    def velocity(self, t, cloud, key):
        s2 = float(cloud.active.x.square().mean())
        self.curvature = 1 - 1 / s2
        v, info = self.field(t, cloud, key)
        return v, info | {"divergence": (s2 - 1) / 2 - math.log(s2) / 2}


@pytest.mark.parametrize("h", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("s0", [0.2, 3.0])
def test_gaussian_proximal_step(h, s0):
    """B4: s = s0 − h (s − 1 / s), and the potential is that of the end."""
    x = normal(30, 1, "x")
    y = Cloud(s0 * x / x.square().mean().sqrt())
    flow = GaussianKL()
    end, info = one(flow, Proximal(tolerance=1e-8, max_inner=50), y, h)
    s = (s0 + math.sqrt(s0**2 + 4 * h * (1 + h))) / (2 * (1 + h))
    torch.testing.assert_close(end.x, s / s0 * y.x, rtol=1e-6, atol=0)
    assert flow.curvature == pytest.approx(1 - 1 / s**2, rel=1e-5, abs=1e-7)
    divergence = [(r**2 - 1) / 2 - math.log(r) for r in (s0, s)]
    assert info["divergence"] == pytest.approx(divergence[0])
    assert info["descent"] == pytest.approx(divergence[0] - divergence[1] - (s - s0) ** 2 / (2 * h))
    assert info["residual"] < 1e-6 * max(1, abs(s0 - 1 / s0))


@pytest.mark.parametrize("mode", ["semi-implicit", "implicit"])
@pytest.mark.parametrize("h", [0.2, 2.0])
def test_riders(mode, h):
    """They influence nothing, and stay with particles that begin where they do."""
    p = Cloud(normal(30, 2, "p") + 2)
    others = torch.cat((p.x[:4], 5 * normal(3, 2, "riders")))
    alone, among = (
        simulate(Evolve(transport_flow(), Proximal(mode), source, step_size=h), 4).cloud
        for source in (p, p.join(Cloud(others)))
    )
    assert torch.equal(alone.x, among.active.x)
    torch.testing.assert_close(among.riders.x[:4], among.active.x[:4], rtol=1e-9, atol=1e-9)
    assert float((among.riders.x[4:] - others[4:]).norm(dim=1).min()) > 0.1


@pytest.mark.parametrize("stepper", [*STEPPERS, "semi-implicit"])
def test_new_points_go_the_way_of_a_recorded_run(stepper):
    """Every number that decides something is on the tape: riders, and the same points later, bit for bit."""
    stepper = make("stepper", stepper, STEPPERS) if stepper in STEPPERS else Proximal(stepper)
    recorder, replay = Recorder(transport_flow()), Replay(transport_flow())
    later = Cloud(3 * normal(6, 2, "later"))
    run, again = Cloud(normal(30, 2, "p") + 2).join(later), later
    memory = remembered = stepper.init()
    for k in range(3):
        run, memory, _ = stepper.step(recorder, 0.7 * k, 0.7, run, memory, KEY.fold(k))
        replay.put(recorder.take())
        again, remembered, _ = stepper.step(replay, 0.7 * k, 0.7, again, remembered, KEY.fold(k))
        replay.check_done()
    assert torch.equal(run.riders.x, again.x)


def test_masses_count():
    """A particle of mass 2/3 is two of mass 1/3."""
    x = torch.tensor([[3.0, 0.0], [0.5, 1.0]], dtype=DOUBLE)
    weights = torch.tensor([2 / 3, 1 / 3], dtype=DOUBLE)
    ends = [one(transport_flow(), Proximal(), y, 2.0)[0].x for y in (Cloud(x, weight=weights), Cloud(x[[0, 0, 1]]))]
    torch.testing.assert_close(ends[0], ends[1][[0, 2]], rtol=1e-6, atol=1e-6)


def test_a_divergence_that_is_not_finite_ends_the_run():
    flow = Analytic(lambda t, x: 10 - x, lambda x: (5 - x[:, 0]).log())
    with pytest.raises(Diverged, match="descent is nan"):
        simulate(Evolve(flow, Proximal(), Cloud(torch.zeros(3, 1, dtype=DOUBLE)), step_size=1.0), 2)


def test_bad_settings():
    for settings, message in (
        ({"mode": "implicitt"}, "unknown mode 'implicitt'; did you mean implicit"),
        ({"max_inner": 0}, "max_inner must be at least 1, not 0"),
        ({"tolerance": 1.0}, "tolerance must be at least 0 and below 1"),
        ({"tolerance": math.nan}, "tolerance must be at least 0 and below 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Proximal(**settings)
