"""Kills runs at random moments, goes on with them, and compares the end with that of a run that nobody disturbed, byte for byte.

    python tests/faults/kills.py --kills 200

Every flow and stepper takes its turn. A child process runs the command line, is stopped by SIGKILL at a random moment of the time that an
undisturbed run takes, and is resumed and killed again, until it has ended; then ``particles.csv``, ``series.csv``, ``trajectory.npy``,
``trajectory.csv`` and the recorded potentials are compared. With ``--tear`` the last bytes of files that grow are cut off after each
kill, as a power cut may leave them, but never those from before the last checkpoint.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import torch  # noqa: E402
from particles.cli import main  # noqa: E402

from particles.run.arrays import read_growing, read_series  # noqa: E402

SMALL = "--target moons -n 40 --target-size 60 --network 16,16 --holdout 20 --no-figure -q --checkpoint-every 7 --log-every 2 --metric-every 10"
CASES = {
    "lipschitz": "--steps 150",
    "lipschitz, minibatches": "--steps 150 --batch-size 20",
    "lipschitz, recorded": "--steps 60 --record",
    "lipschitz, heun": "--steps 100 --stepper heun --carried 5",
    "lipschitz, ab3": "--steps 120 --stepper ab3",
    "lipschitz, adaptive": "--steps 40 --stepper adaptive --accuracy 0.01",
    "lipschitz, persistent minibatch": "--steps 150 --persistent minibatch --persistency 4 --minibatch 10",
    "lipschitz, persistent potential": "--steps 150 --persistency 3 --noise 0.1",
    "transport": "--steps 60 --flow transport",
    "transport, proximal stepper": "--steps 15 --flow transport --stepper proximal --max-inner 4",
    "w2, exact": "--steps 60 --flow w2",
    "w2, sinkhorn": "--steps 40 --flow w2 --solver sinkhorn",
    "w2, neural": "--steps 60 --flow w2 --solver neural",
    "mmd": "--steps 150 --flow mmd --noise 0.2",
    "kale": "--steps 60 --flow kale",
    "kernel": "--steps 30 --flow kernel",
    "proximal, network": "--steps 100 --flow proximal",
    "proximal, two stages": "--steps 100 --flow proximal --stages 2 --decay 50",
}
FILES = ("particles.csv", "series.csv", "trajectory.npy", "trajectory.csv")


def child(words: list[str]) -> int:
    """A process that runs a command."""
    sys.stdout.flush()
    if (number := os.fork()) == 0:
        code = 70
        try:
            log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            main(words, standalone_mode=False)
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException as error:  # what the command line would show as a traceback
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            code = 71
        finally:
            os._exit(code)
    return number


def ended(number: int, within: float | None) -> int | None:
    """The exit code of a process, or ``None`` if it was killed after ``within`` seconds."""
    if within is not None:
        time.sleep(within)
        os.kill(number, signal.SIGKILL)
    _, status = os.waitpid(number, 0)
    return os.waitstatus_to_exitcode(status) if os.waitstatus_to_exitcode(status) != -signal.SIGKILL else None


def contents(folder: Path) -> dict[str, bytes]:
    found = {name: (folder / name).read_bytes() for name in FILES}
    return found | {path.name: path.read_bytes() for path in sorted((folder / "potentials").glob("*.pt"))}


def tear(folder: Path, rng: random.Random) -> None:
    """Cuts off some of what was appended after the last checkpoint."""
    try:
        saved = int(torch.load(folder / "checkpoint.pt", weights_only=True)["k"])
    except FileNotFoundError:
        return
    for name in ("series.csv", "trajectory.csv"):
        path = folder / name
        kept = sum(row["step"] <= saved for row in read_series(path))
        least = sum(map(len, path.read_bytes().splitlines(keepends=True)[: kept + 1]))
        os.truncate(path, rng.randint(least, path.stat().st_size))
    path = folder / "trajectory.npy"
    rows = read_growing(path)
    kept = sum(row["step"] <= saved for row in read_series(folder / "trajectory.csv"))
    least = 128 + kept * rows[0].nbytes
    os.truncate(path, rng.randint(least, max(least, path.stat().st_size)))


def disturbed(words: list[str], whole: float, rng: random.Random, torn: bool, most: int) -> tuple[int, str | None]:
    """Runs to the end with kills on the way; how many, and what went wrong."""
    folder, kills = Path("run"), 0
    while True:
        begun = (folder / "checkpoint.pt").exists()
        if not begun:
            shutil.rmtree(folder, ignore_errors=True)  # killed before there was anything to go on with
        number = child(["simulate", "--resume", "run", "-q", "--no-figure"] if begun else words)
        code = ended(number, rng.uniform(0, whole) if kills < most else None)
        if code is None:
            kills += 1
            if torn:
                tear(folder, rng)
        elif code:
            return kills, f"exit code {code}"
        else:
            return kills, None


def run(kills: int, seed: int, torn: bool) -> int:
    rng = random.Random(seed)
    tried, equal, killed = 0, 0, 0
    table: dict[str, list[int]] = {name: [0, 0, 0] for name in CASES}
    known: dict[str, tuple[dict[str, bytes], float]] = {}
    while killed < kills:
        for name, more in CASES.items():
            words = ["simulate", *SMALL.split(), *more.split(), "-o", "run"]
            if name not in known:
                begun = time.perf_counter()
                assert ended(child(words), None) == 0, Path("log.txt").read_text()
                known[name] = contents(Path("run")), time.perf_counter() - begun
                shutil.rmtree("run")
            reference, whole = known[name]
            count, trouble = disturbed(words, whole, rng, torn, most=3)
            same = trouble is None and contents(Path("run")) == reference
            if not same:
                differing = [] if trouble else [k for k, v in contents(Path("run")).items() if reference.get(k) != v]
                print(f"{name}: {trouble or differing}", flush=True)
                shutil.copytree("run", f"failed-{tried}")
            shutil.rmtree("run")
            killed, tried, equal = killed + count, tried + 1, equal + same
            table[name] = [a + b for a, b in zip(table[name], (count, 1, int(same)))]
            if killed >= kills:
                break
    print("| flow | kills | runs | equal |\n| --- | --- | --- | --- |")
    for name, (count, runs, good) in table.items():
        print(f"| {name} | {count} | {runs} | {good} |")
    print(f"| all | {killed} | {tried} | {equal} |")
    return 0 if equal == tried else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tear", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.exit(run(given.kills, given.seed, given.tear))
