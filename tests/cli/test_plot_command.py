"""``particles plot``: what it writes, and what it refuses."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from particles.cli import main
from particles.cli import plot as module
from PIL import Image

from particles import plot
from particles.plot import window
from particles.run.reader import Run

TINY = ["-n", "30", "--target-size", "40", "--steps", "6", "--network", "8,8", "--no-figure", "-q"]
MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "gif": b"GIF89a"}


def run(*words, code=0):
    """A command in this process, with everything it wrote."""
    found = CliRunner().invoke(main, [str(word) for word in words], auto_envvar_prefix="PARTICLES")
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception  # on the command line, a traceback
    assert found.exit_code == code, found.stderr
    return found


def refused(*words):
    """The sentence with which the command ends, having written nothing."""
    before = sorted(Path().rglob("*"))
    found = run("plot", *words, code=2)
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
    assert sorted(Path().rglob("*")) == before
    return found.stderr.rpartition("Error: ")[2].strip().replace("\n", " ")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run in two columns that recorded its potentials, another one, one with classes, and one of images."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("simulate", "--target", "moons", "-o", "moons", "--record", *TINY)
        run("simulate", "--target", "moons", "-o", "other", "--seed", 1, *TINY)
        run("simulate", "--target", "iris", "--label", "target", "-o", "iris", *TINY[:2], *TINY[4:])
        run("simulate", "--target", "digits", "-o", "digits", *TINY[:2], *TINY[4:])
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, runs):
    """An empty folder to be in, beside the runs."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("moons", "other", "iris", "digits"):
        (tmp_path / name).symlink_to(runs / name)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written, and the arguments with which they were drawn."""
    found = []
    monkeypatch.setattr(window, "save", lambda figure, path, dpi: (found.append((figure, path, dpi)), path.touch()))
    return found


EVERY = [("moons", kind) for kind in module.KINDS if kind not in ("animation", "images")] + [("digits", "images")]


@pytest.mark.parametrize(("name", "kind"), EVERY, ids=[kind for _, kind in EVERY])
def test_every_kind_is_a_picture(name, kind):
    found = run("plot", f"../{name}", "--kind", kind)
    assert found.stdout == f"{name}-{kind}.png\n"
    with Image.open(f"{name}-{kind}.png") as image:
        pixels = np.asarray(image.convert("L"))
        assert image.info["dpi"] == pytest.approx((150, 150), rel=1e-3)
    assert (pixels == 255).mean() > 0.3  # on white
    assert (pixels < 150).mean() > 0.003  # something


def test_kinds_are_those_that_can_be_drawn():
    assert set(module.KINDS) == set(plot.__all__) - {"animate", "figure"} | {"animation", "overview"}


@pytest.mark.parametrize("ending", ["png", "pdf", "svg", "PNG"])
def test_the_format_is_that_of_the_name_and_the_same_run_gives_the_same_file(ending):
    for name in ("one", "two"):
        assert run("plot", "../moons", "--output", f"{name}.{ending}").stdout == f"{name}.{ending}\n"
    data = Path(f"one.{ending}").read_bytes()
    assert data.startswith(MAGIC[ending.lower()])
    assert data == Path(f"two.{ending}").read_bytes()


def test_trajectories_are_the_default_and_of_several_runs_compare():
    assert run("plot", "../moons").stdout == "moons-trajectories.png\n"
    assert run("plot", "../moons", "../other").stdout == "moons-other-compare.png\n"


def test_a_picture_that_is_there_is_replaced():
    Path("a.png").write_text("before")
    run("plot", "../moons", "-o", "a.png", "-q")
    assert Path("a.png").read_bytes().startswith(MAGIC["png"])


def test_dpi_is_the_number_of_pixels_to_an_inch():
    sizes = []
    for dpi in (50, 100):
        run("plot", "../moons", "-o", "a.png", "--dpi", dpi)
        with Image.open("a.png") as image:
            sizes.append(np.array(image.size))
    assert sizes[1] == pytest.approx(2 * sizes[0], abs=1)


def test_an_animation_is_written_with_its_length():
    found = run("plot", "../moons", "--kind", "animation", "--fps", 10, "--seconds", 1, "--dpi", 50)
    assert re.fullmatch(r"moons-animation\.gif: 10 frames, 2\.4 s, \d+ kB\n", found.stdout)
    assert found.stderr == ""  # no bar where there is no terminal
    with Image.open("moons-animation.gif") as image:
        assert image.n_frames == 10
        assert image.size == (240, 270)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max-paths", 7], ("trajectories", {"max_paths": 7, "projection": "auto", "color": "auto"})),
        (["--kind", "snapshots", "--times", "0%,50%,100%"], ("snapshots", {"times": [0.0, 1.5, 3.0]})),
        (["--kind", "snapshots", "--times", "0.5, 2"], ("snapshots", {"times": [0.5, 2.0]})),
        (["--kind", "density", "--times", "50%"], ("density", {"at": 1.5})),
        (["--kind", "potential", "--times", "1"], ("potential", {"at": 1.0})),
        (["--kind", "images", "--times", "0%,100%", "--count", 4], ("images", {"times": [0.0, 3.0], "count": 4})),
        (["--kind", "images", "--times", "100%", "--shape", "8,8"], ("images", {"at": 3.0, "shape": (8, 8)})),
        (["--kind", "tails", "--column", "x1"], ("tails", {"column": "x1"})),
        (["--kind", "transport", "--color", "none"], ("transport", {"color": "none"})),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else "",
)
def test_options_reach_what_draws(words, expected, monkeypatch, drawn):
    name, more = expected
    asked = {}
    monkeypatch.setattr(plot, name, lambda run, **given: asked.update(given, run=run), raising=False)
    run("plot", "../moons", *words)
    assert asked["run"].name == "moons"
    assert {key: asked[key] for key in more} == more
    assert [path.name for _, path, _ in drawn] == [f"moons-{name}.png"]


OTHERS = [
    ("trajectories", ["--fps", 5], "--fps is of the kind animation, not of trajectories; leave it out"),
    (
        "animation",
        ["--max-paths", 5],
        "--max-paths is of the kinds trajectories, transport and compare, not of animation",
    ),
    ("diagnostics", ["--projection", "pca"], "--projection is of the kinds"),
    ("overview", ["--times", "0"], "--times is of the kinds snapshots, potential, density and images"),
    ("density", ["--times", "0,1"], "--times of the kind density is one time, not 2"),
    ("snapshots", ["--times", "0,99"], "time 99 is not in the run, which goes from 0 to 3"),
    ("snapshots", ["--times", "soon"], "'soon' is not a list of flow times such as 0,2.5,10, or 0%,50%,100%"),
    ("images", ["--shape", "big"], "'big' is not a height and a width such as 28,28"),
    ("trajectories", ["--projection", "x0,x7"], "projection 'x7' is not a column; choose auto, pca, pca3"),
    ("trajectories", ["--color", "label"], "color label needs particles with classes"),
    ("tails", ["--column", "age"], "column 'age' is not one of x0, x1"),
    ("animation", ["--fps", 90], "fps of a GIF is at most 50, not 90"),
    ("animation", ["--show"], "--show is not of the kind animation"),
    ("animation", ["--watch"], "--watch is of one run and a picture in a file, not of an animation"),
    ("trajectories", ["--watch", "--show"], "--watch is of one run and a picture in a file, not of --show"),
    (
        "trajectories",
        ["--output", "a.gif"],
        "--output a.gif does not end in .png, .pdf or .svg; --kind animation writes those",
    ),
    ("animation", ["--output", "a.png"], "--output a.png does not end in .gif or .mp4"),
    ("trajectories", ["--output", "a"], "--output a does not end in .png, .pdf or .svg"),
    ("trajectories", ["--output", "no/a.png"], "--output no/a.png: there is no folder no"),
    ("trajectories", ["--output", ".."], "--output .. is a folder; name a file"),
    ("trajectories", ["--output", "../moons/figure.png"], "--output ../moons/figure.png is a file of the run"),
    ("trajectories", ["--output", "../moons/trajectory.npy"], "is a file of the run, or its data; name another file"),
    ("trajectories", ["--output", "../moons/particles.csv"], "is a file of the run, or its data; name another file"),
    ("trajectories", ["--output", "../moons/potentials/a.png"], "is a file of the run, or its data; name another file"),
    ("movie", [], "'movie' is not one of 'trajectories'"),
]


@pytest.mark.parametrize(("kind", "words", "message"), OTHERS, ids=[f"{k}{''.join(map(str, w))}" for k, w, _ in OTHERS])
def test_what_does_not_fit_is_refused_in_one_sentence(kind, words, message):
    assert message in refused("../moons", "--kind", kind, *words)


def test_an_option_of_another_kind_is_refused_even_with_its_default():
    assert "--color is of the kinds" in refused("../moons", "--kind", "tails", "--color", "auto")
    assert "--smooth is of the kind animation" in refused("../moons", "--smooth")


def test_several_runs_are_compared_alone():
    assert refused("../moons", "../other", "--kind", "tails").startswith("--kind tails draws one run, not 2; name one")
    assert "compare needs runs with the same columns" in refused("../moons", "../iris")
    assert "--watch is of one run and a picture in a file, not of several runs" in refused(
        "../moons", "../other", "--watch"
    )


def test_a_picture_over_the_data_is_refused(tmp_path):
    np.savetxt("data.png", np.random.default_rng(0).normal(size=(40, 2)), delimiter=",")
    shutil.copytree(tmp_path / "moons", "mine")
    spec = Path("mine/spec.toml")
    spec.write_text(spec.read_text().replace('"moons"', '"data.png"'))
    assert "is a file of the run, or its data" in refused("mine", "--output", "data.png")


def damaged(tmp_path, name, text):
    shutil.copytree(tmp_path / "moons", "broken")
    path = Path("broken", name)
    path.write_bytes(path.read_bytes()[:text] if isinstance(text, int) else text)
    return "broken"


@pytest.mark.parametrize("kind", ["trajectories", "animation", "diagnostics"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("spec.toml", b"\x00 = garbage"),
        ("spec.toml", b"a = 1\n"),
        ("series.csv", b"\xff\xfe\x00garbage"),
        ("series.csv", b"step,time\nx,y\n"),
        ("series.csv", b""),
        ("data.npz", b"garbage"),
        ("data.npz", 300),
        ("trajectory.npy", b"garbage"),
        ("trajectory.npy", 100),
        ("trajectory.csv", b"garbage\n"),
    ],
    ids=lambda value: re.sub(r"\W", "", str(value)),
)
def test_a_damaged_run_is_one_sentence(tmp_path, kind, name, text):
    message = refused(damaged(tmp_path, name, text), "--kind", kind)
    assert message.startswith("broken")
    assert len(message) < 400


def test_a_trajectory_that_was_cut_short_is_drawn_as_far_as_it_goes(tmp_path, drawn):
    path = damaged(tmp_path, "trajectory.npy", 128 + 4 * 30 * 2 * 4 + 7)
    run("plot", path)
    assert len(Run.open(path).times) == 4
    assert "end (step 3)" in [text.get_text() for text in drawn[0][0].legends[0].get_texts()]


def test_an_animation_without_end_is_refused():
    assert "frames" in refused("../moons", "--kind", "animation", "--seconds", "1e9")


def test_a_folder_of_runs_names_them():
    Path("many").mkdir()
    shutil.copytree("../moons", "many/first")
    assert refused("many").endswith("name a run in it, such as many/first")


def test_a_folder_that_is_no_run_is_refused():
    assert refused(".") == ". is not a run folder: it has no spec.toml, or no trajectory.npy yet"
    assert refused("nowhere").startswith("nowhere is not a run folder")
    assert refused("nowhere", "--watch") == "nowhere is not a run folder: it has no spec.toml"


def test_one_snapshot_is_a_picture_but_no_animation(tmp_path):
    shutil.copytree(tmp_path / "moons", "start")
    index = Path("start/trajectory.csv")
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:2]))
    run("plot", "start")
    assert refused("start", "--kind", "animation") == "an animation needs two snapshots at least, and there is one"


def test_without_a_screen_show_says_so():
    assert (
        refused("../moons", "--show")
        == "--show needs a screen, and matplotlib found none; leave it out, and open the file"
    )


def test_with_a_screen_a_window_is_opened_and_nothing_is_written_unless_named(monkeypatch):
    shown = []
    monkeypatch.setattr(window, "has_screen", lambda: True)
    monkeypatch.setattr(window, "show", shown.append)
    assert run("plot", "../moons", "--show").stdout == ""
    assert not list(Path().iterdir())
    assert run("plot", "../moons", "--show", "--output", "a.png").stdout == "a.png\n"
    assert len(shown) == 2
    assert shown[0].axes[0].get_xlabel() == "x0"


def test_quiet_says_nothing():
    found = run("plot", "../moons", "-q")
    assert (found.stdout, found.stderr) == ("", "")


def test_a_folder_that_cannot_be_written_is_one_sentence(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "a.png")

    monkeypatch.setattr(window, "save", full)
    found = run("plot", "../moons", code=4)
    assert found.stderr == "Error: a.png: No space left on device\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"])
def test_a_signal_leaves_nothing_half_written(number, code):
    words = ["-m", "particles.cli", "plot", "../moons", "--kind", "animation", "--seconds", "500"]
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a test process in the background may ignore
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    end = time.monotonic() + 60
    while not list(Path().glob(".moons-animation.gif.*.tmp")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert "Traceback" not in said
    assert not list(Path().iterdir())


@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
def test_names_are_no_formulas(dimension):
    """Between two dollars matplotlib reads formulas; names from files are not meant as such, not even bad ones."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(40, dimension)), columns=[f"a $m$ $x_{{$ {i}" for i in range(dimension)])
    frame.assign(**{"k$i$ $y_{$": ["_u $x_{$", "v$"] * 20}).to_csv("d$a$ $x_{$.csv", index=False)
    words = ["--target", "d$a$ $x_{$.csv", "--label", "k$i$ $y_{$", "--steps", 2, "--network", "8,8", "-q"]
    run("simulate", *words, "-o", "r$n$ $x_{$")  # with its figure
    kinds = ["trajectories", "snapshots", "density", "diagnostics", "transport", "compare", "tails", "overview"]
    for kind in kinds + ["potential"] * (dimension == 2):
        run("plot", "r$n$ $x_{$", "--kind", kind, "-o", "picture.png")
    run("plot", "r$n$ $x_{$", "--kind", "animation", "-o", "film.gif", "--seconds", 0.1)
    run("plot", "r$n$ $x_{$", "-o", "picture.svg")
    text = Path("picture.svg").read_text()
    assert ("<!-- a $m$ $x_{$ 0" if dimension < 4 else "<!-- principal component 1") in text
    assert "<!--  _u $x_{$ -->" in text  # in the legend, which would leave out what begins with a line
