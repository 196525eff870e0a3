"""Looking on while a run goes: characters on a terminal, and a process that draws the figure."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from particles.cli import main
from particles.cli import watching as commands

from particles.plot import terminal, watching
from particles.plot.projection import projection
from particles.run.reader import Run

TINY = ["--target", "moons", "-n", "30", "--target-size", "40", "--steps", "6", "--network", "8,8"]
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def run(*words, code=0):
    """A command in this process, with everything it wrote."""
    found = CliRunner().invoke(main, [str(word) for word in words], auto_envvar_prefix="PARTICLES")
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception  # on the command line, a traceback
    assert found.exit_code == code, found.stderr
    return found


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    """A run that nobody looked at, with its figure."""
    folder = tmp_path_factory.mktemp("run") / "run"
    run("simulate", *TINY, "-o", folder)
    return folder


@pytest.fixture
def processes(monkeypatch):
    """The processes that were started to draw."""
    found = []

    class Known(subprocess.Popen):
        def __init__(self, *words, **more):
            super().__init__(*words, **more)
            found.append(self)

    monkeypatch.setattr(commands.subprocess, "Popen", Known)
    yield found
    for process in found:
        assert process.poll() is not None, "it is still there"


def contents(path):
    """What a run left, but for its folder's name and ways of writing."""
    kept = {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.name != "checkpoint.pt"}
    return kept | {"summary.json": {k: v for k, v in json.loads(kept["summary.json"]).items() if k != "run"}}


def until(ready, seconds=60):
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)
    return found


# Characters


BOX = np.array([[0.0, 0.0], [1.0, 1.0]])


def test_a_point_is_the_dot_where_it_is():
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
    for point, (row, column), bit in zip(corners, [(2, 0), (0, 0), (2, 3), (0, 3)], [0x40, 0x01, 0x80, 0x08]):
        found = terminal.dots(point[None], BOX, (4, 3))
        assert found[row, column] == bit
        assert np.count_nonzero(found) == 1
    grid = np.stack(np.meshgrid((np.arange(8) + 0.5) / 8, (np.arange(12) + 0.5) / 12), -1).reshape(-1, 2)
    assert (terminal.dots(grid, BOX, (4, 3)) == 0xFF).all()
    for i in range(8):  # every dot alone is another bit
        assert len(np.unique(terminal.dots(grid[i : i + 1], BOX, (1, 1)))) == 1
    assert not terminal.dots(np.array([[2.0, 0.5], [np.nan, 0.5]]), BOX, (4, 3)).any()


def test_particles_and_target_are_told_apart():
    left, right = np.array([[0.1, 0.6]]), np.array([[0.9, 0.6]])
    both = {"particles": left, "target": np.concatenate((left, right)), "box": BOX, "size": (4, 1)}
    (line,) = terminal.scatter(**both, color=True)
    assert line == f"{terminal.PARTICLES}⠂  {terminal.TARGET}⠐{terminal.PLAIN}"
    assert terminal.scatter(**both, color=False) == ["⠂  ·"]
    assert terminal.scatter(**both, color=False, braille=False) == ["o  ."]


@pytest.mark.parametrize(
    ("width", "height", "aspect", "size"),
    [
        (2, 1, 1.0, (80, 20)),
        (1, 1, 1.0, (48, 24)),
        (10, 1, 1.0, (80, 4)),
        (1, 1, 0.5, (80, 20)),
        (1, 9, None, (80, 24)),
    ],
)
def test_units_are_as_long_upwards_as_across(width, height, aspect, size):
    assert terminal.fit(np.array([[0, 0], [width, height]], float), aspect, (80, 24)) == size


def test_heaps_are_as_high_as_there_are_points():
    values = np.random.default_rng(0).normal(size=(200, 1))
    (points,), box = terminal.heaps([values], np.array([-4.0, 4.0]), 16)
    counts, edges = np.histogram(values, 16, (-4, 4))
    assert box[:, 1] == pytest.approx([0, (counts.max() - 0.5) / 200])
    for low, high, count in zip(edges[:-1], edges[1:], counts):
        inside = points[(points[:, 0] >= low) & (points[:, 0] < high)]
        assert np.sort(inside[:, 1]) == pytest.approx((np.arange(count) + 0.5) / 200)


def test_the_view_shows_the_newest_snapshot(moons):
    found = terminal.View(moons)
    lines = found.draw((60, 21), color=False)
    shown = Run.open(moons)
    size = terminal.fit(found.box, 1.0, (60, 20))
    bits = terminal.dots(shown.snapshot(-1), found.box, size)
    there = np.array(
        [[ord(mark) - 0x2800 if mark not in " ·" else 0 for mark in line.ljust(size[0])] for line in lines[:-1]]
    )
    assert np.array_equal(there, bits)
    assert lines[-1].startswith("⣿ particles  · target  x0 ")
    assert max(map(len, lines)) <= 60
    assert len(lines) <= 21


@pytest.mark.parametrize("columns", [1, 3, 5])
def test_views_of_any_dimension(columns):
    np.savetxt("data.csv", np.random.default_rng(0).normal(size=(30, columns)), delimiter=",")
    run("simulate", "--target", "data.csv", "--steps", 2, "--network", "8", "-o", "run", "-q", "--no-figure")
    view = terminal.View(Path("run"))
    lines = view.draw((40, 12), color=False)
    assert sum(0x2800 < ord(mark) < 0x2900 for line in lines[:-1] for mark in line) > 5
    if columns > 1:
        shown = Run.open("run")
        assert view._points(shown.target) == pytest.approx(projection(shown)(shown.target)[:, :2])


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True

    def fileno(self):
        raise OSError


def watched(moons, monkeypatch, screen, rows=3):
    monkeypatch.setattr(sys, "stderr", screen)
    shutil.copytree(moons, "copy")
    look = commands.Terminal(Path("copy"), 0)
    for k in range(rows):
        look.next = 0.0
        Path("copy/trajectory.csv").touch()  # a new one
        look(k, {"step": k, "time": k / 2, "divergence": 0.25})
    return screen.getvalue()


def test_on_a_terminal_it_is_drawn_in_place_in_colours(moons, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("LINES", "20")
    text = watched(moons, monkeypatch, Screen())
    blocks = re.split(r"\x1b\[(\d+)F\x1b\[J", text)
    assert len(blocks) == 5  # three, and twice how far back
    assert int(blocks[1]) == blocks[0].count("\n")
    assert "step 2, time 1, divergence 0.25" in blocks[4]
    assert terminal.PARTICLES in text
    assert terminal.TARGET in text
    lines = ESCAPES.sub("", blocks[4]).splitlines()
    assert max(map(len, lines)) < 50
    assert len(lines) < 20


def test_no_colours_where_they_are_not_wanted_and_no_moves_where_there_is_no_terminal(moons, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[38" not in watched(moons, monkeypatch, Screen())
    shutil.rmtree("copy")
    assert "\x1b" not in watched(moons, monkeypatch, io.StringIO())


def test_where_braille_cannot_be_written_there_are_letters(moons, monkeypatch):
    screen = Screen()
    screen.encoding = "ascii"
    assert ESCAPES.sub("", watched(moons, monkeypatch, screen)).isascii()


# Following


def grown(moons, steps):
    """A run that has come to some steps, with as many snapshots."""
    if not Path("copy").exists():
        shutil.copytree(moons, "copy")
    for name in ("series.csv", "trajectory.csv"):
        lines = (moons / name).read_text().splitlines(keepends=True)
        if (text := "".join(lines[: 2 + steps])) != Path("copy", name).read_text():
            Path("copy", name).write_text(text)


@pytest.mark.parametrize(("every", "expected"), [(0, [0, 2, 3, 6]), (2, [0, 2, 6]), (4, [0, 6]), (100, [0, 6])])
def test_each_new_snapshot_is_drawn_once_and_the_last_in_any_case(moons, every, expected):
    reached = iter([0, 2, 2, 3, 3, 6])
    grown(moons, next(reached))
    drawn, over = [], []

    def pause(seconds):
        assert seconds >= watching.INTERVAL
        grown(moons, step := next(reached))
        over.extend([True] * (step == 6))
        return False

    watching.follow(
        Path("copy"),
        lambda: drawn.append(watching.newest(Path("copy")).step),
        every=every,
        over=lambda: bool(over),
        pause=pause,
    )
    assert drawn == expected


def test_a_run_has_ended_when_nobody_writes_to_it(moons):
    assert watching.newest(Path("nowhere")) is None
    assert not watching.ended(Path("nowhere"))  # it may yet begin
    shutil.copytree(moons, "copy")
    assert watching.newest(Path("copy")).step == 6
    assert watching.newest(Path("copy")).snapshots == 7
    assert watching.ended(Path("copy"))
    owner = {"process": os.getppid(), "host": os.uname().nodename}
    Path("copy/.lock").write_text(json.dumps(owner))
    assert not watching.ended(Path("copy"))
    Path("copy/.lock").write_text(json.dumps(owner | {"process": 2**22 + 1}))  # no process has that number
    assert watching.ended(Path("copy"))


def test_a_line_that_is_being_written_is_not_counted(moons):
    grown(moons, 3)
    for name in ("series.csv", "trajectory.csv"):
        with open(Path("copy", name), "a") as file:
            file.write("99,4")
    assert watching.newest(Path("copy")).step == 3
    assert watching.newest(Path("copy")).snapshots == 4


def test_plot_watch_draws_a_run_that_goes_on_until_it_ends(moons, monkeypatch):
    grown(moons, 2)
    lock = Path("copy/.lock")
    lock.write_text(json.dumps({"process": os.getppid(), "host": os.uname().nodename}))
    seen = []

    def sleep(seconds):
        seen.append(Path("a.png").stat().st_ino)
        grown(moons, 2 + len(seen))
        if len(seen) == 4:
            lock.unlink()

    monkeypatch.setattr("particles.cli.plot.time.sleep", sleep)
    found = run("plot", "copy", "--watch", "--output", "a.png")
    assert found.stdout == "a.png: step 6\n"
    assert len(seen) == 4
    run("plot", "copy", "--output", "b.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


# A run that is looked at


def test_a_run_is_the_same_bit_for_bit_when_it_is_looked_at(moons, processes):
    run("simulate", *TINY, "-o", "figure", "--watch", "--watch-every", 2)
    assert len(processes) == 1
    found = run("simulate", *TINY, "-o", "terminal", "--watch", "terminal")
    assert "step 6, time 3, divergence" in found.stderr
    assert "particles  · target" in found.stderr
    assert contents(Path("figure")) == contents(moons)  # figure.png too: the last one is the run's own
    assert contents(Path("terminal")) == contents(moons)


def test_the_figure_is_drawn_at_the_lowest_priority_while_the_run_goes_on(moons, processes):
    shutil.copytree(moons, "copy")
    final = Path("copy/figure.png")
    final.unlink()
    with commands.drawing(Path("copy"), 0):
        until(final.exists)
        first = final.stat().st_ino
        assert os.getpriority(os.PRIO_PROCESS, processes[0].pid) == 19
        Path("copy/trajectory.csv").touch()
        until(lambda: final.stat().st_ino != first)
        assert processes[0].poll() is None
    assert processes[0].poll() is not None
    assert final.read_bytes() == (moons / "figure.png").read_bytes()
    assert not list(Path("copy").glob(".*.tmp"))


def test_a_process_that_does_not_end_is_ended(moons, monkeypatch, processes):
    shutil.copytree(moons, "copy")
    monkeypatch.setattr(commands, "PATIENCE", 0.2)
    with commands.drawing(Path("copy"), 0):
        os.kill(processes[0].pid, signal.SIGSTOP)
        until(lambda: Path(f"/proc/{processes[0].pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        draft = Path(f"copy/.figure.png.{processes[0].pid}.tmp")
        draft.touch()
    assert processes[0].returncode == -signal.SIGKILL
    assert not draft.exists()


def test_whoever_draws_ends_with_a_run_that_diverges(processes):
    words = ["--target", "moons", "--flow", "mmd", "--step-size", 1e30, "--watch", "-o", "run"]
    run("simulate", *words, code=3)
    assert len(processes) == 1
    assert processes[0].poll() is not None
    assert not list(Path("run").glob(".*.tmp"))


LONG = [sys.executable, "-m", "particles.cli", "simulate", "--target", "moons", "-n", "30", "--network", "8,8"]
LONG += ["--steps", "1000000", "--log-every", "50", "-o", "run", "--watch"]


def children(process):
    return [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def gone(number):
    """Whether a process is no more, or waits only for whoever started it to notice."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ids=["int", "term", "kill"],
)
def test_whoever_draws_ends_with_a_run_that_is_stopped(number, code):
    process = subprocess.Popen(LONG, stderr=subprocess.PIPE, text=True)
    try:
        until(Path("run/figure.png").exists)
        (child,) = children(process)
        os.kill(process.pid, number)
        assert process.wait(60) == code
        if number != signal.SIGKILL:
            assert gone(child)
            assert not list(Path("run").glob(".*.tmp"))
        until(lambda: gone(child))
        assert Path("run/figure.png").read_bytes().endswith(b"IEND\xaeB`\x82")
        assert not list(Path("run").glob(".figure*"))
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--watch-every", 5], "--watch-every is of --watch; give both"),
        (
            ["--watch", "--no-figure"],
            "--watch figure draws figure.png; leave --no-figure out, or choose --watch terminal",
        ),
        (["--watch", "film"], "'film' is not one of 'figure', 'terminal'"),
        (["--watch", "--watch-every", 0], "0 is not in the range x>=1"),
    ],
    ids=["every", "figure", "name", "range"],
)
def test_what_does_not_fit_is_refused(words, message):
    assert message in run("simulate", *TINY, *words, code=2).stderr.replace("\n", " ")
    assert not Path("runs").exists()


def test_a_resumed_run_can_be_looked_at(moons):
    run("simulate", *TINY, "-o", "run", "-q")
    found = run("simulate", "--resume", "run", "--steps", 8, "--watch", "terminal")
    assert "step 8, time 4" in found.stderr
