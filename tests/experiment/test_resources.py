"""What a run would take is known before it takes it, and a run that would not fit is told what to change."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from particles.cli import main

import particles as pt
from particles import machine
from particles.data import files
from particles.data.tables import read_table
from particles.experiment import resources
from particles.experiment.build import build
from particles.experiment.demand import Size, disk, memory
from particles.experiment.specification import Specification

GB = 1e9


def total(parts):
    return sum(part.size for part in parts)


def said(monkeypatch, spec, size, free):
    monkeypatch.setattr(resources, "free_memory", lambda: free)
    with pytest.raises(ValueError, match="are free; ") as refused:
        resources.check_memory(spec, size)
    return str(refused.value)


CASES = {
    "batch_size": (Specification("moons", network=(512, 512)), Size(500_000, 0, 500_000, 10), 3 * GB),
    "chunk_size": (
        Specification("moons", network=(512, 512), batch_size=500, chunk_size=10**6),
        Size(500_000, 0, 500_000, 2),
        GB,
    ),
    "particles": (Specification("moons", flow="w2"), Size(40_000, 0, 40_000, 2), 20 * GB),
    "target_size": (Specification("moons", flow="w2"), Size(40_000, 0, 40_000, 2), 20 * GB),
    "solver": (Specification("moons", flow="w2"), Size(20_000, 0, 20_000, 2), 10 * GB),
    "log_every": (Specification("moons", flow="mmd", steps=10**7, log_every=1), Size(10, 0, 10, 2), 4 * GB),
    "metric_size": (Specification("moons", flow="mmd", metric_size=20_000), Size(30_000, 0, 30_000, 2), 4 * GB),
    "max_inner": (
        Specification("moons", flow="mmd", stepper="proximal", mode="semi-implicit", max_inner=200),
        Size(50_000, 0, 1000, 20),
        4 * GB,
    ),
    "time_steps": (
        Specification("moons", flow="proximal", solver="network", time_steps=2000),
        Size(50_000, 0, 50_000, 10),
        4 * GB,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_would_not_fit_into_memory_is_told_what_would(monkeypatch, name):
    """The sentence names the setting and a value; with it the run fits, and with one that is much milder it does not."""
    spec, size, free = CASES[name]
    assert total(memory(spec, size)) > free
    sentence = said(monkeypatch, spec, size, free)
    value = re.search(rf"\b{name} = (\w+)", sentence)
    assert value, sentence
    value = value[1] if name == "solver" else int(value[1])
    resources.check_memory(*resources._changed(name, value, spec, size))
    if name != "solver":
        milder = value // 2 if name == "log_every" else 2 * value
        with pytest.raises(ValueError, match="are free"):
            resources.check_memory(*resources._changed(name, milder, spec, size))


def test_a_file_of_too_many_rows_is_told_how_many_would_fit(monkeypatch):
    sentence = said(monkeypatch, Specification("rows.csv", flow="w2"), Size(40_000, 0, 40_000, 2), 20 * GB)
    assert re.search(r"a target of at most \d+ rows", sentence)
    assert "target_size" not in sentence


def test_several_settings_are_told_where_none_is_enough(monkeypatch):
    spec = Specification("moons", network=(512, 512), chunk_size=10**6)
    size = Size(10**6, 0, 10**6, 2)
    found = re.search(r"it fits with batch_size = (\d+) and chunk_size = (\d+)", said(monkeypatch, spec, size, GB))
    assert found
    batch, chunk = map(int, found.groups())
    resources.check_memory(Specification("moons", network=(512, 512), batch_size=batch, chunk_size=chunk), size)


def test_nothing_helps_where_the_rest_is_too_much(monkeypatch):
    sentence = said(monkeypatch, Specification("rows.csv"), Size(100, 0, 10, 2), 1e6)
    assert sentence.endswith("take fewer rows or columns, or a machine that has it")


def test_from_80_per_cent_on_there_is_a_warning(monkeypatch, caplog):
    spec, size = Specification("moons"), Size(1000, 0, 1000, 2)
    needed = total(memory(spec, size))
    for part, warned in ((0.79, False), (0.81, True)):
        caplog.clear()
        monkeypatch.setattr(resources, "free_memory", lambda part=part: needed / part)
        resources.check_memory(spec, size)
        assert bool(caplog.records) == warned


def test_the_trajectory_is_as_large_as_is_foretold(tmp_path):
    """T x M x d numbers, and with the rest no more than twice and no less than half of what the folder has."""
    spec = Specification(
        "moons", particles=2000, target_size=100, steps=60, log_every=2, flow="mmd", holdout=0, carried=50
    )
    simulation = build(spec)
    pt.simulate(simulation.process, 60, simulation.store(tmp_path / "run"))
    found = sum(file.stat().st_size for file in (tmp_path / "run").iterdir())
    parts = disk(simulation.spec, Size(2000, 50, 100, 2))
    snapshots = next(part for part in parts if part.what == "snapshots")
    assert (tmp_path / "run/trajectory.npy").stat().st_size == 128 + 31 * 2050 * 2 * 4
    assert snapshots.size == 32 * 2050 * 2 * 4  # where a run is stopped it leaves one more
    assert 0.5 < found / total(parts) < 1.2


@pytest.mark.parametrize("flow", ["lipschitz", "transport", "w2"])
def test_a_recorded_run_is_as_large_as_is_foretold(tmp_path, flow):
    simulation = build(
        Specification("moons", particles=500, target_size=400, steps=10, flow=flow, holdout=0, record=True)
    )
    pt.simulate(simulation.process, 10, simulation.store(tmp_path / "run"))
    found = sum(file.stat().st_size for file in (tmp_path / "run/potentials").iterdir())
    parts = disk(simulation.spec, Size(500, 0, 400, 2))
    record = next(part for part in parts if "record" in part.what).size
    assert 0.7 < found / record < 1.3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words, code):
    found = CliRunner().invoke(main, [str(word) for word in words])
    assert found.exit_code == code, found.output
    return found.stderr


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(folder, monkeypatch):
    words = ["--target", "moons", "-n", 20_000, "--holdout", 0, "--flow", "mmd", "--steps", 100_000, "--log-every", 10]
    monkeypatch.setattr(resources, "free_disk", lambda path: 1e8)
    told = run("simulate", *words, "-o", "run", code=2)
    value = re.search(r"--snapshot-every = (\d+)", told)
    assert value, told
    assert not Path("run/spec.toml").exists()
    assert int(value[1]) % 10 == 0
    enough = build(
        Specification(
            "moons", particles=20_000, holdout=0, flow="mmd", steps=100_000, log_every=10, snapshot_every=int(value[1])
        )
    )
    enough.check_begin(folder / "run")


def test_a_run_that_is_to_be_replaced_stays_where_the_new_one_would_not_fit(folder, monkeypatch):
    run(
        "simulate",
        "--target",
        "moons",
        "-n",
        10,
        "--flow",
        "mmd",
        "--steps",
        3,
        "-o",
        "run",
        "-q",
        "--no-figure",
        code=0,
    )
    before = {file: file.read_bytes() for file in Path("run").iterdir()}
    monkeypatch.setattr(resources, "free_disk", lambda path: 5e6)
    words = [
        "--target",
        "moons",
        "-n",
        20_000,
        "--flow",
        "mmd",
        "--steps",
        1000,
        "--holdout",
        0,
        "-o",
        "run",
        "--overwrite",
    ]
    assert "--snapshot-every = " in run("simulate", *words, code=2)
    assert {file: file.read_bytes() for file in Path("run").iterdir()} == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--target", "moons", "--target-size", 10**12],
            r"--target-size 1000000000000 asks for about 1\.92e\+05 GB of memory",
        ),
        (["--target", "moons", "-n", 10**12], r"--particles = \d+"),
        (["--target", "moons", "--flow", "w2", "-n", 10**7], "--solver = sinkhorn|--particles = "),
    ],
    ids=["target", "particles", "costs"],
)
def test_a_run_beyond_all_memory_is_refused_at_once(folder, words, told):
    assert re.search(told, run("simulate", *words, "-o", "run", code=2))
    assert not Path("run").exists()


def test_what_a_folder_has_counts_as_free(tmp_path):
    before = resources.free_disk(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/x").write_bytes(bytes(5_000_000))
    assert resources.free_disk(tmp_path / "run") == pytest.approx(before, rel=0.05)


def test_the_least_of_all_control_groups_counts(tmp_path):
    """Version 2, the group itself without a limit, one above it with one; and version 1."""
    inner, outer = tmp_path / "a/b", tmp_path / "a"
    inner.mkdir(parents=True)
    for group, limit in ((inner, "max"), (outer, "1000")):
        (group / "memory.max").write_text(limit)
        (group / "memory.current").write_text("700")
        (group / "memory.stat").write_text("anon 600\ninactive_file 50\n")
    (tmp_path / "own").write_text("0::/a/b\n")
    assert machine._groups(tmp_path, tmp_path / "own") == [350.0]
    old = tmp_path / "memory/c"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("500")
    (old / "memory.usage_in_bytes").write_text("100")
    (old / "memory.stat").write_text("total_inactive_file 10\n")
    (tmp_path / "own").write_text("3:memory:/c\n2:cpu:/c\n")
    assert machine._groups(tmp_path, tmp_path / "own") == [410.0]


def test_reading_a_run_needs_less_than_running_it(folder, monkeypatch):
    run(
        "simulate",
        "--target",
        "moons",
        "-n",
        10,
        "--flow",
        "mmd",
        "--steps",
        3,
        "-o",
        "run",
        "-q",
        "--no-figure",
        "--record",
        code=0,
    )
    np.save("x.npy", np.zeros((3, 2)))
    monkeypatch.setattr(resources, "free_memory", lambda: 5e7)
    run("transport", "run", "--input", "x.npy", "--output", "y.csv", code=0)


def test_a_file_that_is_larger_than_memory_is_not_read(folder, monkeypatch):
    """A memory that is overcommitted raises no error: the system would kill the process."""
    Path("x.csv").write_text("a,b\n" + "1.5,2\n" * 1000 + "3,1\n")
    monkeypatch.setattr(files, "free_memory", lambda: 10_000.0)
    with pytest.raises(
        ValueError, match=r"x\.csv takes about 1\.8e-05 GB of memory to read, and 1e-05 GB are free; give it fewer rows"
    ):
        read_table(Path("x.csv"))
    monkeypatch.setattr(files, "free_memory", lambda: 30_000.0)
    assert len(read_table(Path("x.csv"))) == 1001


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are the Linux kernel's to tell")
def test_a_run_with_batches_holds_few_clouds_at_once():
    """200,000 particles in 50 columns, 40 MB: source, particles, velocities, where they go, and two for holes in the heap."""
    case = {
        "n": 300,
        "particles": 200_000,
        "d": 50,
        "batch_size": 256,
        "chunk_size": 4096,
        "metric_size": 50,
        "export": "npy",
    }
    script = Path(__file__).parents[1] / "benchmarks" / "demand.py"
    words = [
        sys.executable,
        str(script),
        "--one",
        json.dumps(case | {"trajectory_particles": 100, "steps": 5, "log_every": 2}),
    ]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    foretold, taken, _ = json.loads(found.stdout.splitlines()[-1])
    cloud = 200_000 * 50 * 4 / 1e6
    assert taken < 6 * cloud + 100
    assert foretold > 0.8 * taken
