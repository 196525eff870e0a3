"""Whether the augmenter keeps its promises: beside other methods, on rows that nothing was fitted on.

    python examples/augmentation/study.py [--seeds 10] [--parts scarce,fidelity,imbalance,control,paper,cost] [--only digits]
        [--output runs/augmentation] [--jobs 2] [--mnist ../shared/data/mnist10k.npz]

Appends a row per part, data set, size, seed and method to ``rows.csv`` in the output folder, seed by seed; rows that are there
are not computed again, so that an interrupted study goes on where it stopped. At the end ``tables.py`` makes the tables, the
gates and the figures; it can be run alone on a part of a study. ``--again ours,start`` forgets the rows of these methods first.

scarce      10, 20, 50 rows per class made 200: balanced accuracy of four classifiers, and the quality of the new rows
fidelity    400 new rows of one class, from 100 to 300: quality alone, the controls of balanced copying beside
imbalance   15 rows of a digit against 300 of the others
control     labels dealt at random: no gain is to be had
paper       the swiss roll, 200 points made 5,000; digits, 20 images each made 80
cost        CPU seconds of one call
"""

from __future__ import annotations

import argparse
import csv
import itertools
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from measures import accuracies, detection, quality
from protocol import (
    CLOUDS,
    PER_CLASS,
    Split,
    cloud,
    imbalanced,
    load,
    one_class,
    scarce,
    swiss_sheet,
)
from rivals import GENERATORS, NAMES, oversample, to_grid
from tqdm import tqdm

from particles.cloud import Cloud
from particles.keys import Key
from particles.metrics.energy import energy_distance
from particles.metrics.memorisation import manifold_distance

try:
    from particles.augment.estimator import ParticleAugmenter
except ImportError:  # the other methods can be run without it
    ParticleAugmenter = None

ROOT = Path(__file__).resolve().parents[2]
OURS = {"ours": {}, "ours_flow": {"method": "flow"}, "start": {"method": "flow", "stop": 0}}
NO_NEW_ROWS = ("none", "none_tuned", "none_threshold", "class_weight", "oracle")
"""Methods that are not asked for any; the real ones of ``oracle`` are as many as there are."""
CLASSIFIERS = ("lr", "svm", "rf", "mlp")
COLUMNS = [
    *("part", "data", "n", "seed", "method", "seconds", "failure"),
    *(f"accuracy_{name}" for name in CLASSIFIERS),
    *(f"{score}_{name}" for score in ("f1", "ap") for name in CLASSIFIERS[:3]),
    *("energy", "energy_v", "w2", "variance_ratio", "recall", "precision", "density", "coverage"),
    *("nearest_ratio", "closer_share", "copies", "near_copies", "c2st", "manifold", "energy_law"),
]
SIZES = (10, 20, 50)
METHODS = {
    "scarce": [
        *("none", "none_tuned", "oracle", "ros", "smote", "adasyn", "gaussian", "kde", "kde_bal", "jitter_nn", "gmm"),
        *("ours", "start"),
    ],
    "fidelity": ["ros", "ros_bal", "smote", "gaussian", "kde", "kde_bal", "gmm", "ours", "ours_flow", "start"],
    "imbalance": [
        *("none", "none_threshold", "class_weight", "oracle", "ros", "smote", "adasyn", "gaussian", "kde"),
        *("smote_grid", "gaussian_grid", "kde_grid", "ours", "ours_flow"),
    ],
    "control": ["none", "ros", "kde_bal", "ours"],
    "paper": ["oracle", "ros_bal", "smote", "gaussian", "kde", "kde_bal", "ours", "ours_flow"],
    "cost": ["ours", "ours_flow"],
}
CELLS = {
    "scarce": [(name, n) for name in ("digits", "breast", "wine", "mnist") for n in SIZES],
    "fidelity": list(CLOUDS.items()),
    "imbalance": [("digit 3", 15), ("digit 8", 15)],
    "control": [("digits", 20), ("breast", 20)],
    "paper": [("swiss roll", 200), ("mnist", 20)],
    "cost": [("digits", 20), ("breast", 100), ("mnist", 100)],
}
Made = TypeVar("Made", np.ndarray, tuple[np.ndarray, np.ndarray])
FEW = 3
"""Seeds of what costs much and varies little: the pictures of digits, and CPU seconds."""


@dataclass(frozen=True)
class Task:
    """A row of the study."""

    part: str
    data: str
    n: int
    seed: int
    method: str

    @property
    def key(self) -> Key:
        """The same for all methods but for its last name."""
        return Key.of(self.seed).fold(self.part, self.data, self.n, self.method)


def tasks(seeds: range, parts: Iterable[str]) -> Iterator[Task]:
    for seed, part in itertools.product(seeds, parts):
        for (data, n), method in itertools.product(CELLS[part], METHODS[part]):
            few = part == "cost" or (part, data) == ("paper", "mnist")
            if not (few and seed >= seeds[0] + FEW) and not (
                part == "paper" and data == "mnist" and method not in OURS
            ):
                yield Task(part, data, n, seed, method)


def run(task: Task, mnist: Path | None, output: Path) -> list[dict[str, object]]:
    """The rows of a task; where its method refuses or fails, one that says so."""
    try:
        found = PARTS[task.part](task, mnist, output)
    except Failed as error:
        found = {"failure": str(error).replace("\n", " ")[:300]}
    several = found if isinstance(found, list) else [found]
    return [vars(task) | row for row in several]


class Failed(Exception):
    """A method raised, or gave rows that are none: a result of the study, unlike an error in the study itself."""


def timed(make: Callable[[], Made], columns: int) -> tuple[Made, float]:
    """New rows, and the CPU seconds that they took."""
    begun = time.process_time()
    try:
        made = make()
    except Exception as error:
        raise Failed(f"{type(error).__name__}: {error}") from error
    seconds = round(time.process_time() - begun, 3)
    x = made[0] if isinstance(made, tuple) else made
    if x.ndim != 2 or x.shape[1] != columns or not np.isfinite(x).all():
        raise Failed(f"new rows of shape {x.shape}, or some are not finite")
    return made, seconds


def augmented(task: Task, cell: Split, total: int) -> tuple[np.ndarray, np.ndarray]:
    """New scaled rows, and their classes."""
    if task.method == "oracle":
        return cell.scale(cell.pool), cell.pool_y
    if task.method in OURS:
        sampler = ParticleAugmenter(total, random_state=task.seed, **OURS[task.method])
        x, y = map(np.asarray, sampler.fit_resample(cell.x, cell.y))
        if not (np.array_equal(x[: len(cell.x)], cell.x) and np.array_equal(y[: len(cell.y)], cell.y)):
            raise ValueError("the first rows are not the training rows")
        if (short := total - np.bincount(y)).max() > 0:
            raise ValueError(f"{short.tolist()} rows short of what was asked for each class")
        return cell.scale(x[len(cell.x) :]), y[len(cell.y) :]
    if task.method in NO_NEW_ROWS:
        return np.empty((0, cell.x.shape[1])), cell.y[:0]
    x, y = oversample(task.method, cell.scale(cell.x), cell.y, total, task.key.fold("method"))
    if task.method.endswith("_grid"):
        x = cell.scale(to_grid(cell.restore(x), cell.x))
    return x, y


def sampled(task: Task, cell: Split, m: int) -> np.ndarray:
    """New scaled rows of a single class; ``oracle`` is for the swiss roll alone."""
    if task.method == "oracle":
        return cell.scale(cloud(task.data, task.seed + 10_000, fresh=m).test)
    if task.method in OURS:
        sampler = ParticleAugmenter(len(cell.x) + m, random_state=task.seed, **OURS[task.method])
        return cell.scale(np.asarray(sampler.fit_resample(cell.x))[len(cell.x) :])
    return GENERATORS[task.method](cell.scale(cell.x), m, task.key.fold("method"))


def scarce_part(task: Task, mnist: Path | None, output: Path) -> dict[str, object]:
    cell = scarce(task.data, task.n, task.seed, mnist, permuted=task.part == "control")
    (new, y), seconds = timed(lambda: augmented(task, cell, PER_CLASS), cell.x.shape[1])
    judge = Key.of(task.seed).fold("classifiers")
    found = accuracies(cell, new, y, judge, tuned=task.method == "none_tuned")
    if len(new) and task.part == "scarce":
        found |= qualities(cell, new, y, Key.of(task.seed).fold("quality"))
    if task.method not in NO_NEW_ROWS:
        found |= left_out(cell, y, PER_CLASS)
    return found | {"seconds": seconds}


def qualities(cell: Split, new: np.ndarray, y: np.ndarray, key: Key) -> dict[str, object]:
    """The mean over classes that have six new rows, of which distances to neighbours need five."""
    classes = [c for c in np.unique(cell.y) if (y == c).sum() > 5]
    every = [
        quality(new[y == c], cell.scale(own.x), cell.scale(own.test), key.fold(int(c)))
        for c, own in ((c, one_class(cell, c)) for c in classes)
    ]
    return {name: float(np.mean([q[name] for q in every])) for name in (every[0] if every else ())}


def left_out(cell: Split, y: np.ndarray, total: int) -> dict[str, object]:
    """A failure where a class has less than half of the new rows that were asked for."""
    classes = np.unique(cell.y)
    missing = [int(c) for c in classes if 2 * (y == c).sum() < total - (cell.y == c).sum()]
    return {"failure": f"hardly any new rows of {missing}"} if missing else {}


def fidelity_part(task: Task, mnist: Path | None, output: Path) -> dict[str, object]:
    cell = cloud(task.data, task.seed, mnist)
    new, seconds = timed(lambda: sampled(task, cell, 400), cell.x.shape[1])
    key = Key.of(task.seed).fold("quality", task.data)
    many = sampled(task, cell, 3000)  # few points that are spread evenly look better than the law that they are of
    law = energy_distance(*(Cloud(torch.as_tensor(x)) for x in (many, cell.scale(cell.test))), unbiased=True)
    found = quality(new, cell.scale(cell.x), cell.scale(cell.test), key, slow=True)
    return found | {"energy_law": law, "seconds": seconds}


def imbalance_part(task: Task, mnist: Path | None, output: Path) -> dict[str, object]:
    cell = imbalanced(int(task.data.removeprefix("digit ")), task.seed)
    total = int(np.bincount(cell.y).max())
    (new, y), seconds = timed(lambda: augmented(task, cell, total), cell.x.shape[1])
    found = detection(cell, new, y, Key.of(task.seed).fold("classifiers"), task.method)
    if task.method not in NO_NEW_ROWS:
        found |= left_out(cell, y, total)
    return found | {"seconds": seconds}


def paper_part(task: Task, mnist: Path | None, output: Path) -> dict[str, object] | list[dict[str, object]]:
    return swiss_roll(task, output) if task.data == "swiss roll" else new_digits(task, mnist, output)


def swiss_roll(task: Task, output: Path) -> dict[str, object]:
    """200 points made 5,000, 1,000 of them compared with as many fresh ones; ``oracle`` draws them from the law itself."""
    cell = cloud("swiss roll", task.seed)
    new, seconds = timed(lambda: sampled(task, cell, 5000), 3)
    key = Key.of(task.seed).fold("quality", "paper")
    some = key.fold("some").numpy().permutation(len(new))[:1000]
    found = quality(new[some], cell.scale(cell.x), cell.scale(cell.test), key)
    points = (Cloud(torch.as_tensor(x)) for x in (cell.restore(new), swiss_sheet()))
    if task.seed == 0:
        np.savez_compressed(output / f"swiss roll {task.method}.npz", x=cell.x, new=cell.restore(new))
    return found | {"manifold": manifold_distance(*points), "seconds": round(seconds, 3)}


def new_digits(task: Task, mnist: Path | None, output: Path) -> list[dict[str, object]]:
    """A row for each digit."""
    cell = scarce("mnist", task.n, task.seed, mnist)
    (new, y), seconds = timed(lambda: augmented(task, cell, 80), cell.x.shape[1])
    if task.seed == 0:
        np.savez_compressed(output / f"mnist {task.method}.npz", x=cell.x, y=cell.y, new=cell.restore(new), new_y=y)
    key = Key.of(task.seed).fold("quality", "paper")
    rows = []
    for c in range(10):
        own = one_class(cell, c)
        found = quality(new[y == c], cell.scale(own.x), cell.scale(own.test), key.fold(c))
        rows.append({"data": f"mnist {c}", "seconds": seconds} | found)
    return rows


def cost_part(task: Task, mnist: Path | None, output: Path) -> dict[str, object]:
    """Of ``fit_resample``, after a first call that loads what is loaded once."""
    x, y = load(task.data, mnist)
    key = Key.of(task.seed).fold("cost", task.data)
    classes = np.unique(y)[: 2 if task.data == "mnist" else None]
    rows = np.concatenate([key.fold(int(c)).numpy().permutation(np.flatnonzero(y == c))[: task.n] for c in classes])
    few = rows[y[rows] < 2].reshape(2, -1)[:, :8].ravel()
    for chosen, total in ((few, 10), (rows, PER_CLASS)):
        sampler = ParticleAugmenter(total, random_state=task.seed, **OURS[task.method])
        _, seconds = timed(lambda: sampler.fit_resample(x[chosen], y[chosen]), x.shape[1])  # noqa: B023
    return {"seconds": seconds}


PARTS = {
    "scarce": scarce_part,
    "fidelity": fidelity_part,
    "imbalance": imbalance_part,
    "control": scarce_part,
    "paper": paper_part,
    "cost": cost_part,
}


def done(path: Path, again: set[str]) -> set[Task]:
    """The tasks whose rows are in the file. A line that an interruption cut off, and rows to compute again, leave it."""
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n")
    with path.open(newline="") as file:
        text = file.read()
    whole = text[: text.rindex("\n") + 1]
    rows = list(csv.DictReader(whole.splitlines()))
    kept = [row for row in rows if row["method"] not in again]
    if whole != text or len(kept) < len(rows):
        other = path.with_suffix(".part")
        with other.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
        other.replace(path)
    found = [Task(r["part"], r["data"], int(r["n"]), int(r["seed"]), r["method"]) for r in kept]
    return {replace(t, data="mnist") if t.part == "paper" and t.data.startswith("mnist ") else t for t in found}


def single_thread() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = {name for cells in CELLS.values() for name, _ in cells}
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--parts", default=",".join(CELLS))
    parser.add_argument("--only", help=f"data sets, of {', '.join(sorted(names))}")
    parser.add_argument("--sizes", default="", help="rows per class or in all, where a part has several")
    parser.add_argument("--methods", default="", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--again", default="", help="methods whose rows are computed again")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/augmentation")
    parser.add_argument("--jobs", type=int, default=2, help="processes, each on one thread")
    parser.add_argument("--mnist", type=Path, default=ROOT / "../shared/data/mnist10k.npz", help="arrays x and y")
    options = parser.parse_args()
    parts, only, methods, again = (
        {word for word in (text or "").split(",") if word}
        for text in (options.parts, options.only, options.methods, options.again)
    )
    for given, known in ((parts, set(CELLS)), (only, names), (methods | again, set(NAMES))):
        if unknown := given - known:
            parser.error(f"{sorted(unknown)[0]!r} is none of {', '.join(sorted(known))}")
    options.output.mkdir(parents=True, exist_ok=True)

    wanted = list(
        tasks(range(options.first_seed, options.first_seed + options.seeds), [part for part in CELLS if part in parts])
    )
    wanted = [t for t in wanted if not only or t.data in only]
    wanted = [t for t in wanted if not options.sizes or str(t.n) in options.sizes.split(",")]
    wanted = [t for t in wanted if not methods or t.method in methods]
    mnist = options.mnist if options.mnist.exists() else None
    if mnist is None and any(t.data.startswith("mnist") for t in wanted):
        print(f"no MNIST digits at {options.mnist}: left out; name them with --mnist")
        wanted = [t for t in wanted if not t.data.startswith("mnist")]
    if ParticleAugmenter is None:
        print("there is no particles.augment.estimator: the other methods alone are run")
        wanted = [t for t in wanted if t.method not in OURS]
    path = options.output / "rows.csv"
    there = done(path, again)
    write(path, [t for t in wanted if t not in there], mnist, options.output, options.jobs)

    from tables import report

    print(report(options.output))


def write(path: Path, wanted: list[Task], mnist: Path | None, output: Path, jobs: int) -> None:
    """Runs the tasks, and appends rows as they come."""
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"  # read by the processes when they load NumPy and torch
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(jobs, mp_context=context, initializer=single_thread) as executor,
        path.open("a", newline="") as file,
    ):
        futures = [executor.submit(run, task, mnist, output) for task in wanted]
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        try:
            for future in tqdm(as_completed(futures), total=len(futures), disable=None):
                writer.writerows(future.result())
                file.flush()
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


if __name__ == "__main__":
    main()
