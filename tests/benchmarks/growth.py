"""How time and memory grow with the numbers of particles M and target points N, the dimension d and the number of processes W.

    python tests/benchmarks/growth.py [--quick] [--output FOLDER]

Time is CPU time of one thread, the median of turns in which all sizes of a series take part; memory is what a process of its own has at its
peak above what it had before. Each series has the exponent p of a fit ∝ size^p, with its 95 % interval. The neural step is that of
``outer_step.py`` (three ascent steps of a 32 × 3 discriminator on all points, the gradient at the particles, an Euler step); pairwise is one
softmin of distances with its gradient, in float32. With ``--output`` a figure is drawn, too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from measure import Row, fitted, forget_peak, peak, seconds, table

from particles import KL, Cloud, DenseNetwork, Euler, Evolve, GradientFlow, Key, NeuralPotential
from particles.kernels import Distance
from particles.machine import keep_freed_memory
from particles.pairwise.sums import softmin_gradient

Step = Callable[[], object]
EPSILON = 1.0  # so large that every pair counts: below, far columns are left out in few dimensions


def points(n: int, d: int, name: str) -> torch.Tensor:
    return torch.randn(n, d, generator=Key.of(0).fold(name, n, d).generator())


def neural(m: int, n: int, d: int) -> Step:
    potential = NeuralPotential(KL(), DenseNetwork(d, (32, 32, 32)), inner_steps=3)
    process = Evolve(
        GradientFlow(potential, Cloud(points(n, d, "q") + 1)), Euler(), Cloud(points(m, d, "p")), step_size=0.5
    )
    state = process.init()

    def step() -> None:
        nonlocal state
        state, _ = process.step(state)

    return step


def pairwise(m: int, n: int, d: int) -> Step:
    x, y, g = points(m, d, "p"), points(n, d, "q") + 1, torch.zeros(n)
    return lambda: softmin_gradient(x, y, g, Distance(), EPSILON, backend="tiled")


MAKERS: dict[str, Callable[[int, int, int], Step]] = {"neural": neural, "pairwise": pairwise}
TITLES = {"neural": "neural step", "pairwise": "pairwise softmin and gradient"}


@dataclass(frozen=True)
class Series:
    """Problems (M, N, d) of growing size, and what the size is that time or memory is to be a power of."""

    kind: str
    against: str
    problems: list[tuple[int, int, int]]
    wanted: str = ""
    unit: str = "s"

    @property
    def sizes(self) -> list[int]:
        sizes = {"M + N": lambda m, n, d: m + n, "M · N": lambda m, n, d: m * n, "M": lambda m, n, d: m}
        sizes |= {"N": lambda m, n, d: n, "d": lambda m, n, d: d}
        return [sizes[self.against](*problem) for problem in self.problems]


def series(quick: bool) -> list[Series]:
    many = (10_000, 20_000, 40_000) if quick else (10_000, 30_000, 100_000, 300_000, 1_000_000)
    pairs = (2000, 4000, 8000) if quick else (4000, 8000, 16_000, 32_000)
    tall = (100_000, 200_000, 400_000) if quick else (300_000, 1_000_000, 3_000_000)
    fixed, few = (10_000, 2000) if quick else (100_000, 8000)
    wide = (2, 10, 50) if quick else (2, 5, 10, 20, 50, 100, 200)
    return [
        Series("neural", "M + N", [(n, n, 2) for n in many], "1.0 ± 0.1"),
        Series("neural", "M + N", [(n, n, 2) for n in many], "linear", "bytes"),
        Series("neural", "M", [(m, many[0], 2) for m in many[1:]]),
        Series("neural", "N", [(many[0], n, 2) for n in many[1:]]),
        Series("neural", "d", [(fixed, fixed, d) for d in wide]),
        Series("pairwise", "M · N", [(n, n, 10) for n in pairs], "1.0 ± 0.05"),
        Series("pairwise", "M · N", [(n, n, 2) for n in pairs]),  # in cells, whose cost is felt by small clouds
        Series("pairwise", "M + N", [(n, 500, 2) for n in tall], "linear", "bytes"),
        Series("pairwise", "M", [(m, few, 2) for m in pairs]),
        Series("pairwise", "N", [(few, n, 2) for n in pairs]),
        Series("pairwise", "d", [(few, few, d) for d in wide]),
    ]


def times(one: Series, turns: int) -> list[float]:
    """The CPU seconds of each problem: medians of turns, those of small problems of as many steps as take a while."""
    steps = [MAKERS[one.kind](*problem) for problem in one.problems]
    first = [(step(), seconds(step))[1] for step in steps]
    often = [max(1, min(50, round(0.2 / took))) for took in first]
    return [median(column) for column in zip(*([seconds(s, o) for s, o in zip(steps, often)] for _ in range(turns)))]


def memory(one: Series) -> list[float]:
    """The bytes that each problem takes at its peak, in a process of its own."""
    found = []
    for problem in one.problems:
        words = [sys.executable, __file__, "--peak", one.kind, *map(str, problem)]
        found.append(float(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    return found


def taken(kind: str, problem: tuple[int, int, int]) -> float:
    """What a step takes of memory, beside the libraries, which a small one has loaded before."""
    MAKERS[kind](100, 100, 2)()
    before = forget_peak()
    step = MAKERS[kind](*problem)
    step(), step()
    return peak() - before


def processes(quick: bool, most: int) -> list[Row]:
    """Seconds of the wall per step of the command line in W processes, by the difference of a longer and a shorter run."""
    rows: list[Row] = []
    size = 20_000 if quick else 200_000
    with tempfile.TemporaryDirectory() as folder:
        for count in range(1, most + 1):
            row: Row = {"W": count}
            for flow, n, steps in (("lipschitz", size, (2, 12)), ("transport", size // 20, (2, 6))):
                wall = [run(Path(folder, f"{flow}-{count}-{k}"), flow, n, k, count) for k in steps]
                row[f"{flow}, {n:,} + {n:,}: s per step"] = f"{(wall[1] - wall[0]) / (steps[1] - steps[0]):.3g}"
            rows.append(row)
    return rows


def run(folder: Path, flow: str, n: int, steps: int, count: int) -> float:
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(count),
        "-m",
        "particles.cli",
        "simulate",
    ]
    words += ["--target", "8-gaussians", "--target-size", str(n), "-n", str(n), "--flow", flow, "--steps", str(steps)]
    words += [
        "--holdout",
        "0",
        "--metric-size",
        "50",
        "--log-every",
        str(steps),
        "--checkpoint-every",
        str(steps),
        "--threads",
        "1",
    ]
    words += ["--trajectory-particles", "100", "--export", "npy", "--no-figure", "-q", "-o", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    return seconds(
        lambda: subprocess.run(words, check=True, env=environment, capture_output=True), clock=time.perf_counter
    )


def figure(found: list[tuple[Series, list[float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(11, 4.2), layout="constrained")
    for ax, (unit, title) in zip(
        canvas.subplots(1, 2), (("s", "CPU seconds per step"), ("bytes", "peak memory, bytes"))
    ):
        for one, values in found:
            if one.unit == unit and one.wanted:
                total = [m + n for m, n, _ in one.problems]
                ax.loglog(
                    total, values, "o-", label=f"{TITLES[one.kind]} ∝ ({one.against})^{fitted(one.sizes, values)}"
                )
        ax.set(xlabel="M + N", title=title)
        ax.legend(frameon=False, fontsize=8)
    canvas.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, in a minute")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a folder for growth.png")
    parser.add_argument("--processes", type=int, default=2, help="the most processes W")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if options.peak:
        kind, *problem = options.peak
        print(taken(kind, tuple(map(int, problem))))  # type: ignore[arg-type]
        return
    found: list[tuple[Series, list[float]]] = []
    rows: list[Row] = []
    for one in series(options.quick):
        values = times(one, options.turns) if one.unit == "s" else memory(one)
        found.append((one, values))
        print(one.kind, one.against, one.unit, one.sizes, [f"{v:.4g}" for v in values], file=sys.stderr, flush=True)
        first, last = (f"{v:.3g} s" if one.unit == "s" else f"{v / 1e6:.3g} MB" for v in (values[0], values[-1]))
        rows.append(
            {
                "what": TITLES[one.kind],
                "from M, N, d": " × ".join(f"{n:,}" for n in one.problems[0]),
                "to": " × ".join(f"{n:,}" for n in one.problems[-1]),
                "takes": f"{first} to {last}",
                "as a power of": one.against,
                "exponent": fitted(one.sizes, values),
                "wanted": one.wanted,
            }
        )
    print(table(rows))
    if more := processes(options.quick, options.processes):
        print(f"\nProcesses (`torchrun --nproc-per-node=W`), one thread each, seconds of the wall:\n\n{table(more)}")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        figure(found, options.output / "growth.png")


if __name__ == "__main__":
    main()
