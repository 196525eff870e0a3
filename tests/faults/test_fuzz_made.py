"""Random tables, options and runs: what ``augment`` and ``report`` write keeps its word, or nothing is written and a line says why."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fuzzed_runs import BASES, NUMBER, contents, ended, spoilt_runs, working_folder
from fuzzing import fuzz, spoilt
from hypothesis import given
from hypothesis import strategies as st

from particles.names import DIVERGENCES

pytestmark = pytest.mark.slow

COUNTS = {"rows.csv": {"u": 12, "v": 12}, "plain.csv": {None: 24}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with working_folder(tmp_path_factory.mktemp("made")) as path:
        yield path


# Tables


@st.composite
def columns(draw, n):
    """A column of n entries, and its kind."""
    kind = draw(
        st.sampled_from(["number", "whole", "cents", "few", "text", "truth", "date", "skewed", "constant", "strange"])
    )
    random = np.random.default_rng(draw(st.integers(0, 999)))
    normal = random.normal(size=n)
    values = {
        "number": normal * 10.0 ** draw(st.integers(-9, 9)) + draw(st.sampled_from([0, 1, 1e6])),
        "whole": random.integers(-50, 2000, n),
        "cents": np.round(normal * 20, 2),
        "few": random.integers(0, 3, n),
        "text": random.choice(np.array(["", "a", "b c", "größe", "d,e", '"f"', "1", "nan", "<b>"], dtype=object), n),
        "truth": random.random(n) < 0.5,
        "date": pd.Timestamp("2024-01-01") + pd.to_timedelta(random.integers(0, 400, n), unit="D"),
        "skewed": np.exp(3 * normal),
        "constant": np.full(n, 7),
        "strange": random.choice([0.0, -0.0, 1e-300, 1e300, 5e-324, -1e15, 1.5], n),
    }[kind]
    column = pd.Series(values)
    if draw(st.integers(0, 4)) == 0:
        column = column.astype(object).where(pd.Series(random.random(n) > 0.2))
    return column, kind


@st.composite
def tables(draw):
    """A table, with the name of a column of classes or without."""
    n = draw(st.sampled_from([1, 2, 3, 5, 12, 30]))
    made = [draw(columns(n)) for _ in range(draw(st.integers(1, 5)))]
    frame = pd.DataFrame({f"{kind} {i}": column for i, (column, kind) in enumerate(made)})
    if draw(st.integers(0, 5)) == 0:
        frame = pd.concat([frame, frame.head(3)], ignore_index=True)
    if draw(st.booleans()):
        return frame, None
    classes = np.random.default_rng(draw(st.integers(0, 99))).integers(0, draw(st.integers(1, 3)), len(frame))
    names = draw(
        st.sampled_from([["yes", "no", "x y"], [0, 1, 2], [True, False, True], [0.5, 1.5, 2.5], ["01", "1", "<i>"]])
    )
    frame.insert(draw(st.integers(0, frame.shape[1])), "class", [names[c] for c in classes])
    return frame, "class"


def read(path):
    return pd.read_csv(path, float_precision="round_trip", keep_default_na=False, na_values=["", "nan"])


@fuzz(40, 0.15)
@given(
    tables(),
    st.sampled_from([["gaussian"], ["kde"], ["kde", "--no-marginals"], ["gaussian", "--latent", "pca:1"], ["flow", "--stop", "1"]]),
    st.sampled_from([".csv", ".csv.gz", ".parquet"]),
    st.integers(0, 2**31),
)  # fmt: skip
def test_new_rows_of_any_table_are_of_its_kind(folder, made, method, suffix, seed):
    """Old rows come first and as they were; new ones have its types, and are within its ranges and levels."""
    frame, label = made
    table, written = Path(f"table{suffix}"), Path("augmented.parquet" if suffix == ".parquet" else "augmented.csv")
    try:
        frame.to_parquet(table, index=False) if suffix == ".parquet" else frame.to_csv(table, index=False)
    except (TypeError, ValueError):  # entries of several types in a column, of which Parquet knows nothing
        frame = frame.astype(str)
        frame.to_parquet(table, index=False)
    for path in (written, Path("all.json")):
        path.unlink(missing_ok=True)
    words = ["--label", label] if label else []
    found = ended("augment", table, *words, "--method", *method, "--seed", seed, "-o", written, "--report", "all.json")
    assert found.exit_code in (0, 2)
    assert written.exists() == Path("all.json").exists() == (found.exit_code == 0)
    if found.exit_code:
        return
    old, both = (pd.read_parquet(path) if suffix == ".parquet" else read(path) for path in (table, written))
    assert list(both.columns) == [*old.columns, "synthetic"]
    assert both["synthetic"].tolist() == [0] * len(old) + [1] * (len(both) - len(old))
    report = json.loads(Path("all.json").read_text())
    assert len(both) - len(old) == sum(one["made"] for one in report["classes"])
    first, new = both.iloc[: len(old)], both.iloc[len(old) :]
    for name in old.columns:
        if suffix == ".parquet":
            assert both[name].dtype == old[name].dtype, name
        pd.testing.assert_series_equal(first[name].astype(object), old[name].astype(object), check_dtype=False)
        known = old[name].dropna()
        if pd.api.types.is_numeric_dtype(known) and not pd.api.types.is_bool_dtype(known):
            assert new[name].dropna().between(known.min(), known.max()).all(), name
            if pd.api.types.is_integer_dtype(known):
                assert (new[name].dropna() % 1 == 0).all(), name
        elif not name.startswith("date"):
            assert set(new[name].dropna()) <= set(known), name
        if len(known) == len(old):
            assert not new[name].isna().any(), name


VALUES = {
    "--rows": st.sampled_from(["30", "1", "0", "-1", "x", "9" * 30]),
    "--per-class": st.sampled_from(["14", "1", "0", "1.5"]),
    "--min-ratio": NUMBER,
    "--stop": st.sampled_from(["1", "2", "0", "-1", "1.5", "x", "nan", "10001", "²", ""]),
    "--lipschitz": NUMBER,
    "--divergence": st.sampled_from([*DIVERGENCES, "KL", "alpha:2", "alpha:1", "alpha:x", "alpha:", "", "x"]),
    "--latent": st.sampled_from(["none", "pca:1", "pca:0.9", "pca:99", "pca:nan", "pca:0", "ae:1", "ae:x", "conv:1", ":", ""]),
    "--method": st.sampled_from(["gaussian", "kde", "flow", "transport", "x", ""]),
    "--start": st.sampled_from(["gaussian", "kde", "bootstrap", "mixed", "normal", "x", ""]),
    "--image-shape": st.sampled_from(["1,2", "2,1", "2", "x", "0,0", "1,2,3", "1,1,2", ""]),
    "--categorical": st.sampled_from(["x0", "x0,x1", "k", "none", ",", "", "x0,x0"]),
    "--seed": st.sampled_from(["0", "1", "-1", "x", "9" * 30, "1.5"]),
    "--holdout": st.sampled_from(["new.csv", "new-labelled.csv", "none.csv", "plain.csv", "rows.csv", "."]),
    "--report": st.sampled_from(["all.json", "augmented.csv", "plain.csv", "none/all.json", ".", ""]),
    "--label": st.sampled_from(["k", "x0", "none", "", "synthetic"]),
    "--output": st.sampled_from(["augmented.csv", "a.npz", "a.csv.gz", "rows.csv", ".", "none/a.csv", "", "new.parquet"]),
}  # fmt: skip
FLAGS = ["--only-new", "--balance", "--no-marginals", "--conditional", "--json", "--overwrite", "-q"]


@fuzz(30, 0.1)
@given(
    st.sampled_from(list(COUNTS)),
    st.lists(st.sampled_from(FLAGS), max_size=2, unique=True),
    st.lists(st.sampled_from(list(VALUES)), max_size=3, unique=True),
    st.booleans(),
    st.data(),
)
def test_any_options_of_augment(folder, table, flags, chosen, there, data):
    """The number of rows is what was asked for; a file that is there is replaced where that is allowed, and if all goes well, alone."""
    given = {option: data.draw(VALUES[option]) for option in chosen}
    if not {"--stop", "--method"} & given.keys():
        given["--method"] = "kde"
    if given.get("--method") == "flow":
        given.setdefault("--stop", "1")
    given.setdefault("--output", "augmented.csv")
    written = Path(given["--output"])
    for path in Path().glob("a*.*"):
        path.unlink()
    Path("new.parquet").unlink(missing_ok=True)
    if there:
        Path("augmented.csv").write_text("this was here\n")
    before = contents(".")
    found = ended("augment", table, *flags, *(word for pair in given.items() for word in pair))
    after = contents(".")
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    if found.exit_code:
        assert not changed
        return
    assert changed == {written, *([Path(given["--report"])] if "--report" in given else [])}
    assert "--overwrite" in flags or not changed & before.keys()
    both = pd.read_parquet(written) if written.suffix == ".parquet" else read(written)
    old = read(table)
    assert both["synthetic"].tolist() == [0] * (len(both) - both["synthetic"].sum()) + [1] * both["synthetic"].sum()
    assert len(both) - both["synthetic"].sum() == (0 if "--only-new" in flags else len(old))
    new = both[both["synthetic"] == 1]
    assert np.isfinite(new.select_dtypes("number").to_numpy()).all()
    if "--per-class" in given:
        assert new[given["--label"]].value_counts().to_dict() == dict.fromkeys("uv", 14 - 12)
    elif "--rows" in given or not flags:
        assert len(new) == int(given.get("--rows", 2 * len(old))) - len(old)
    if "--json" in flags:
        assert json.loads(found.stdout)["options"]["method"] == given.get("--method", "auto")
    if "-q" in flags and "--json" not in flags:
        assert found.stdout == ""


@fuzz(15, 0.2)
@given(st.data(), st.sampled_from(["plain.csv", "rows.csv"]))
def test_spoilt_tables_are_augmented_or_refused(folder, data, table):
    Path("spoilt.csv").write_bytes(data.draw(spoilt(Path(table).read_bytes())))
    Path("augmented.csv").unlink(missing_ok=True)
    words = data.draw(st.sampled_from([[], ["--label", "k"], ["--label", "x0"]]))
    found = ended("augment", "spoilt.csv", *words, "--method", "kde", "-o", "augmented.csv", "-q")
    assert Path("augmented.csv").exists() == (found.exit_code == 0)


# Pages


class Page(HTMLParser):
    """What a page loads or runs: it knows the tags, and the texts of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.inside = [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag == "script"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.scripts.append(text)


def checked(page):
    """Whether a page needs nothing but itself, and runs nothing but its own scripts."""
    text = page.read_text(encoding="utf-8")
    found = Page(text)
    for tag, attributes in found.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in {"src", "href", "xlink:href", "action", "srcset", "poster"} & attributes.keys():
            assert re.match(r"#|data:(image/|,$)", attributes[name]), (tag, attributes[name][:80])
    assert not {"iframe", "object", "embed", "base", "form"} & {tag for tag, _ in found.tags}
    assert sum(tag == "script" for tag, _ in found.tags) == 2  # one of data, one of the player's
    return found


@pytest.fixture(scope="module")
def own(folder):
    """The scripts that the page of a good run runs."""
    assert ended("report", "whole/recorded", "--output", "own.html", "-q").exit_code == 0
    return checked(Path("own.html")).scripts[-1]


@fuzz(3, 0.03)
@given(st.data())
def test_spoilt_runs_are_reported_or_refused(folder, own, data):
    data.draw(spoilt_runs())
    before = contents("run")
    Path("page.html").unlink(missing_ok=True)
    beside = data.draw(st.sampled_from([[], [], ["whole/labelled"], ["whole/learnt"]]))
    runs = data.draw(st.permutations(["run", *beside]))
    found = ended("report", *runs, "--output", "page.html", "-q")
    assert contents("run") == before
    assert Path("page.html").exists() == (found.exit_code == 0)
    if found.exit_code == 0:
        assert checked(Path("page.html")).scripts[-1] == own


TEXTS = st.one_of(
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "</script><script>alert(1)</script>",
            "<!--<script>",
            '"><img src=x onerror=alert(1)>',
            "' onload='alert(1)",
            "{{ 7 * 7 }}",
            "$x^2$",
            "$\\frac{",
            "a\nb",
            "&lt;b&gt;",
            "\u2028",
            "\u202e",
            "größe",
            "]]>",
            "%s{0}",
            "x" * 300,
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(str.strip),
).map(str.strip)


@fuzz(3, 0.03)
@given(
    st.lists(TEXTS, min_size=2, max_size=2, unique=True),
    st.lists(TEXTS, min_size=1, max_size=3, unique=True),
    st.booleans(),
)
def test_no_text_of_a_table_is_markup(folder, own, names, classes, labelled):
    """Names of columns and classes of any kind come to a page as text."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(12, 2)), columns=names)
    if labelled:
        frame["k"] = np.resize(np.array(classes, dtype=object), 12)
    frame.to_csv("texts.csv", index=False)
    words = ["--label", "k"] if labelled else []
    shutil.rmtree("texts", ignore_errors=True)
    found = ended("simulate", "--target", "texts.csv", *words, "--header", "--flow", "transport", "--steps", 1, "-n", 8, "--no-figure", "-q", "-o", "texts")  # fmt: skip
    if found.exit_code:
        return
    assert ended("report", "texts", "--output", "texts.html", "-q").exit_code == 0
    assert checked(Path("texts.html")).scripts[-1] == own


NAMED = [
    "page.html",
    "PAGE.HTM",
    "page.txt",
    "rows.csv",
    ".",
    "none/page.html",
    "",
    "x" * 300 + ".html",
    "whole",
    "a\nb.html",
    "größe.html",
    "--x.html",
]


@fuzz(6, 0.1)
@given(
    st.lists(st.sampled_from([*(f"whole/{name}" for name in BASES), "whole", "none", "rows.csv", "", ".", "whole/learnt/"]), min_size=1, max_size=2),
    st.sampled_from(NAMED),
    st.lists(st.sampled_from(["-q", "--json", "--x"]), max_size=1),
)  # fmt: skip
def test_any_options_of_report(folder, runs, output, flags):
    for path in Path().glob("*.[hH][tT]*"):
        path.unlink() if path.name != "own.html" else None
    before = contents(".")
    found = ended("report", *runs, "--output", output, *flags)
    after = contents(".")
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    assert changed == ({Path(output)} if found.exit_code == 0 else set())
    if changed:
        checked(Path(output))
