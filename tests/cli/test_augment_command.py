"""The command augment: what it writes, what it says, and what it refuses."""

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from particles.cli import main
from particles.cli.gain import FEWEST, gain_of
from sklearn.datasets import load_digits

from particles import Key
from particles.augment.block_flow import FlowSettings
from particles.augment.generator import Augmentation, Recipe
from particles.augment.selection import TRIED
from particles.flows.gradient import GradientFlow
from particles.quality.evaluate import evaluate
from particles.quality.utility import Score

pytestmark = pytest.mark.usefixtures("small_forests")

SIZES = {"a": 40, "b": 24, "c": 9}


def mixed(name="mixed", sizes=SIZES):
    """A table with a column of every kind, its label between them."""
    label = np.repeat(list(sizes), list(sizes.values()))
    n, rng = len(label), Key.of(0).fold(name).numpy()
    label = rng.permutation(label)
    shift = pd.Series(label).map({"a": 0.0, "b": 1.5, "c": 3.0}).to_numpy()
    wet = rng.random(n) < 0.5
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 90, n), unit="D")
    frame = pd.DataFrame(
        {
            "number": rng.normal(size=n) + shift,
            "count": rng.poisson(5 + shift),
            "quarter": rng.integers(-20, 20, n) / 4,
            "rain": np.where(wet, 1 + rng.gamma(2, 3, n), 0.0),
            "y": label,
            "colour": rng.choice(["red", "green", "dark, blue"], n),
            "flag": rng.random(n) < 0.5,
            "day": days.strftime("%Y-%m-%d"),
            "gap": rng.normal(size=n),
            "fixed": 7,
        }
    )
    frame["again"] = frame["count"]
    frame.loc[(rng.random(n) < 0.4) & (frame["y"] == "a"), "gap"] = np.nan  # only there
    return frame


def plain(n, name, classes=2, apart=2.0):
    rng = Key.of(0).fold(name).numpy()
    frame = pd.DataFrame(rng.normal(size=(n, 3)), columns=["u", "v", "w"]).assign(y=np.arange(n) % classes)
    frame["u"] += apart * frame["y"]
    return frame


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def augment(frame, *words, code=0, name="data.csv", cheap=True, output="out.csv"):
    if frame is not None:
        frame.to_csv(name, index=False)
    given = ["--method", "gaussian"] if cheap and "--method" not in words else []
    found = CliRunner().invoke(main, ["augment", name, "-o", output, *given, *map(str, words)])
    assert found.exit_code == code, (found.output, found.exception)
    return found


def files():
    return sorted(path.name for path in Path().iterdir())


# What is written


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    mixed().to_csv(folder / "data.csv", index=False)
    words = ["augment", "data.csv", "--label", "y", "--per-class", "40", "--seed", "3", "--method", "kde"]
    before = Path.cwd()
    os.chdir(folder)
    try:
        found = CliRunner().invoke(main, [*words, "--output", "out.csv", "--report", "report.json"])
    finally:
        os.chdir(before)
    assert found.exit_code == 0, found.output
    return folder, found


def test_the_rows_come_first_and_are_unchanged(written):
    folder, _ = written
    before, after = ((folder / name).read_text().splitlines() for name in ("data.csv", "out.csv"))
    assert after[0] == before[0] + ",synthetic"
    assert after[1 : len(before)] == [line + ",0" for line in before[1:]]
    assert all(line.endswith(",1") for line in after[len(before) :])
    assert len(after) == 1 + 3 * 40


def test_new_rows_of_every_kind_of_column(written):
    folder, _ = written
    old, both = pd.read_csv(folder / "data.csv"), pd.read_csv(folder / "out.csv")
    assert both.drop(columns="synthetic").dtypes.equals(old.dtypes)
    new = both[both["synthetic"] == 1]
    assert new["y"].value_counts().to_dict() == {"b": 16, "c": 31}
    assert both["y"].value_counts().to_dict() == {"a": 40, "b": 40, "c": 40}
    for name in ("number", "count", "quarter", "rain"):
        assert new[name].between(old[name].min(), old[name].max()).all(), name
    assert (new["quarter"] * 4 % 1 == 0).all()
    dry = (new["rain"] == 0).mean()
    assert 0.25 < dry < 0.75
    assert new.loc[new["rain"] != 0, "rain"].min() >= old.loc[old["rain"] != 0, "rain"].min()
    assert set(new["colour"]) == set(old["colour"])
    assert set(new["flag"]) == {True, False}
    assert new["day"].str.fullmatch(r"2024-0[1-3]-\d\d").all()
    assert new["day"].between(old["day"].min(), old["day"].max()).all()
    assert (new["fixed"] == 7).all()
    assert (new["again"] == new["count"]).all()
    assert not new.isna().any(axis=None)  # no value of the classes b and c is missing
    assert not new.drop(columns="synthetic").merge(old).shape[0]


def test_missing_values_are_those_of_the_class():
    augment(mixed(), "--label", "y", "--per-class", 140)
    new = pd.read_csv("out.csv").query("synthetic == 1")
    assert new.groupby("y")["gap"].apply(lambda gap: gap.isna().mean()).between([0.25, 0, 0], [0.6, 0, 0]).all()
    assert not new.drop(columns="gap").isna().any(axis=None)


def test_the_report(written):
    folder, found = written
    report = json.loads((folder / "report.json").read_text())
    new = pd.read_csv(folder / "out.csv").query("synthetic == 1")
    assert [(one["class"], one["rows"], one["made"]) for one in report["classes"]] == [("b", 24, 16), ("c", 9, 31)]
    assert report["left"] == [{"class": "a", "rows": 40}]
    for one in report["classes"]:
        assert (one["method"], one["start"], one["steps"], one["copies"]) == ("kde", "kde", 0, 0)
        assert one["reason"] == "the method was asked for"
        assert one["nearest_ratio"] > 0.5
        assert list(one["energy_holdout"]) == ["kde"]
    assert report["columns"] == {
        "number": "numeric",
        "count": "integer",
        "quarter": "grid",
        "rain": "zero-inflated",
        "colour": "categorical",
        "flag": "boolean",
        "day": "date",
        "gap": "numeric",
        "fixed": "constant",
        "again": "duplicate",
    }
    assert (report["data"], report["label"], report["seed"], report["options"]["method"]) == ("data.csv", "y", 3, "kde")
    assert report["holdout"] is report["gain"] is None
    lines = found.stdout.splitlines()
    heads = ["class", "rows", "made", "method", "start", "steps", "E kde", "ratio", "copies", "why it stopped"]
    assert re.split(r"  +", lines[0]) == heads
    for line, one in zip(lines[1:3], report["classes"]):
        shown = [f"{one['energy_holdout']['kde']:.3g}", f"{one['nearest_ratio']:.3g}"]
        cells = [one["class"], str(one["rows"]), str(one["made"]), "kde", "kde", "0", *shown, "0", one["reason"]]
        assert re.split(r"  +", line) == cells
    assert "Left as they are: a (40 rows)." in lines
    assert "was NOT measured" in found.stdout
    assert "--holdout" in found.stdout
    assert "no protection of anybody's privacy" in found.stdout
    assert lines[-1] == f"out.csv: 73 rows of data.csv and {len(new)} new rows, marked in the column 'synthetic'"
    assert found.stderr == ""


def test_the_rows_are_those_of_the_library():
    frame = plain(30, "library").sample(20, random_state=0).reset_index(drop=True)
    words = ["--conditional", "--divergence", "reverse-kl", "--lipschitz", 2, "--start", "bootstrap", "--stop", 3]
    augment(frame, "--label", "y", "--per-class", 14, "--seed", 5, "--method", "flow", *words)
    from particles.divergences import ReverseKL

    settings = FlowSettings(ReverseKL(), lipschitz=2.0, conditional=True)
    recipe = Recipe("flow", "bootstrap", 3, settings=settings)
    counts = [14 - size for size in np.bincount(frame["y"])]
    expected = Augmentation(frame.drop(columns="y"), frame["y"].to_numpy(), counts, recipe, Key.of(5))
    found = pd.read_csv("out.csv", float_precision="round_trip").query("synthetic == 1")
    assert np.array_equal(found[["u", "v", "w"]], expected.rows)
    assert np.array_equal(found["y"], expected.group)


def test_the_same_seed_gives_the_same_bytes():
    frame = plain(16, "seed")
    words = ["--label", "y", "--per-class", 12, "--method", "flow", "--stop", 2, "--report"]
    seen = []
    for seed, report in ((1, "r1.json"), (1, "r2.json"), (2, "r3.json")):
        augment(frame, *words, report, "--seed", seed, "--overwrite")
        seen.append((Path("out.csv").read_bytes(), Path(report).read_bytes()))
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[2][0]


def test_only_new_rows():
    frame = plain(20, "new").assign(y=["no"] * 14 + ["yes"] * 6)
    augment(frame, "--label", "y", "--only-new")  # balanced without being asked
    whole = augment(None, "--label", "y", "--balance", output="both.csv")
    new, both = pd.read_csv("out.csv"), pd.read_csv("both.csv")
    assert new.equals(both[both["synthetic"] == 1].reset_index(drop=True))
    assert new["y"].tolist() == ["yes"] * 8
    assert "20 rows of data.csv and 8 new rows" in whole.stdout


def test_without_classes():
    frame = plain(20, "rows").drop(columns="y")
    augment(frame)
    assert pd.read_csv("out.csv")["synthetic"].tolist() == [0] * 20 + [1] * 20
    found = augment(frame, "--rows", 23, "--overwrite")
    assert pd.read_csv("out.csv")["synthetic"].tolist() == [0] * 20 + [1] * 3
    assert re.split(r"  +", found.stdout.splitlines()[1])[:3] == ["all rows", "20", "3"]


def test_a_continuous_label_is_made_with_the_columns():
    frame = plain(40, "values").assign(y=lambda frame: 3 * frame["u"])[["u", "y", "w"]]
    augment(frame, "--label", "y", "--rows", 90)
    new = pd.read_csv("out.csv").query("synthetic == 1")
    assert list(new.columns) == ["u", "y", "w", "synthetic"]
    assert len(new) == 50
    assert new[["u", "y"]].corr().iloc[0, 1] > 0.6  # 0 if they were drawn apart; 1 in the table, shrunk
    frame["y"] = np.arange(40) // 20 + 0.5  # values, unless they are declared
    augment(frame, "--label", "y", "--categorical", "y", "--per-class", 25, "--overwrite")
    assert pd.read_csv("out.csv")["y"].value_counts().to_dict() == {0.5: 25, 1.5: 25}


def test_categories_that_are_numbers():
    frame = plain(40, "codes").assign(code=np.tile([1, 1, 1, 9], 10))
    augment(frame, "--label", "y", "--per-class", 60, "--categorical", "code")
    assert set(pd.read_csv("out.csv")["code"]) == {1, 9}
    augment(frame.assign(code=np.arange(40)), "--label", "y", "--per-class", 60, "--overwrite")
    assert not set(pd.read_csv("out.csv").query("synthetic == 1")["code"]) <= {1, 9}


def test_parquet():
    frame = mixed().assign(
        day=lambda frame: pd.to_datetime(frame["day"]), flag=lambda frame: frame["flag"].astype("boolean")
    )
    frame["small"] = frame["number"].astype("float32")
    frame.to_parquet("data.parquet")
    augment(None, "--label", "y", name="data.parquet", output="out.parquet")
    found, frame = pd.read_parquet("out.parquet"), pd.read_parquet("data.parquet")
    assert found.dtypes.drop("synthetic").equals(frame.dtypes)
    pd.testing.assert_frame_equal(found.iloc[: len(frame)].drop(columns="synthetic"), frame)
    assert found["y"].value_counts().to_dict() == {"a": 40, "b": 40, "c": 40}


def test_images():
    x, y = load_digits(n_class=2, return_X_y=True)
    np.savez("digits.npz", x=x[:40], digit=y[:40])
    words = ["--label", "digit", "--image-shape", "8,8", "--method", "flow", "--start", "gaussian", "--stop", 2]
    augment(None, *words, "--per-class", 25, "--report", "report.json", name="digits.npz")
    found = pd.read_csv("out.csv")
    assert list(found.columns) == [*(f"x{i}" for i in range(64)), "digit", "synthetic"]
    assert np.array_equal(found.iloc[:40, :64], x[:40])
    new = found.query("synthetic == 1").iloc[:, :64].to_numpy()
    assert len(new) == 10
    assert np.array_equal(new, np.rint(new))
    assert (new >= x[:40].min(0)).all()
    assert (new <= x[:40].max(0)).all()
    report = json.loads(Path("report.json").read_text())
    assert [(one["method"], one["steps"]) for one in report["classes"]] == [("flow", 2)] * 2
    assert report["scale"] == "global"


def test_latent_coordinates():
    rng = Key.of(0).fold("latent").numpy()
    frame = pd.DataFrame(rng.normal(size=(30, 2)) @ rng.normal(size=(2, 6)), columns=list("abcdef"))
    augment(frame, "--latent", "pca:2", "--no-marginals", "--report", "report.json")
    assert json.loads(Path("report.json").read_text())["latent"]["dimension"] == 2
    new = pd.read_csv("out.csv").query("synthetic == 1")[list("abcdef")]
    inside = new[((new > frame.min()) & (new < frame.max())).all(axis=1)]  # which nothing was cut off from
    assert len(inside) > 10
    values = np.linalg.svd(inside.to_numpy(), compute_uv=False)
    assert values[1] > 1e6 * values[2]


def test_defaults():
    found = augment(plain(24, "defaults"), "--label", "y", "--per-class", 20, "--json", cheap=False)
    report = json.loads(found.stdout)
    for one in report["classes"]:
        assert one["made"] == 8
        assert set(one["energy_holdout"]) == {*TRIED, "flow"}
        assert one["method"] == ("flow" if one["steps"] else one["start"])
    near = min(one["nearest_ratio"] for one in report["classes"]) < 0.7
    assert near == any("nearer to training rows" in warning for warning in report["warnings"])
    assert [f"WARNING: {warning}" for warning in report["warnings"]] == found.stderr.splitlines()
    assert report["options"] == {
        "method": "auto",
        "start": "auto",
        "stop": "auto",
        "min_ratio": 0.7,
        "divergence": "kl",
        "lipschitz": 1.0,
        "conditional": False,
        "latent": "none",
        "marginals": True,
        "image_shape": None,
    }


def test_quiet():
    frame = plain(20, "quiet").assign(y=["no"] * 16 + ["yes"] * 4)
    found = augment(frame, "--label", "y", "-q")
    assert found.stdout == ""
    (warning,) = found.stderr.splitlines()  # tiny classes are warned of nevertheless
    assert warning.startswith("WARNING: class 'yes' has 4 different rows: too few to be augmented honestly")


# A column that marks new rows


def test_marks_in_the_table():
    frame = plain(20, "marks").assign(y=["no"] * 14 + ["yes"] * 6)
    augment(frame, "--label", "y", output="clean.csv")
    augment(frame.assign(synthetic=0)[["synthetic", *frame.columns]], "--label", "y")
    assert Path("out.csv").read_bytes() == Path("clean.csv").read_bytes()
    augment(frame.assign(synthetic=False), "--label", "y", "--overwrite")
    assert Path("out.csv").read_bytes() == Path("clean.csv").read_bytes()
    found = augment(None, "--label", "y", "--per-class", 30, name="clean.csv", output="more.csv", code=2)
    assert "clean.csv has a column 'synthetic' that is not 0 throughout" in found.stderr
    assert not Path("more.csv").exists()


# What is measured on held-out rows


def test_gain_and_distances_are_those_of_evaluate():
    frame, holdout = plain(30, "train"), plain(44, "test")
    holdout[["y", "w", "v", "u"]].to_csv("test.csv", index=False)
    found = augment(frame, "--label", "y", "--per-class", 25, "--holdout", "test.csv", "--report", "report.json")
    augment(frame, "--label", "y", "--per-class", 25, output="without.csv")
    assert Path("out.csv").read_bytes() == Path("without.csv").read_bytes()  # the hold-out changes nothing
    report = json.loads(Path("report.json").read_text())
    new = pd.read_csv("out.csv", float_precision="round_trip").query("synthetic == 1")
    tables = [each.assign(y=each["y"].astype(str)) for each in (frame, new.drop(columns="synthetic"), holdout)]
    quality = evaluate(*tables, "y", key=Key.of(0).fold("evaluate"))
    energies = {one.group: (one.value, one.real) for one in quality.figures if one.name == "energy distance"}
    held = report["holdout"]
    assert (held["file"], held["rows"]) == ("test.csv", 44)
    for one in held["energy"]:
        assert (one["new"], one["training"]) == pytest.approx(energies[str(one["class"])], rel=1e-9)
    both = [one for one in quality.utility if one.trained_on == "real + synthetic"]
    assert [one["gain"] for one in report["gain"]["models"]] == pytest.approx([one.gain for one in both])
    assert report["gain"]["mean"] == pytest.approx(np.mean([one.gain for one in both]))
    assert report["gain"]["low"] == pytest.approx(np.mean([one.low for one in both]))
    assert report["gain"]["verdict"] in found.stdout
    assert "NOT measured" not in found.stdout
    assert len(re.findall(r"^(?:logistic regression|RBF SVM|random forest|MLP)  ", found.stdout, re.M)) == 4
    assert "Energy distance to the 44 rows of test.csv" in found.stdout


@pytest.mark.parametrize("seed", range(3))
def test_permuted_labels_gain_nothing(seed):
    """Negative control: labels that say nothing about the columns, in a small class and a large one."""
    rng = Key.of(seed).fold("permuted").numpy()
    frame, holdout = plain(45, ("train", seed)), plain(90, ("test", seed))
    frame["y"] = rng.permutation(np.repeat([0, 1], [30, 15]))
    holdout["y"] = rng.permutation(holdout["y"])
    holdout.to_csv("test.csv", index=False)
    found = augment(frame, "--label", "y", "--holdout", "test.csv", "--json", "--method", "kde")
    gain = json.loads(found.stdout)["gain"]
    assert gain["low"] < 0 < gain["high"]
    assert gain["verdict"].startswith("Augmentation made no measurable difference")


def test_the_gain_in_a_number():
    """Rows with the right slope and intercept gain nothing over 60 rows with them; R² is near 1 either way."""
    frame, holdout = (plain(n, name).assign(y=lambda frame: 3 * frame["u"] + 0.5) for n, name in ((60, "r"), (50, "h")))
    holdout.to_csv("test.csv", index=False)
    gain = json.loads(augment(frame, "--label", "y", "--holdout", "test.csv", "--json").stdout)["gain"]
    assert gain["measure"] == "R²"
    assert [one["model"] for one in gain["models"]] == ["ridge regression", "SVR", "random forest"]
    assert gain["models"][0]["real"] > 0.99
    assert gain["low"] <= gain["mean"] <= gain["high"]


def scores(*gains, width=0.02):
    for i, gain in enumerate(gains):
        yield Score(f"m{i}", "real", 0.8)
        yield Score(f"m{i}", "synthetic", 0.7, -0.1, -0.2, 0.0)
        yield Score(f"m{i}", "real + synthetic", 0.8 + gain, gain, gain - width, gain + width)


def test_what_counts_as_a_gain():
    """The mean over the models decides, not the best one of them."""
    found = gain_of(list(scores(0.05, 0.03)), "balanced accuracy", FEWEST)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((0.04, 0.02, 0.06))
    assert found["verdict"].startswith("Augmentation helped: balanced accuracy +0.040 [+0.020, +0.060]")
    assert gain_of(list(scores(-0.05, -0.03)), "R²", 9)["verdict"].startswith("Augmentation did harm: R² -0.040")
    one_of_four = gain_of(list(scores(0.05, 0, 0, 0)), "R²", 9)
    assert one_of_four["models"][0]["low"] > 0
    assert "no measurable difference" in one_of_four["verdict"]
    assert "no measurable difference" in gain_of(list(scores(0.02)), "R²", 9)["verdict"]  # the interval ends at 0
    few = gain_of(list(scores(0.05, 0.03)), "R²", FEWEST - 1)["verdict"]
    assert "nothing can be told from fewer than 5 held-out rows" in few
    assert "helped" not in few


def test_a_holdout_with_training_rows():
    frame, holdout = plain(20, "leak"), plain(16, "fresh")
    pd.concat([holdout, frame[:4]]).to_csv("test.csv", index=False)
    found = augment(frame.drop(columns="y"), "--holdout", "test2.csv", code=2)
    assert "there is no such file" in found.stderr
    pd.concat([holdout, frame[:4]]).drop(columns="y").to_csv("test.csv", index=False)
    found = augment(frame.drop(columns="y"), "--holdout", "test.csv")
    assert "20% of its rows are in data.csv as well" in found.stderr
    assert "NOT measured" in found.stdout  # no label, no gain
    assert "Energy distance to the 20 rows of test.csv" in found.stdout


# What is refused


TABLE = plain(20, "refused")


def with_entry(column, row, entry):
    frame = TABLE.copy().astype({column: object})
    frame.loc[row, column] = entry
    return frame


@pytest.mark.parametrize(
    ("frame", "words", "message"),
    [
        (None, [], "data.csv: there is no such file"),
        (TABLE, ["--label", "z"], "has no column 'z' for the labels"),
        (TABLE.assign(u=1, v=2, w=3), ["--label", "y", "--per-class", 30], "every column is constant"),
        (TABLE[:1], [], "data.csv has 1 row; at least 2 are needed"),
        (TABLE[["y"]], ["--label", "y"], "has no column beside the label 'y'"),
        (TABLE, ["--method", "transport"], "drives particles onto the training rows themselves, so that its new rows are copies"),
        (TABLE, ["--method", "smote"], "method 'smote' is not one of auto, flow, gaussian, kde"),
        (TABLE, ["--start", "smote"], "start 'smote' is not one of auto"),
        (TABLE, ["--stop", "late"], "stop must be auto, ratio or a number of steps from 0 to 10000, not 'late'"),
        (TABLE, ["--stop", "-1"], "stop must be auto, ratio or a number of steps from 0 to 10000, not '-1'"),
        (TABLE, ["--min-ratio", 2], "'--min-ratio': 2.0 is not in the range"),
        (TABLE, ["--divergence", "k"], "unknown --divergence 'k'"),
        (TABLE, ["--lipschitz", 0], "--lipschitz must be a positive number, not 0.0"),
        (TABLE, ["--latent", "pca:many"], "latent 'pca:many': behind the colon goes a number of coordinates"),
        (TABLE.head(2), ["--latent", "pca:1"], "2 rows are too few to learn principal components from"),
        (TABLE, ["--latent", "umap"], "latent 'umap' is not one of none, pca:0.95"),
        (TABLE, ["--image-shape", "8"], "--image-shape '8' is no height and width"),
        (TABLE, ["--image-shape", "8,8"], "data.csv has 4 columns, but images of the shape (8, 8) have 64"),
        (TABLE, ["--categorical", "z"], "has no column 'z', which was declared as categorical"),
        (TABLE.assign(id=[f"p{i}" for i in range(20)] * 1).sample(60, replace=True, random_state=0).assign(id=[f"p{i}" for i in range(60)]), [], "column 'id': 60 different texts in 60 rows look like an identifier"),
        (with_entry("u", 3, np.inf), [], "data.csv, line 5: column 'u' is infinite"),
        (with_entry("y", 6, np.nan), ["--label", "y"], "data.csv, line 8: the label 'y' is missing"),
        (TABLE.assign(u=np.where(np.arange(20) == 2, np.nan, 1), v=TABLE["v"].where(TABLE.index != 2), w=np.nan, y=np.nan), [], "data.csv, line 4: all entries are missing"),
        (TABLE, ["--per-class", 30], "there is no --label, so the number of rows is given with --rows"),
        (TABLE, ["--label", "u", "--balance"], "'u' holds numbers, not classes, so the number of rows is given with --rows"),
        (TABLE, ["--label", "y", "--rows", 50], "'y' holds classes, so the number of rows is given with --per-class"),
        (TABLE, ["--label", "y"], "no class has fewer than 10 rows, so there is nothing to make; ask for more with --per-class"),
        (TABLE, ["--label", "y", "--per-class", 10], "no class has fewer than 10 rows"),
        (TABLE, ["--rows", 20], "data.csv has 20 rows already; --rows must be more than that, not 20"),
        (TABLE, ["--rows", 10**30], f"the number of new rows {10**30 - 20} asks for about "),
        (TABLE, ["--label", "y", "--per-class", 10**400], "are free; at most "),
        (TABLE, ["--label", "y", "--balance", "--per-class", 30], "--per-class, --balance and --rows exclude each other"),
        (TABLE, ["--holdout", "data.csv"], "--holdout data.csv is the table itself"),
        (TABLE, ["--report", "out.csv"], "--output and --report are the same file"),
        (TABLE, ["--report", "data.csv"], "--report data.csv is one of the tables"),
        (TABLE, ["--report", "no/report.json"], "there is no folder no"),
        (TABLE.rename(columns={"y": "synthetic"}), ["--label", "synthetic"], "the column 'synthetic' marks new rows"),
    ],
)  # fmt: skip
def test_refusals(frame, words, message):
    found = augment(frame, *words, code=2, cheap="--method" not in words)
    (sentence,) = [line for line in found.stderr.splitlines() if line.startswith("Error: ")]
    assert message in sentence
    assert found.stdout == ""
    assert files() == ([] if frame is None else ["data.csv"])


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        (TABLE.drop(columns="v"), "--holdout test.csv lacks the column 'v'; it needs the columns of data.csv"),
        (TABLE.assign(more=1), "--holdout test.csv has the column 'more' more"),
        (TABLE.assign(v="text"), "--holdout test.csv, column 'v': it holds text, and numbers in data.csv"),
        (with_entry("y", 1, np.nan), "test.csv, line 3: the label 'y' is missing"),
        (TABLE.assign(synthetic=1), "test.csv has a column 'synthetic' that is not 0 throughout"),
    ],
)
def test_refused_holdouts(holdout, message):
    holdout.to_csv("test.csv", index=False)
    found = augment(plain(20, "other"), "--label", "y", "--per-class", 30, "--holdout", "test.csv", code=2)
    assert message in found.stderr
    assert files() == ["data.csv", "test.csv"]


def test_nothing_is_overwritten_unasked():
    for name in ("out.csv", "report.json"):
        Path(name).write_text("mine")
        found = augment(TABLE, "--rows", 25, "--report", "report.json", code=2)
        assert f"{name} is there already; replace it (--overwrite)" in found.stderr
        assert Path(name).read_text() == "mine"
        Path(name).unlink()
    Path("out.npz").write_text("mine")
    assert "would hold CSV" in augment(TABLE, "--overwrite", output="out.npz", code=2).stderr
    assert Path("out.npz").read_text() == "mine"
    assert "is one of the tables" in augment(TABLE, "--overwrite", output="data.csv", code=2).stderr
    assert pd.read_csv("data.csv").equals(TABLE)


# Being interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_flow(monkeypatch, number):
    velocity, seen = GradientFlow.velocity, []

    def interrupting(self, *args, **settings):
        seen.append(1)
        if len(seen) == 3:
            os.kill(os.getpid(), number)
        return velocity(self, *args, **settings)

    monkeypatch.setattr(GradientFlow, "velocity", interrupting)
    words = ["--rows", 30, "--method", "flow", "--start", "gaussian", "--stop", 50, "--report", "report.json"]
    found = augment(TABLE, *words, code=128 + number)
    assert found.stderr == "Interrupted; nothing is written.\n"
    assert len(seen) == 3
    assert files() == ["data.csv"]


def test_interrupted_while_writing(monkeypatch):
    def interrupted(self, path, **settings):
        Path(path).write_text("half")
        raise KeyboardInterrupt

    TABLE.to_csv("data.csv", index=False)
    Path("out.csv").write_text("mine")
    monkeypatch.setattr(pd.DataFrame, "to_csv", interrupted)
    augment(None, "--rows", 30, "--report", "report.json", "--overwrite", code=130)
    assert files() == ["data.csv", "out.csv"]
    assert Path("out.csv").read_text() == "mine"


@pytest.mark.parametrize("command", ["augment", "evaluate"])
def test_a_pipe_is_not_replaced_by_a_file(folder, command):
    os.mkfifo("pipe")
    frame = plain(12, "pipe")
    frame.to_csv("data.csv", index=False)
    words = ["data.csv", "--label", "y"] if command == "augment" else ["data.csv", "data.csv"]
    result = CliRunner().invoke(main, [command, *words, "-o", "pipe", "--overwrite"])
    assert result.exit_code == 2
    assert "--output pipe is no regular file" in result.stderr
    assert Path("pipe").is_fifo()


def test_a_compressed_name_is_refused(folder):
    result = augment(plain(12, "gz"), "--label", "y", code=2, output="out.csv.gz")
    assert "would hold CSV" in result.stderr
    assert not Path("out.csv.gz").exists()


def test_codes_are_those_of_the_table_and_of_the_hold_out(folder):
    frame = plain(24, "codes").assign(code=["007", "120"] * 12)
    frame.iloc[1::2].to_csv("held.csv", index=False)  # 120 alone, which looks like a number
    augment(frame, "--label", "y", "--per-class", "30", "--holdout", "held.csv")
    rows = pd.read_csv("out.csv", dtype={"code": str})
    assert rows["code"].tolist()[:24] == frame["code"].tolist()
    assert set(rows["code"]) == {"007", "120"}


def test_a_hold_out_that_lacks_a_class_tells_nothing(folder):
    frame = plain(24, "lacking")
    held = plain(40, "fresh")
    first = frame["y"].iloc[0]
    held[held["y"] == first].to_csv("held.csv", index=False)
    result = augment(frame, "--label", "y", "--per-class", "30", "--holdout", "held.csv")
    assert "nothing can be told" in result.stdout
    held.assign(y=held["y"].where(held["y"] == first, 7)).to_csv("held2.csv", index=False)
    result = augment(frame, "--label", "y", "--per-class", "30", "--holdout", "held2.csv", "--overwrite")
    assert "classes that no row of data.csv has, '7'" in result.stderr
