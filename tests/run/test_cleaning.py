"""What a command leaves behind when it is stopped, and where there is no home: nothing but what it was asked for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from particles.cli import info, main

from particles import simulate
from particles.experiment.build import build
from particles.experiment.specification import Specification


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cleaning")
    spec = Specification("moons", particles=30, target_size=40, network=(8, 8), steps=20, record=True)
    simulation = build(spec)
    simulate(simulation.process, 20, simulation.store(path / "run"))
    np.save(path / "x.npy", np.zeros((20_000, 2)))
    return path


def started(folder, *words, home=None):
    """The command in a process of its own, with an empty folder for temporary files and, if so asked, no home."""
    (folder / "temporary").mkdir(exist_ok=True)
    environment = os.environ | {"TMPDIR": str(folder / "temporary")} | ({"HOME": home} if home else {})
    environment = {
        name: value
        for name, value in environment.items()
        if name not in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    }
    return subprocess.Popen(
        [sys.executable, "-m", "particles.cli", *map(str, words)],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a test process in the background may ignore
    )  # fmt: skip


def drafts(folder):
    return [path.name for path in folder.rglob("*") if path.name.startswith(".") or path.parent.name == "temporary"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_command_that_is_stopped_leaves_no_draft(folder, number):
    """By default SIGTERM would end Python at once, without any cleaning up."""
    words = ["plot", "run", "--kind", "animation", "--seconds", 60, "--output", "stopped.gif"]
    process = started(folder, *words)
    begun = time.monotonic()
    while not any(name.startswith(".stopped.gif") for name in drafts(folder)) and time.monotonic() < begun + 60:
        time.sleep(0.02)
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in told
    assert drafts(folder) == []
    assert not (folder / "stopped.gif").exists()


def test_an_interrupt_that_a_command_says_nothing_of(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(info, "_versions", interrupted)
    found = CliRunner().invoke(main, ["info"])
    assert (found.exit_code, found.stderr.strip()) == (130, "Interrupted")
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_home_is_no_hindrance(folder):
    """Matplotlib and KeOps want to keep caches there."""
    words = [
        "simulate",
        "--target",
        "moons",
        "-n",
        20,
        "--target-size",
        30,
        "--flow",
        "mmd",
        "--steps",
        2,
        "-o",
        "homeless",
        "-q",
    ]
    process = started(folder, *words, home="/dev/null/nowhere")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert (folder / "homeless/figure.png").exists()
    assert "Traceback" not in told
    assert drafts(folder) == []
    assert not Path("/dev/null/nowhere").exists()
