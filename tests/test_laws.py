"""Laws that every row of the tables in names.py obeys."""

import itertools
import math

import numpy as np
import pytest
import torch

from particles import Memory, Run, simulate
from particles.experiment.build import build
from particles.experiment.specification import Specification
from particles.names import DIVERGENCES, FLOWS, KERNELS, SOURCES, STEPPERS, choose, find, make

SMALL = {"target": "moons", "target_size": 40, "particles": 20, "network": (8, 8), "inner_steps": 2, "log_every": 2}


FLOW_SETTINGS = {
    "lipschitz": {"flow": "lipschitz"},
    "transport": {"flow": "transport"},
    "transport, all": {
        "flow": "transport",
        "radius": 0.0,
        "debias": False,
        "epsilon_start": 0.0,
        "divergence": "alpha",
    },
    "w2": {"flow": "w2"},
    "w2, sinkhorn": {"flow": "w2", "solver": "sinkhorn"},
    "w2, neural": {"flow": "w2", "solver": "neural", "batch_size": 8},
    "mmd": {"flow": "mmd"},
    "mmd, noise": {"flow": "mmd", "kernel": "gaussian", "noise": 0.5, "noise_halving": 3.0},
    "kale": {"flow": "kale"},
    "kernel": {"flow": "kernel"},
    "persistent potential": {"flow": "transport", "persistency": 4},
    "persistent minibatch": {"flow": "w2", "persistent": "minibatch", "minibatch": 7, "persistency": 3},
    "proximal": {"flow": "proximal", "batch_size": 15, "time_steps": 3},
    "proximal, all": {
        "flow": "proximal",
        "solver": "network",
        "power": 1.5,
        "noise": 0.1,
        "hj": 0.1,
        "terminal": 0.1,
        "stages": 2,
        "time_steps": 2,
        "learning_rate": 0.02,
    },
    "proximal, transport": {"flow": "proximal", "solver": "transport", "time_steps": 12, "alpha": 0.2},
    "proximal, plan": {"flow": "proximal", "solver": "plan", "time_steps": 12, "alpha": 0.2},
}


OTHERS = [name for name in STEPPERS if name != "euler"]
"""The steppers that are not crossed with every flow and divergence, but with a few that are unlike each other."""
FAST = {"euler", "heun", "kl", "lipschitz", "transport", "w2", "mmd"}
"""Four flows, two steppers and a divergence: a row with another one is slow."""


def row(*names):
    return pytest.param(*names, id="-".join(names), marks=[] if FAST.issuperset(names) else pytest.mark.slow)


STEPPERS_AND_DIVERGENCES = [
    *itertools.starmap(row, itertools.product(["euler"], DIVERGENCES)),
    *itertools.starmap(row, itertools.product(OTHERS, ["kl"])),
]
STEPPERS_AND_FLOWS = [
    *itertools.starmap(row, itertools.product(["euler"], FLOW_SETTINGS)),
    *itertools.starmap(row, itertools.product(OTHERS, ["lipschitz", "transport", "w2"])),
]
REACH = {"ab2": 2, "ab3": 11 / 3, "ab4": 20 / 3}
"""How many times as fast as the fastest velocity a step may be, where some weights of velocities are negative."""


def skip_if_refused(flow, label=None):
    if label and flow.get("solver") == "transport":
        pytest.skip("Hopf and Lax know no classes")


def run(path, stop, **settings):
    simulation = build(Specification(**SMALL | settings, steps=stop))
    return simulate(simulation.process, stop, simulation.store(path), simulation.observers)


def contents(path):
    return {
        name: (path / name).read_bytes() for name in ("series.csv", "trajectory.npy", "trajectory.csv", "particles.csv")
    }


@pytest.mark.parametrize(("stepper", "divergence"), STEPPERS_AND_DIVERGENCES)
@pytest.mark.parametrize("batch_size", [None, 8])
def test_a_run_in_two_parts_is_the_run(tmp_path, stepper, divergence, batch_size):
    in_two_parts(tmp_path, {"divergence": divergence, "stepper": stepper, "batch_size": batch_size})


@pytest.mark.parametrize(("stepper", "flow"), STEPPERS_AND_FLOWS)
def test_a_run_of_any_flow_in_two_parts_is_the_run(tmp_path, stepper, flow):
    in_two_parts(tmp_path, FLOW_SETTINGS[flow] | {"stepper": stepper})


def in_two_parts(tmp_path, settings):
    """To 12 at once; and to 12 by way of a run that was cut off after step 7 with its checkpoint at 5."""
    settings = settings | {"checkpoint_every": 5, "carried": 0 if settings.get("solver") == "plan" else 3}
    whole = run(tmp_path / "whole", 12, **settings)

    class Cut(Exception):
        pass

    simulation = build(Specification(**SMALL, **settings, steps=12))
    step = simulation.process.step

    def failing(state):
        if state.k == 7:
            raise Cut
        return step(state)

    simulation.process.step = failing
    with pytest.raises(Cut):
        simulate(simulation.process, 12, simulation.store(tmp_path / "parts"), simulation.observers)
    resumed = run(tmp_path / "parts", 12, **settings)
    assert torch.equal(whole.cloud.x, resumed.cloud.x)
    assert whole.t == resumed.t
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


@pytest.mark.parametrize(("stepper", "divergence"), STEPPERS_AND_DIVERGENCES)
def test_speed_limit_and_same_bits(tmp_path, stepper, divergence):
    """No particle is ever faster than L; the same seed gives the same bits, another one does not."""
    first = run(tmp_path / "a", 10, divergence=divergence, stepper=stepper, lipschitz=0.3)
    again = run(tmp_path / "b", 10, divergence=divergence, stepper=stepper, lipschitz=0.3)
    other = run(tmp_path / "c", 10, divergence=divergence, stepper=stepper, lipschitz=0.3, seed=1)
    assert torch.equal(first.cloud.x, again.cloud.x)
    assert not torch.equal(first.cloud.x, other.cloud.x)
    series = Run.open(tmp_path / "a").series
    assert series["max_gradient"].max() <= 0.3 * (1 + 1e-6)
    assert series["max_speed"].max() <= 0.3 * REACH.get(stepper, 1) * (1 + 1e-5)
    assert (series["kinetic_energy"].dropna() <= 0.3**2 / 2).all()
    assert series["kinetic_energy"].max() > 0


def test_every_flow_is_under_the_laws():
    assert {settings["flow"] for settings in FLOW_SETTINGS.values()} == set(FLOWS)


@pytest.mark.parametrize("flow", [row(name) for name in FLOW_SETTINGS])
@pytest.mark.parametrize("label", [None, "target"])
def test_any_flow_has_the_same_bits(flow, label):
    """The same seed gives the same particles; they move; nothing with a bound is faster than it."""
    flow = FLOW_SETTINGS[flow]
    skip_if_refused(flow, label)
    settings = SMALL | {"target": "wine", "label": label, "particles": 30, "lipschitz": 0.3} | flow
    ends, rows = [], []
    for _ in range(2):
        simulation, store = build(Specification(**settings)), Memory()
        ends.append(simulate(simulation.process, 6, store).cloud)
        rows.append(store.rows)
    assert torch.equal(ends[0].x, ends[1].x)
    assert rows[0] == rows[1]
    assert torch.isfinite(ends[0].x).all()
    assert float((ends[0].x - simulation.process.source.x).norm(dim=1).max()) > 1e-3
    if flow["flow"] in ("lipschitz", "kernel", "proximal") or not flow.get("debias", True):
        assert max(row.get("max_gradient", 0) for row in rows[0]) <= 0.3 * (1 + 1e-5)
    elif flow["flow"] == "transport":  # the difference of two such fields
        assert max(row.get("max_gradient", 0) for row in rows[0]) <= 0.6 * (1 + 1e-5)
    if "alpha" in flow:  # bounds the speed: L / α, at which far particles go
        assert max(row.get("max_speed", 0) for row in rows[0]) == pytest.approx(0.3 / 0.2, rel=1e-4)


@pytest.mark.parametrize("flow", [row(name) for name in FLOW_SETTINGS])
def test_who_looks_changes_no_flow(tmp_path, flow):
    """Whatever is logged, measured, saved and recorded on the way, the particles are the same bits."""
    flow = FLOW_SETTINGS[flow]
    seldom = build(Specification(**SMALL | flow | {"steps": 6, "log_every": 6, "metric_every": 6}))
    often = {"log_every": 1, "snapshot_every": 1, "metric_every": 1, "checkpoint_every": 1, "metric_size": 7}
    recorded = {"record": True} if flow["flow"] != "proximal" else {}
    end = simulate(seldom.process, 6).cloud
    watched = run(tmp_path / "often", 6, **flow | often | recorded)
    assert torch.equal(end.x, watched.cloud.x)


@pytest.mark.parametrize("flow", [row(name) for name in FLOW_SETTINGS])
@pytest.mark.parametrize("label", [None, "target"])
def test_carried_particles_influence_no_flow(flow, label):
    flow = FLOW_SETTINGS[flow]
    if flow.get("solver") == "plan":
        pytest.skip("the plan carries nothing")
    skip_if_refused(flow, label)
    settings = SMALL | {"target": "iris", "label": label} | flow
    alone, among = (build(Specification(**settings | {"carried": carried})) for carried in (0, 7))
    a, b = (simulate(simulation.process, 6).cloud for simulation in (alone, among))
    assert len(b) == len(a) + 7
    assert torch.equal(a.x, b.active.x)
    assert float((b.riders.x - among.process.source.riders.x).norm(dim=1).min()) > 0


@pytest.mark.parametrize("flow", [row(name) for name in FLOW_SETTINGS])
def test_carried_particles_go_where_particles_go_in_any_flow(flow):
    flow = FLOW_SETTINGS[flow]
    if "noise" in flow or "minibatch" in flow or flow.get("solver") == "plan":
        pytest.skip("riders draw their own noise, and move with every minibatch; the plan carries none")
    simulation = build(Specification(**SMALL | flow))
    source = simulation.process.source
    simulation.process.source = source.join(source.take(slice(0, 4)))
    end = simulate(simulation.process, 8).cloud
    torch.testing.assert_close(end.riders.x, end.active.x[:4], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stepper", [row(name) for name in STEPPERS])
@pytest.mark.parametrize("label", [None, "target"])
def test_carried_particles_influence_nothing(tmp_path, stepper, label):
    settings = {"stepper": stepper, "target": "iris", "label": label, "batch_size": 10}
    alone = build(Specification(**SMALL | settings))
    among = build(Specification(**SMALL | settings | {"carried": 7}))
    a, b = simulate(alone.process, 6).cloud, simulate(among.process, 6).cloud
    assert len(b) == len(a) + 7
    assert torch.equal(a.x, b.active.x)
    moved = b.riders.x - among.process.source.riders.x
    assert float(moved.norm(dim=1).min()) > 0


@pytest.mark.parametrize("stepper", [row(name) for name in STEPPERS])
def test_carried_particles_go_where_particles_go(stepper):
    """A rider that starts where a particle starts stays with it."""
    simulation = build(Specification(**SMALL, stepper=stepper))
    source = simulation.process.source
    simulation.process.source = source.join(source.take(slice(0, 4)))
    end = simulate(simulation.process, 10).cloud
    torch.testing.assert_close(end.riders.x, end.active.x[:4], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(SOURCES))
def test_sources_are_the_same_for_any_number_of_carried(name):
    few, many = (build(Specification(**SMALL, source=name, carried=c)).process.source for c in (2, 9))
    assert torch.equal(few.active.x, many.active.x)


def test_divergence_falls_at_the_rate_of_the_kinetic_energy():
    """dD/dt = −E‖∇φ‖² along the flow: with a well-fitted discriminator, small steps, far clouds."""
    settings = {"target_size": 100, "particles": 100, "source_std": 0.5, "network": (64, 64), "step_size": 0.05}
    simulation = build(Specification(target="4-gaussians", inner_steps=40, learning_rate=5e-3, **settings))
    store = Memory()
    simulate(simulation.process, 120, store)
    rows = store.rows[40:]  # the first fits are still warming up
    spent = np.cumsum([2 * row["kinetic_energy"] * row["step_size"] for row in rows])
    divergence = np.array([row["divergence"] for row in rows])
    early, late = slice(0, 30), slice(-30, None)  # means: a single fit is off by a tenth
    fall, energy = divergence[early].mean() - divergence[late].mean(), spent[late].mean() - spent[early].mean()
    assert fall == pytest.approx(energy, rel=0.15)


def test_class_shares_are_no_divergence():
    """W1 between labelled clouds whose shares are rounded: with free class constants it would climb for ever."""
    settings = {"target": "wine", "label": "target", "particles": 50, "divergence": "w1", "network": (16, 16)}
    simulation = build(Specification(**settings, steps=300))
    cloud, target = simulation.process.source, simulation.target
    for c in range(3):
        share = float((target.label == c).double().mean())
        assert float(cloud.mass[cloud.label == c].sum()) == pytest.approx(share, rel=1e-6)
    store = Memory(log_every=10)
    simulate(simulation.process, 300, store)
    late = [row["divergence"] for row in store.rows[15:]]
    assert np.polyfit(range(len(late)), late, 1)[0] < 1e-3  # no climb
    assert max(late) < 0.5


def test_a_class_without_particles_is_refused():
    with pytest.raises(ValueError, match="no particle of the class 2, which wine has"):
        build(Specification(target="wine", label="target", particles=2))


def test_a_folder_with_another_run_is_not_gone_on_with(tmp_path):
    run(tmp_path, 4)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for settings, name in (
        ({"lipschitz": 2.0}, "lipschitz"),
        ({"divergence": "w1"}, "divergence"),
        ({"scale": "global"}, "scale"),
    ):
        with pytest.raises(ValueError, match=f"was begun with {name} = "):
            run(tmp_path, 4, **settings)
    with pytest.raises(ValueError, match="the data of the target are not those"):
        run(tmp_path, 4, **{"seed": 0, "target": "circles"})
    with pytest.raises(ValueError, match="at step 4 already"):
        build(Specification(**SMALL, steps=2)).store(tmp_path)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_float64_on_request():
    end = simulate(build(Specification(**SMALL, dtype="float64")).process, 3).cloud
    assert end.x.dtype == torch.float64


def test_global_generators_are_left_alone():
    np_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    simulate(build(Specification(**SMALL, batch_size=5, carried=2)).process, 3)
    assert np.array_equal(np_before, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("table", "what"),
    [(DIVERGENCES, "divergence"), (STEPPERS, "stepper"), (SOURCES, "source"), (FLOWS, "flow"), (KERNELS, "kernel")],
)
def test_unknown_names_and_settings(table, what):
    first = next(iter(table))
    with pytest.raises(ValueError, match=f"unknown {what} '{first}x'; did you mean"):
        find(what, first + "x", table)
    with pytest.raises(ValueError, match="has no setting 'nonsense'"):
        make(what, first, table, nonsense=1)


def test_names_forgive_underscores_and_capitals():
    assert choose("divergence", "Reverse_KL", DIVERGENCES) == "reverse-kl"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_size": -0.5}, "step_size must be positive"),
        ({"step_size": math.inf}, "step_size must be finite"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"holdout": -0.1}, "holdout must be at least 0"),
        ({"holdout": math.nan}, "holdout must be at least 0"),
        ({"particles": 1}, "particles must be at least 2"),
        ({"order": 1.0, "divergence": "alpha"}, "order must be above 1"),
        ({"divergence": "klx"}, "did you mean kl"),
        ({"flow": "wasserstein"}, "unknown flow"),
        ({"solver": "exact"}, "solver exact is one of the flow w2"),
        ({"flow": "w2", "solver": "exakt"}, "did you mean exact"),
        ({"flow": "transport", "epsilon": 0.0}, "epsilon must be positive"),
        ({"flow": "transport", "epsilon": math.nan}, "epsilon must be positive"),
        ({"flow": "transport", "radius": -1.0}, "radius must be at least 0"),
        ({"flow": "mmd", "exponent": 2.0}, "exponent must be between 0 and 2"),
        ({"flow": "kale", "kernel": "riesz"}, "positive definite"),
        ({"flow": "kernel", "kernel": "laplacian"}, "no bounded slope"),
        ({"flow": "kale", "regularisation": 0.0}, "regularisation must be positive"),
        ({"minibatch": 5}, "belong together"),
        ({"persistent": "minibatch"}, "belong together"),
        ({"persistency": 0}, "persistency must be at least 1"),
        ({"noise": -1.0}, "noise must be at least 0"),
        ({"backend": "cuda"}, "unknown backend"),
        ({"log_every": 4, "snapshot_every": 6}, "multiple of log_every"),
    ],
)
def test_bad_specifications(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        build(Specification(**SMALL | settings)).store(tmp_path / "run")


def test_specification_survives_its_file(tmp_path):
    simulation = build(Specification(**SMALL, decay=math.inf, lipschitz=0.25, carried=1))
    simulation.store(tmp_path)
    loaded, noted = Specification.load(tmp_path / "spec.toml")
    assert loaded == simulation.spec
    assert noted["data"]["target_rows"] == 40
    assert noted["versions"]["torch"] == torch.__version__
