"""Repeats: each is the run of its seed, whatever goes on beside it; together they say means and intervals."""

import json
import os
import shutil
import signal
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from particles.cli import main
from scipy import stats

from particles.experiment.build import build
from particles.experiment.repeats import Folders, dissent, seeds, together
from particles.experiment.specification import Specification
from particles.run.folder import Folder

SMALL = ["--target", "moons", "-n", 20, "--target-size", 30, "--network", "8,8", "--inner-steps", 2, "--no-figure"]
SMALL += ["--log-every", 1, "--checkpoint-every", 5]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*words, code=0):
    found = CliRunner().invoke(main, [str(word) for word in words])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == code, found.stderr
    return found


def simulate(*words, code=0):
    return run("simulate", *SMALL, *words, code=code)


def the_same(one, other, files=("series.csv", "trajectory.npy", "trajectory.csv", "particles.csv", "checkpoint.pt")):
    for name in files:
        assert Path(one, name).read_bytes() == Path(other, name).read_bytes(), (one, name)


@pytest.mark.parametrize("stepper", ["euler", "heun", "ab3"])
def test_a_repeat_is_the_run_of_its_seed(stepper):
    """In double precision, for an explicit stepper of any kind, to rounding."""
    words = ["--steps", 12, "--dtype", "float64", "--stepper", stepper, "--decay", 8, "--momentum", 0.5]
    simulate(*words, "--repeats", 3, "--seed", 5, "--output", "all", "-q")
    for i in range(3):
        simulate(*words, "--seed", 5 + i, "--output", f"alone-{i}", "-q")
        ours, alone = f"all/repeat-{i}", f"alone-{i}"
        assert sorted(os.listdir(ours)) == sorted(os.listdir(alone))
        assert Path(ours, "spec.toml").read_bytes() == Path(alone, "spec.toml").read_bytes()
        for name in ("series.csv", "particles.csv"):
            mine, theirs = (pd.read_csv(Path(where, name)) for where in (ours, alone))
            pd.testing.assert_frame_equal(mine, theirs, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(*(np.load(f"{where}/trajectory.npy") for where in (ours, alone)), atol=1e-9)
    assert not np.allclose(np.load("all/repeat-0/trajectory.npy"), np.load("all/repeat-1/trajectory.npy"))


def test_one_goes_on_alone():
    """A repeat is a run like any other: resumed by itself it goes where the run of its seed goes."""
    simulate("--steps", 6, "--dtype", "float64", "--repeats", 2, "--output", "all", "-q")
    run("simulate", "--resume", "all/repeat-1", "--steps", 9, "--no-figure", "-q")
    simulate("--steps", 9, "--dtype", "float64", "--seed", 1, "--output", "alone", "-q")
    np.testing.assert_allclose(np.load("all/repeat-1/trajectory.npy"), np.load("alone/trajectory.npy"), atol=1e-9)
    run("simulate", "--resume", "all/repeat-1", "--steps", 20, "--no-figure", "-q")
    found = run("simulate", "--resume", "all", "--steps", 25, code=2)
    assert "repeat-1 has gone on by itself, to step 20; go on with it alone" in found.stderr


@pytest.mark.parametrize("words", [[], ["--stepper", "ab3"], ["--flow", "mmd"]], ids=["together", "ab3", "in turn"])
def test_resumed_repeats_are_uninterrupted_ones(words):
    simulate(*words, "--steps", 12, "--repeats", 2, "--output", "whole", "-q")
    simulate(*words, "--steps", 7, "--repeats", 2, "--output", "parts", "-q")
    run("simulate", "--resume", "parts", "--steps", 12, "--no-figure", "-q")
    for i in range(2):
        the_same(f"whole/repeat-{i}", f"parts/repeat-{i}")
    the_same("whole", "parts", ["repeats.csv"])


def test_a_kill_while_checkpoints_are_written():
    """Some repeats have theirs, others not, and the common one is of before: all go on from there."""
    simulate("--steps", 15, "--repeats", 3, "--output", "whole", "-q")
    simulate("--steps", 5, "--repeats", 3, "--output", "killed", "-q")
    shutil.copytree("killed", "before")
    run("simulate", "--resume", "killed", "--steps", 10, "--no-figure", "-q")
    shutil.copy("before/checkpoint.pt", "killed/checkpoint.pt")
    shutil.copy("before/repeat-2/checkpoint.pt", "killed/repeat-2/checkpoint.pt")
    run("simulate", "--resume", "killed", "--steps", 15, "--no-figure", "-q")
    for i in range(3):
        the_same(f"whole/repeat-{i}", f"killed/repeat-{i}")


def test_an_interrupt_saves_all_repeats(monkeypatch):
    simulate("--steps", 9, "--repeats", 2, "--output", "whole", "-q")
    log = Folders.log

    def interrupted(self, path, row):
        log(self, path, row)
        if path[-1].k == 3:  # while step 3 is written
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Folders, "log", interrupted)
        found = simulate("--steps", 9, "--repeats", 2, "--output", "parts", code=130)
    assert found.stderr.splitlines()[-1] == (
        "Interrupted: stopped after step 4; go on with: particles simulate --resume parts"
    )
    run("simulate", "--resume", "parts", "--no-figure", "-q")
    for i in range(2):
        the_same(f"whole/repeat-{i}", f"parts/repeat-{i}")


def test_a_full_disk_is_told(monkeypatch):
    def full(self, saved):
        raise OSError(28, "No space left on device", "checkpoint.pt")

    monkeypatch.setattr(Folder, "put", full)
    found = simulate("--steps", 9, "--repeats", 2, "--output", "all", code=4)
    assert "No space left on device; go on with: particles simulate --resume all" in found.stderr


def test_a_repeat_that_diverges_is_named():
    found = simulate("--steps", 50, "--repeats", 2, "--step-size", 1e38, "--output", "all", code=3)
    sentence = found.stderr.splitlines()[-1]
    assert sentence.startswith("Diverged: step ")
    assert " of repeat-" in sentence or "points are not finite" in sentence
    assert np.isfinite(pd.read_csv("all/repeat-1/diverged.csv").to_numpy()).all()
    words = ["--flow", "mmd", "--step-size", 1e38, "--steps", 50, "--dtype", "float32"]
    found = simulate(*words, "--repeats", 2, "--output", "turns", code=3)
    assert "repeat-0 diverged: step" in found.stderr
    assert "repeat-1 diverged: step" in found.stderr


def test_what_they_say_together():
    found = simulate("--steps", 4, "--repeats", 3, "--seed", 2, "--output", "all")
    rows = pd.read_csv("all/repeats.csv")
    assert rows.repeat.tolist() == [0, 1, 2]
    assert rows.seed.tolist() == [2, 3, 4]
    summary = json.loads(Path("all/summary.json").read_text())
    assert summary["seeds"] == [2, 3, 4]
    for i in range(3):
        own = json.loads(Path(f"all/repeat-{i}/summary.json").read_text())
        assert rows.w2_holdout[i] == own["flow_units"]["w2_holdout"]
        assert rows.divergence[i] == own["divergence"]
    for name in ("w2_target", "w2_holdout", "energy_target", "divergence", "kinetic_energy"):
        said = summary["flow_units"][name]
        low, high = stats.t.interval(0.95, 2, rows[name].mean(), stats.sem(rows[name]))
        assert said["mean"] == pytest.approx(rows[name].mean())
        assert said["deviation"] == pytest.approx(rows[name].std())
        assert said["mean"] - said["interval"] == pytest.approx(low)
        assert said["mean"] + said["interval"] == pytest.approx(high)
    assert "3 repeats, seeds 2 to 4; mean and 95 % interval of the mean" in found.stdout
    again = run("simulate", "--resume", "all", "--no-figure", "--json")
    assert json.loads(again.stdout) == summary


def test_numbers_that_a_repeat_lacks_are_left_out():
    assert list(together([{"a": 1.0, "b": 2.0}, {"a": 3.0}])) == ["a"]
    assert together([{"a": 1.0}, {"a": 3.0}])["a"] == pytest.approx(
        {"mean": 2.0, "deviation": 2**0.5, "interval": stats.t.ppf(0.975, 1)}
    )


def test_repeats_go_by_files_too():
    rng = np.random.default_rng(0)
    pd.DataFrame({"a": rng.normal(3, 2, 40), "b": rng.normal(size=40)}).to_csv("data.csv", index=False)
    run("simulate", "--target", "data.csv", "--steps", 3, "--repeats", 2, "--output", "all", "-q", "--network", "8,8")
    assert Path("all/figure.png").read_bytes().startswith(b"\x89PNG")
    own = [np.load(f"all/repeat-{i}/data.npz")["holdout"] for i in range(2)]
    assert not np.array_equal(*own)  # each holds out rows of its own
    assert list(pd.read_csv("all/repeat-1/particles.csv").columns) == ["a", "b"]
    assert tomllib.loads(Path("all/repeats.toml").read_text())["target"] == str(Path("data.csv").resolve())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"flow": "transport"}, "the flow transport trains no discriminator"),
        ({"flow": "proximal"}, "the flow proximal trains no discriminator"),
        ({"batch_size": 5}, "batch_size draws"),
        ({"persistency": 2}, "persistency decides"),
        ({"stepper": "proximal"}, "the stepper proximal asks"),
        ({"stepper": "adaptive"}, "the stepper adaptive asks"),
        ({"carried": 3}, "carried is of one run"),
        ({"record": True}, "record is of one run"),
        ({"stop_energy": 1e-3}, "stop_energy is of one run"),
        ({"compile": "full"}, "compile full is of one run"),
        ({"constraint": "penalty"}, "the penalty draws"),
        ({"constraint": "none"}, "only dense networks with bounded weights"),
        ({"target": "iris", "label": "target"}, "classes have outputs"),
    ],
)
def test_what_cannot_go_side_by_side_goes_in_turn(settings, reason):
    spec = Specification(**{"target": "moons", "target_size": 30, "particles": 20, "network": (8, 8)} | settings)
    specs = seeds(spec, 2)
    assert [own.seed for own in specs] == [0, 1]
    assert dissent(specs, [build(own).process for own in specs]).startswith(reason)


def test_repeats_in_turn_are_runs_bit_for_bit():
    words = ["--flow", "transport", "--steps", 4]
    found = simulate(*words, "--repeats", 2, "--output", "all")
    assert "The repeats run one after another: the flow transport trains no discriminator" in found.stderr
    simulate(*words, "--seed", 1, "--output", "alone", "-q")
    the_same("all/repeat-1", "alone")


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = simulate("--steps", 2, "--repeats", 2, "--output", "all", code=2)
    assert "--repeats are of one process; start them without torchrun" in found.stderr


def test_a_folder_is_not_taken_for_another():
    simulate("--steps", 2, "--repeats", 3, "--output", "all", "-q")
    simulate("--steps", 2, "--output", "one", "-q")
    for words, sentence in (
        (["--output", "all"], "all is not empty; go on with it (--resume all)"),
        (["--output", "all", "--overwrite"], "all is not empty and not a run (it has no spec.toml)"),
        (["--output", "one", "--repeats", 2, "--overwrite"], "one is not empty and not one of repeats"),
        (["--resume", "all", "--repeats", 2], "--repeats cannot be changed"),
        (["--output", "new", "--repeats", 2, "--watch", "terminal"], "--watch looks at one run"),
    ):
        words = words if "--resume" in words else [*SMALL[:-4], "--steps", 2, *words]
        assert sentence in run("simulate", *words, code=2).stderr
    assert "name a run in it, such as all/repeat-0" in run("plot", "all", code=2).stderr
    run("plot", "all/repeat-0", "--output", "picture.png")
    simulate("--steps", 2, "--repeats", 2, "--output", "all", "--overwrite", "-q")
    assert not Path("all/repeat-2").exists()
    Path("all/repeat-1/spec.toml").unlink()
    assert "all/repeat-1 is not a run folder" in run("simulate", "--resume", "all", code=2).stderr
    Path("all/checkpoint.pt").write_bytes(b"no")
    shutil.copy("all/repeat-0/spec.toml", "all/repeat-1/spec.toml")
    assert run("simulate", "--resume", "all", code=2).stderr.splitlines()[-1].startswith("Error: ")
