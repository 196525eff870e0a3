"""The loop, the run folder, observers."""

import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from problems import Analytic, normal

from particles import (
    AtRest,
    Cloud,
    Distance,
    Diverged,
    Euler,
    Evolve,
    Folder,
    Interrupted,
    Key,
    Memory,
    Run,
    Schema,
    simulate,
    w2,
)
from particles.data.tables import array_table
from particles.experiment.build import build
from particles.experiment.specification import Specification
from particles.files import replacing
from particles.run.arrays import GrowingArray


def evolve(field, n=4):
    return Evolve(Analytic(field), Euler(), Cloud(normal(n, 2, "x")), step_size=0.5)


def folder(path, **settings):
    schema = Schema.fit(array_table("t", normal(6, 2, "t").numpy()), "none", torch.float64)
    return Folder(path, schema, **{"log_every": 2, "snapshot_every": 4, "checkpoint_every": 3} | settings)


def test_rows_and_snapshots(tmp_path):
    process, store = evolve(lambda t, x: -x), folder(tmp_path)
    reference = Cloud(torch.zeros(1, 2, dtype=torch.float64))
    state = simulate(process, 9, store, [Distance("w2", w2, reference, 10, Key.of(0))])
    series = pd.read_csv(tmp_path / "series.csv")
    assert series["step"].tolist() == [0, 2, 4, 6, 8, 9]
    assert series["time"].tolist() == [0, 1, 2, 3, 4, 4.5]
    start = float(process.source.x.square().sum(1).mean().sqrt())
    np.testing.assert_allclose(series["w2"], start * 0.5 ** series["step"], rtol=1e-12)
    np.testing.assert_allclose(
        series["kinetic_energy"][1:], start**2 / 2 * 0.25 ** (series["step"][1:] - 1), rtol=1e-12
    )
    steps = pd.read_csv(tmp_path / "trajectory.csv")["step"].tolist()
    trajectory = np.load(tmp_path / "trajectory.npy")
    assert steps == [0, 4, 8, 9]
    np.testing.assert_allclose(trajectory, [process.source.x * 0.5**k for k in steps])
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "particles.csv").to_numpy(), state.cloud.x.numpy())
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["k"] == 9


def test_longer_run_forgets_that_it_once_ended(tmp_path):
    for stop in (5, 12):
        simulate(evolve(lambda t, x: -x), stop, folder(tmp_path / "parts"))
    simulate(evolve(lambda t, x: -x), 12, folder(tmp_path / "whole"))
    for name in ("series.csv", "trajectory.csv", "trajectory.npy", "particles.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_run_is_left_as_it_is(tmp_path):
    simulate(evolve(lambda t, x: -x), 5, folder(tmp_path))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.suffix != ".pt"}
    state = simulate(evolve(lambda t, x: -x), 5, folder(tmp_path))
    assert state.k == 5
    assert pd.read_csv(tmp_path / "trajectory.csv")["step"].tolist()[-1] == 5
    assert (tmp_path / "particles.csv").read_bytes() == before["particles.csv"]


def test_divergence_stops_with_the_step_and_keeps_the_last_good_particles(tmp_path):
    process, store = evolve(lambda t, x: -x if t < 2 else x * math.nan), folder(tmp_path)
    with pytest.raises(Diverged, match="step 5 is not finite: kinetic_energy is nan"):
        simulate(process, 9, store)
    kept = pd.read_csv(tmp_path / "diverged.csv").to_numpy()
    np.testing.assert_array_equal(kept, process.source.x.numpy() * 0.5**4)
    assert not (tmp_path / "particles.csv").exists()
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["k"] == 3
    assert bool(torch.isfinite(saved["x"]).all())
    assert pd.read_csv(tmp_path / "series.csv")["step"].tolist() == [0, 2, 4]


def test_a_stray_carried_particle_is_noticed():
    source = Cloud(normal(4, 2, "x")).join(Cloud(normal(1, 2, "r")))

    def field(t, x):
        v = -x
        v[-1] *= math.inf if t else 1
        return v

    process = Evolve(Analytic(field), Euler(), source, step_size=0.5)
    with pytest.raises(Diverged, match="step 2"):
        simulate(process, 5)


def test_early_end_at_rest():
    store = Memory()
    state = simulate(evolve(lambda t, x: -x), 1000, store, at_rest=AtRest(1e-6, patience=3))
    energies = [row["kinetic_energy"] for row in store.rows[1:]]
    assert state.k == len(energies)
    assert [e < 1e-6 for e in energies] == [False] * (len(energies) - 3) + [True] * 3


def test_rest_is_found_again_after_a_resume(tmp_path):
    rule = AtRest(1e-4, patience=2)
    state = simulate(evolve(lambda t, x: -x), 1000, folder(tmp_path), at_rest=rule)
    again = simulate(evolve(lambda t, x: -x), 2000, folder(tmp_path), at_rest=rule)
    assert again.k == state.k < 1000


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_finish_the_step_and_save(tmp_path, number, code):
    def field(t, x):
        if t == 2.0:
            os.kill(os.getpid(), number)
        return -x

    with pytest.raises(Interrupted, match="stopped after step 5") as caught:
        simulate(evolve(field), 100, folder(tmp_path))
    assert 128 + caught.value.signal == code
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["k"] == 5
    simulate(evolve(lambda t, x: -x), 12, folder(tmp_path))
    simulate(evolve(lambda t, x: -x), 12, folder(tmp_path.with_name("whole")))
    for name in ("series.csv", "trajectory.npy", "particles.csv"):
        assert (tmp_path / name).read_bytes() == (tmp_path.with_name("whole") / name).read_bytes()


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGINT)
    simulate(evolve(lambda t, x: -x), 3)
    assert signal.getsignal(signal.SIGINT) is before


def test_sigkill_and_resume(tmp_path):
    """Kill −9 in the middle, then --resume: the final particles equal those of an uninterrupted run exactly."""
    options = "--target 4-gaussians --target-size 60 -n 50 --network 16,16 --batch-size 20 --checkpoint-every 7 --log-every 3 --no-figure"
    command = [sys.executable, "-m", "particles.cli", "simulate", *options.split(), "--steps", "60"]
    subprocess.run([*command, "-o", tmp_path / "whole", "-q"], check=True, capture_output=True)
    child = subprocess.Popen(
        [*command[:-1], "100000", "-o", tmp_path / "parts", "-q"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:  # until it is somewhere beyond its first checkpoints
        lines = (
            (tmp_path / "parts/series.csv").read_text().count("\n") if (tmp_path / "parts/series.csv").exists() else 0
        )
        if lines > 8:
            break
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    saved = torch.load(tmp_path / "parts/checkpoint.pt", weights_only=True)["k"]
    if saved > 60:
        pytest.skip("the machine was too fast to be caught before step 60")
    resume = [sys.executable, "-m", "particles.cli", "simulate", "--resume", tmp_path / "parts", "--steps", "60", "-q"]
    subprocess.run(resume, check=True, capture_output=True)
    for name in ("particles.csv", "series.csv", "trajectory.npy"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_torn_last_lines_are_dropped(tmp_path):
    simulate(evolve(lambda t, x: -x), 6, folder(tmp_path))
    with open(tmp_path / "series.csv", "a") as file:
        file.write("8,4.0,0.1")  # a power cut in the middle of a line
    with open(tmp_path / "trajectory.npy", "ab") as file:
        file.write(b"half a snapshot")
    simulate(evolve(lambda t, x: -x), 12, folder(tmp_path))
    simulate(evolve(lambda t, x: -x), 12, folder(tmp_path.with_name("whole")))
    for name in ("series.csv", "trajectory.npy", "particles.csv"):
        assert (tmp_path / name).read_bytes() == (tmp_path.with_name("whole") / name).read_bytes()


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), replacing(path) as draft:
        draft.write_text(f"half {1 / 0}")
    assert path.read_text() == "before"
    with replacing(path) as draft:
        draft.write_text("after")
    assert path.read_text() == "after"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_growing_array_can_be_read_at_any_moment(tmp_path):
    array = GrowingArray(tmp_path / "a.npy", (3, 2), np.dtype("f4"))
    assert np.load(tmp_path / "a.npy").shape == (0, 3, 2)
    rows = np.arange(66, dtype="f4").reshape(11, 3, 2)
    for i, row in enumerate(rows):
        array.append(row)
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), rows[: i + 1])
    GrowingArray(tmp_path / "a.npy", (3, 2), np.dtype("f4")).truncate(4)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), rows[:4])
    with pytest.raises(ValueError, match="holds rows of shape"):
        GrowingArray(tmp_path / "a.npy", (3, 3), np.dtype("f4"))


def test_reader_sees_what_was_written(tmp_path):
    simulation = build(Specification(target="iris", particles=20, carried=4, network=(8,), steps=6, log_every=2))
    state = simulate(simulation.process, 6, simulation.store(tmp_path), simulation.observers)
    run = Run.open(tmp_path)
    assert run.steps.tolist() == [0, 2, 4, 6]
    assert run.trajectory.shape == (4, 24, 4)
    assert run.carried == 4
    assert run.columns == ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
    assert (len(run.target), len(run.holdout)) == (120, 30)
    np.testing.assert_allclose(run.trajectory[-1], simulation.schema.points(state.cloud.x))
    np.testing.assert_allclose(run.trajectory[-1][:20], pd.read_csv(tmp_path / "particles.csv"), rtol=1e-6)
    np.testing.assert_allclose(run.trajectory[-1][20:], pd.read_csv(tmp_path / "carried.csv"), rtol=1e-6)


def test_figure_draws_what_the_run_holds(tmp_path):
    from matplotlib.collections import LineCollection

    from particles.plot.overview import figure

    simulation = build(Specification(target="iris", particles=20, network=(8,), steps=6, log_every=2, metric_every=4))
    simulate(simulation.process, 6, simulation.store(tmp_path), simulation.observers)
    drawn = figure(Run.open(tmp_path))
    clouds, divergence, energy, distance = drawn.get_axes()
    paths, target, start, end = sorted(clouds.collections, key=lambda found: not isinstance(found, LineCollection))
    assert [len(dots.get_offsets()) for dots in (target, start, end)] == [120, 20, 20]
    assert len(paths.get_segments()) == 20
    assert "principal component 1" in clouds.get_xlabel()
    assert energy.get_yscale() == "log"
    assert [line.get_label() for line in distance.lines] == ["to target", "to held-out target"]
    np.testing.assert_allclose(distance.lines[0].get_ydata(), Run.open(tmp_path).series["w2"].dropna())
    np.testing.assert_allclose(distance.lines[0].get_xdata(), [0, 4])
    np.testing.assert_allclose(divergence.lines[0].get_xdata(), [2, 4, 6])


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_host():
    ends = []
    for device in ("cpu", "cuda"):
        simulation = build(Specification(target="moons", particles=50, network=(16,), device=device, dtype="float64"))
        ends.append(simulate(simulation.process, 20, Memory(log_every=5)).cloud.x.cpu())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-6)
