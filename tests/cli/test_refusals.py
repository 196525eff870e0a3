"""What is seldom asked for wrongly, is refused all the same, in one sentence that says what would be right; and what is seldom seen is shown."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from particles.cli import main

from particles import AtRest, Cloud, Folder, Key, ParticleAugmenter, Run, SinkhornKantorovich, Specification, plot
from particles.augment.latent import PCALatent
from particles.experiment.build import build
from particles.quality.evaluate import evaluate
from particles.report.facts import state
from particles.report.pictures import pictures

ROWS = pd.DataFrame(np.random.default_rng(0).normal(size=(12, 2)), columns=["a", "b"])
TWICE = pd.DataFrame(ROWS.to_numpy()[:, [0, 1, 1]], columns=["a", "b", "b"])
KEY = Key.of(0)


def augmented(x, y=None, **settings):
    return ParticleAugmenter(**{"method": "gaussian", "random_state": 0, **settings}).fit_resample(x, y)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: evaluate(TWICE, TWICE, key=KEY), "the real rows have the column 'b' more than once"),
        (lambda: evaluate(ROWS, TWICE, key=KEY), "the synthetic rows have the column 'b' more than once"),
        (lambda: augmented(ROWS, np.float64(3)), r"y should be a 1d array with one entry per row; got an array of shape \(\)"),
        (lambda: augmented(ROWS, np.full(12, 1j)), "Complex data not supported: y must hold classes or real numbers"),
        (lambda: augmented(ROWS, sampling_strategy=5), "sampling_strategy 5 is less than the 12 rows that are there"),
        (lambda: augmented(ROWS, sampling_strategy=0.5), "without classes sampling_strategy is auto or a number of rows, not 0.5"),
        (lambda: augmented(ROWS, [0, 1] * 6, sampling_strategy="some"), "it needs to be one of .*Got 'some' instead"),
        (lambda: PCALatent.fit(ROWS.to_numpy(), 1.5, KEY), "the share of the variance must be above 0 and at most 1, not 1.5"),
        (lambda: Cloud(torch.zeros(3, 1)).join(Cloud(torch.zeros(2, 1), weight=torch.ones(2) / 2)), "only riders without weights"),
        (lambda: SinkhornKantorovich(max_iterations=0), "max_iterations must be at least 1, not 0"),
        (lambda: AtRest(0.0), "a bound above 0 and a patience of at least 1 are needed, not 0.0 and 10"),
        (lambda: AtRest(1.0, 0), "not 1.0 and 0"),
        (lambda: Folder(Path("x"), None, log_every=2, snapshot_every=3), r"snapshot_every must be a multiple of log_every \(2\), not 3"),
        (lambda: plot.compare([Run.of(np.zeros((2, 3, 2)))], columns=0), "columns must be at least 1, not 0"),
        (lambda: plot.snapshots(Run.of(np.zeros((2, 3, 1))), color="label"), "color label needs points of two coordinates or more"),
    ],
)  # fmt: skip
def test_refusals(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1.5, 5.5])
def test_a_measure_that_is_not_there_is_left_out_with_a_reason(value):
    """R² of held-out rows that are all the same, and of a table that has nothing beside the label."""
    holdout = ROWS.assign(b=value)
    found = evaluate(ROWS, ROWS + 0.1, holdout, label="b", key=KEY)
    assert not found.utility
    assert "utility is left out: R² needs held-out rows with at least 2 different targets" in found.warnings
    alone = evaluate(ROWS[["b"]], ROWS[["b"]] + 0.1, ROWS[["b"]] - 0.1, label="b", key=KEY)
    assert "utility is left out: there is no column beside 'b'" in alone.warnings
    still = [(ROWS + shift).assign(a=1.0) for shift in (0, 0.1, -0.1)]
    assert "utility is left out: no column beside 'b' varies" in evaluate(*still, label="b", key=KEY).warnings


def test_categories_by_truth_values_are_those_of_their_names():
    frame = ROWS.assign(c=[1, 2, 7] * 4)
    named, chosen = (augmented(frame, categorical=names) for names in (["c"], [False, False, True]))
    pd.testing.assert_frame_equal(named, chosen)
    assert set(named["c"]) == {1, 2, 7}
    array, _ = augmented(frame.to_numpy(), [0] * 4 + [1] * 8, categorical=[False, False, True])
    assert set(array[:, 2]) == {1, 2, 7}


def test_a_generator_is_a_source_of_randomness():
    first, second, other = (augmented(ROWS, random_state=np.random.default_rng(seed)) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, second)
    assert not first.equals(other)


# Runs


def run(path, *words, target="moons", steps=3):
    small = ["--target", target, "-n", 12, "--target-size", 15, "--network", "4,4", "--no-figure", "-q"]
    found = CliRunner().invoke(main, [str(word) for word in ("simulate", *small, "--steps", steps, *words, "-o", path)])
    assert found.exit_code == 0, found.output
    return Path(path)


def test_a_page_tells_of_a_run_that_still_goes_on():
    path = run("run")
    assert state(Run.open(path)) == ""
    (path / ".lock").write_text(json.dumps({"process": os.getppid(), "host": os.uname().nodename, "since": "now"}))
    assert state(Run.open(path)) == "The run still goes on: this is what there was at step 3 of 3."


def test_heavy_tails_have_a_picture():
    titles = [picture.title for picture in pictures(Run.open(run("run", "--target-size", 2000, target="student-t")))]
    assert "Tails" in titles
    assert "Tails" not in [picture.title for picture in pictures(Run.open(run("light")))]


def test_there_is_no_step_back():
    simulation = build(Specification(target="moons", target_size=15, particles=12, network=(4, 4), steps=2))
    from particles import simulate
    from particles.run.store import RunError

    store = simulation.store(Path("run"))
    simulate(simulation.process, 2, store)
    with pytest.raises(RunError, match="the run is at step 2 already; steps must be at least that, not 1"):
        simulate(simulation.process, 1, store)


@pytest.mark.parametrize("content", ["[repeats]\ncount = 1\n", "[repeats]\ncount = 'x'\n", ""])
def test_a_folder_of_repeats_that_lost_their_number(content):
    path = run("several", "--repeats", 2)
    mark = path / "repeats.toml"
    text = mark.read_text()
    mark.write_text(text[: text.index("[repeats]")] + content)
    found = CliRunner().invoke(main, ["simulate", "--resume", "several", "--steps", "4"])
    assert found.exit_code == 2
    assert "does not say how many repeats there are; begin new runs" in found.stderr


def test_an_environment_of_no_process_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for words in (["simulate", "--target", "moons"], ["info"]):
        found = CliRunner().invoke(main, words)
        assert found.exit_code == 2
        assert "start with torchrun" in found.stderr


@pytest.mark.parametrize(
    ("words", "inside"),
    [
        (["evaluate", "rows.csv", "rows.csv", "--output", "out.md"], "particles.quality.evaluate.evaluate"),
        (["transport", "run", "--input", "rows.csv", "--output", "out.csv"], "particles.experiment.reopen.rebuilt"),
        (["augment", "rows.csv", "--output", "out.csv"], "particles.augment.generator.Augmentation"),
    ],
)
def test_an_interrupt_leaves_nothing(monkeypatch, words, inside):
    ROWS.rename(columns={"a": "x0", "b": "x1"}).to_csv("rows.csv", index=False)
    run("run", "--record")
    before = sorted(path.name for path in Path().iterdir())

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(inside, interrupted)
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 130
    assert "Interrupted; nothing is written." in found.stderr
    assert sorted(path.name for path in Path().iterdir()) == before
