"""The command that repeats a run."""

import shlex
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from particles.cli import main
from particles.cli.simulate import command as simulate

from particles.experiment.build import build
from particles.experiment.provenance import changes, command, options
from particles.experiment.specification import Specification

TINY = ["-n", "20", "--target-size", "30", "--steps", "4", "--network", "8,8", "--no-figure", "--quiet"]
RUNS = {
    "plain": [],
    "no holdout": ["--holdout", "0", "--seed", "7"],
    "classes": ["--target", "labelled file.csv", "--label", "a class", "--scale", "global"],
    "no header": ["--target", "plain.csv", "--no-header", "--holdout", "3"],
    "header": ["--target", "labelled file.csv", "--header", "--label", "a class", "--divergence", "alpha", "--order", "3"],
    "file to file": ["--target", "plain.csv", "--source", "source's.csv", "--carried", "3"],
    "bootstrap": ["--source", "bootstrap", "--source-std", "0", "--source-mean", "-1.5"],
    "real": ["--target", "iris", "--label", "target", "--decay", "100"],
    "penalty": ["--constraint", "penalty", "--penalty", "2.5", "--lipschitz", "inf", "--momentum", "0.5"],
    "transport": ["--flow", "transport", "--no-debias", "--epsilon-start", "inf", "--halving", "3", "--step-size", "auto"],
    "transport w1": ["--flow", "transport", "--divergence", "w1", "--epsilon-start", "0", "--radius", "0"],
    "w2": ["--flow", "w2"],
    "w2 sinkhorn": ["--flow", "w2", "--solver", "sinkhorn", "--persistency", "2"],
    "w2 neural": ["--flow", "w2", "--solver", "neural", "--record"],
    "mmd": ["--flow", "mmd", "--exponent", "1.5", "--noise", "0.1", "--noise-halving", "2"],
    "kale": ["--flow", "kale", "--regularisation", "1e-05", "--kernel", "inverse-multiquadric"],
    "kernel": ["--flow", "kernel", "--stepper", "adaptive", "--accuracy", "0.05"],
    "minibatch": ["--persistent", "minibatch", "--minibatch", "7", "--persistency", "2", "--dtype", "float64"],
    "proximal step": ["--stepper", "proximal", "--mode", "semi-implicit", "--max-inner", "3", "--inner-steps", "2"],
    "generative": ["--flow", "proximal", "--stages", "2", "--no-kinetic", "--terminal", "0.1", "--batch-size", "16"],
    "generative dual": ["--flow", "proximal", "--solver", "transport", "--time-steps", "3", "--alpha", "0.1"],
    "generative plan": ["--flow", "proximal", "--solver", "plan", "--power", "3", "--horizon", "2"],
    "thinned": ["--trajectory-particles", "7", "--carried", "5"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"a": rng.normal(3, 2, 40), "b": rng.normal(-20, 30, 40)})
    data.assign(**{"a class": ["u", "v"] * 20}).to_csv("labelled file.csv", index=False)
    data.to_csv("plain.csv", index=False, header=False)
    data.add(1).to_csv("source's.csv", index=False, header=False)
    return tmp_path


def run(words, code=0):
    found = CliRunner().invoke(main, words)
    assert found.exit_code == code, found.output
    return found


def made(words):
    run(["simulate", *([] if "--target" in words else ["--target", "moons"]), *TINY, *words, "--output", "run"])
    return Specification.load(Path("run/spec.toml"))


def parsed(words):
    """The specification that the command line makes of some words."""
    known = set(Specification.__dataclass_fields__)
    params = simulate.make_context("simulate", [*words]).params
    return Specification(**{name: value for name, value in params.items() if name in known})


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS.keys())
def test_command_gives_the_same_specification_and_the_same_run(words):
    spec, noted = made(words)
    line = command(spec, "it's again")
    assert line.startswith("particles simulate --target ")
    words = shlex.split(line)[2:]
    assert parsed(words) == spec
    assert words[-2:] == ["--output", "it's again"]
    assert changes(spec, noted) == []
    run(["simulate", *words, "--no-figure", "--quiet"])
    assert Path("it's again/particles.csv").read_bytes() == Path("run/particles.csv").read_bytes()
    assert np.array_equal(np.load("it's again/trajectory.npy"), np.load("run/trajectory.npy"))
    assert tomllib.loads(Path("it's again/spec.toml").read_text()) == tomllib.loads(Path("run/spec.toml").read_text())


def test_defaults_are_not_said():
    assert options(Specification(target="moons")) == ["--target", "moons"]
    spec = Specification(
        target="a b.csv", header=False, debias=False, network=(8, 16), lipschitz=np.inf, source_mean=-2.0
    )
    assert options(spec) == [
        *("--target", "a b.csv", "--no-header", "--source-mean", "-2.0", "--lipschitz", "inf", "--network", "8,16"),
        "--no-debias",
    ]  # fmt: skip
    assert parsed(options(spec)) == spec
    assert command(spec).startswith("particles simulate --target 'a b.csv' --no-header")


def test_numbers_come_back_to_the_last_bit():
    spec = Specification(target="moons", epsilon=0.1 + 0.2, step_size=1 / 3, regularisation=5e-324)
    assert parsed(options(spec)) == spec


def test_a_file_that_has_changed_is_named():
    spec, noted = made(RUNS["file to file"])
    frame = pd.read_csv("plain.csv", header=None)
    frame.iloc[3, 1] += 1e-9
    frame.to_csv("plain.csv", index=False, header=False)
    assert changes(spec, noted) == [
        f"The target {Path('plain.csv').resolve()} does not hold the data that the run was made with."
    ]
    Path("plain.csv").unlink()
    Path("source's.csv").write_text("1,2\n3,4\n")
    missing, other = changes(spec, noted)
    assert missing == f"The target cannot be read any more: {Path('plain.csv').resolve()}: there is no such file."
    source = Path("source's.csv").resolve()
    assert other == f"The source {source} does not hold the data that the run was made with."


def test_other_versions_and_devices_are_named():
    spec = Specification(target="moons", device="cuda:99", target_size=30)
    simulation = build(Specification(target="moons", device="cpu", target_size=30))
    noted = simulation.noted | {"versions": {"numpy": "0.1", "python": "2.7", "nonsense": "1"}}
    device, versions = changes(spec, noted)
    assert "cuda:99" in device
    for text in ("numpy 0.1 (here ", "python 2.7 (here ", "nonsense 1 (here not installed)"):
        assert text in versions
