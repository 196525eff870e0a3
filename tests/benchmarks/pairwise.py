"""Seconds per softmin of distances, and per softmin with its gradient: tiled, by KeOps and by ``torch.cdist``.

    python tests/benchmarks/pairwise.py

M = N points in float32, a ground cost ||x - y|| and ε = 0.1. The plain way is ``torch.cdist`` and ``torch.logsumexp``
on a chunk of rows at a time; its gradient comes from softmax weights and one matrix product. KeOps compiles each formula
at its first call, which is a column of its own: a moment where an earlier run left it in KeOps' cache. The three take
turns in one process, on ``OMP_NUM_THREADS`` threads; medians and ranges of the turns are printed as a table. Run it on
idle cores: beside another process some turns took 50 times as long.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from particles import Key, lazy
from particles.kernels import Distance
from particles.pairwise import softmin, softmin_gradient

EPSILON, CHUNK = 0.1, 2**23
FUNCTIONS: dict[str, Callable[..., Tensor | tuple[Tensor, Tensor]]] = {
    "softmin": softmin,
    "softmin_gradient": softmin_gradient,
}


def plain(x: Tensor, y: Tensor, g: Tensor, gradient: bool) -> list[tuple[Tensor, ...]]:
    found: list[tuple[Tensor, ...]] = []
    for rows in x.split(max(1, CHUNK // len(y))):
        distance = torch.cdist(rows, y)
        scores = (g - distance) / EPSILON
        values = -EPSILON * torch.logsumexp(scores, 1)
        if gradient:
            pull = torch.softmax(scores, 1) / distance.clamp(min=1e-18)
            found.append((values, rows * pull.sum(1, keepdim=True) - pull @ y))
        else:
            found.append((values,))
    return found


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=10_000, help="points in each of the two sets")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 10, 50])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--no-keops", action="store_true")
    options = parser.parse_args()
    n = options.points
    keops = [] if options.no_keops else ["keops"]
    names = ["tiled", *keops, "cdist"]
    compiled = ["keops, first call"] if keops else []
    print(f"{n} × {n} points, float32, {torch.get_num_threads()} threads; seconds\n")
    print(f"| d | what | {' | '.join(names + compiled)} |\n{'| --- ' * (2 + len(names + compiled))}|")
    for d in options.dimensions:
        x, y = (torch.randn(n, d, generator=Key.of(0).fold(name).generator()) for name in "xy")
        g = torch.zeros(n)
        for what, function in FUNCTIONS.items():
            calls = {name: partial(function, x, y, g, Distance(), EPSILON, backend=name) for name in ["tiled", *keops]}
            calls["cdist"] = partial(plain, x, y, g, what == "softmin_gradient")
            first = {name: seconds(call) for name, call in calls.items()}
            if lazy.broken:
                raise SystemExit(f"KeOps does not work here: {lazy.broken[0]}")
            turns = np.array([[seconds(calls[name]) for name in names] for _ in range(options.turns)])
            cells = [
                f"{middle:.2f} ({low:.2f} to {high:.2f})"
                for middle, low, high in zip(np.median(turns, 0), turns.min(0), turns.max(0))
            ]
            cells += [f"{first[name]:.1f}" for name in keops]
            print(f"| {d} | {what} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
