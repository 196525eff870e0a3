"""The command line of steppers, step sizes and the flow proximal."""

import json
import logging
import os
import re
import signal
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from particles.cli import main
from scipy.spatial.distance import cdist

import particles as pt
from particles.experiment.build import build
from particles.plot.overview import figure
from particles.plot.panels import compare as draw_compare
from particles.run.folder import Folder

TINY = ["-n", "30", "--target-size", "40", "--steps", "6", "--network", "8,8", "--no-figure"]
SOLVERS = ["network", "transport", "plan"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder to be in, with some files."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"a": rng.normal(3, 2, 50), "b": rng.normal(-20, 30, 50)})
    data.to_csv("data.csv", index=False)
    data.assign(kind=["u", "v"] * 25).to_csv("labelled.csv", index=False)
    return tmp_path


def run(*words, code=0, **more):
    """A command in this process, with everything it wrote."""
    found = CliRunner().invoke(main, [str(word) for word in words], auto_envvar_prefix="PARTICLES", **more)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception  # on the command line, a traceback
    assert found.exit_code == code, found.stderr
    return found


def simulate(*words, output="run", code=0, **more):
    target = [] if "--target" in words else ["--target", "moons"]
    return run("simulate", *target, *TINY, "-o", output, *words, code=code, **more)


def proximal(solver, *words, **more):
    return simulate("--flow", "proximal", "--solver", solver, *words, **more)


def spec_of(path="run"):
    return tomllib.loads(Path(path, "spec.toml").read_text())


def series_of(path="run"):
    return pd.read_csv(f"{path}/series.csv")


def summary_of(path="run"):
    return json.loads(Path(path, "summary.json").read_text())


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(Path(path).rglob("*")) if file.is_file()}


def the_same(one, other):
    """Whether two runs agree in all files but those that have the folder's name, or a way of writing, in them."""
    before, after = contents(one), contents(other)
    assert before.keys() == after.keys()
    for name in before.keys() - {"summary.json", "checkpoint.pt"}:
        assert after[name] == before[name], name
    without = [{key: value for key, value in summary_of(path).items() if key != "run"} for path in (one, other)]
    assert without[0] == without[1]


# Step sizes


def test_step_size_auto_is_the_spacing_over_lipschitz():
    simulate("--target", "data.csv", "--lipschitz", 2, "--step-size", "auto", "--seed", 3)
    found = spec_of()["step_size"]
    target = build(pt.Specification(target="data.csv", seed=3)).target
    assert found == pt.cfl(target, 2.0, key=pt.Key.of(3).fold("cfl"))
    with np.load("run/data.npz") as data:
        x = data["target"] / np.array(spec_of()["data"]["units"])
    apart = cdist(x, x) + np.diag(np.full(len(x), np.inf))
    assert found == pytest.approx(np.median(apart.min(1)) / 2, rel=1e-5)
    assert series_of().step_size[1:].tolist() == [found] * 6
    simulate("--target", "data.csv", "--lipschitz", 2, "--step-size", repr(found), "--seed", 3, output="number")
    assert Path("number/particles.csv").read_bytes() == Path("run/particles.csv").read_bytes()
    simulate("--target", "data.csv", "--step-size", "AUTO", "--seed", 3, output="capitals")
    assert spec_of("capitals")["step_size"] == pytest.approx(2 * found, rel=1e-6)


ADVICE = [  # options, whether the command warns, whether the table notes it
    ([], False, True),
    (["--step-size", 3], True, True),
    (["--lipschitz", 5], True, True),
    (["--step-size", 1e-3], False, False),
    (["--step-size", "auto"], False, False),
    (["--step-size", 0.05, "--lipschitz", 0.5], False, False),
    (["--step-size", 3, "--decay", 0.01], False, False),
    (["--step-size", 3, "--decay", 100], True, True),
    (["--step-size", 3, "--stepper", "rk4"], True, True),
    (["--step-size", 3, "--stepper", "proximal"], False, False),
    (["--step-size", 3, "--constraint", "none"], False, False),
    (["--step-size", 3, "--quiet"], False, True),
    (["--step-size", 3, "--flow", "transport"], False, False),
    (["--step-size", 3, "--flow", "transport", "--radius", 0], True, True),
    (["--step-size", 3, "--flow", "w2"], False, False),
    (["--lipschitz", 5, "--flow", "proximal"], False, False),
]


@pytest.mark.parametrize(
    ("words", "warned", "noted"), ADVICE, ids=lambda words: " ".join(map(str, np.atleast_1d(words)))
)
def test_advice_comes_where_steps_are_long_and_chosen(words, warned, noted):
    found = simulate(*words, "--steps", 2)
    assert ("WARNING" in found.stderr and "rattle" in found.stderr) == warned
    assert ("advice" in summary_of()) == noted
    assert ("note: " in found.stdout and "rattle" in found.stdout) == (noted and "--quiet" not in words)
    if warned:
        (sentence,) = [line for line in found.stderr.splitlines() if line.startswith("WARNING")]
        spec = spec_of()
        last = spec["step_size"] / (1 + 1 / spec["decay"])
        assert f"{last * spec['lipschitz']:.3g} " in sentence
        assert (
            f"--step-size auto is {pt.cfl(build(pt.Specification(target='moons', target_size=40)).target, spec['lipschitz']):.3g}"
            in sentence
        )
        assert "--steps" not in sentence


def test_advice_on_a_variable_of_the_environment():
    found = simulate("--steps", 2, env={"PARTICLES_SIMULATE_STEP_SIZE": "3"})
    assert "rattle" in found.stderr
    assert spec_of()["step_size"] == 3


# The flow proximal


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_proximal_run_writes_what_it_found(solver):
    proximal(solver, "--horizon", 2, "--time-steps", 4, "--divergence", "reverse-kl", "--log-every", 1)
    series, times = series_of(), pd.read_csv("run/trajectory.csv")
    common = {"step", "time", "w2", "w2_holdout", "divergence", "kinetic_energy", "max_gradient", "max_speed"}
    own = {
        "network": {"inner_steps", "objective", "hj_residual", "terminal_residual", "terminal_cosine"},
        "transport": {"gap", "iterations", "step_size"},
        "plan": {"gap", "step_size"},
    }[solver]
    assert set(series.columns) == common | own
    assert series.step.tolist() == list(range(7 if solver == "network" else 5))
    assert times.step.tolist() == [0, 1, 2, 3, 4]
    assert times.time.tolist() == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert np.load("run/trajectory.npy").shape == (5, 30, 2)
    flow = summary_of()["flow"]
    assert {"kinetic_energy", "straightness", "shift_2", "shift_32", "manifold_distance"} <= flow.keys()
    assert ({"hj_residual", "terminal_residual", "terminal_cosine"} <= flow.keys()) == (solver == "network")
    assert summary_of()["time"] == pytest.approx(2)
    end = np.load("run/trajectory.npy")[-1]
    np.testing.assert_allclose(pd.read_csv("run/particles.csv").to_numpy(), end, rtol=1e-5, atol=1e-6)
    paths = np.load("run/trajectory.npy").astype(float)
    lengths = np.linalg.norm(np.diff(paths, axis=0), axis=2).sum(0).mean()
    straight = lengths / np.linalg.norm(paths[-1] - paths[0], axis=1).mean()
    assert flow["straightness"] == pytest.approx(straight, rel=1e-4)
    energy = (np.diff(paths, axis=0) / 0.5) ** 2 / 2
    assert flow["kinetic_energy"] == pytest.approx(energy.sum(2).mean(), rel=1e-3)
    if solver == "plan":
        assert flow["straightness"] == pytest.approx(1, abs=1e-6)
        assert flow["kinetic_over_best"] == pytest.approx(1, rel=1e-3)
        assert flow["shift_32"] < 1e-5


def test_the_plan_is_certified_and_the_dual_agrees_with_it():
    words = ["--dtype", "float64", "--horizon", 2, "--alpha", 0.5]
    proximal("plan", *words, output="plan")
    proximal("transport", *words, "--epsilon", 1e-4, output="dual")
    plan, dual = (series_of(path).iloc[-1] for path in ("plan", "dual"))
    assert 0 <= plan.gap <= 1e-2 * plan.divergence
    assert plan.divergence - plan.gap - 2e-3 <= dual.divergence <= plan.divergence + 2e-3
    # The value has the price of the way in it: α T times the energy per unit of time.
    assert 0.5 * 2 * plan.kinetic_energy < plan.divergence


@pytest.mark.parametrize("solver", SOLVERS)
def test_none_goes_further_than_the_horizon_allows(solver, caplog):
    with caplog.at_level(logging.WARNING):
        proximal(solver, "--alpha", 2, "--horizon", 1.5, "--source-mean", 4, "--steps", 20, "--learning-rate", 0.02)
    far = np.linalg.norm(np.diff(np.load("run/trajectory.npy")[[0, -1]].astype(float), axis=0)[0], axis=1)
    assert far.max() <= 1.5 / 2 * (1 + 1e-4)
    if solver != "network":  # which may still be learning
        assert far.min() == pytest.approx(0.75, rel=1e-2)
    (message,) = [record.getMessage() for record in caplog.records if "particle can go" in record.getMessage()]
    assert "= 0.75," in message
    x, y = np.load("run/trajectory.npy")[0], np.load("run/data.npz")["target"]
    assert f"{pt.w2(pt.Cloud(torch.tensor(x)), pt.Cloud(torch.tensor(y))):.3g} away" in message


def test_nothing_is_warned_of_where_particles_may_arrive(caplog):
    with caplog.at_level(logging.WARNING):
        proximal("plan")
    assert caplog.records == []
    spec = spec_of()
    x, y = np.load("run/trajectory.npy")[0], np.load("run/data.npz")["target"]
    way = pt.w2(pt.Cloud(torch.tensor(x)), pt.Cloud(torch.tensor(y)))
    assert spec["lipschitz"] / spec["alpha"] == pytest.approx(10 * way, rel=1e-5)


@pytest.mark.parametrize("solver", ["network", "transport"])
@pytest.mark.parametrize("stages", [1, 2])
def test_new_points_go_where_carried_ones_went(solver, stages):
    words = ["--target", "data.csv", "--carried", 5, "--dtype", "float64"]
    if solver == "network":
        words += ["--stages", stages, "--learning-rate", 0.02]
    elif stages > 1:
        return
    proximal(solver, *words)
    paths = np.load("run/trajectory.npy")
    pd.DataFrame(paths[0, -5:], columns=["a", "b"]).to_csv("new.csv", index=False)
    run("transport", "run", "-i", "new.csv", "-o", "moved.csv", "--trajectory", "paths.npy", "-q")
    np.testing.assert_allclose(pd.read_csv("moved.csv"), pd.read_csv("run/carried.csv"), rtol=1e-6)
    np.testing.assert_allclose(np.load("paths.npy"), paths[:, -5:], rtol=1e-6, atol=1e-6)
    assert np.abs(paths[-1, -5:] - paths[0, -5:]).min() > 1e-3
    run("transport", "run", "-i", "new.csv", "-o", "half.csv", "--to", 3, "-q")
    np.testing.assert_allclose(pd.read_csv("half.csv"), paths[3, -5:], rtol=1e-6, atol=1e-6)
    pd.read_csv("new.csv")[:1].to_csv("one.csv", index=False)
    run("transport", "run", "-i", "one.csv", "-o", "alone.csv", "-q")
    np.testing.assert_allclose(pd.read_csv("alone.csv"), pd.read_csv("moved.csv")[:1], rtol=1e-6)


@pytest.mark.parametrize("solver", ["network", "transport"])
def test_time_steps_are_those_that_were_asked_for(solver):
    proximal(solver, "--target", "data.csv", "--dtype", "float64", "--learning-rate", 0.02, "--steps", 20)
    ends = {}
    for n in (1, 5, 40, 80):
        run(
            "transport",
            "run",
            "-i",
            "data.csv",
            "-o",
            f"{n}.csv",
            "--time-steps",
            n,
            "--trajectory",
            "paths.npy",
            "--overwrite",
            "-q",
        )
        paths = np.load("paths.npy")
        assert paths.shape == (n + 1, 50, 2)
        np.testing.assert_allclose(paths[0], pd.read_csv("data.csv"), rtol=1e-9)
        np.testing.assert_allclose(paths[-1], pd.read_csv(f"{n}.csv"), rtol=1e-6)
        ends[n] = paths[-1] / spec_of()["data"]["units"]
    apart = {n: np.sqrt(((ends[n] - ends[80]) ** 2).sum(1).mean()) for n in (1, 5, 40)}
    assert apart[1] > apart[5] > apart[40] > 0
    run("transport", "run", "-i", "data.csv", "-o", "default.csv", "-q")
    assert Path("default.csv").read_text() == Path("5.csv").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["--decay", 5, "--carried", 3],
        ["--target", "labelled.csv", "--label", "kind", "--decay", 5, "--stages", 2, "--stage-steps", 4],
        ["--decay", 5, "--noise", 0.1, "--hj", 0.1, "--terminal", 0.1, "--log-every", 2, "--dtype", "float64"],
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_a_resumed_training_is_an_uninterrupted_one(words):
    proximal("network", *words, "--steps", 11, "--log-every", 1, output="whole")
    proximal("network", *words, "--steps", 5, "--log-every", 1)
    run("simulate", "--resume", "run", "--steps", 11, "--no-figure", "-q")
    the_same("whole", "run")


@pytest.mark.parametrize("stepper", ["rk4", "ab3", "ab4", "adaptive", "proximal"])
def test_a_resumed_run_of_any_stepper_is_an_uninterrupted_one(stepper):
    words = ["--stepper", stepper, "--flow", "mmd", "--carried", 2, "--dtype", "float64"]
    simulate(*words, "--steps", 7, output="whole")
    simulate(*words, "--steps", 3)
    run("simulate", "--resume", "run", "--steps", 7, "--no-figure", "-q")
    the_same("whole", "run")


def test_an_interrupted_training_is_saved_and_goes_on(monkeypatch):
    words = ["--steps", 9, "--decay", 5]
    proximal("network", *words, output="whole")
    log = Folder.log

    def interrupted(self, path, row):
        log(self, path, row)
        if path[-1].k == 3:  # while step 3 is written
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "log", interrupted)
        found = proximal("network", *words, code=130)
    assert found.stderr.splitlines()[-1].startswith("Interrupted: stopped after step 4; go on with: ")
    assert not Path("run/particles.csv").exists()
    run("simulate", "--resume", "run", "--no-figure", "-q")
    the_same("whole", "run")


def test_a_discriminator_that_runs_away_ends_the_run():
    """A plane in seven dimensions, where the divergence of laws that do not overlap has no bound."""
    rng = np.random.default_rng(0)
    thin = np.concatenate([rng.normal(size=(200, 2)), 1e-4 * rng.normal(size=(200, 5))], 1)
    pd.DataFrame(thin, columns=list("abcdefg")).to_csv("thin.csv", index=False)
    words = ["--target", "thin.csv", "--scale", "none", "--learning-rate", 0.3, "--inner-steps", 20]
    found = proximal("network", *words, "--network", "32,32", "--constraint", "none", code=3)
    assert found.stdout == ""
    *_, sentence = found.stderr.splitlines()
    assert sentence.startswith("Diverged: step ")
    for part in ("the discriminator runs away", "was to be at most 1e+03", "constraint spectral", "run/diverged.csv"):
        assert part in sentence
    good = pd.read_csv("run/diverged.csv").to_numpy()
    assert good.shape == (30, 7)
    assert np.isfinite(good).all()
    assert not Path("run/particles.csv").exists()
    proximal("network", *words, "--network", "32,32", output="bounded")
    assert series_of("bounded").max_gradient.max() <= 1 + 1e-4


@pytest.mark.parametrize("flow", ["lipschitz", "proximal"])
def test_weights_that_are_no_numbers_end_the_run(flow):
    found = simulate("--flow", flow, "--learning-rate", 1e30, code=3)
    assert found.stderr.splitlines()[-1].startswith("Diverged: step 1: ")
    assert np.isfinite(pd.read_csv("run/diverged.csv").to_numpy()).all()


def test_a_flow_that_has_learnt_nothing_stays():
    found = proximal("network", "--steps", 0)
    assert "nothing moves" in found.stdout
    flow = summary_of()["flow"]
    assert "straightness" not in flow
    assert flow["shift_32"] == pytest.approx(0, abs=1e-9)
    assert pd.read_csv("run/particles.csv").to_numpy() == pytest.approx(np.load("run/trajectory.npy")[0], rel=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_closing_table_has_one_kinetic_energy(solver):
    found = proximal(solver).stdout
    assert len(re.findall(r"kinetic energy [0-9]", found)) == 1
    assert f"kinetic energy {summary_of()['flow']['kinetic_energy']:.4g}" in found
    assert ("divergence and price of the way together" in found) == (solver != "network")
    assert f"{summary_of()['divergence']:.4g}" in found


def test_the_figure_says_what_its_steps_are():
    def said(path):
        drawn = figure(pt.Run.open(path))
        panels = [ax for part in drawn.subfigs for ax in part.axes]
        return drawn.get_suptitle(), panels[-1].get_xlabel()

    proximal("network", output="network")
    proximal("transport", "--time-steps", 4, output="dual")
    simulate(output="plain")
    title, label = said("network")
    assert title.endswith("5 steps of 0.2, 6 steps of training")
    assert "W1 ⊕ W2 by network, kl, L = 1, α = " in title
    assert label == "step of training"
    assert said("dual")[0].endswith("4 steps of 0.25")
    assert said("dual")[1] == said("plain")[1] == "step"


def test_a_flow_that_is_still_at_first_leaves_the_axis_legible():
    """A network that is 0 at first moves nothing, which has no place on a logarithmic axis."""
    proximal("network")
    energies = series_of().kinetic_energy[1:]
    assert energies.iloc[0] < 1e-30 < 1e-6 < energies.iloc[1:].min()
    drawn = figure(pt.Run.open("run"))
    (axis,) = [ax for part in drawn.subfigs for ax in part.axes if ax.get_ylabel().startswith("kinetic energy\n")]
    assert axis.get_yscale() == "log"
    assert axis.get_ylim()[0] > energies.iloc[1:].min() / 10
    assert axis.lines[0].get_xdata().tolist() == [2, 3, 4, 5, 6]


def test_a_comparison_with_steps_of_the_other_flows():
    """The flow proximal has steps of its own; step size and stepper are not its concern."""
    flows = ["--flows", "proximal,transport", "--target", "moons", *TINY, "-q"]
    run("compare", *flows, "--step-size", 0.3, "--stepper", "rk4", "-o", "cmp")
    run("compare", *flows, "-o", "plain")
    assert (spec_of("cmp/transport")["step_size"], spec_of("cmp/transport")["stepper"]) == (0.3, "rk4")
    assert Path("cmp/proximal/particles.csv").read_bytes() == Path("plain/proximal/particles.csv").read_bytes()
    table = pd.read_csv("cmp/comparison.csv").set_index("flow")
    paths = np.load("cmp/proximal/trajectory.npy").astype(float)
    length = np.linalg.norm(np.diff(paths, axis=0), axis=2).sum(0).mean()
    assert table.path_length["proximal"] == pytest.approx(length, rel=1e-3)
    runs = {name: pt.Run.open(f"cmp/{name}") for name in ("proximal", "transport")}
    drawn = draw_compare(runs)
    assert [ax.get_title() for ax in drawn.axes] == ["proximal, step 5", "transport, step 6"]
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["target (40)", "start (30)", "end"]
    (legend,) = draw_compare({"proximal": runs["proximal"]}).legends
    assert legend.get_texts()[-1].get_text() == "end (step 5)"


def test_variables_of_the_environment():
    variables = {"FLOW": "proximal", "SOLVER": "transport", "TIME_STEPS": "3", "ALPHA": "0.7", "KINETIC": "1"}
    simulate(env={f"PARTICLES_SIMULATE_{name}": value for name, value in variables.items()})
    spec = spec_of()
    assert [spec[name] for name in ("flow", "solver", "time_steps", "alpha")] == ["proximal", "transport", 3, 0.7]
    assert len(pd.read_csv("run/trajectory.csv")) == 4


# Bad input

GENERATIVE = ["--flow", "proximal"]
PLAN = [*GENERATIVE, "--solver", "plan"]
DUAL = [*GENERATIVE, "--solver", "transport"]
BAD = [
    (["--step-size", "atuo"], ["--step-size", "'atuo'", "auto"]),
    (["--step-size", "inf"], ["--step-size", "finite"]),
    (["--step-size", "0"], ["--step-size", "positive"]),
    (["--step-size", "auto", "--flow", "mmd"], ["--step-size auto", "mmd", "number"]),
    (["--step-size", "auto", "--constraint", "none"], ["--step-size auto", "number"]),
    (["--stepper", "ab5"], ["--stepper", "did you mean ab4?"]),
    (["--stepper", "proximal", "--noise", "0.1"], ["stepper proximal", "no noise"]),
    (["--stepper", "proximal", "--persistency", "2"], ["stepper proximal", "persistency"]),
    (["--stepper", "proximal", "--persistent", "minibatch", "--minibatch", "5"], ["stepper proximal", "minibatch"]),
    (["--stepper", "proximal", "--mode", "implict"], ["--mode", "did you mean implicit?"]),
    (["--stepper", "proximal", "--max-inner", "0"], ["--max-inner", "at least 1"]),
    (["--stepper", "proximal", "--accuracy", "1"], ["--accuracy", "below 1"]),
    (["--stepper", "adaptive", "--accuracy", "0"], ["--accuracy", "positive"]),
    ([*GENERATIVE, "--stepper", "rk4"], ["--stepper rk4", "--time-steps"]),
    ([*GENERATIVE, "--step-size", "auto"], ["--step-size", "--time-steps"]),
    ([*GENERATIVE, "--solver", "exact"], ["--solver", "network, transport, plan"]),
    ([*GENERATIVE, "--power", "1.3"], ["--power must be at least 1.4", "solver transport"]),
    ([*PLAN, "--power", "1"], ["--power", "above 1"]),
    ([*PLAN, "--power", "1e300"], ["--power", "at most 10"]),
    ([*PLAN, "--alpha", "1e300"], ["--alpha", "1e+300", "power 2"]),
    ([*DUAL, "--alpha", "1e-300"], ["--alpha", "1e-300", "lipschitz 1"]),
    ([*PLAN, "--horizon", "1e300"], ["--horizon", "1e+300"]),
    ([*GENERATIVE, "--alpha", "nan"], ["--alpha", "finite"]),
    ([*GENERATIVE, "--horizon", "-1"], ["--horizon", "positive"]),
    ([*GENERATIVE, "--time-steps", "0"], ["--time-steps", "at least 1"]),
    ([*GENERATIVE, "--hj", "inf"], ["--hj", "finite"]),
    ([*GENERATIVE, "--terminal", "-1"], ["--terminal", "at least 0"]),
    ([*GENERATIVE, "--stages", "1000"], ["--stages", "at most the number of steps, 6"]),
    ([*GENERATIVE, "--stages", "100000000000"], ["GB of memory", "it fits with --stages"]),
    ([*GENERATIVE, "--batch-size", "1"], ["--batch-size", "at least 2"]),
    ([*GENERATIVE, "--constraint", "non"], ["--constraint", "did you mean none?"]),
    ([*PLAN, "--carried", "3"], ["--carried", "solver plan", "transport"]),
    ([*PLAN, "--no-kinetic"], ["no-kinetic", "solver network", "plan"]),
    ([*DUAL, "--constraint", "none"], ["--constraint none", "solver network"]),
    ([*PLAN, "--lipschitz", "inf"], ["--lipschitz", "finite"]),
    ([*DUAL, "--target", "labelled.csv", "--label", "kind"], ["solver transport", "classes", "network or plan"]),
]
BAD += [
    ([*DUAL, option, value], [option, "solver network"])
    for option, value in (
        ("--hj", "1"),
        ("--terminal", "1"),
        ("--stages", "2"),
        ("--stage-steps", "2"),
        ("--noise", "1"),
    )
]


@pytest.mark.parametrize(("words", "says"), [pytest.param(*given, id=" ".join(given[0])) for given in BAD])
def test_bad_input(words, says):
    found = simulate(*words, code=2)
    assert found.stdout == ""
    *_, sentence = found.stderr.splitlines()
    assert sentence.startswith("Error: ")
    for part in says:
        assert part in sentence
    assert not Path("run").exists()


def test_a_power_near_1_is_nothing_to_an_exact_solver():
    proximal("plan", "--power", 1.3)
    proximal("transport", "--power", 1.3, output="dual")
    for path in ("run", "dual"):
        assert summary_of(path)["flow_units"]["w2_target"] < series_of(path).w2[0]


def test_refusals_of_new_points():
    words = ["-i", "data.csv", "-o", "moved.csv"]
    proximal("plan", "--target", "data.csv", output="plan")
    proximal("network", "--target", "data.csv", output="net")
    simulate("--target", "data.csv", "--record", "--steps", 2, output="kept")
    before = contents(".")
    for given, says in [
        (["plan"], ["its own particles alone", "network"]),
        (["net", "--time-steps", 0], ["--time-steps", "at least 1"]),
        (["net", "--to", 6], ["step 6", "0 to 5"]),
        (["net", "--to", -1], ["step -1", "0 to 5"]),
        (["net", "--time-steps", 3, "--to", 4], ["step 4", "0 to 3"]),
        (["kept", "--time-steps", 3], ["--time-steps", "proximal", "lipschitz"]),
    ]:
        found = run("transport", *given, *words, code=2)
        for part in says:
            assert part in found.stderr.splitlines()[-1]
    assert contents(".") == before
