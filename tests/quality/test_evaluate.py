"""The quality of a synthetic table: what it finds in tables whose faults are known, and the command."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from particles.cli import main
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_score

from particles import Cloud, Key, energy_distance
from particles.quality.evaluate import evaluate
from particles.quality.findings import ALL
from particles.quality.two_sample import two_sample

KEY = Key.of(0)
pytestmark = pytest.mark.usefixtures("small_forests")


def normal(n, name, columns=3):
    return pd.DataFrame(KEY.fold(name).numpy().normal(size=(n, columns)), columns=[f"x{i}" for i in range(columns)])


def classes(n, name):
    frame = normal(n, name)
    frame["y"] = np.where(np.arange(n) % 2, "b", "a")
    frame.loc[frame["y"] == "b", "x0"] += 2
    return frame


@pytest.fixture(scope="module")
def labelled(small_forests):
    tables = {"real": classes(60, "real"), "new": classes(80, "new"), "test": classes(70, "holdout")}
    return tables, evaluate(*tables.values(), "y", key=Key.of(7))


def said(quality, words):
    return [sentence for sentence in quality.warnings if words in sentence]


# What it finds


def test_fresh_rows_score_as_real_ones():
    quality = evaluate(normal(100, "real"), normal(120, "new"), normal(110, "holdout"), key=KEY)
    figures = {one.name: one for one in quality.figures}
    assert abs(figures["energy distance"].value) < 0.08
    assert figures["variance ratio"].value == pytest.approx(1, abs=0.2)
    assert figures["recall"].value > 0.9
    assert figures["distance ratio"].value == pytest.approx(1, abs=0.25)
    assert figures["closer to real"].value == pytest.approx(0.5, abs=0.12)
    assert figures["exact copies"].value == 0
    assert figures["two-sample AUC"].low < 0.5 < figures["two-sample AUC"].high
    assert figures["coverage"].value == pytest.approx(figures["coverage"].ideal, abs=0.05)
    assert quality.warnings == ()
    assert "None of these figures is a guarantee of privacy" in str(quality)


def test_primary_figures_come_first(labelled):
    _, quality = labelled
    blocks = quality.as_frame()["block"].tolist()
    assert blocks == sorted(blocks, key=["primary", "secondary", "utility"].index)
    text = str(quality)
    assert 0 < text.index("energy distance") < text.index("copies") < text.index("W2") < text.index("Utility")
    assert text.index("W2") > text.index("never to be read alone")
    assert [one.name for one in quality.figures if one.group == "a"] == [
        one.name for one in quality.figures if one.group == ALL and one.name != "correlation difference"
    ]


def test_collapse_is_caught():
    """Pitfall 4: a Gaussian in three principal components has the precision of real rows, or more, and no recall."""
    real, holdout = normal(60, "real", 60), normal(100, "holdout", 60)
    pca = PCA(3).fit(real)
    scores = pca.transform(real)
    drawn = KEY.fold("gaussian").numpy().multivariate_normal(scores.mean(0), np.cov(scores.T), size=200)
    tables = real, pd.DataFrame(pca.inverse_transform(drawn), columns=real.columns), holdout
    found = {one.name: one for one in evaluate(*tables, key=KEY).figures}
    for name in ("precision", "density", "coverage"):
        assert found[name].value > found[name].real, name
    assert found["precision"].value > 0.98
    assert found["W2"].value < found["W2"].real
    assert found["recall"].value == 0
    assert found["recall"].real > 0.7
    assert found["variance ratio"].value < 0.2
    assert found["energy distance"].value > 10 * abs(found["energy distance"].real)


def test_a_balanced_copy_is_ideal_but_for_copying():
    real, holdout = normal(80, "real"), normal(90, "holdout")
    quality = evaluate(real, real.sample(frac=1, random_state=0), holdout, key=KEY)
    found = {one.name: one for one in quality.figures}
    assert found["energy distance"].value == pytest.approx(found["energy distance"].real, abs=1e-12)
    assert found["recall"].value == found["recall"].real
    assert found["variance ratio"].value == pytest.approx(found["variance ratio"].real)
    assert found["exact copies"].value == 1
    assert found["near copies"].value == 1
    assert found["distance ratio"].value == 0
    assert found["closer to real"].value == 1


def test_figures_are_those_of_the_standardised_columns():
    real, new, holdout = (normal(n, name) * [1, 10, 100] for n, name in ((50, "real"), (60, "new"), (70, "holdout")))
    points = [
        Cloud(torch.from_numpy(((frame - real.mean()) / real.std(ddof=0)).to_numpy(copy=True)))
        for frame in (new, holdout)
    ]
    quality = evaluate(real, new, holdout, key=KEY)
    assert quality.value("energy distance") == pytest.approx(energy_distance(*points, unbiased=True), rel=1e-9)
    assert quality.value("nonsense") is None


def test_groups_are_the_rows_of_the_classes(labelled):
    (real, new, holdout), quality = labelled[0].values(), labelled[1]
    assert quality.rows == {
        ALL: {"real": 60, "synthetic": 80, "holdout": 70},
        "a": {"real": 30, "synthetic": 40, "holdout": 35},
        "b": {"real": 30, "synthetic": 40, "holdout": 35},
    }
    features = ["x0", "x1", "x2"]
    mean, unit = real[features].mean(), real[features].std(ddof=0)
    part = [
        Cloud(torch.from_numpy(((frame.loc[frame["y"] == "b", features] - mean) / unit).to_numpy(copy=True)))
        for frame in (new, holdout)
    ]
    assert quality.value("energy distance", "b") == pytest.approx(energy_distance(*part, unbiased=True), rel=1e-9)
    assert {one.column: one.value for one in quality.marginals}["y"] == 0


def test_two_sample_saturates_on_the_columns_but_not_in_components():
    """Pitfall 11: noise on a column that is mostly one value gives it away to a forest, and hardly in few components."""
    rng = KEY.fold("grid").numpy()
    base, other = (rng.normal(size=(120, 20)) for _ in range(2))
    real = np.concatenate((base, np.zeros((120, 5))), 1)
    noisy = np.concatenate((other, 1e-3 * rng.normal(size=(120, 5))), 1)
    x, y = np.concatenate((real, noisy)), np.repeat((0, 1), 120)
    forest = RandomForestClassifier(50, random_state=0)
    assert cross_val_score(forest, x, y, cv=3, scoring="roc_auc").mean() > 0.99
    found = two_sample(Cloud(torch.from_numpy(real)), Cloud(torch.from_numpy(noisy)), KEY, trees=50)
    assert 0.35 < found.auc < 0.65


def test_utility_trains_on_the_standardised_rows(labelled):
    tables, quality = labelled
    features = ["x0", "x1", "x2"]
    mean, unit = tables["real"][features].mean(), tables["real"][features].std(ddof=0)
    x = {name: ((frame[features] - mean) / unit).to_numpy() for name, frame in tables.items()}
    fitted = [LogisticRegression().fit(x[name], tables[name]["y"]) for name in ("real", "new")]
    score = [balanced_accuracy_score(tables["test"]["y"], model.predict(x["test"])) for model in fitted]
    first = quality.utility[1]
    assert (first.model, first.trained_on, quality.measure) == ("logistic regression", "synthetic", "balanced accuracy")
    assert (first.value, first.gain) == pytest.approx((score[1], score[1] - score[0]))
    frame = quality.as_frame()
    gains = frame[frame["figure"].str.startswith("gain: ")]
    assert gains["value"].tolist() == [one.gain for one in quality.utility if one.gain is not None]
    assert len(gains) == 8


def test_a_continuous_label_is_a_column_and_a_target():
    def rows(n, name):
        return normal(n, name, 2).assign(target=lambda frame: 3 * frame["x0"])

    quality = evaluate(rows(60, "real"), rows(60, "new"), rows(60, "holdout"), "target", key=KEY)
    assert quality.measure == "R²"
    assert list(quality.rows) == [ALL]
    ridge = quality.utility[1]
    assert (ridge.model, ridge.trained_on) == ("ridge regression", "synthetic")
    assert ridge.value > 0.99
    shuffled = rows(60, "new")
    shuffled["target"] = shuffled["target"].to_numpy()[::-1]
    broken = evaluate(rows(60, "real"), shuffled, rows(60, "holdout"), "target", key=KEY)
    assert broken.value("energy distance") > quality.value("energy distance") + 0.02  # the label is one of the columns
    assert broken.value("correlation difference") > 0.3


# What it warns of


def test_no_holdout_is_said():
    quality = evaluate(normal(50, "real"), normal(60, "new"), key=KEY)
    names = [one.name for one in quality.figures]
    assert names == ["variance ratio", "distance ratio", "exact copies", "near copies", "correlation difference"]
    assert "NOT measured on fresh rows" in quality.notes[0]
    assert "NOT measured on fresh rows" in str(quality)
    assert quality.value("distance ratio") == pytest.approx(1, abs=0.35)
    doubled = pd.concat([normal(50, "real")] * 3)  # repeated rows do not make the yardstick 0
    again = evaluate(doubled, normal(60, "new"), key=KEY)
    assert again.value("distance ratio") == pytest.approx(quality.value("distance ratio"), rel=1e-9)


def test_holdout_rows_that_are_copies():
    real, holdout = normal(50, "real"), normal(60, "holdout")
    mixed = pd.concat([holdout, real[:12]])
    (sentence,) = said(evaluate(real, normal(60, "new"), mixed, key=KEY), "copies of real rows")
    assert sentence.startswith("12 of 72 hold-out rows")


def test_artefacts():
    def rows(n, name):
        frame = normal(n, name, 2)
        rng = KEY.fold(name, "further").numpy()
        return frame.assign(
            fixed=3,
            count=rng.integers(0, 9, n),
            cents=(100 * frame["x0"]).round() / 100,
            kind=np.where(frame["x1"] > 0, "u", "v"),
        ).assign(again=lambda frame: frame["count"])

    real, holdout = rows(80, "real"), rows(80, "holdout")
    assert evaluate(real, rows(80, "new"), holdout, key=KEY).warnings == ()
    bad = rows(80, "new")
    noise = KEY.fold("noise").numpy().normal(size=80)
    bad = bad.assign(
        fixed=3 + 0.01 * noise, count=bad["count"] + 0.1 * noise, cents=bad["cents"] + 0.001 * noise, x1=bad["x1"] + 9
    )
    bad.loc[:9, "kind"] = "w"
    quality = evaluate(real, bad.assign(extra=1), holdout, key=KEY)
    assert said(quality, "constant or empty in the real rows: fixed")
    assert said(quality, "repeat another one in the real rows: again")
    assert "count (" in said(quality, "off the grid")[0]
    assert "cents (" in said(quality, "off the grid")[0]
    assert "x1 (100%)" in said(quality, "outside the range")[0]
    assert said(quality, "categories that no real row has, missing ones to all distances, in: kind")
    assert said(quality, "which are left out: extra")
    assert {one.column: one.measure for one in quality.marginals}["kind"] == "total variation"
    assert {one.column: one.value for one in quality.marginals}["fixed"] > 0.3


def test_unknown_classes_and_other_shares():
    real, holdout, new = classes(40, "real"), classes(40, "holdout"), classes(40, "new")
    new.loc[:3, "y"] = "c"
    quality = evaluate(real, new[new["y"] != "b"], holdout, "y", key=KEY)
    assert said(quality, "labels 'y' that no real row has: c")
    assert said(quality, "have other shares than those of the hold-out rows (total variation 0.50)")
    assert said(quality, "class 'b': there are no synthetic rows")
    with pytest.raises(ValueError, match="no synthetic row has a label 'y' of the real rows, which are a, b"):
        evaluate(real, new.assign(y="z"), holdout, "y", key=KEY)


def test_few_rows_leave_figures_out():
    real, new, holdout = classes(8, "real"), classes(8, "new"), classes(8, "holdout")
    quality = evaluate(real, new, holdout, "y", key=KEY)
    assert quality.value("recall") is not None
    assert quality.value("recall", "a") is None
    assert said(quality, "class 'a': recall left out: precision and recall with k = 5")
    assert said(quality, "two-sample AUC left out")
    one = evaluate(real, new[:1], holdout, key=KEY)
    assert said(one, "energy distance left out: the unbiased energy distance needs at least 2 points")
    assert one.value("exact copies") == 0
    assert one.value("W2") > 0


def test_columns_of_any_type():
    def rows(n, name):
        rng = KEY.fold(name).numpy()
        frame = pd.DataFrame({"x": rng.normal(size=n), "flag": rng.random(n) > 0.5, "code": rng.integers(1, 4, n)})
        frame["day"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, n), unit="D")
        frame["text"] = rng.choice(["u", "v"], n)
        frame.loc[rng.random(n) < 0.2, "x"] = np.nan
        return frame.assign(nothing=np.nan)

    quality = evaluate(rows(90, "real"), rows(90, "new"), rows(90, "holdout"), categorical=["code"], key=KEY)
    assert quality.warnings == ()
    found = {one.column: one for one in quality.marginals}
    assert set(found) == {"x", "flag", "code", "day", "text"}
    assert found["code"].measure == "total variation"
    assert found["day"].measure == "Kolmogorov-Smirnov"
    assert max(one.value for one in quality.marginals) < 0.25
    assert abs(quality.value("energy distance")) < 0.1


# Rows that are marked as synthetic


def test_only_marked_rows_are_measured():
    real, new, holdout = normal(40, "real"), normal(50, "new"), normal(60, "holdout")
    plain = evaluate(real, new, key=KEY)
    for marks in ((0, 1), (False, True), ("False", "True")):
        marked = pd.concat([real.assign(synthetic=marks[0]), new.assign(synthetic=marks[1])])
        assert evaluate(real, marked, key=KEY).figures == plain.figures
    assert evaluate(real.assign(synthetic=0), new, key=KEY).figures == plain.figures
    with pytest.raises(ValueError, match="no synthetic row is marked"):
        evaluate(real, new.assign(synthetic=0), key=KEY)
    for name, tables in {
        "real": (real.assign(synthetic=1), new),
        "hold-out": (real, new, holdout.assign(synthetic=True)),
    }.items():
        with pytest.raises(ValueError, match=f"of the {name} rows are marked in the column 'synthetic'"):
            evaluate(*tables, key=KEY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"synthetic": t["synthetic"].drop(columns=["x1", "x2"])}, "synthetic rows lack the columns x1, x2"),
        (lambda t: t | {"holdout": t["holdout"].drop(columns="x1")}, "hold-out rows lack the column x1"),
        (lambda t: t | {"synthetic": t["synthetic"][:0]}, "there are no synthetic rows"),
        (lambda t: t | {"holdout": t["holdout"][:0]}, "there are no hold-out rows"),
        (lambda t: t | {"label": "z"}, "there is no column 'z'; the real rows have x0, x1, x2, y"),
        (lambda t: t | {"categorical": ["z"]}, "there is no column 'z'"),
        (lambda t: t | {"synthetic": t["synthetic"].assign(y=None)}, "20 of the synthetic rows have no label 'y'"),
        (lambda t: t | {"synthetic": t["synthetic"].assign(x1="text")}, "synthetic rows: .*column 'x1'.*'text' is not a number"),
        (lambda t: t | {name: t[name].assign(x0=1, x1=2, x2=3) for name in ("real", "synthetic")}, "no column of the real rows varies"),
        (lambda t: t | {name: t[name][["y"]] for name in ("real", "synthetic", "holdout")}, "no column beside the label 'y'"),
    ],
)  # fmt: skip
def test_refusals(change, message):
    tables = {name: classes(20, name) for name in ("real", "synthetic", "holdout")} | {"label": "y"}
    with pytest.raises(ValueError, match=message):
        evaluate(**change(tables), key=KEY)


# The command


@pytest.fixture
def files(tmp_path, monkeypatch, labelled):
    monkeypatch.chdir(tmp_path)
    for name, table in labelled[0].items():
        table.to_csv(f"{name}.csv", index=False)
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(main, ["evaluate", *arguments])


def test_command_formats(files, labelled):
    tables, expected = labelled
    chosen = ("real.csv", "new.csv", "--holdout", "test.csv", "--label", "y", "--seed", "7")
    found = call(*chosen, "--format", "json", "--output", "quality.json")
    assert (found.exit_code, found.stdout) == (0, "")
    assert json.loads((files / "quality.json").read_text()) == json.loads(json.dumps(expected.as_dict()))
    expected = evaluate(tables["real"], tables["new"], key=Key.of(0))
    assert call("real.csv", "new.csv").stdout == str(expected) + "\n"
    (files / "quality.csv").write_text(call("real.csv", "new.csv", "--format", "csv").stdout)
    pd.testing.assert_frame_equal(pd.read_csv("quality.csv"), expected.as_frame(), check_dtype=False)


def test_command_warns_on_standard_error(files):
    pd.read_csv("new.csv").assign(extra=1).to_csv("more.csv", index=False)
    found = call("real.csv", "more.csv", "--format", "csv")
    assert found.exit_code == 0
    assert (
        "WARNING: the synthetic rows have columns that the real ones have not, which are left out: extra"
        in found.stderr
    )
    assert "WARNING" not in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["real.csv", "none.csv"], "none.csv: there is no such file"),
        (["real.csv", "new.csv", "--label", "z"], "real.csv has no column 'z'"),
        (["real.csv", "new.csv", "--categorical", "y,z"], "there is no column 'z'"),
        (["real.csv", "new.csv", "--output", "real.csv"], "--output real.csv is one of the tables"),
        (["real.csv", "new.csv", "--output", "test.csv"], "--output test.csv is there already"),
        (["real.csv", "new.csv", "--output", "nowhere/out.csv"], "there is no folder nowhere"),
        (["real.csv", "new.csv", "--format", "xml"], "'xml' is not one of"),
        (["real.csv"], "Missing argument 'SYNTHETIC'"),
    ],
)
def test_command_refuses_in_one_sentence(files, arguments, message):
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    found = call(*arguments)
    assert found.exit_code == 2
    assert message in found.stderr
    assert "Traceback" not in found.output
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before
