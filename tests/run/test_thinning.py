"""Trajectories of some particles, and the end in other files than CSV."""

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from particles.cli import main

import particles as pt
from particles import cloud as clouds
from particles.data import tables
from particles.report.facts import sentence, settings, state
from particles.report.player import players
from particles.run.folder import thinned
from particles.run.reader import Run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rows(folder):
    """A file of 60 rows in classes of 10, 20 and 30."""
    x = np.random.default_rng(0).normal(size=(60, 2))
    frame = pd.DataFrame(
        {"a": x[:, 0], "kind": ["u"] * 10 + ["v"] * 20 + ["w"] * 30, "b": np.rint(10 * x[:, 1]).astype(int)}
    )
    frame.to_csv("rows.csv", index=False)
    return ("--target", "rows.csv", "--label", "kind", "--holdout", "0", "--network", "8", "--steps", "4", "-n", "60")


def run(*words, code=0):
    found = CliRunner().invoke(main, ["simulate", *map(str, words), "-q", "--no-figure"])
    assert found.exit_code == code, found.output
    return found.output


def test_a_thinned_trajectory_is_rows_of_the_whole_one(rows):
    """Bit for bit, the same share of each class and of the carried ones; nothing else of the run changes."""
    run(*rows, "--carried", 12, "-o", "all")
    run(*rows, "--carried", 12, "--trajectory-particles", 24, "-o", "some")
    whole, some = Run.open("all"), Run.open("some")
    assert whole.rows is None
    assert (np.diff(some.rows) > 0).all()
    np.testing.assert_array_equal(some.trajectory, whole.trajectory[:, some.rows])
    np.testing.assert_array_equal(some.label, whole.label[some.rows])
    assert (some.own, some.carried, some.total, whole.total) == (20, 4, 60, 60)
    own = some.label[: some.own].tolist()
    assert [own.count(c) for c in "uvw"] == [round(24 * n / 72) for n in (10, 20, 30)]
    for name in ("particles.csv", "carried.csv", "series.csv", "trajectory.csv"):
        with open(f"all/{name}", "rb") as a, open(f"some/{name}", "rb") as b:
            assert a.read() == b.read()


def test_a_thinned_run_in_two_parts_is_the_run(rows):
    words = (*rows, "--log-every", 1, "--checkpoint-every", 2, "--trajectory-particles", 7)
    run(*words, "-o", "whole")
    run(*words, "-o", "parts", "--steps", 2)
    run("--resume", "parts", "--steps", 4)
    for name in ("trajectory.npy", "trajectory.csv", "particles.csv"):
        with open(f"whole/{name}", "rb") as a, open(f"parts/{name}", "rb") as b:
            assert a.read() == b.read()


def test_readers_know_how_many_there_are_and_which_are_shown(rows):
    run(*rows, "--carried", 12, "--trajectory-particles", 24, "-o", "some")
    found = Run.open("some")
    assert state(found) == ""
    assert sentence(found).startswith("60 particles of 3 classes moved")
    assert ("particles", "60, and 12 carried") in settings(found)
    for kind in ("trajectories", "snapshots", "density", "transport", "tails"):
        drawn = CliRunner().invoke(main, ["plot", "some", "--kind", kind, "--output", f"{kind}.png"])
        assert drawn.exit_code == 0, drawn.output
    assert pt.plot.figure("some") is not None
    scene = players([found])[0]
    assert scene["own"] == 60
    assert scene["rows"] == found.rows[: found.own].tolist()


@pytest.mark.parametrize(("most", "counts"), [(3, [1, 1, 1]), (2, [0, 1, 1]), (10, [1, 3, 6]), (111, None)])
def test_no_group_is_left_out(most, counts):
    label = torch.tensor([0] * 3 + [1] * 30 + [2] * 70)
    rows = thinned(pt.Cloud(torch.zeros(103, 1), label), most, pt.Key.of(0))
    if counts is None:
        assert rows is None
    else:
        assert torch.bincount(label[rows], minlength=3).tolist() == counts


def test_the_end_as_another_file_holds_the_same_numbers(rows, monkeypatch):
    """Written in several parts, too."""
    run(*rows, "-o", "csv")
    monkeypatch.setattr(clouds, "NUMBERS", 32)
    run(*rows, "--export", "parquet", "-o", "parquet")
    run(*rows, "-o", "parts")
    a, b = pd.read_csv("csv/particles.csv"), pd.read_parquet("parquet/particles.parquet")
    assert list(a) == list(b) == ["a", "kind", "b"]
    assert b["a"].dtype == np.float32
    pd.testing.assert_frame_equal(a, b.astype({"a": float}), rtol=1e-6)
    with open("csv/particles.csv", "rb") as whole, open("parts/particles.csv", "rb") as parts:
        assert whole.read() == parts.read()
    assert "--export npy has no place for classes" in run(*rows, "--export", "npy", "-o", "npy", code=2)


def test_the_end_as_an_array_is_the_last_snapshot(folder, monkeypatch):
    monkeypatch.setattr(clouds, "NUMBERS", 32)
    words = ("--target", "moons", "--target-size", 30, "--holdout", 0, "--flow", "mmd", "--steps", 2, "--carried", 9)
    run(*words, "--export", "npy", "-o", "run")
    end = Run.open("run").trajectory[-1]
    np.testing.assert_array_equal(np.load("run/particles.npy"), end[:30])
    np.testing.assert_array_equal(np.load("run/carried.npy"), end[30:])
    assert state(Run.open("run")) == ""
    assert "unknown --export 'nyp'; did you mean npy?" in run(*words, "--export", "nyp", "-o", "other", code=2)
    run(*words, "-o", "run", "--overwrite")
    assert not (folder / "run/particles.npy").exists()


def test_points_are_the_same_in_parts_as_at_once(monkeypatch):
    """Encoding, units of the target, squared lengths, and the sentence about points that are too large."""
    x = np.random.default_rng(0).normal(3, 2, (50, 3))
    table = tables.array_table("x", x)
    schema = tables.Schema.fit(table, "standard")
    whole = schema.encode(table)
    points, squares = schema.points(whole.x), clouds.squares(whole.x, whole.x.flip(0))
    torch.testing.assert_close(squares, (whole.x - whole.x.flip(0)).square().sum(1), rtol=0, atol=0)
    np.testing.assert_allclose(points, x, rtol=1e-5, atol=1e-5)
    far = whole.x.clone()
    far[[3, 20, 45], 1] = 3e38
    monkeypatch.setattr(clouds, "NUMBERS", 48)
    assert torch.equal(schema.encode(table).x, whole.x)
    np.testing.assert_array_equal(schema.points(whole.x), points)
    assert torch.equal(clouds.squares(whole.x, whole.x.flip(0)), squares)
    with pytest.raises(FloatingPointError, match="column 'x1': 3 of 50 points are too large"):
        schema.check(far)
