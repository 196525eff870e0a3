"""What a run keeps does not grow but by its rows, and what it reads at a step does not grow at all."""

import gc
import os
import tracemalloc

import pytest

from particles import Run, simulate
from particles.build import build
from particles.run import store as stores
from particles.specification import Specification

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
    reader = stores.read_series
    monkeypatch.setattr(stores, "read_series", lambda path: read.append(path.name) or reader(path))
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
