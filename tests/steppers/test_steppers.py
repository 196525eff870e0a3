"""Time integrators and processes."""

import itertools
import math

import numpy as np
import pytest
import torch
from problems import DOUBLE, Analytic, normal, rotated, rotating

from particles import AdamsBashforth, Adaptive, Cloud, Euler, Evolve, Key, Memory, RungeKutta, cfl, heun, rk4, simulate
from particles.metrics.memorisation import spacing
from particles.names import STEPPERS, make
from particles.run.loop import Diverged
from particles.steppers.adams import coefficients
from particles.steppers.runge_kutta import BOGACKI_SHAMPINE, HEUN, RK4

ALL = {name: make("stepper", name, STEPPERS) for name in STEPPERS if name != "proximal"}  # that one needs a gradient
# Nothing rejected: the order is that of the substeps, one per step.
ALL |= {"adaptive": Adaptive(1.0), "bogacki-shampine": RungeKutta(BOGACKI_SHAMPINE)}


@pytest.mark.parametrize("decay", [math.inf, 0.5], ids=["constant", "decaying"])
@pytest.mark.parametrize("stepper", ALL.values(), ids=list(ALL))
def test_order_of_convergence(stepper, decay):
    """The error of a field that depends on time falls like h to the power of the order, for steps that shrink to a third too."""
    x = normal(5, 2, "x")
    errors = []
    for steps in (80, 160, 320):
        process = Evolve(Analytic(rotating), stepper, Cloud(x), step_size=1 / steps, decay=decay * steps)
        end = simulate(process, steps)
        errors.append(float((end.cloud.x - rotated(x, end.t)).norm()))
    slopes = np.diff(np.log2(errors))
    np.testing.assert_allclose(-slopes, stepper.order, atol=0.1)


def test_euler_by_hand():
    x = normal(4, 3, "x")
    end = simulate(Evolve(Analytic(lambda t, x: -x), Euler(), Cloud(x), step_size=0.1), 7).cloud.x
    torch.testing.assert_close(end, 0.9**7 * x)


def test_heun_by_hand():
    x = normal(4, 3, "x")
    end = simulate(Evolve(Analytic(lambda t, x: -x), heun(), Cloud(x), step_size=0.1), 7).cloud.x
    torch.testing.assert_close(end, (1 - 0.1 + 0.005) ** 7 * x)


@pytest.mark.parametrize("tableau", [HEUN, BOGACKI_SHAMPINE, RK4], ids=["heun", "bogacki-shampine", "rk4"])
def test_tableau_is_consistent(tableau):
    """The conditions of Butcher's rooted trees up to the order, and one beyond it that fails."""
    a = np.array([[*row, *[0] * (len(tableau.b) - len(row))] for row in tableau.a])
    b, c = np.array(tableau.b), np.array(tableau.c)
    np.testing.assert_allclose(a.sum(1), c, atol=1e-15)
    conditions = [
        [(b.sum(), 1)],
        [(b @ c, 1 / 2)],
        [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
        [(b @ c**3, 1 / 4), (b @ (c * (a @ c)), 1 / 8), (b @ a @ c**2, 1 / 12), (b @ a @ a @ c, 1 / 24)],
        [(b @ c**4, 1 / 5)],
    ]
    for value, theory in itertools.chain(*conditions[: tableau.order]):
        assert value == pytest.approx(theory, abs=1e-15)
    assert any(abs(value - theory) > 1e-3 for value, theory in conditions[tableau.order])


def test_rk4_by_hand():
    x = normal(4, 3, "x")
    end = simulate(Evolve(Analytic(lambda t, x: -x), rk4(), Cloud(x), step_size=0.1), 7).cloud.x
    torch.testing.assert_close(end, (1 - 0.1 + 0.1**2 / 2 - 0.1**3 / 6 + 0.1**4 / 24) ** 7 * x)


@pytest.mark.parametrize(
    "textbook", [(3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24)], ids=len
)
def test_adams_coefficients_of_constant_steps(textbook):
    times = [1000.0 - 0.125 * i for i in range(len(textbook))]
    np.testing.assert_allclose(coefficients(times, 0.125), textbook, rtol=1e-12)


def test_adams_coefficients_of_a_step_that_was_halved():
    """Of order 2: 1 + h / (2 h') and −h / (2 h'), h after h'."""
    np.testing.assert_allclose(coefficients([3.0, 2.0], 0.5), [1.25, -0.25], rtol=1e-14)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_adams_is_exact_for_polynomials_in_time(order):
    """x' = t to the power of order − 1, with steps that decay: also the starting methods are exact."""
    process = Evolve(
        Analytic(lambda t, x: 0 * x + t ** (order - 1)),
        AdamsBashforth(order),
        Cloud(torch.zeros(1, 1, dtype=DOUBLE)),
        step_size=0.3,
        decay=5,
    )
    end = simulate(process, 20)
    assert float(end.cloud.x) == pytest.approx(end.t**order / order, rel=1e-13)
    assert [len(part) for part in end.memory] == [1] * (order - 1) + [order - 1]


@pytest.mark.parametrize("order", [2, 3, 4])
def test_adams_takes_one_velocity_per_step(order):
    calls = []

    def counting(t, x):
        calls.append(t)
        return -x

    simulate(Evolve(Analytic(counting), AdamsBashforth(order), Cloud(normal(2, 2, "x")), step_size=0.1), 10)
    assert len(calls) == order * (order - 1) + (10 - (order - 1))


@pytest.mark.parametrize("order", [2, 3, 4])
def test_adams_remembers_one_velocity_less_than_its_order(order):
    """As many as there were until then, the latest first, and then their times."""
    x, h = normal(3, 2, "x"), 0.25
    process = Evolve(Analytic(lambda t, x: 0 * x + t), AdamsBashforth(order), Cloud(x), step_size=h)
    state = process.init()
    for k in range(6):
        state, _ = process.step(state)
        times = [h * j for j in range(k, max(-1, k - order + 1), -1)]
        assert state.memory[-1].tolist() == times
        assert [part.flatten().unique().tolist() for part in state.memory[:-1]] == [[time] for time in times]


@pytest.mark.parametrize("stepper", ALL.values(), ids=list(ALL))
def test_what_is_measured_is_measured_at_the_beginning(stepper):
    """At the first step and at later ones, which have a past: the kinetic energy of x' = −(1 + t) x is that of x at t."""
    process = Evolve(Analytic(lambda t, x: -(1 + t) * x), stepper, Cloud(normal(4, 3, "x")), step_size=0.1)
    state = process.init()
    for _ in range(5):
        energy = (1 + state.t) ** 2 * float(state.cloud.x.square().sum(1).mean()) / 2
        state, info = process.step(state)
        assert float(info["kinetic_energy"]) == pytest.approx(energy, rel=1e-12)


@pytest.mark.parametrize("name", STEPPERS)
def test_memories_are_double(name):
    """They are times and sizes, which single precision would tell wrongly after 10⁷ steps; the particles keep their own type."""
    flow = Analytic(lambda t, x: -x, lambda x: x.square().sum(1) / 2)
    process = Evolve(flow, make("stepper", name, STEPPERS), Cloud(normal(4, 3, "x").float()), step_size=0.1)
    state = process.init()
    for _ in range(2):
        assert all(isinstance(part, torch.Tensor) for part in state.memory)
        assert {part.dtype for part in state.memory if part.shape != state.cloud.x.shape} <= {DOUBLE}
        state, _ = process.step(state)
    assert state.cloud.x.dtype == torch.float32


def test_names_of_orders():
    named = {"euler": 1, "heun": 2, "rk4": 4, "ab2": 2, "ab3": 3, "ab4": 4, "adaptive": 3, "proximal": 1}
    assert {name: make("stepper", name, STEPPERS).order for name in STEPPERS} == named


def test_bad_settings_of_steppers():
    with pytest.raises(ValueError, match="order must be 2, 3 or 4, not 5"):
        AdamsBashforth(5)
    for tolerance in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="tolerance must be a length"):
            Adaptive(tolerance)


def adaptive_run(formula, tolerance, x, step_size, steps, **settings):
    store = Memory()
    process = Evolve(Analytic(formula), Adaptive(tolerance), Cloud(x, **settings), step_size=step_size)
    end = simulate(process, steps, store)
    return end, store.rows[1:]


def test_adaptive_error_is_proportional_to_the_tolerance():
    x = normal(5, 2, "x")
    tolerances, errors = 10.0 ** -np.arange(3, 8), []
    for tolerance in tolerances:
        end, rows = adaptive_run(rotating, tolerance, x, 1.0, 2)
        errors.append(float((end.cloud.x - rotated(x, 2.0)).norm(dim=1).max()))
        assert end.t == 2.0
        assert max(row["error"] for row in rows) <= tolerance
    slopes = np.diff(np.log10(errors)) / np.diff(np.log10(tolerances))
    np.testing.assert_allclose(slopes, 1, atol=0.2)


def test_adaptive_estimate_by_hand():
    """For x' = −x the solutions are 1 − h + h²/2 − h³/6 and 1 − h (7/24 k1 + k2/4 + k3/3 + k4/8) in units of x."""
    h = 0.1
    x = torch.tensor([[3.0, 4.0], [0.5, 0.0]], dtype=DOUBLE)
    end, (row,) = adaptive_run(lambda t, x: -x, 1.0, x, h, 1)
    third = 1 - h + h**2 / 2 - h**3 / 6
    k2 = 1 - h / 2
    k3 = 1 - 3 / 4 * h * k2
    second = 1 - h * (7 / 24 + k2 / 4 + k3 / 3 + third / 8)
    torch.testing.assert_close(end.cloud.x, third * x)
    midpoint = 1 - h * k2
    assert row["error"] == pytest.approx(5 * max(abs(third - second), abs(third - midpoint) / 8), rel=1e-10)
    assert (row["substeps"], row["rejected"]) == (1, 0)
    assert float(end.memory[0]) == pytest.approx(5 * h)  # the most that a size grows


def test_adaptive_estimate_of_a_quadrature():
    """The solution of order 2 misses h³ / 24 of the integral of t², wherever it begins; the midpoint rule an eighth of h³ / 12 alone."""
    _, rows = adaptive_run(lambda t, x: 0 * x + t**2, 1.0, torch.zeros(2, 1, dtype=DOUBLE), 0.5, 3)
    np.testing.assert_allclose([row["error"] for row in rows], 0.5**3 / 24, rtol=1e-10)


@pytest.mark.parametrize(
    ("planned", "h", "then"), [(0.4, 0.85, 0.4), (0.3, 0.2, 0.4), (0.42, 0.42, 0.4), (0.01, 0.01, 0.05)]
)
def test_adaptive_plans_what_the_error_asks_for(planned, h, then):
    """With errors of h³ / 24 every substep asks for 0.9 (24 tolerance)^(1/3) next, here 0.4, or for the most that a size grows.

    That the end of the step cuts one short, here to 0.05 and to 0.2, does not make the next one smaller.
    """
    stepper, x = Adaptive((0.4 / 0.9) ** 3 / 24), Cloud(torch.zeros(2, 1, dtype=DOUBLE))
    flow = Analytic(lambda t, x: 0 * x + t**2)
    _, (size,), _ = stepper.step(flow, 0.0, h, x, (torch.tensor(planned, dtype=DOUBLE),), Key.of(0))
    assert float(size) == pytest.approx(then)


def test_a_thousandth_is_the_error_unless_told():
    assert Adaptive().tolerance == 1e-3


def test_adaptive_accepts_an_error_of_just_the_tolerance():
    x = Cloud(normal(3, 2, "x"))
    _, _, info = Adaptive(1.0).step(Analytic(rotating), 0.0, 0.5, x, Adaptive(1.0).init(), Key.of(0))
    stepper = Adaptive(info["error"])
    _, _, again = stepper.step(Analytic(rotating), 0.0, 0.5, x, stepper.init(), Key.of(0))
    assert (again["substeps"], again["rejected"], again["error"]) == (1, 0, info["error"])


def test_adaptive_sees_its_error_where_the_pair_is_blind():
    """For x' = −x the pair's two solutions agree at h = 1, where both are far from e⁻¹."""
    x = normal(5, 2, "x")
    end, (row,) = adaptive_run(lambda t, x: -x, 1e-3, x, 1.0, 1)
    assert row["rejected"] > 0
    assert float((end.cloud.x - math.exp(-1) * x).norm(dim=1).max()) < 3e-3


def test_adaptive_takes_small_substeps_where_they_are_needed():
    """A pull that is strong until t = 1/2: nearly all substeps are there."""
    x = normal(5, 2, "x")
    end, rows = adaptive_run(lambda t, x: -(100 if t < 0.5 else 1) * (x - 1), 1e-5, x, 0.5, 4)
    substeps = [row["substeps"] for row in rows]
    assert substeps[0] > 5 * max(substeps[2:])
    assert rows[0]["rejected"] > 0
    still = (x - 1) * math.exp(-50 - 1.5)
    torch.testing.assert_close(end.cloud.x, 1 + still, rtol=0, atol=1e-4)


def test_rejected_substeps_leave_no_trace():
    """A step begun with a size that is rejected once, and one begun with the size that is tried next."""
    x = Cloud(normal(5, 2, "x"))
    flow, stepper, key = Analytic(rotating), Adaptive(1e-5), Key.of(0)
    a, memory, info = stepper.step(flow, 0.0, 0.3, x, stepper.init(), key)
    assert info["rejected"] > 0
    sizes = []

    class Spy(Analytic):
        def steer(self, number):
            sizes.append(float(number))
            return float(number)

    stepper.step(Spy(rotating), 0.0, 0.3, x, stepper.init(), key)
    size = 0.3
    for error in sizes[: int(info["rejected"])]:
        assert error > 1e-5
        size *= max(0.2, 0.9 * (1e-5 / error) ** (1 / 3))
    b, again, other = stepper.step(flow, 0.0, 0.3, x, (torch.tensor(size, dtype=DOUBLE),), key)
    assert other["rejected"] == 0
    assert torch.equal(a.x, b.x)
    assert torch.equal(memory[0], again[0])


def test_adaptive_takes_four_velocities_and_then_three():
    """The last one of a substep is the first of the next one, also where a substep was rejected."""
    calls = []

    def counting(t, x):
        calls.append(t)
        return rotating(t, x)

    _, (row,) = adaptive_run(counting, 1e-5, normal(5, 2, "x"), 0.5, 1)
    assert row["rejected"] > 0
    assert len(calls) == 1 + 3 * (row["substeps"] + row["rejected"])


def test_adaptive_ends_at_jumps():
    """A velocity that jumps is no smoother in small substeps: the smallest one is accepted, and its error says so."""
    x = torch.tensor([[0.3]], dtype=DOUBLE)
    end, (row,) = adaptive_run(lambda t, x: -x.sign(), 1e-9, x, 1.0, 1)
    assert row["error"] > 1e-9
    assert row["substeps"] <= 1000
    assert abs(float(end.cloud.x)) <= 1e-3


def test_adaptive_takes_a_thousand_substeps_where_none_is_small_enough():
    """Of one size, each accepted as it is: a velocity that is another one at every stage."""
    signs = itertools.cycle((1, 1, -1))
    _, (row,) = adaptive_run(lambda t, x: 0 * x + next(signs), 1e-9, normal(2, 2, "x"), 1.0, 1)
    assert row["substeps"] == 1000


def test_what_rounding_leaves_over_is_no_substep():
    stepper, x, h = Adaptive(1.0), Cloud(normal(5, 2, "x")), 0.3
    for size in (h, h * (1 - 1e-12), h * (1 + 1e-12), 2 * h):
        _, _, info = stepper.step(Analytic(rotating), 0.0, h, x, (torch.tensor(size, dtype=DOUBLE),), Key.of(0))
        assert info["substeps"] == 1


def test_adaptive_rests_where_nothing_moves():
    """Without an error the next substep is five times as long, the most that one grows."""
    end, (row,) = adaptive_run(lambda t, x: 0 * x, 1e-9, normal(2, 2, "x"), 0.5, 1)
    assert (row["error"], row["substeps"], row["rejected"]) == (0, 1, 0)
    assert float(end.memory[0]) == 2.5


@pytest.mark.parametrize("end", [0.1, 0.5])
def test_adaptive_asks_for_nothing_more_after_a_number_that_is_not_finite(end):
    """Whether it comes with the first substep, which others would follow, or with a later one."""
    times = []

    def breaking(t, x):
        times.append(t)
        return (x if t < end else x / 0) - 0.1

    stepper, x = Adaptive(1.0), Cloud(torch.zeros(3, 1, dtype=DOUBLE))
    _, _, info = stepper.step(Analytic(breaking), 0.0, 1.0, x, (torch.tensor(0.2, dtype=DOUBLE),), Key.of(0))
    assert not math.isfinite(info["error"])
    assert sum(t >= end for t in times) <= 3  # the stages of one substep


def test_adaptive_ends_at_numbers_that_are_not_finite():
    with pytest.raises(Diverged, match="error is nan"):
        adaptive_run(lambda t, x: x / (t < 0.5), 1e-3, torch.zeros(1, 1, dtype=DOUBLE), 1.0, 1)


def test_riders_have_no_say_in_the_error():
    x, far = normal(5, 2, "x"), 100 * normal(3, 2, "far")
    alone, rows = adaptive_run(rotating, 1e-4, x, 1.0, 2)
    among, others = adaptive_run(rotating, 1e-4, torch.cat((x, far)), 1.0, 2, carried=3)
    assert torch.equal(alone.cloud.x, among.cloud.active.x)
    assert torch.equal(alone.memory[0], among.memory[0])
    for name in ("substeps", "rejected", "error"):
        assert [row[name] for row in rows] == [row[name] for row in others]


def grid(side, step):
    ticks = step * torch.arange(side, dtype=DOUBLE)
    return Cloud(torch.cartesian_prod(ticks, ticks))


def test_cfl_of_a_grid():
    assert cfl(grid(12, 0.25), 2.0) == pytest.approx(0.125)
    assert cfl(grid(12, 0.25), 2.0, size=7) == pytest.approx(0.125)  # their nearest ones are looked for among all
    assert spacing(grid(12, 0.25)) == pytest.approx(0.25)


def test_cfl_beyond_all_numbers():
    """A spacing of 1 over the smallest of numbers is no step size."""
    with pytest.raises(ValueError, match="lipschitz is too small"):
        cfl(Cloud(torch.tensor([[0.0], [1.0]])), 5e-324)


def test_cfl_counts_points_at_one_place_once():
    x = grid(5, 0.5).x
    assert cfl(Cloud(torch.cat((x, x, x))), 1.0) == pytest.approx(0.5)
    assert spacing(Cloud(torch.cat((x, x)))) == 0


def test_cfl_of_two_points():
    assert cfl(Cloud(torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=DOUBLE)), 2.0) == 2.5


def test_cfl_of_a_part_of_the_points():
    """One point of {0, 1, 10} has its nearest other one at a distance of 1 or 9, whichever the key chooses."""
    target = Cloud(torch.tensor([[0.0], [1.0], [10.0]], dtype=DOUBLE))
    assert {cfl(target, 1.0, size=1, key=Key.of(seed)) for seed in range(20)} == {1, 9}
    assert {cfl(target, 1.0, key=Key.of(seed)) for seed in range(20)} == {1}


def test_bad_settings_of_cfl():
    for lipschitz in (math.inf, math.nan, 0.0):
        with pytest.raises(ValueError, match="without a finite, positive lipschitz no step size bounds the way"):
            cfl(grid(3, 1.0), lipschitz)
    with pytest.raises(ValueError, match="all target points are at one place"):
        cfl(Cloud(torch.ones(4, 2)), 1.0)


def test_stages_share_the_key():
    keys = []

    class Spy(Analytic):
        def velocity(self, t, cloud, key):
            keys.append((t, key))
            return super().velocity(t, cloud, key)

    simulate(Evolve(Spy(lambda t, x: -x), heun(), Cloud(normal(2, 2, "x")), step_size=0.5), 2)
    assert [t for t, _ in keys] == [0, 0.5, 0.5, 1.0]
    assert keys[0][1] == keys[1][1] != keys[2][1] == keys[3][1]


def test_step_size_decays_and_its_sum_grows_without_bound():
    process = Evolve(
        Analytic(lambda t, x: 0 * x + 1), Euler(), Cloud(torch.zeros(1, 1, dtype=DOUBLE)), step_size=0.5, decay=4
    )
    state, sizes = process.init(), []
    for _ in range(100):
        state, info = process.step(state)
        sizes.append(info["step_size"])
    assert sizes[4] == 0.25
    np.testing.assert_allclose(sizes, [0.5 / (1 + k / 4) for k in range(100)])
    assert state.t == pytest.approx(sum(sizes))
    assert float(state.cloud.x) == pytest.approx(sum(sizes))
    assert state.t > 4 * 0.5 * math.log(1 + 100 / 4)


def test_max_speed_is_displacement_over_time():
    process = Evolve(Analytic(lambda t, x: x), Euler(), Cloud(torch.tensor([[3.0, 4.0], [1.0, 0.0]])), step_size=0.2)
    assert float(process.step(process.init())[1]["max_speed"]) == pytest.approx(5)


@pytest.mark.parametrize(
    "settings", [{"step_size": 0}, {"step_size": -1}, {"step_size": math.nan}, {"step_size": 1, "decay": 0}]
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match="must be positive"):
        Evolve(Analytic(lambda t, x: x), Euler(), Cloud(torch.zeros(1, 1)), key=Key.of(0), **settings)
