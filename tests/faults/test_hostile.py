"""Files from strangers: nothing in them is run, and what they declare is not believed."""

import io
import os
import shutil
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from particles.cli import main

import particles as pt

SMALL = ["-n", "20", "--target-size", "30", "--network", "8,8", "--no-figure", "-q"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    words = ["simulate", "--target", "moons", *SMALL, "--steps", "3", "--record", "-o", str(path / "run")]
    assert CliRunner().invoke(main, words).exit_code == 0
    return path / "run"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, whole):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, "run")
    Path("new.csv").write_text("x0,x1\n0.5,0.5\n1,1\n")


def refused(*words):
    """What is said, in one sentence, of something that is not done."""
    found = CliRunner().invoke(main, list(map(str, words)))
    assert found.exit_code == 2, (found.output, found.exception)
    assert isinstance(found.exception, SystemExit)
    assert not Path("pwned").exists()
    return found.stderr.strip().splitlines()[-1]


def done(*words):
    found = CliRunner().invoke(main, list(map(str, words)))
    assert found.exit_code == 0, (found.output, found.exception)
    return found


class Payload:
    """What makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_the_payload_would_work():
    torch.save(Payload(), "x.pt")
    torch.load("x.pt", weights_only=False)
    assert Path("pwned").exists()


RESUME = ("simulate", "--resume", "run", "--steps", 5, "--no-figure", "-q")
TRANSPORT = ("transport", "run", "--input", "new.csv", "--output", "moved.csv", "-q")


@pytest.mark.parametrize("name", ["checkpoint.pt", "potentials/00000002.pt"])
@pytest.mark.parametrize("place", ["whole", "entry"])
def test_pickles_are_not_run(name, place):
    path = Path("run", name)
    content = torch.load(path, weights_only=True)
    torch.save(Payload() if place == "whole" else content | {next(iter(content)): Payload()}, path)
    assert "cannot be read" in refused(*(RESUME if name == "checkpoint.pt" else TRANSPORT))
    assert not Path("moved.csv").exists()


def test_pickles_in_arrays_are_not_run():
    np.savez("run/data.npz", target=np.array([Payload()], dtype=object), holdout=np.zeros((0, 2)), allow_pickle=True)
    assert "run cannot be read as a run" in refused("plot", "run")
    np.save("run/trajectory.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    assert "run cannot be read as a run" in refused("plot", "run")


@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.zeros(1, 2).expand(10**12, 2)},  # eight bytes that look like terabytes
        {"x": torch.zeros(20, 3)},
        {"x": torch.zeros(20, 2, dtype=torch.float64)},
        {"x": [1.0]},
        {"k": -1},
        {"k": "3"},
        {"k": 3.0},
        {"memory": 5},
        {"process": {}},
        {"process": []},
    ],
    ids=lambda change: next(iter(change)),
)
def test_checkpoints_that_hold_something_else(change):
    content = torch.load("run/checkpoint.pt", weights_only=True)
    torch.save(content | change, "run/checkpoint.pt")
    assert "begin a new run" in refused(*RESUME)


def test_names_in_a_checkpoint_lead_nowhere():
    content = io.BytesIO()
    with zipfile.ZipFile("run/checkpoint.pt") as old, zipfile.ZipFile(content, "w") as new:
        for entry in old.namelist():
            new.writestr(entry.replace("archive/", "../../"), old.read(entry))
    Path("run/checkpoint.pt").write_bytes(content.getvalue())
    refused(*RESUME)
    assert sorted(os.listdir()) == ["new.csv", "run"]


@pytest.mark.parametrize(
    "line",
    [
        'network = "!!python/object/apply:os.mkdir [pwned]"',
        "network = {__reduce__ = 'os.mkdir'}",
        "seed = 1e400",
        "steps = -1",
        "step_size = nan",
        "lipschitz = -inf",
        "device = \"__import__('os').mkdir('pwned')\"",
        'dtype = "os"',
        'flow = "../../flow"',
        "nonsense = 1",
    ],
)
def test_settings_construct_no_objects(line):
    path, name = Path("run/spec.toml"), line.split(" ")[0]
    lines = path.read_text().splitlines()
    end = lines.index("[data]")
    kept = [one for one in lines[:end] if not one.startswith(f"{name} =")]
    while name == "network" and any(one.startswith("    ") or one == "]" for one in kept):
        kept = [one for one in kept if not one.startswith("    ") and one != "]"]
    path.write_text("\n".join([line, *kept, *lines[end:]]))
    said = refused("simulate", "--resume", "run", "--no-figure", "-q").replace("-", "_")
    assert name in said


def test_a_run_that_leads_elsewhere_is_read_but_not_written_through(tmp_path):
    """A folder of links: what they lead to is replaced or refused, and nothing beside it."""
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    Path("run/series.csv").unlink()
    os.symlink(outside, "run/series.csv")
    found = pt.Run.open  # what is there is no series
    with pytest.raises(ValueError, match="run cannot be read as a run"):
        found("run")
    assert outside.read_text() == "mine"


HOSTILE = '</script><script>document.title="x"</script><img src=x onerror=alert(1)>&amp;"\'--]]>'


def test_pictures_and_pages_show_names_as_text():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 2)), columns=[HOSTILE, "b"])
    frame.assign(k=[HOSTILE, "<b>v</b>"] * 15).to_csv("hostile.csv", index=False)
    words = ["--target", "hostile.csv", "--label", "k", *SMALL[:2], *SMALL[4:], "--steps", "2", "-o", "<run>"]
    done("simulate", *words)
    for kind in ("trajectories", "density", "snapshots"):
        done("plot", "<run>", "--kind", kind, "-o", "picture.svg")
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse("picture.svg").iter()}
        assert "path" in tags
        assert not tags & {"script", "img", "b"}
    done("report", "<run>", "-o", "page.html")
    text = Path("page.html").read_text()
    assert text.count("<script") == text.count("</script>") == plain_scripts()
    assert "<img src=x" not in text
    assert "<b>v</b>" not in text


def plain_scripts():
    """How many scripts the page of a run with harmless names has."""
    done("report", "run", "-o", "plain.html")
    return Path("plain.html").read_text().count("<script")


def test_names_do_not_steer_the_terminal():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 2)), columns=["a\x1b[31m\x07", "b"])
    frame.to_csv("hostile.csv", index=False)
    words = [
        "--target",
        "hostile.csv",
        *SMALL[:2],
        *SMALL[4:6],
        "--no-figure",
        "--steps",
        2,
        "-o",
        "other",
        "--watch",
        "terminal",
    ]
    assert "\x1b[31m" not in done("simulate", *words).stderr
    frame.assign(**{"k\x1b[31m": ["u\x1b[31m", "v"] * 15}).to_csv("classes.csv", index=False)
    found = done("augment", "classes.csv", "--label", "k\x1b[31m", "--per-class", 20, "-o", "new.csv", "--overwrite")
    assert "u?[31m" in found.output
    assert "\x1b" not in found.output
    Path("bad.csv").write_text("a\x1b[31m,b\n1,2\n3,x\x1b[0m\n")
    assert "\x1b" not in refused("simulate", "--target", "bad.csv", "-o", "bad")


def test_the_checkpoint_of_another_run_is_not_gone_on_from():
    """Its clouds have the same shapes, but its settings are others; those that a run may change are not looked at."""
    done("simulate", "--target", "moons", *SMALL, "--steps", 5, "--record", "--seed", 1, "-o", "other")
    shutil.copy("other/checkpoint.pt", "run")
    said = refused("simulate", "--resume", "run", "--steps", 6, "-q")
    assert "its checkpoint is of a run with --seed = 1, not 0" in said
    assert said == refused("plot", "run", "--kind", "potential", "--output", "landscape.png", "-q")
    assert not Path("landscape.png").exists()
    done("simulate", "--resume", "other", "--steps", 6, "-q")


def test_settings_that_were_changed_by_hand_are_not_gone_on_with():
    path = Path("run/spec.toml")
    before = path.read_text()
    path.write_text(before.replace("checkpoint_every = 100", "checkpoint_every = 2"))
    done("simulate", "--resume", "run", "--steps", 4, "-q")
    path.write_text(before.replace("learning_rate = ", "learning_rate = 2"))
    assert path.read_text() != before
    assert "its checkpoint is of a run with --learning-rate = 0.001, not 20.001" in refused(
        "simulate", "--resume", "run", "--steps", 6, "-q"
    )


def test_names_that_no_file_can_have():
    for words in (["--target", "moons", "-o", "e" * 300], ["--target", "moons", "-o", "/".join(["d" * 200] * 25)], ["--resume", "e" * 300], ["--target", "e" * 300 + ".csv"]):  # fmt: skip
        assert "File name too long" in refused("simulate", *words)
    assert "File name too long" in refused("plot", "e" * 300)
    assert "File name too long" in refused("augment", "new.csv", "-o", "e" * 300)
