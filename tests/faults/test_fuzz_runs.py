"""Run folders with a spoilt file, and random options: each command ends with an exit code of its own, says why in a line, and loses nothing."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from fuzzed_runs import BASES, NUMBER, SMALL, WHOLE, contents, ended, spoilt_runs, working_folder
from fuzzing import fuzz, limited
from hypothesis import given
from hypothesis import strategies as st
from particles.cli import main

from particles.names import (
    ACTIVATIONS,
    CONSTRAINTS,
    DIVERGENCES,
    FLOWS,
    KERNELS,
    MODES,
    SCALES,
    SOLVERS,
    SOURCES,
    STEPPERS,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with working_folder(tmp_path_factory.mktemp("fuzz")) as path:
        yield path


def kept(before, found):
    """Whether all is there as it was, where a command refused to go on; its new number of steps is noted before."""
    if found.exit_code == 2:
        after = contents("run")
        assert {path for path in after | before if after.get(path) != before.get(path)} <= {Path("run/spec.toml")}


@fuzz(25, 0.5)
@given(st.data())
def test_spoilt_runs_are_resumed_or_refused(folder, data):
    data.draw(spoilt_runs())
    before = contents("run")
    kept(before, ended("simulate", "--resume", "run", "--steps", 4, "--no-figure", "-q"))


@fuzz(25, 0.5)
@given(st.data())
def test_points_follow_spoilt_runs_or_are_refused(folder, data):
    name = data.draw(spoilt_runs())
    before = contents("run")
    Path("moved.csv").unlink(missing_ok=True)
    given = "new-labelled.csv" if name == "labelled" else "new.csv"
    found = ended("transport", "run", "--input", given, "--output", "moved.csv", "-q")
    assert contents("run") == before
    assert Path("moved.csv").exists() == (found.exit_code == 0)
    if found.exit_code == 0:
        assert np.isfinite(pd.read_csv("moved.csv").select_dtypes("number").to_numpy()).all()


@fuzz(8, 0.1)
@given(st.data(), st.sampled_from(["trajectories", "diagnostics", "potential"]))
def test_spoilt_runs_are_drawn_or_refused(folder, data, kind):
    data.draw(spoilt_runs())
    before = contents("run")
    ended("plot", "run", "--kind", kind, "--output", "picture.png", "--dpi", 20, "-q")
    assert contents("run") == before


# Options

FLOATS = [
    "--source-mean",
    "--source-std",
    "--order",
    "--lipschitz",
    "--penalty",
    "--learning-rate",
    "--momentum",
    "--tolerance",
    "--epsilon",
    "--epsilon-start",
    "--halving",
    "--radius",
    "--bandwidth",
    "--exponent",
    "--regularisation",
    "--noise",
    "--noise-halving",
    "--alpha",
    "--horizon",
    "--power",
    "--hj",
    "--terminal",
    "--accuracy",
    "--step-size",
    "--decay",
    "--stop-energy",
    "--holdout",
]
WHOLES = [
    "--inner-steps",
    "--batch-size",
    "--chunk-size",
    "--time-steps",
    "--stages",
    "--stage-steps",
    "--persistency",
    "--minibatch",
    "--max-inner",
    "--patience",
    "--carried",
    "--checkpoint-every",
    "--log-every",
    "--metric-every",
    "--snapshot-every",
    "--metric-size",
]
CHOICES = {
    "--flow": FLOWS, "--divergence": DIVERGENCES, "--kernel": KERNELS, "--stepper": STEPPERS, "--mode": MODES, "--scale": SCALES,
    "--solver": sum(SOLVERS.values(), ()), "--activation": ACTIVATIONS, "--constraint": CONSTRAINTS, "--source": SOURCES,
    "--persistent": ("potential", "minibatch"), "--dtype": ("float32", "float64"), "--backend": ("auto", "tiled", "keop"),
}  # fmt: skip
FLAGS = ["--no-debias", "--no-kinetic", "--record", "--header", "--no-header", "--json", "--quiet"]


@st.composite
def options(draw, most=4):
    """Words for simulate: mostly good names, and numbers of any kind."""
    words = []
    for _ in range(draw(st.integers(0, most))):
        kind = draw(st.integers(0, 9))
        if kind < 4:
            option = draw(st.sampled_from(list(CHOICES)))
            words += [
                option,
                draw(st.sampled_from([*CHOICES[option], "strange", ""] if not kind else list(CHOICES[option]))),
            ]
        elif kind < 7:
            words += [draw(st.sampled_from(FLOATS)), draw(NUMBER)]
        elif kind < 9:
            words += [draw(st.sampled_from(WHOLES)), draw(WHOLE)]
        else:
            words.append(draw(st.sampled_from(FLAGS)))
    return words


TARGETS = st.sampled_from([["--target", "moons"], ["--target", "plain.csv"], ["--target", "rows.csv", "--label", "k"]])


@fuzz(25, 0.5)
@given(TARGETS, options(), st.sampled_from([["--steps", "2"], ["--steps", "2"], ["--steps", "0"]]))
def test_any_options_of_simulate(folder, target, words, steps):
    shutil.rmtree("some", ignore_errors=True)
    found = ended("simulate", *target, *SMALL[:-2], *steps, *words, "-o", "some")
    name = {0: "particles.csv", 3: "diverged.csv"}.get(found.exit_code)
    if name:
        assert np.isfinite(pd.read_csv(f"some/{name}").select_dtypes("number").to_numpy()).all()
    if found.exit_code == 0 and "--json" in words:
        assert all(math.isfinite(value) for value in json.loads(found.stdout)["flow_units"].values())


@fuzz(6, 0.05)
@given(options(2), st.lists(st.sampled_from([*FLOWS, "strange", ""]), min_size=1, max_size=3))
def test_any_options_of_compare(folder, words, flows):
    shutil.rmtree("several", ignore_errors=True)
    ended(
        "compare", "--target", "moons", *SMALL[:-2], "--steps", "2", *words, "--flows", ",".join(flows), "-o", "several"
    )


@fuzz(15, 0.2)
@given(
    st.sampled_from(list(BASES)),
    st.sampled_from(["new.csv", "new-labelled.csv", "plain.csv", "none.csv"]),
    WHOLE,
    WHOLE,
)
def test_any_options_of_transport(folder, name, given, stop, count):
    Path("moved.csv").unlink(missing_ok=True)
    more = ["--time-steps", count] if name == "learnt" else []
    words = ["--to", stop, *more, "--trajectory", "paths.npy", "--overwrite", "-q"]
    found = ended("transport", f"whole/{name}", "--input", given, "--output", "moved.csv", *words)
    if found.exit_code == 0:
        assert np.isfinite(np.load("paths.npy")).all()


TIMES = st.sampled_from(["0", "50%", "0%,100%", "-1", "nan", "inf", "1e400", "200%", "", ",", "0,0,0"])
PICTURE = {
    "--kind": st.sampled_from(
        [
            "trajectories",
            "snapshots",
            "potential",
            "density",
            "diagnostics",
            "transport",
            "compare",
            "images",
            "tails",
            "overview",
            "x",
        ]
    ),
    "--times": TIMES,
    "--projection": st.sampled_from(["auto", "pca", "pca3", "x0,x1", "x0", "x0,x0", "x1,x0,x1", "", ",", "k"]),
    "--color": st.sampled_from(["auto", "time", "label", "none", "x"]),
    "--max-paths": WHOLE,
    "--label": st.sampled_from(["u", "w", ""]),
    "--column": st.sampled_from(["x0", "k", ""]),
    "--count": WHOLE,
    "--shape": st.sampled_from(["1,2", "2,1", "28,28", "0,0", "-1,-2", "2", "1,2,3", "", "1,1,2"]),
    "--dpi": st.sampled_from(["20", "30", "0", "-1", "nan", "inf", "1e9"]),
}


@fuzz(15, 0.15)
@given(st.sampled_from(list(BASES)), st.lists(st.sampled_from(list(PICTURE)), max_size=3, unique=True), st.data())
def test_any_options_of_plot(folder, name, chosen, data):
    words = [word for option in chosen for word in (option, data.draw(PICTURE[option]))]
    more = [] if "--dpi" in chosen else ["--dpi", "20"]
    ended("plot", f"whole/{name}", *more, *words, "--output", "picture.png", "-q")


@fuzz(4, 0.03)
@given(
    st.sampled_from(["plain.csv", "rows.csv", "new.csv", "none.csv", "."]),
    st.sampled_from(["plain.csv", "rows.csv", "new.csv"]),
    st.sampled_from([[], ["--label", "k"], ["--label", "none"], ["--categorical", "x0"], ["--categorical", ","], ["--seed", "-1"], ["--seed", "x"]]),
)  # fmt: skip
def test_any_options_of_evaluate(folder, real, synthetic, words):
    ended("evaluate", real, synthetic, *words)


@pytest.mark.parametrize("words", [["info"], ["info", "--json"], ["info", "x"], ["--x"], [], ["x"]], ids=" ".join)
def test_info(folder, words):
    with limited():
        found = CliRunner().invoke(main, words)
    assert found.exit_code in (0, 2)
    assert found.exception is None or isinstance(found.exception, SystemExit)
