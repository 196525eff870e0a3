"""Numbers that are no numbers end a run in the step in which they arise, with its last good state saved and a way on."""

import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from particles.cli import main
from test_laws import FLOW_SETTINGS, SMALL

from particles import (
    Cloud,
    Diverged,
    Euler,
    Gaussian,
    Key,
    Memory,
    SinkhornKantorovich,
    TransportPotential,
    mmd,
    simulate,
    w2,
)
from particles.data.export import write
from particles.divergences import W1
from particles.experiment.build import build
from particles.experiment.specification import Specification
from particles.flows.gradient import GradientFlow
from particles.names import DIVERGENCES, find
from particles.networks.dense import DenseNetwork
from particles.pairwise import exact as solvers
from particles.pairwise.exact import Unsolved, network_simplex
from particles.potentials.kantorovich import ExactKantorovich
from particles.potentials.kernel import _Dual
from particles.potentials.neural import NeuralPotential
from particles.potentials.stacked import StackedPotential
from particles.potentials.transport import Problem
from particles.proximal.training import Train
from particles.run.process import Evolve
from particles.run.store import RunError

pytestmark = pytest.mark.slow

BAD = 6
"""The step into which something is put that is no number."""
MOVED = [flow for flow in FLOW_SETTINGS if FLOW_SETTINGS[flow]["flow"] != "proximal"]
TRAINED = ["proximal", "proximal, all"]
CURES = ("smaller step_size or lipschitz", "divergence alpha", "larger epsilon or bandwidth", "dtype float64")


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def started(flow, path=None, **more):
    settings = SMALL | FLOW_SETTINGS[flow] | {"steps": 10, "checkpoint_every": 4, "metric_every": 10} | more
    simulation = build(Specification(**settings))
    if flow == "w2, neural":
        simulation.process.flow.potential.warmup = 20
    store = Memory() if path is None else simulation.store(Path(path))
    return simulation, store


def go(simulation, store, stop=None):
    return simulate(simulation.process, stop or simulation.spec.steps, store, simulation.observers)


def last_good(flow, step, **more):
    """The file of the particles after a step."""
    simulation, store = started(flow, **more)
    end = go(simulation, store, step) if step else simulation.process.init()
    write(simulation.schema, end.cloud.active, Path("good.csv"))
    return Path("good.csv").read_bytes()


def spoil(process, change, at=BAD):
    """Lets a process change what it is about to answer in one of its steps."""
    step = process.step

    def spoilt(state):
        after, info = step(state)
        return change(after, dict(info)) if after.k == at else (after, info)

    process.step = spoilt


def check(error, flow, quantity, folder="run", step=BAD, **more):
    message = str(error.value)
    assert message.startswith(f"step {step}")
    assert quantity in message
    assert message.endswith("; the last good particles are saved")
    assert (Path(folder) / "diverged.csv").read_bytes() == last_good(flow, step - 1, **more)


def goes_on(flow, folder="run", **more):
    """What was put in is gone: the run is gone on with, and is the one that nothing was put into, bit for bit."""
    simulation, store = started(flow, folder, **more)
    end = go(simulation, store)
    whole = go(*started(flow, **more))
    assert torch.equal(end.cloud.x, whole.cloud.x)
    assert not (Path(folder) / "diverged.csv").exists()


# Particles


@pytest.mark.parametrize("flow", MOVED)
@pytest.mark.parametrize(("whose", "value"), [("particle", math.nan), ("carried", math.inf)])
def test_one_velocity_that_is_no_number(monkeypatch, flow, value, whose):
    """Of twenty particles or three carried ones, at one coordinate; rows are written every fourth step, and it is noticed at once."""
    more = {"carried": 3, "log_every": 4, "metric_every": 12, "snapshot_every": 4}
    simulation, store = started(flow, "run", **more)
    process = simulation.process
    whole = type(process.flow).velocity

    def velocity(self, t, cloud, key):
        found, info = whole(self, t, cloud, key)
        if now[0] == BAD - 1:
            found = found.clone()
            found[-2 if whose == "carried" else len(found) // 3, 1] = value
        return found, info

    now, step = [0], process.step

    def counted(state):
        now[0] = state.k
        return step(state)

    process.step = counted
    with monkeypatch.context() as patch:
        patch.setattr(type(process.flow), "velocity", velocity)
        with pytest.raises(Diverged) as error:
            go(simulation, store)
    check(error, flow, "max_speed is ", **more)
    for cure in CURES:
        assert cure in str(error.value)
    goes_on(flow, **more)


@pytest.mark.parametrize("stepper", ["euler", "heun", "rk4", "ab2", "ab4", "adaptive", "proximal"])
@pytest.mark.parametrize("mode", ["implicit", "semi-implicit"])
@pytest.mark.parametrize("call", [0, 1, 2])
def test_one_gradient_at_any_stage(monkeypatch, stepper, mode, call):
    """Of one particle, in the first, second or third gradient of a step: no stepper steps over it."""
    if stepper != "proximal" and mode != "implicit":
        pytest.skip("modes are of the stepper proximal")
    if call >= {"euler": 1, "ab2": 1, "ab4": 1, "heun": 2, "proximal": 2 if mode == "implicit" else 3}.get(stepper, 3):
        pytest.skip("no such gradient in a step, or one that chooses a length of step alone")
    more = {"stepper": stepper, "mode": mode, "lipschitz": 0.5}
    simulation, store = started("kernel", "run", **more)
    process, gradient, step = simulation.process, type(simulation.process.flow.potential).grad, simulation.process.step
    seen = [0, 0]

    def counted(state):
        seen[:] = [state.k, 0]
        return step(state)

    def spoilt(self, cloud):
        found = gradient(self, cloud)
        if seen[0] == BAD - 1:
            if seen[1] == call:
                found = found.clone()
                found[3, 0] = math.nan
            seen[1] += 1
        return found

    process.step = counted
    with monkeypatch.context() as patch:
        patch.setattr(type(process.flow.potential), "grad", spoilt)
        with pytest.raises(Diverged) as error:
            go(simulation, store)
    assert seen[1] > call
    check(error, "kernel", " is ", **more)


def test_a_first_cloud_that_is_no_cloud():
    """A source that no run can begin with is refused before anything is written."""
    simulation, store = started("transport", "run")
    x = simulation.process.source.x.clone()
    x[5, 1] = math.nan
    simulation.process.source = Cloud(x)
    with pytest.raises(RunError, match="the run cannot begin: 1 of 20 points are not finite"):
        go(simulation, store)
    assert not Path("run/series.csv").exists()


# What potentials measure, and what they are made of


@pytest.mark.parametrize(("flow", "value"), [*((flow, math.nan) for flow in FLOW_SETTINGS), ("transport", -math.inf)])
def test_a_divergence_that_is_no_number(flow, value):
    at = min(BAD, 3) if flow == "proximal" else BAD
    more = {"time_steps": 12} if "alpha" in FLOW_SETTINGS[flow] else {}
    simulation, store = started(flow, "run", **more)
    spoil(simulation.process, lambda state, info: (state, info | {"divergence": value}), at)
    with pytest.raises(Diverged) as error:
        go(simulation, store)
    message = str(error.value)
    assert message.startswith(f"step {at} is not finite: divergence is {value}; a smaller step_size or lipschitz")
    assert np.isfinite(pd.read_csv("run/diverged.csv").to_numpy()).all()
    if flow not in TRAINED:
        check(error, flow, "divergence", step=at, **more)
    goes_on(flow, **more)


@pytest.mark.parametrize("flow", ["lipschitz", "w2, neural"])
def test_weights_that_are_no_numbers(flow):
    """One weight of a discriminator: every particle sees it in that step."""
    simulation, store = started(flow, "run")
    network, fit = simulation.process.flow.potential.network, simulation.process.flow.potential.fit

    def spoilt(p, q, key):
        if spoilt.fits == BAD - 1:
            with torch.no_grad():
                next(iter(network.parameters()))[0, 0] = math.nan
        spoilt.fits += 1
        return fit(p, q, key)

    spoilt.fits = 0
    simulation.process.flow.potential.fit = spoilt
    with pytest.raises(Diverged) as error:
        go(simulation, store)
    check(error, flow, "non-finite values" if flow == "lipschitz" else "divergence is nan")
    if flow == "lipschitz":
        goes_on(flow)


@pytest.mark.parametrize("flow", ["transport", "w2, sinkhorn", "proximal, transport", "kernel", "kale", "mmd", "w2"])
def test_duals_that_are_no_numbers(monkeypatch, flow):
    """One dual value, coefficient or image of all: it is in what all particles go down, or in what one does."""
    at = 1 if flow.startswith("proximal") else BAD
    simulation, store = started(flow, "run")
    fits = [0]

    def spoiling(method, place):
        def spoilt(self, *given, **more):
            found = method(self, *given, **more)
            fits[0] += 1
            return place(found) if fits[0] >= at else found

        return spoilt

    def in_duals(found):
        found[1][3] = math.nan
        return found

    def in_theta(found):
        found[0][3] = math.nan
        return found

    def in_images(found):
        simulation.process.flow.potential.images[3] = math.nan
        return found

    kind, name, place = {
        "w2": (ExactKantorovich, "fit", in_images),
        "kernel": (_Dual, "maximise", in_theta),
        "kale": (_Dual, "maximise", in_theta),
        "mmd": (_Dual, "maximise", in_theta),
    }.get(flow, (Problem, "solve", in_duals))
    with monkeypatch.context() as patch:
        patch.setattr(kind, name, spoiling(getattr(kind, name), place))
        if flow in ("transport", "kernel"):  # several solutions per step: those of the step alone
            step, calls = simulation.process.step, fits

            def counted(state):
                calls[0] = -1000 if state.k < at - 1 else at
                return step(state)

            simulation.process.step = counted
        with pytest.raises(Diverged) as error:
            go(simulation, store)
    check(error, flow, " is ", step=int(str(error.value).split()[1].strip(":")))
    assert str(error.value).startswith(f"step {at} ")
    goes_on(flow)


@pytest.mark.parametrize("flow", ["kernel", "kale"])
def test_a_singular_kernel_matrix(monkeypatch, flow):
    """Equations without a solution are said to be that, with the step and what may help; not a traceback of LAPACK."""
    simulation, store = started(flow, "run")
    step, whole, now = simulation.process.step, _Dual._newton, [0]

    def counted(state):
        now[0] = state.k
        return step(state)

    def singular(self, error, density, price):
        if now[0] == BAD - 1:
            torch.linalg.cholesky(-torch.eye(3))
        return whole(self, error, density, price)

    simulation.process.step = counted
    with monkeypatch.context() as patch:
        patch.setattr(_Dual, "_newton", singular)
        with pytest.raises(Diverged) as error:
            go(simulation, store)
    check(error, flow, "its equations have no solution (linalg.cholesky")
    assert "larger epsilon or bandwidth" in str(error.value)
    goes_on(flow)


@pytest.mark.parametrize("failure", [OverflowError("math range error"), ZeroDivisionError("float division by zero")])
def test_arithmetic_that_fails_in_python(failure):
    simulation, store = started("transport", "run")
    fit = simulation.process.flow.potential.fit

    def failing(p, q, key):
        if simulation.process.flow.potential.fits == BAD - 1:
            raise failure
        return fit(p, q, key)

    simulation.process.flow.potential.fit = failing
    with pytest.raises(Diverged) as error:
        go(simulation, store)
    check(error, "transport", f"its equations have no solution ({failure})")
    goes_on("transport")


# The learnt flow


@pytest.mark.parametrize("flow", TRAINED)
def test_weights_of_the_flow_stay_those_of_the_last_good_step(monkeypatch, flow):
    """Finite gradients and weights that are none after the step: the flow is left as it was."""
    simulation, store = started(flow, "run")
    process = simulation.process
    assert isinstance(process, Train)
    step, now = process.step, [0]

    def counted(state):
        now[0] = state.k
        return step(state)

    def ascend(gradients):
        whole(gradients)
        if now[0] == 2:
            with torch.no_grad():
                process.weights[0][0, 0] = math.inf

    whole = process.optimizer.ascend
    process.optimizer.ascend = ascend
    process.step = counted
    with pytest.raises(Diverged) as error:
        go(simulation, store)
    check(error, flow, "the weights of the flow are not finite; a smaller learning_rate may help", step=3)
    goes_on(flow)


@pytest.mark.parametrize("flow", TRAINED)
def test_a_way_that_is_not_finite_is_not_shown(flow):
    """Weights that are finite, and take points beyond all numbers: seen as soon as points are taken along."""
    simulation, store = started(flow, "run", log_every=2, metric_every=10)
    process = simulation.process
    step = process.step

    def huge(state):
        after, info = step(state)
        if after.k == 4:
            with torch.no_grad():
                process.flow.networks[-1].slant.fill_(1e38)
                process.flow.networks[-1].bend.fill_(1e38)
        return after, info

    process.step = huge
    with pytest.raises(Diverged, match=r"^step 4: 20 of 20 points are not finite; a smaller step_size"):
        go(simulation, store)
    good = Path("run/diverged.csv").read_bytes()  # of the last row, as the way of step 3 is none
    assert good == last_good(flow, 2, log_every=2, metric_every=10)


# What looks on, and what others solve


def test_a_distance_that_is_not_found_ends_no_run(monkeypatch, caplog):
    monkeypatch.setattr(solvers, "ITERATIONS", 1)
    simulation, store = started("transport", "run", log_every=1, metric_every=1)
    with caplog.at_level(logging.WARNING, "particles"):
        go(simulation, store)
    assert "step 0 has no w2: the transport problem of 20 and 40 points was not solved (numItermax" in caplog.text
    assert store.rows[-1]["step"] == 10
    assert all("w2" not in row for row in store.rows)


def test_a_plan_that_is_not_found_ends_the_run(monkeypatch):
    """POT gives up with a plan that has too little mass and too low a price."""
    simulation, store = started("w2", "run")
    step = simulation.process.step

    def few(state):
        monkeypatch.setattr(solvers, "ITERATIONS", 1 if state.k == BAD - 1 else 10**7)
        return step(state)

    simulation.process.step = few
    with pytest.raises(Diverged) as error:
        go(simulation, store)
    monkeypatch.setattr(solvers, "ITERATIONS", 10**7)
    check(
        error, "w2", "the transport problem of 20 and 40 points was not solved (numItermax reached before optimality)"
    )
    goes_on("w2")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_costs_that_are_no_numbers_have_no_plan(value):
    """POT answers 0 for the most part: no distance at all."""
    costs = np.ones((4, 4))
    costs[1, 2] = value
    with pytest.raises(Unsolved, match="squared distances are not finite"):
        network_simplex(np.full(4, 0.25), np.full(4, 0.25), costs)
    with pytest.raises(ValueError, match="not finite in double precision"):
        w2(Cloud(torch.full((3, 2), 1e200, dtype=torch.double)), Cloud(torch.zeros(3, 2, dtype=torch.double)))


# Commands


def invoke(*words, code):
    found = CliRunner().invoke(main, list(map(str, words)))
    assert found.exit_code == code, found.output
    assert found.exception is None or isinstance(found.exception, SystemExit)
    return found.stderr.strip().splitlines()


def nan_from(call):
    """A gradient that has one NaN from its so-manieth call on."""

    def spoilt(self, cloud):
        found = whole(self, cloud)
        spoilt.calls += 1
        if spoilt.calls >= call:
            found = found.clone()
            found[0, 0] = math.nan
        return found

    whole = NeuralPotential.grad
    spoilt.calls = 0
    return spoilt


QUICK = ("-n", 20, "--target-size", 40, "--network", "8,8", "--inner-steps", 2, "--steps", 10, "--no-figure", "-q")


def test_simulate_and_resume(monkeypatch):
    words = ("simulate", "--target", "moons", *QUICK, "--checkpoint-every", 2)
    invoke(*words, "-o", "whole", code=0)
    with monkeypatch.context() as patch:
        patch.setattr(NeuralPotential, "grad", nan_from(6))
        *_, sentence = invoke(*words, "-o", "run", code=3)
    assert sentence.startswith(
        "Diverged: step 6 is not finite: kinetic_energy is nan; a smaller --step-size or lipschitz"
    )
    assert sentence.endswith("the last good particles are saved in run/diverged.csv.")
    invoke("simulate", "--target", "moons", *QUICK, "--steps", 5, "-o", "five", code=0)
    assert Path("run/diverged.csv").read_bytes() == Path("five/particles.csv").read_bytes()
    invoke("simulate", "--resume", "run", "--no-figure", "-q", code=0)
    assert Path("run/particles.csv").read_bytes() == Path("whole/particles.csv").read_bytes()
    assert not Path("run/diverged.csv").exists()


def test_compare(monkeypatch):
    monkeypatch.setattr(NeuralPotential, "grad", nan_from(6))
    words = ("compare", "--flows", "mmd,lipschitz,w2", "--target", "moons", *QUICK, "-o", "out")
    (sentence,) = invoke(*words, code=3)
    assert sentence.startswith("lipschitz diverged: step 6 is not finite: kinetic_energy is nan; ")
    assert sentence.endswith("in out/lipschitz/diverged.csv.")
    table = pd.read_csv("out/comparison.csv").set_index("flow")
    assert table.loc["lipschitz"].isna().all()
    assert table.loc[["mmd", "w2"]].w2_target.notna().all()


def test_transport_of_points_that_do_not_stay(monkeypatch):
    invoke("simulate", "--target", "moons", *QUICK, "--record", "-o", "run", code=0)
    pd.read_csv("run/particles.csv").head(3).to_csv("new.csv", index=False)
    monkeypatch.setattr(NeuralPotential, "grad", nan_from(4))
    (sentence,) = invoke(
        "transport", "run", "-i", "new.csv", "-o", "moved.csv", "--trajectory", "paths.npy", "-q", code=3
    )
    assert sentence.startswith("Diverged: step 4: 1 of 3 points are not finite; a smaller --step-size")
    assert sentence.endswith("; nothing is written.")
    assert not Path("moved.csv").exists()
    assert not Path("paths.npy").exists()


def test_transport_along_a_learnt_flow_that_leads_nowhere():
    invoke("simulate", "--target", "moons", "--flow", "proximal", *QUICK, "-o", "run", code=0)
    saved = torch.load("run/checkpoint.pt", weights_only=True)
    saved["process"]["flow"]["networks"][0]["bend"].fill_(1e38)
    torch.save(saved, "run/checkpoint.pt")
    pd.read_csv("run/particles.csv").head(2).to_csv("new.csv", index=False)
    (sentence,) = invoke("transport", "run", "-i", "new.csv", "-o", "moved.csv", "-q", code=3)
    assert sentence.startswith("Diverged: step ")
    assert "points are not finite" in sentence
    assert not Path("moved.csv").exists()


def test_points_that_no_unit_can_hold(monkeypatch):
    """Finite in units of the flow, and none in those of the file: said, and not written as inf."""
    rows = np.array([1e25, 1.0]) * torch.randn(40, 2, generator=Key.of(0).generator(), dtype=torch.double).numpy()
    pd.DataFrame(rows, columns=["huge", "plain"]).to_csv("huge.csv", index=False)
    words = ("--target", "huge.csv", "-n", 20, "--steps", 10, "--no-figure", "-q")
    invoke("simulate", *words, "--flow", "w2", "-o", "well", code=0)
    *_, sentence = invoke("simulate", *words, "--flow", "w2", "--step-size", 1e4, "-o", "run", code=3)
    assert sentence.startswith("Diverged: step ")
    assert "column 'huge': " in sentence
    assert "points are too large to be written in its unit; a smaller --step-size" in sentence
    assert np.isfinite(np.load("run/trajectory.npy")).all()
    assert np.isfinite(pd.read_csv("run/diverged.csv").to_numpy()).all()


def test_augment(monkeypatch):
    """No rows are made of numbers that are none, and the message does not speak of what is saved nowhere."""
    x = torch.randn(60, 2, generator=Key.of(0).generator()).numpy()
    pd.DataFrame(x, columns=list("ab")).to_csv("data.csv", index=False)
    whole = StackedPotential.grad

    def spoilt(self, cloud):
        found = whole(self, cloud).clone()
        found[1, 1] = math.inf
        return found

    monkeypatch.setattr(StackedPotential, "grad", spoilt)
    (sentence,) = invoke(
        "augment", "data.csv", "--rows", 80, "--method", "flow", "--stop", 5, "--output", "out.csv", "-q", code=3
    )
    assert sentence.startswith("Diverged: step 1 is not finite: ")
    assert sentence.endswith("may help; nothing is written.")
    assert not Path("out.csv").exists()


# Why no gradient is clipped


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_what_goes_back_into_a_network_is_bounded(divergence):
    """The objective's derivative in the values of φ is a mass of one on either side, however large those values are."""
    found = find("divergence", divergence, DIVERGENCES)()
    q = Cloud(torch.zeros(50, 1, dtype=torch.double))
    for size in (1.0, 1e3, 1e6):
        values = size * torch.randn(50, generator=Key.of(1).generator(), dtype=torch.double)
        density = found.density(values, q)
        assert bool((density >= 0).all())
        assert float(q.mean(density)) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_the_optimiser_does_not_see_how_large_gradients_are(factor):
    """Adam's steps are those of gradients of any size: to clip their norm would change nothing but its memory."""
    ends = []
    for scale in (1.0, factor):
        network = DenseNetwork(2, (8, 8), math.inf, key=Key.of(0)).double()
        potential = NeuralPotential(W1(), network, learning_rate=1e-3)
        whole = potential.optimizer.ascend
        potential.optimizer.ascend = lambda gradients, whole=whole, scale=scale: whole([scale * g for g in gradients])
        p, q = (Cloud(torch.randn(30, 2, generator=Key.of(i).generator(), dtype=torch.double) + i) for i in (2, 3))
        flow = GradientFlow(potential, q)
        process = Evolve(flow, Euler(), p, step_size=0.1)
        ends.append(simulate(process, 20).cloud.x)
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-3)


def test_a_time_beyond_all_numbers_ends_a_run():
    """Though no particle moves: the field of MMD is 0 where the clouds are one point."""
    target = Cloud(torch.full((3, 1), 0.5, dtype=torch.double))
    process = Evolve(GradientFlow(mmd(Gaussian(1.0)), target), Euler(), target, step_size=1e308)
    with pytest.raises(
        Diverged, match=r"^step 2: the time is no number any more after steps of 1e\+308; choose a smaller step_size"
    ):
        simulate(process, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("potential", [TransportPotential(W1(), epsilon=1e-320), SinkhornKantorovich(epsilon=1e-320)])
def test_an_epsilon_without_an_inverse_is_refused(potential, dtype):
    cloud = Cloud(torch.arange(4, dtype=dtype)[:, None])
    with pytest.raises(ValueError, match=f"epsilon .* is too small for {str(dtype)[6:]}; scale the target"):
        potential.fit(cloud, cloud, Key.of(0))
