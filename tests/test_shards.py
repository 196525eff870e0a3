"""Several processes on this machine: the same numbers as of one, whatever becomes of them. They find each other by a file, not by a port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from particles import Cloud, Key, shards
from particles.shards import Shard

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
WORLDS = (1, 2, 3)
COMMAND = [sys.executable, "-m", "particles.cli", "simulate"]
SMALL = [
    "--target",
    "moons",
    "-n",
    "31",
    "--target-size",
    "40",
    "--holdout",
    "7",
    "--network",
    "16,16",
    "--dtype",
    "float64",
    "--no-figure",
    "-q",
    "--log-every",
    "2",
    "--checkpoint-every",
    "4",
    "--threads",
    "1",
]


def launch(world: int, words: list[str], meeting: Path) -> list[subprocess.Popen[str]]:
    """As many processes as ``torchrun`` would start, one of them if ``world`` is 1."""
    meeting.unlink(missing_ok=True)
    begun = []
    for rank in range(world):
        more = {"OMP_NUM_THREADS": "1"}
        if world > 1:
            more |= {
                "RANK": str(rank),
                "WORLD_SIZE": str(world),
                "LOCAL_RANK": str(rank),
                shards.RENDEZVOUS: str(meeting),
            }
        begun.append(
            subprocess.Popen(
                words,
                env=os.environ | more,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
    return begun


def end(begun: list[subprocess.Popen[str]], timeout: float = 200) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each."""
    try:
        told = [process.communicate(timeout=timeout) for process in begun]
    finally:
        for process in begun:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(begun, told)]


def run(world: int, words: list[str], meeting: Path) -> list[tuple[int, str, str]]:
    ended = end(launch(world, words, meeting))
    assert [code for code, *_ in ended] == [0] * world, ended
    return ended


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, np.ndarray]]:
    """What ``sharding.py`` finds, by the number of processes."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(1)
    rows = [f"{rng.normal(3 * c):.4f},{rng.normal():.4f},{'xyz'[c]}" for c in (0, 0, 1, 2, 0) * 9]
    (folder / "classes.csv").write_text("\n".join(["a,b,class", *rows]) + "\n")
    results = {}
    for world in WORLDS:
        output = folder / f"{world}.npz"
        run(world, [sys.executable, str(HERE / "sharding.py"), str(output), str(folder)], folder / "meeting")
        with np.load(output) as saved:
            results[world] = dict(saved)
    return results


@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", WORLDS[1:])
def test_all_flows_go_the_same_way_however_many_processes_share_their_rows(found, world):
    flows = [name for name in found[world] if not name.startswith("sum")]
    assert len(flows) == (20 if world == 2 else 39)
    for name in flows:
        expected = found[1][name]
        assert np.ptp(expected, axis=0).max() > 0  # something moves
        bound = 1e-12 if name.startswith("float64") else 1e-6
        np.testing.assert_allclose(found[world][name], expected, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("world", WORLDS[1:])
@pytest.mark.parametrize("masses", ["even", "weighted"])
def test_the_objective_and_its_gradient_are_those_of_all_rows(found, world, masses):
    for what in ("value", "gradient"):
        expected = found[1][f"sum: {what}, {masses}"]
        np.testing.assert_allclose(found[world][f"sum: {what}, {masses}"], expected, rtol=1e-12)


def test_the_mean_of_the_processes_objectives_is_another_number(found):
    """Why log-mean-exp takes the largest value and the sum over all processes: the mean of logarithms is less than the logarithm of means."""
    assert found[1]["sum: averaged"] > found[2]["sum: value, even"] + 1e-3


@pytest.mark.parametrize("world", WORLDS)
def test_what_is_parted_can_be_put_together(found, world):
    results = found[world]
    np.testing.assert_array_equal(results["sum: gathered"], np.arange(10.0).reshape(5, 2))
    np.testing.assert_array_equal(results["sum: back"], np.arange(10.0).reshape(5, 2))
    np.testing.assert_array_equal(results["sum: largest"], [world - 1, 0])
    np.testing.assert_array_equal(results["sum: drawn"], found[1]["sum: drawn"])
    assert np.isnan(results["sum: no number"]) if world == 1 else np.isinf(results["sum: no number"])


@pytest.mark.parametrize(("total", "world"), [(10, 3), (2, 3), (3, 3), (0, 2), (7, 1)])
def test_parts_are_as_even_as_can_be_and_rows_have_one_owner(monkeypatch, total, world):
    monkeypatch.setattr(shards, "_world", world)
    shard = Shard.of(total)
    assert shard.total == total
    assert max(shard.sizes) - min(shard.sizes) <= 1
    index = torch.arange(total).flip(0)[::2]
    picked, rows = [], torch.arange(total)
    for rank in range(world):
        monkeypatch.setattr(shards, "_rank", rank)
        places, chosen = shard.pick(index)
        picked.append(shard.local(rows)[places])
        assert chosen.size == len(places)
    assert sorted(torch.cat(picked).tolist()) == sorted(index.tolist())


def test_alone_a_process_has_everything():
    cloud = Cloud(torch.arange(6.0).view(3, 2))
    assert cloud.sharded() is cloud
    assert cloud.gathered() is cloud
    assert cloud.local(cloud.x) is cloud.x
    assert cloud.whole(cloud.x) is cloud.x
    assert shards.highest(7) == 7
    assert shards.once(lambda: "mine") == "mine"
    torch.testing.assert_close(
        cloud.normal(Key.of(0)), torch.randn(3, 2, generator=Key.of(0).generator()), rtol=0, atol=0
    )


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "")])
def test_an_environment_of_no_process_is_refused(monkeypatch, rank, world):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ValueError, match="start with torchrun"):
        shards.launched()


@pytest.mark.timeout(600)
def test_a_run_of_two_processes_goes_on_in_three_and_is_the_run_of_one(tmp_path):
    meeting, alone, several = tmp_path / "meeting", tmp_path / "alone", tmp_path / "several"
    run(1, [*COMMAND, *SMALL, "--carried", "3", "--steps", "10", "-o", str(alone)], meeting)
    told = run(2, [*COMMAND, *SMALL, "--carried", "3", "--steps", "6", "-o", str(several)], meeting)
    assert [text for _, out, err in told[1:] for text in (out, err)] == ["", ""]
    run(3, [*COMMAND, "--resume", str(several), "--steps", "10", "--no-figure", "-q"], meeting)
    paths = [np.load(folder / "trajectory.npy") for folder in (several, alone)]
    np.testing.assert_allclose(*paths, rtol=0, atol=1e-12)
    for name in ("particles.csv", "carried.csv", "series.csv"):
        numbers = [np.genfromtxt(folder / name, delimiter=",", skip_header=1) for folder in (several, alone)]
        np.testing.assert_allclose(*numbers, rtol=0, atol=1e-9)
    assert sorted(path.name for path in several.iterdir()) == sorted(path.name for path in alone.iterdir())


@pytest.mark.timeout(600)
def test_a_process_that_is_killed_ends_the_run_which_one_process_brings_to_its_end(tmp_path):
    folder, alone, meeting = tmp_path / "run", tmp_path / "alone", tmp_path / "meeting"
    begun = launch(2, [*COMMAND, *SMALL, "--steps", "100000", "-o", str(folder)], meeting)
    wait_for(folder / "checkpoint.pt", begun)
    begun[1].send_signal(signal.SIGKILL)
    (code, _, err), (killed, *_) = end(begun)
    assert killed == -signal.SIGKILL
    assert code == 1
    assert "process 0 of 2 has lost the others" in err
    assert "--resume" in err
    assert "Traceback" not in err
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["k"]
    stop = str(saved + 2)
    run(1, [*COMMAND, "--resume", str(folder), "--steps", stop, "--no-figure", "-q"], meeting)
    run(1, [*COMMAND, *SMALL, "--steps", stop, "-o", str(alone)], meeting)
    ends = [np.genfromtxt(there / "particles.csv", delimiter=",", skip_header=1) for there in (folder, alone)]
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-9)


@pytest.mark.timeout(600)
def test_all_processes_finish_the_step_and_save_when_one_is_asked_to_stop(tmp_path):
    folder, meeting = tmp_path / "run", tmp_path / "meeting"
    begun = launch(2, [*COMMAND, *SMALL, "--steps", "100000", "-o", str(folder)], meeting)
    wait_for(folder / "checkpoint.pt", begun)
    begun[1].send_signal(signal.SIGTERM)
    first, second = end(begun)
    assert (first[0], second[0]) == (143, 143)
    assert "go on with" in first[2]
    assert second[2] == ""
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["k"]
    steps = np.genfromtxt(folder / "series.csv", delimiter=",", names=True)["step"]
    assert steps[-1] == saved


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--target", "no-such-file.csv"], "no-such-file.csv"),
        (["--target", "moons", "--flow", "proximal"], "runs in one process, not in 2"),
    ],
)
def test_bad_input_is_told_once_and_ends_all_processes(tmp_path, words, sentence):
    first, second = end(launch(2, [*COMMAND, *words, "-o", str(tmp_path / "run")], tmp_path / "meeting"))
    assert (first[0], second[0]) == (2, 2)
    assert sentence in first[2]
    assert "Traceback" not in first[2]
    assert second[1:] == ("", "")


def test_other_commands_run_in_one_process(tmp_path, monkeypatch):
    from click.testing import CliRunner
    from particles.cli import main

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = CliRunner().invoke(main, ["compare", "--target", "moons"])
    assert told.exit_code == 2
    assert "compare runs in one process, not in 2" in told.output


def wait_for(path: Path, begun: list[subprocess.Popen[str]]) -> None:
    while not path.exists():
        assert all(process.poll() is None for process in begun), [process.communicate() for process in begun]
        time.sleep(0.05)
