"""What is on disk survives: torn tails, kills, full disks, second processes."""

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from particles.cli import main

import particles as pt
from particles.experiment import resources
from particles.files import replacing, sweep
from particles.run import lock
from particles.run.arrays import GrowingArray, read_growing, read_series, whole_lines
from particles.run.lock import Locked, locked

pytestmark = pytest.mark.slow

SMALL = [
    *("--target", "moons", "-n", "20", "--target-size", "30", "--network", "8,8", "--no-figure", "-q"),
    *("--checkpoint-every", "4", "--log-every", "1"),
]
FILES = ("particles.csv", "series.csv", "trajectory.npy", "trajectory.csv")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words, code=0):
    found = CliRunner().invoke(main, [str(word) for word in words], auto_envvar_prefix="PARTICLES")
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception  # on the command line, a traceback
    assert found.exit_code == code, found.stderr
    return found.stderr


def contents(path="run"):
    return {name: Path(path, name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of ten steps, whose last checkpoint on the way was that of step 8, as it was after step 10."""
    path = tmp_path_factory.mktemp("whole")
    previous = os.getcwd()
    os.chdir(path)
    try:
        run("simulate", *SMALL, "--steps", 8, "-o", "begun")
        run("simulate", *SMALL, "--steps", 10, "-o", "run")
        run("simulate", *SMALL, "--steps", 3, "-o", "kept", "--record")
    finally:
        os.chdir(previous)
    return path


def interrupted(whole):
    """That run as a power cut left it: all ten steps are in the files that grow, the checkpoint is that of step 8."""
    shutil.copytree(whole / "run", "run")
    for name in ("checkpoint.pt", "spec.toml"):
        shutil.copy(whole / "begun" / name, Path("run", name))
    Path("run/particles.csv").unlink()


# Files that grow


def test_a_series_cut_anywhere_has_its_whole_rows(whole):
    text = (whole / "run/series.csv").read_bytes()
    lines = text.splitlines(keepends=True)
    rows = read_series(whole / "run/series.csv")
    path = Path("series.csv")
    for length in range(len(lines[0]), len(text) + 1):
        path.write_bytes(text[:length])
        complete = text[:length].count(b"\n") - 1
        assert read_series(path) == rows[:complete]
        assert whole_lines(path).encode() == b"".join(lines[: complete + 1])


def test_an_array_cut_anywhere_has_its_whole_rows(whole):
    content = (whole / "run/trajectory.npy").read_bytes()
    rows = np.load(whole / "run/trajectory.npy")
    size = rows[0].nbytes
    path = Path("trajectory.npy")
    for length in [*range(128, 128 + 3 * size, 7), len(content) - 1, len(content)]:
        path.write_bytes(content[:length])
        found = read_growing(path)
        assert len(found) == (length - 128) // size
        assert (np.array(found) == rows[: len(found)]).all()
        growing = GrowingArray(path, rows.shape[1:], rows.dtype)
        growing.append(rows[0] + 1)
        assert (np.load(path)[-1] == rows[0] + 1).all()
        assert len(np.load(path)) == len(found) + 1


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x02\x00" + bytes(200), b"x" * 300], ids=repr)
def test_no_array(content):
    Path("x.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read_growing(Path("x.npy"))


def test_a_series_names_its_columns_from_the_first_row_on():
    run("simulate", *SMALL, "--steps", 0, "-o", "run")
    assert Path("run/series.csv").read_text().startswith("step,time,w2")
    assert pt.Run.open("run").series["step"].tolist() == [0]


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        *(("series.csv", lost) for lost in (1, 7, 160)),
        *(("trajectory.csv", lost) for lost in (1, 7, 15)),
        *(("trajectory.npy", lost) for lost in (1, 160, 300)),
    ],
)
def test_a_run_that_was_torn_is_gone_on_with_bit_for_bit(whole, name, lost):
    interrupted(whole)
    os.truncate(f"run/{name}", Path("run", name).stat().st_size - lost)
    found = pt.Run.open("run")
    assert len(found.trajectory) == len(found.steps)
    run("simulate", "--resume", "run", "--steps", 10, "--no-figure", "-q")
    assert contents() == contents(whole / "run")


def test_files_that_grow_reach_the_disk_before_the_checkpoint(monkeypatch):
    """Otherwise a power cut could leave a checkpoint whose past is lost."""
    done = []
    waiting, replacing_ = os.fsync, os.replace
    names = lambda number: Path(os.readlink(f"/proc/self/fd/{number}")).name
    monkeypatch.setattr(os, "fsync", lambda number: (done.append(names(number)), waiting(number))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(f"-> {Path(b).name}"), replacing_(a, b))[1])
    run("simulate", *SMALL, "--steps", 8, "-o", "run")
    places = [i for i, name in enumerate(done) if name == "-> checkpoint.pt"]
    assert len(places) == 3
    for begin, end in zip([0, *places], places):
        assert {"series.csv", "trajectory.npy", "trajectory.csv"} <= set(done[begin:end])
        assert done[end + 1] == "run"  # and the new name itself


def test_runs_leave_no_drafts():
    run("simulate", *SMALL, "--steps", 3, "-o", "run", "--record")
    for stray in ("run/.figure.png.999999999.tmp", "run/potentials/.00000001.pt.999999999.tmp", "run/.mine.tmp"):
        Path(stray).write_text("left by a kill")
    run("simulate", "--resume", "run", "--steps", 5, "--no-figure", "-q")
    assert [str(path) for path in sorted(Path("run").rglob(".*"))] == ["run/.mine.tmp"]


def test_recorded_steps_and_checkpoints_are_the_same_bytes():
    for name in ("a", "b"):
        run("simulate", *SMALL, "--steps", 4, "-o", name, "--record")
    files = [path.relative_to("a") for path in sorted(Path("a").rglob("*")) if path.is_file()]
    assert Path("potentials/00000003.pt") in files
    different = [str(name) for name in files if Path("a", name).read_bytes() != Path("b", name).read_bytes()]
    assert set(different) <= {"summary.json"}  # which names its folder


# Files that are whole or not there


def test_a_draft_that_fails_leaves_what_was_there():
    Path("x").write_text("before")
    with pytest.raises(FileNotFoundError), replacing(Path("x")) as draft:
        draft.write_text("after" if Path("y").read_text() else "")
    assert Path("x").read_text() == "before"
    assert os.listdir() == ["x"]


def test_a_link_stays_a_link():
    Path("there").write_text("before")
    os.symlink("there", "here")
    with replacing(Path("here")) as draft:
        draft.write_text("after")
    assert Path("here").is_symlink()
    assert Path("there").read_text() == "after"


def test_devices_and_pipes_are_not_replaced():
    os.mkfifo("pipe")
    Path("folder").mkdir()
    for name in ("pipe", "folder", "/dev/full"):
        kind = os.stat(name).st_mode
        with pytest.raises(OSError, match="name a file"), replacing(Path(name)) as draft:
            draft.write_text("")
        assert os.stat(name).st_mode == kind


def test_sweeping_takes_drafts_alone():
    for name in (".x.12.tmp", ".y.csv.7.tmp", ".tmp", "x.12.tmp", ".x.tmp", ".lock"):
        Path(name).write_text("")
    sweep(Path())
    assert sorted(os.listdir()) == [".lock", ".tmp", ".x.tmp", "x.12.tmp"]


# Locks


HOLD = """
import sys, time
from pathlib import Path
from particles.run.lock import locked
with locked(Path("run")):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other():
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_told_by_whom(other):
    with pytest.raises(Locked, match=f"process {other.pid} on {socket.gethostname()}, since 20"), locked(Path("run")):
        pass
    words = run("simulate", *SMALL, "--steps", 3, "-o", "run", code=2)
    assert f"process {other.pid}" in words
    assert os.listdir("run") == [".lock"]


def test_a_killed_process_leaves_no_lock(other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert Path("run/.lock").exists()
    run("simulate", *SMALL, "--steps", 3, "-o", "run")
    assert not Path("run/.lock").exists()


def test_the_same_process_may_ask_again():
    with locked(Path("run")):
        with locked(Path("run")):
            assert Path("run/.lock").exists()
        assert Path("run/.lock").exists()
    assert not Path("run/.lock").exists()


def test_a_lock_is_given_back_after_an_error():
    with pytest.raises(RuntimeError), locked(Path("run")):
        raise RuntimeError
    with locked(Path("run")):
        pass


@pytest.mark.parametrize("owner", ["gone", "alive", "elsewhere", "garbage"])
def test_file_systems_without_locks(monkeypatch, caplog, owner):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    gone = subprocess.Popen(["true"])
    gone.wait()
    named = {
        "gone": {"process": gone.pid, "host": socket.gethostname()},
        "alive": {"process": os.getppid(), "host": socket.gethostname()},
        "elsewhere": {"process": 1, "host": "another-host"},
    }
    Path("run").mkdir()
    Path("run/.lock").write_text(json.dumps(named.get(owner, 3)))
    if owner in ("gone", "garbage"):
        with locked(Path("run")):
            assert "knows no locks" in caplog.text
    else:
        with pytest.raises(Locked, match="is being written by process"), locked(Path("run")):
            pass


def test_locks_are_taken_one_after_the_other():
    """Eight processes add to a number; none is lost."""
    program = """
import time
from pathlib import Path
from particles.run.lock import Locked, locked
done = 0
while done < 20:
    try:
        with locked(Path("run")):
            path = Path("count")
            number = int(path.read_text())
            time.sleep(0.0005)
            path.write_text(str(number + 1))
            done += 1
    except Locked:
        time.sleep(0.0003)
"""
    Path("count").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert Path("count").read_text() == "80"
    assert lock._held == set()


# Full disks


def mounted(size):
    """A file system of its own, of so many bytes, or a reason to skip."""
    Path("disk").mkdir()
    found = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "disk"], capture_output=True)
    if found.returncode:
        pytest.skip("no file system can be mounted here")


@pytest.fixture
def disk(monkeypatch):
    """A small file system whose room nobody has foretold, as another process may take it meanwhile."""
    mounted(2 << 20)
    monkeypatch.setattr(resources, "free_disk", lambda path: float("inf"))
    yield Path("disk")
    subprocess.run(["umount", "--lazy", "disk"], check=True)


@pytest.mark.parametrize("left", [0, 4, 8, 12, 16, 20, 24, 28, 32, 34, 120])
def test_a_full_disk_loses_nothing_but_the_steps_since_the_checkpoint(disk, whole, left):
    """The disk is full when ``left`` kB have been written, which is somewhere else in the run each time."""
    (disk / "run").mkdir()
    (disk / "filler").write_bytes(bytes((2 << 20) - 4096 - 1024 * left))
    words = run("simulate", *SMALL, "--steps", 10, "-o", "disk/run", code=4 if left < 120 else 0)
    if left < 120:
        assert "No space left" in words
        assert "\n" not in words.strip()
        (disk / "filler").unlink()
        begun = (disk / "run/checkpoint.pt").exists()
        again = ["--resume", "disk/run"] if begun else [*SMALL, "-o", "disk/run", "--overwrite"]
        run("simulate", *again, "--steps", 10, "--no-figure", "-q")
    assert contents("disk/run") == contents(whole / "run")
    assert not list((disk / "run").glob(".*"))


@pytest.mark.parametrize(
    "words",
    [
        "plot run -o disk/mine.png",
        "plot run --kind animation --seconds 0.5 -o disk/mine.gif",
        "report run -o disk/mine.html",
        "transport run --input new.csv -o disk/mine.csv --overwrite",
        "augment train.csv --label k --per-class 60 -o disk/mine.csv --overwrite",
        "evaluate train.csv train.csv --label k --format json -o disk/mine.json --overwrite",
        "compare --target moons --flows w2 --steps 3 -o disk/mine",
    ],
    ids=lambda words: words.split(" -")[0].replace(" ", "-"),
)
def test_a_full_disk_leaves_what_was_there(disk, whole, words):
    shutil.copytree(whole / "kept", "run")
    Path("new.csv").write_text("x0,x1\n" + "0.5,0.25\n" * 2000)
    rng = np.random.default_rng(0)
    pd.DataFrame({"a": rng.normal(size=40), "b": rng.normal(size=40), "k": ["u", "v"] * 20}).to_csv(
        "train.csv", index=False
    )
    output = Path(next(word for word in words.split() if word.startswith("disk/mine")))
    if output.suffix:
        output.write_text("before")
    free = os.statvfs("disk").f_bavail * os.statvfs("disk").f_frsize
    Path("disk/filler").write_bytes(bytes(free - 4096 * bool(output.suffix == "")))
    assert "No space left" in run(*words.split(), code=4)
    if output.suffix:
        assert output.read_text() == "before"
        assert sorted(os.listdir("disk")) == ["filler", output.name]


def test_a_read_only_folder_is_read_and_said_to_be_that(disk, whole):
    shutil.copytree(whole / "kept", disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)
    before = contents("disk/run")
    assert "Read-only file system" in run("simulate", "--resume", "disk/run", "--steps", 5, "--no-figure", code=2)
    assert "Read-only file system" in run("simulate", *SMALL, "--steps", 3, "-o", "disk/new", code=2)
    assert "Read-only file system" in run("simulate", *SMALL, "--steps", 3, "-o", "disk/run", "--overwrite", code=2)
    assert "Read-only file system" in run("plot", "disk/run", "-o", "disk/run.png", code=2)
    run("plot", "disk/run", "-o", "run.png")
    run("report", "disk/run", "-o", "run.html")
    Path("new.csv").write_text("x0,x1\n0.5,0.25\n")
    run("transport", "disk/run", "--input", "new.csv", "-o", "moved.csv")
    assert contents("disk/run") == before


# Kills


@pytest.mark.parametrize("moment", range(3))
def test_a_kill_at_any_moment(whole, moment):
    """More of them, over all flows, in tests/faults/kills.py."""
    words = [sys.executable, "-m", "particles.cli", "simulate", *SMALL, "--steps", "10", "-o", "run"]
    process = subprocess.Popen(words)
    while not Path("run/checkpoint.pt").exists():
        time.sleep(0.002)
        assert process.poll() is None
    time.sleep(0.01 * moment)
    process.kill()
    process.wait()
    run("simulate", "--resume", "run", "--steps", 10, "--no-figure", "-q")
    assert contents() == contents(whole / "run")


def test_checkpoints_run_no_code():
    run("simulate", *SMALL, "--steps", 3, "-o", "run")

    class Payload:
        def __reduce__(self):
            return os.mkdir, ("pwned",)

    torch.save({"k": 3, "t": 1.0, "x": Payload(), "memory": [], "process": {}}, "run/checkpoint.pt")
    assert "cannot be read" in run("simulate", "--resume", "run", "--steps", 5, "--no-figure", code=2)
    assert not Path("pwned").exists()
    frame = pd.read_csv("run/particles.csv")
    assert len(frame) == 20


# Threads


@pytest.fixture
def threads():
    """Gives torch its number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_resumed_run_keeps_its_number_of_threads():
    """Large sums may be cut up by threads, which their last digits would show."""
    more = ["--particles", 100_000, "--target-size", 1000, "--metric-every", 10]
    for name, steps in (("two", 4), ("parts", 2)):
        run("simulate", *SMALL, *more, "--steps", steps, "--threads", 2, "-o", name)
    torch.set_num_threads(1)
    run("simulate", "--resume", "parts", "--steps", 4, "-q", "--no-figure")
    assert torch.get_num_threads() == 2
    assert contents("two") == contents("parts")
    assert "threads = 2" in Path("parts/spec.toml").read_text()
