"""Time integrators and processes."""

import math

import numpy as np
import pytest
import torch
from problems import DOUBLE, Analytic, normal, rotated, rotating

from particles import Cloud, Euler, Evolve, Key, heun, simulate
from particles.names import STEPPERS, make
from particles.steppers.runge_kutta import HEUN

ALL = [make("stepper", name, STEPPERS) for name in STEPPERS]


@pytest.mark.parametrize("stepper", ALL, ids=list(STEPPERS))
def test_order_of_convergence(stepper):
    """The error at time 1 of a field that depends on time falls like h to the power of the order."""
    x = normal(5, 2, "x")
    errors = []
    for steps in (40, 80, 160):
        process = Evolve(Analytic(rotating), stepper, Cloud(x), step_size=1 / steps)
        end = simulate(process, steps).cloud.x
        errors.append(float((end - rotated(x, 1.0)).norm()))
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


def test_tableau_is_consistent():
    assert sum(HEUN.b) == 1
    assert [sum(row) for row in HEUN.a] == list(HEUN.c)
    assert sum(b * c for b, c in zip(HEUN.b, HEUN.c)) == 1 / 2


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
