"""The report: one page that says what a run's files say."""

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from particles.cli import main

from particles.experiment.provenance import command
from particles.experiment.specification import Specification
from particles.metrics.summary import QUALITY
from particles.plot.projection import projection
from particles.report import facts
from particles.report.charts import charts
from particles.report.page import report
from particles.report.pictures import pictures
from particles.report.player import FRAMES, ROWS, ZOOM, Box, pixels, players
from particles.run.reader import Run

TINY = ["--target-size", "40", "--steps", "12", "--network", "8,8", "--no-figure", "--quiet"]
HOSTILE = "</script><img src=x onerror=alert(1)>"
COLUMNS = [HOSTILE, "<!--", "$x_{", "a & b \u2028 \"'"]
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """What a page holds: elements with their attributes, texts by element, and whether tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def text(self, *tags):
        return " ".join(
            " ".join(data.split())
            for tag, data in self.texts
            if (tag in tags if tags else tag not in ("script", "style"))
        )


def simulate(*words):
    found = CliRunner().invoke(main, ["simulate", *TINY, *words])
    assert found.exit_code == 0, found.output


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs by name: in the plane, of another flow, in space, of images with classes, and with hostile names."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 4)), columns=COLUMNS)
    frame.assign(**{"class": np.where(rng.random(60) < 0.5, HOSTILE, "<b>other</b>")}).to_csv(
        folder / "data <i>.csv", index=False
    )
    simulate("--target", "moons", "-n", "30", "-o", str(folder / "plane"))
    simulate("--target", "moons", "-n", "30", "-o", str(folder / "exact"), "--flow", "w2", "--steps", "6")
    simulate("--target", "swiss-roll", "-n", "25", "-o", str(folder / "space"), "--carried", "4")
    simulate("--target", "digits", "-n", "20", "--label", "target", "-o", str(folder / "digits"))
    simulate(
        "--target", str(folder / "data <i>.csv"), "--label", "class", "-o", str(folder / "<img src=x onerror=alert(1)>")
    )
    return {path.name if "<" not in path.name else "hostile": path for path in folder.iterdir() if path.is_dir()}


@pytest.fixture
def unpainted(monkeypatch):
    """Pictures are made but not painted, which takes most of the time."""
    monkeypatch.setattr("particles.report.pictures.embedded", lambda figure: "data:image/png;base64,")


@pytest.fixture(scope="module")
def pages(runs):
    """The pages of all runs, and of two together, with their pictures left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("particles.report.pictures.embedded", lambda figure: "data:image/png;base64,")
        found = {name: report(path) for name, path in runs.items()}
        return found | {"several": report([runs["plane"], runs["exact"]])}


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(text)


def decoded(cloud, what="positions"):
    box = Box(np.array(cloud["low"]), np.array(cloud["high"]))
    return box.decode(cloud[what], cloud["kind"])


# Pages


def test_pages_are_whole_and_accessible(pages):
    for page in pages.values():
        found = Page(page)
        ids = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
        assert len(set(ids)) == len(ids)
        labelled = {attrs["for"] for attrs in found.all("label")}
        controls = found.all("input") + found.all("select")
        assert len(controls) >= 6
        assert {attrs["id"] for attrs in controls} == labelled
        assert all(attrs["alt"] for attrs in found.all("img"))
        references = {
            attrs[name]
            for _, attrs in found.elements
            for name in ("aria-labelledby", "aria-describedby", "for")
            if name in attrs
        }
        anchors = {attrs["href"][1:] for attrs in found.all("a")}
        assert references | anchors <= set(ids)
        assert {"main", "player"} <= anchors
        assert found.all("html") == [{"lang": "en"}]
        levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
        assert len(found.all("caption")) == len(found.all("table"))
        assert all(attrs.get("scope") for attrs in found.all("th"))
        assert not any("style" in attrs or any(name.startswith("on") for name in attrs) for _, attrs in found.elements)


def test_nothing_is_loaded_and_only_our_own_script_runs(pages):
    for page in pages.values():
        found = Page(page)
        addresses = [attrs[name] for _, attrs in found.elements for name in ("src", "href") if name in attrs]
        assert all(address.startswith(("data:", "#")) for address in addresses)
        assert "http:" not in page.replace("http-equiv", "")
        assert "https:" not in page
        assert "@import" not in page
        assert "eval(" not in page
        policy = next(
            attrs["content"] for attrs in found.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"
        )
        kinds = [attrs.get("type") for attrs in found.all("script")]
        assert kinds == ["application/json", None]
        script = page.rpartition("<script>")[2].partition("</script>")[0]
        style = page.partition("<style>")[2].partition("</style>")[0]
        for name, text in (("script", script), ("style", style)):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{name}-src 'sha256-{digest}';" in policy
        assert "default-src 'none'; img-src data:;" in policy


def test_hostile_names_stay_text(pages, runs):
    page = pages["hostile"]
    found = Page(page)
    assert HOSTILE not in page
    assert "<!--" not in page
    assert "onerror" not in {name for _, attrs in found.elements for name in attrs}
    assert not found.all("i")
    assert "<b>other</b>" in found.text("li")
    assert found.text("h1") == "<img src=x onerror=alert(1)>"
    cloud = data_of(page)["runs"][0]
    assert cloud["columns"] == COLUMNS
    assert cloud["classes"]["names"] == sorted([HOSTILE, "<b>other</b>"])
    assert HOSTILE in found.text("dd")
    assert "data <i>.csv" in found.text("code")


@pytest.mark.parametrize("name", ["plane", "space", "digits", "hostile"])
def test_every_picture_is_drawn_and_described(runs, name):
    run = Run.open(runs[name])
    drawn = pictures(run)
    titles = [picture.title for picture in drawn]
    assert ("Potential at the end" in titles) == (name == "plane")
    assert ("Particles as images" in titles) == (name == "digits")
    assert {"Paths", "Snapshots", "Particles against target", "Measurements"} <= set(titles)
    for picture in drawn:
        assert picture.address.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,")), picture.words
    assert (
        f"{run.own} particles at step 12, W2 to the target {facts.number(float(run.series['w2'].dropna().iloc[-1]), 3)} from "
        in drawn[0].words
    )


def test_the_same_run_gives_the_same_page(runs, tmp_path):
    page = report(runs["plane"])
    assert report([Run.open(runs["plane"])], tmp_path / "page.html") == page
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert len(page) < 3e6


# What pages say


def test_quality_is_that_of_the_summary(runs, pages):
    found = Page(pages["space"])
    summary = json.loads((runs["space"] / "summary.json").read_text())["flow_units"]
    cells = found.text("td")
    assert len(summary) == 7
    for name, value in summary.items():
        assert f"{value:.4g}" in cells, name
        assert QUALITY[name][0].strip() in found.text("th")
    known = json.loads((runs["digits"] / "summary.json").read_text())
    rows = {title: numbers for title, _, numbers in facts.quality([known])}
    assert rows["W2 to the target"] == [[f"{known[unit]['w2_target']:.4g}" for unit in ("flow_units", "data_units")]]


def test_settings_and_command_are_those_of_the_run(runs, pages):
    spec, _ = Specification.load(runs["space"] / "spec.toml")
    found = Page(pages["space"])
    terms, texts = found.text("dt"), found.text("dd")
    for text in (
        "gaussian",
        "swiss-roll",
        "25, and 4 carried",
        "12 steps of 0.5",
        "40, and 8 held out",
        "3: x0, x1, x2",
    ):
        assert text in texts
    assert "seed" in terms
    assert found.text("code") == command(spec, "runs/space-again")
    assert (
        "moved from gaussian towards swiss-roll, 40 rows (and 8 rows held out) in 3 columns, in 12 steps of 0.5"
        in found.text("p")
    )


def test_curves_are_those_of_the_series(runs, pages):
    series = pd.read_csv(runs["plane"] / "series.csv")
    lines = {
        (chart["last"], line["name"]): line for chart in data_of(pages["plane"])["charts"] for line in chart["lines"]
    }
    for name, column in (
        ("to target", "w2"),
        ("to held-out target", "w2_holdout"),
        ("realised", "max_gradient"),
        ("divergence", "divergence"),
    ):
        rows = series[["step", column]].dropna()
        assert lines[12, name]["steps"] == rows["step"].tolist()
        assert lines[12, name]["values"] == rows[column].tolist()
    assert Page(pages["plane"]).text("caption").startswith("What was measured on the way: all 13 rows of series.csv")


def test_charts_put_values_where_axes_say(runs):
    for chart in charts({"plane": Run.open(runs["plane"])}):
        up = dict(chart.left)
        for line in chart.lines:
            places = [tuple(map(float, pair.split(","))) for pair in line.path[1:].split()]
            assert all(56 <= x <= 340 and 10 <= y <= 154 for x, y in places)
            if not chart.logarithmic and len(up) > 1:  # two marks give the scale
                (y0, v0), (y1, v1) = ((place, float(text)) for place, text in list(up.items())[:2])
                expected = [v0 + (y - y0) / (y1 - y0) * (v1 - v0) for _, y in places]
                assert np.allclose(expected, line.values, atol=0.5 * abs((v1 - v0) / (y1 - y0)) + 1e-9)


def test_several_runs_share_charts_and_axes(runs, pages):
    data = data_of(pages["several"])
    assert [run["name"] for run in data["runs"]] == ["plane", "exact"]
    one, other = data["runs"]
    assert one["low"] == other["low"]
    assert one["high"] == other["high"]
    names = {line["name"] for chart in data["charts"] for line in chart["lines"]}
    assert {"plane, to target", "exact, to held-out target"} <= names
    assert any(tag == "select" and attrs["id"] == "by" for tag, attrs in Page(pages["several"]).elements)
    assert "Side by side" in Page(pages["several"]).text("figcaption")


def test_names_of_runs_differ():
    folders = [Run.of(np.zeros((1, 2, 2))) for _ in range(3)]
    paths = [Path("a/x"), Path("b/x"), Path("b/y")]
    named = [Run(**{**vars(run), "path": path}) for run, path in zip(folders, paths)]
    assert facts.names(named[1:]) == ["x", "y"]
    assert facts.names(named) == ["a/x", "b/x", "b/y"]
    assert [name[-6:] for name in facts.names([named[0], named[0]])] == ["/x (1)", "/x (2)"]


def test_a_run_that_goes_on_or_has_diverged_says_so(runs, tmp_path, unpainted):
    import shutil

    folder = tmp_path / "cut"
    shutil.copytree(runs["plane"], folder)
    for name in ("particles.csv", "summary.json"):
        (folder / name).unlink()
    page = Page(report(folder))
    assert "The run was cut off before its end: this is what there was at step 12 of 12." in page.text("p")
    assert "which is not there yet" in page.text("p")
    (folder / "diverged.csv").write_text("x0,x1\n")
    assert "The run diverged; its last snapshot is that of step 12." in Page(report(folder)).text("p")


# The player's data


@pytest.mark.parametrize("name", ["plane", "space", "digits"])
def test_positions_are_those_of_the_run_to_half_a_pixel(runs, pages, name):
    run = Run.open(runs[name])
    cloud = data_of(pages[name])["runs"][0]
    project = projection(run)
    assert cloud["steps"] == run.steps.tolist()
    assert cloud["times"] == run.times.tolist()
    assert cloud["rows"] == list(range(run.own))
    true = np.concatenate([project(run.snapshot(i), float(t)) for i, t in enumerate(run.times)])
    width = np.array(cloud["high"]) - np.array(cloud["low"])
    assert cloud["kind"] == "u2"
    assert (np.abs(decoded(cloud) - true) <= width / 131070 * (1 + 1e-9)).all()
    assert 1000 * ZOOM / 131070 < 0.5  # pixels, where 1,000 show the whole width at first
    assert (np.abs(decoded(cloud, "target") - project(run.target)) <= width / 131070 * (1 + 1e-9)).all()


def test_rows_of_many_columns_have_their_ends_and_images(runs, pages):
    run = Run.open(runs["digits"])
    cloud = data_of(pages["digits"])["runs"][0]
    ends = np.frombuffer(base64.b64decode(cloud["ends"]), "<f4").reshape(20, 8)
    assert np.array_equal(ends, run.snapshot(-1)[:, :8])
    images = np.frombuffer(base64.b64decode(cloud["images"]["bytes"]), "u1").reshape(20, 64)
    assert (cloud["images"]["height"], cloud["images"]["width"]) == (8, 8)
    table = np.clip(run.table(run.snapshot(-1)), 0, 16)
    assert np.abs(255 - images - table * 255 / 16).max() <= 0.51  # dark on white
    assert [cloud["classes"]["names"][i] for i in cloud["classes"]["particles"]] == run.label.tolist()


def test_large_runs_are_thinned_evenly_with_both_ends():
    rng = np.random.default_rng(0)
    run = Run.of(rng.normal(size=(400, 3000, 2)).astype(np.float32), rng.normal(size=(5000, 2)))
    (cloud,) = players([run])
    assert len(cloud["rows"]) == ROWS
    assert (cloud["rows"][0], cloud["rows"][-1]) == (0, 2999)
    assert len(cloud["steps"]) == FRAMES
    assert (cloud["steps"][0], cloud["steps"][-1]) == (0, 399)
    assert len(decoded(cloud, "target")) == 2000
    frame = int(np.flatnonzero(np.array(cloud["steps"]) > 100)[0])
    true = run.trajectory[cloud["steps"][frame], cloud["rows"]]
    assert np.allclose(decoded(cloud).reshape(FRAMES, ROWS, 2)[frame], true, atol=1e-3)
    assert sum(len(cloud[name]) for name in ("positions", "target")) < 1.7e6
    four = players([run] * 4)
    assert sum(len(cloud["positions"]) for cloud in four) < 1.7e6


def test_a_few_points_far_away_leave_the_others_in_view():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(3, 500, 2))
    points[:, 7] = 1e7
    (cloud,) = players([Run.of(points)])
    assert cloud["kind"] == "f4"
    assert max(cloud["high"]) < 10
    found = decoded(cloud).reshape(3, 500, 2)
    assert np.allclose(found, points, rtol=1e-6, atol=1e-5)


def test_start_far_from_the_target_is_in_view():
    rng = np.random.default_rng(1)
    way = np.concatenate([np.full((1, 50, 2), 100.0), np.zeros((300, 50, 2))]) + rng.normal(size=(301, 50, 2))
    (cloud,) = players([Run.of(way, rng.normal(size=(2000, 2)))])
    assert min(cloud["high"]) > 100


@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
def test_degenerate_runs_have_players(dimension):
    (cloud,) = players([Run.of(np.zeros((1, 1, dimension)))])
    assert cloud["axes"] == (3 if dimension == 3 else 2)
    assert (np.array(cloud["high"]) > cloud["low"]).all()
    assert np.allclose(decoded(cloud), 0, atol=1e-4)


def test_tables_are_not_taken_for_images():
    rng = np.random.default_rng(0)
    assert pixels(Run.of(np.zeros((1, 2, 16)), rng.normal(size=(50, 16)))) is None
    assert pixels(Run.of(np.zeros((1, 2, 16)), np.maximum(rng.normal(size=(50, 16)), 0))) == (4, 4)


# The command


def invoke(*words, code=0):
    found = CliRunner().invoke(main, ["report", *map(str, words)])
    assert found.exit_code == code, found.output
    if code == 2:
        assert "Traceback" not in found.output
        assert found.stderr.strip().splitlines()[-1].startswith("Error: ")
    return found


def test_command_writes_a_page_and_says_where(runs, tmp_path, monkeypatch, unpainted):
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in runs["plane"].iterdir()}
    found = invoke(runs["plane"])
    size = (tmp_path / "plane-report.html").stat().st_size
    assert found.stdout == f"plane-report.html: {size / 1e6:.1f} MB\n"
    assert invoke(runs["plane"], runs["exact"], "-q").stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plane-and-1-more-report.html", "plane-report.html"]
    (tmp_path / "page.html").write_text("old")
    invoke(runs["plane"], "-o", "page.html")
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "plane-report.html").read_bytes()
    assert {path: path.read_bytes() for path in runs["plane"].iterdir()} == before


def test_bad_input_is_one_sentence(runs, tmp_path, monkeypatch, unpainted):
    import shutil

    monkeypatch.chdir(tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(runs["plane"], damaged)
    (damaged / "data.npz").write_bytes(b"nonsense")
    (tmp_path / "folder.html").mkdir()
    said = {
        "nothing is not a run folder": ["nothing"],
        "damaged cannot be read as a run": ["damaged"],
        "is named twice": [runs["plane"], runs["plane"]],
        "would hold HTML": [runs["plane"], "-o", runs["plane"] / "particles.csv"],
        "is a folder": [runs["plane"], "-o", "folder.html"],
        "there is no folder missing": [runs["plane"], "-o", "missing/page.html"],
        "Missing argument": [],
    }
    for text, words in said.items():
        assert text in invoke(*words, code=2).stderr.replace("\n", " ")
    assert not list(tmp_path.glob("*-report.html"))
    with pytest.raises(ValueError, match="at least one run"):
        report([])
    with pytest.raises(ValueError, match="not arrays"):
        report(Run.of(np.zeros((1, 2, 2))))


def test_a_picture_that_fails_leaves_the_others_alone(runs, monkeypatch, unpainted):
    def broken(run):
        raise ValueError("density is\n  out of order")

    monkeypatch.setattr("particles.plot.density", broken)
    page = Page(report(runs["plane"]))
    assert "This picture could not be drawn: density is out of order" in page.text("p")
    assert len(page.all("img")) == 4
