"""What a run keeps does not grow but by its rows, and what it reads at a step does not grow at all."""

import gc
import os
import tracemalloc

import pytest

from particles import Run, simulate
from particles.experiment.build import build
from particles.experiment.specification import Specification
from particles.run import folder as folders

ROW = 1500
"""The most bytes that a logged row may take in memory: a dictionary of some ten numbers."""


def begun(path, steps, **settings):
    spec = Specification("moons", particles=6, target_size=8, holdout=0, network=(8, 8), steps=steps, **settings)
    simulation = build(spec)
    return simulation, simulation.store(path)


def run(path, steps, **settings):
    simulation, store = begun(path, steps, **settings)
    simulate(simulation.process, steps, store, simulation.observers, simulation.at_rest)
    return store


def test_the_index_of_snapshots_is_read_once(tmp_path, monkeypatch):
    """Read at every snapshot, it made the time of a run grow like the square of their number."""
    read = []
    reader = folders.read_series
    monkeypatch.setattr(folders, "read_series", lambda path: read.append(path.name) or reader(path))
    for steps in (10, 40):
        read.clear()
        run(tmp_path / str(steps), steps, flow="mmd", log_every=1)
        assert read == ["trajectory.csv"]
        assert Run.open(tmp_path / str(steps)).steps.tolist() == list(range(steps + 1))


def test_a_rule_is_given_one_list_that_grows(tmp_path):
    """A copy of all rows at every step did the same."""
    simulation, store = begun(tmp_path, 13, flow="mmd", log_every=2)
    seen, lengths = [], []

    def rule(rows):
        seen.append(rows)
        lengths.append(len(rows))
        return False

    simulate(simulation.process, 13, store, simulation.observers, rule)
    assert all(rows is seen[0] for rows in seen)
    assert lengths == [1 + k // 2 for k in range(13)]
    assert [row["step"] for row in seen[0]] == [
        0,
        2,
        4,
        6,
        8,
        10,
        12,
    ]  # 13 is where the run ends, not one of its regular rows
    assert [row["step"] for row in store.rows] == [0, 2, 4, 6, 8, 10, 12, 13]


LONG = {
    "mmd": (10_000, {"flow": "mmd", "kernel": "gaussian", "log_every": 10}),
    "lipschitz": (2_000, {"flow": "lipschitz", "inner_steps": 1, "log_every": 10}),
    "transport": (500, {"flow": "transport", "debias": False, "log_every": 10}),
    "recorded": (1_000, {"flow": "mmd", "kernel": "gaussian", "log_every": 10, "record": True}),
}


@pytest.mark.parametrize("name", LONG)
def test_memory_grows_by_rows_alone(tmp_path, name):
    """In the last fifth of the steps at most ROW bytes per logged row by Python's own account; in the last four no pages for anything else."""
    steps, settings = LONG[name]
    simulation, store = begun(tmp_path, steps, checkpoint_every=100, **settings)
    pages, objects = {}, 0

    def mark(k, row):
        nonlocal objects
        if k in (steps // 5, steps):
            gc.collect()
            pages[k] = resident()
        if k == steps * 4 // 5:
            gc.collect()
            tracemalloc.start(1)
        if k == steps:
            objects = tracemalloc.get_traced_memory()[0]

    store.progress = mark
    try:
        simulate(simulation.process, steps, store, (), simulation.at_rest)
    finally:
        tracemalloc.stop()
    rows = steps // 10
    assert objects < ROW * rows / 5 + 150_000
    assert pages[steps] - pages[steps // 5] < ROW * rows + (6 << 20)


def resident():
    """The bytes that this process has in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def mapped(path):
    with open("/proc/self/maps") as file:
        return sum(str(path) in line for line in file)


def test_files_are_closed_again(tmp_path):
    """Of runs, of their readers, and of the maps through which these read."""
    run(tmp_path / "0", 4, flow="mmd", log_every=1)
    gc.collect()
    before = descriptors()
    for i in range(1, 25):
        run(tmp_path / str(i), 4, flow="mmd", log_every=1, record=bool(i % 2))
        opened = Run.open(tmp_path / str(i))
        assert mapped(tmp_path / str(i)) == 1
        assert opened.snapshot(-1).shape == (6, 2)
    del opened
    gc.collect()
    assert descriptors() == before
    assert mapped(tmp_path) == 0


def test_figures_are_freed(tmp_path):
    from matplotlib.figure import Figure

    from particles import plot

    run(tmp_path / "run", 10, flow="mmd", log_every=1)
    kinds = [plot.trajectories, plot.transport, plot.diagnostics, plot.snapshots, plot.density]
    gc.collect()
    before = sum(type(thing) is Figure for thing in gc.get_objects())
    for kind in kinds:
        for _ in range(4):
            kind(Run.open(tmp_path / "run"))
    gc.collect()
    assert sum(type(thing) is Figure for thing in gc.get_objects()) == before
    assert mapped(tmp_path) == 0
