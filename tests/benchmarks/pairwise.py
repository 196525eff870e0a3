"""Softmins of distances, and softmins with their gradients: tiled, by KeOps and by ``torch.cdist``; what cells leave out; a GPU's share.

    python tests/benchmarks/pairwise.py [--points 10000] [--dimensions 2 10 50] [--turns 5] [--no-keops]

M = N points of N(0, I) in float32, a ground cost ||x - y|| and ε = 0.1. The plain ways are ``torch.cdist`` and ``torch.logsumexp`` on the whole
matrix, as one writes it, and on a chunk of rows at a time; their gradients come from softmax weights and one matrix product. All take turns in one
process, on ``OMP_NUM_THREADS`` threads; seconds are CPU time on a processor, ratios those of each turn over ours. KeOps has compiled before.
The second table has the time of a softmin with and without cells, and the share of pairs that blocks were made of, for ε in parts of the
data's root mean square distance. On a machine with a GPU the third has 10⁶ × 10⁶ pairs by KeOps and by tiles, in wall time, and the
share of the card's peak (float32, by its multiprocessors and clock) for 3 d + 10 operations per pair.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from measure import Row, ratio, spread, table, turns
from torch import Tensor

from particles import Key
from particles.kernels import Distance, Radial, Squared
from particles.pairwise import tiled
from particles.pairwise.sums import softmin, softmin_gradient

EPSILON, CHUNK = 0.1, 2**23
FUNCTIONS: dict[str, Callable[..., Tensor | tuple[Tensor, Tensor]]] = {
    "softmin": softmin,
    "softmin and gradient": softmin_gradient,
}


def points(n: int, d: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    x, y = (torch.randn(n, d, generator=Key.of(0).fold(name).generator()).to(device) for name in "xy")
    return x, y, torch.zeros(n, device=device)


def plain(x: Tensor, y: Tensor, g: Tensor, gradient: bool, rows: int) -> list[tuple[Tensor, ...]]:
    """The values, and gradients if asked for, so many rows at a time."""
    found: list[tuple[Tensor, ...]] = []
    for part in x.split(rows):
        distance = torch.cdist(part, y)
        scores = (g - distance) / EPSILON
        values = -EPSILON * torch.logsumexp(scores, 1)
        if gradient:
            pull = torch.softmax(scores, 1) / distance.clamp(min=1e-18)
            found.append((values, part * pull.sum(1, keepdim=True) - pull @ y))
        else:
            found.append((values,))
    return found


def against_peers(n: int, dimensions: Sequence[int], count: int, keops: bool = True) -> list[Row]:
    """Seconds of ours, and the ratios of the peers' to them."""
    found: list[Row] = []
    for d in dimensions:
        x, y, g = points(n, d)
        for what, function in FUNCTIONS.items():
            ours = partial(function, x, y, g, Distance(), EPSILON)
            calls: dict[str, Callable[[], object]] = {"tiled": partial(ours, backend="tiled")}
            gradient = what != "softmin"
            if keops:
                calls["keops"] = partial(ours, backend="keops")
            calls["whole"] = partial(plain, x, y, g, gradient, n)
            calls["chunked"] = partial(plain, x, y, g, gradient, max(1, CHUNK // n))
            times = turns(calls, count)
            if keops.broken:
                raise SystemExit(f"KeOps does not work here: {keops.broken[0]}")
            row: Row = {"d": d, "what": what, "tiled, s": spread(times["tiled"])}
            row |= {"KeOps over it": ratio(times["keops"], times["tiled"])} if keops else {}
            row |= {"cdist, whole": ratio(times["whole"], times["tiled"])}
            found.append(row | {"cdist, chunked": ratio(times["chunked"], times["tiled"])})
    return found


def left_out(sizes: Sequence[int], count: int) -> list[Row]:
    """What cells gain, by the dimension, the cost and ε in parts of the data's scale."""
    found: list[Row] = []
    for n in sizes:
        for d in (2, 3):
            x, y, g = points(n, d)
            costs: list[tuple[str, Radial, float]] = [
                ("distance", Distance(), math.sqrt(2 * d)),
                ("squared", Squared(), d),
            ]
            for name, cost, scale in costs:
                for part in (10.0, 0.1, 0.03, 0.01):
                    call = partial(softmin, x, y, g, cost, part * scale)
                    times = turns({"cells": call, "all": partial(without_cells, call)}, count)
                    gain = ratio(times["all"], times["cells"])
                    row: Row = {"N": n, "d": d, "cost": name, "ε / scale": f"{part:g}"}
                    found.append(
                        row
                        | {"s": spread(times["cells"]), "without cells over it": gain, "pairs": f"{share(call, n):.2f}"}
                    )
    return found


def without_cells(call: Callable[[], object]) -> None:
    kept, tiled.CELLED = tiled.CELLED, 2**62
    try:
        call()
    finally:
        tiled.CELLED = kept


def share(call: Callable[[], object], n: int) -> float:
    """The share of all pairs that blocks are made of in a call."""
    pairs, plainly = [0], tiled.Blocks.squares

    def squares(self: tiled.Blocks, rows: tiled.Side, columns: tiled.Side) -> tuple[Tensor, Tensor, tiled.Near]:
        found = plainly(self, rows, columns)
        pairs[0] += found[0].numel()
        return found

    tiled.Blocks.squares = squares  # type: ignore[method-assign]
    try:
        call()
    finally:
        tiled.Blocks.squares = plainly  # type: ignore[method-assign]
    return pairs[0] / n**2


def on_gpu(n: int = 10**6, dimensions: Sequence[int] = (2, 10, 50, 200), count: int = 3) -> list[Row]:
    """n × n pairs in wall time; nothing without a card."""
    if not torch.cuda.is_available():
        return []

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    card = torch.cuda.get_device_properties(0)
    peak = 2 * 128 * card.multi_processor_count * 1e6 * torch.cuda.clock_rate()  # an FMA on each of 128 lanes; MHz
    found: list[Row] = []
    for d in dimensions:
        x, y, g = points(n, d, "cuda")
        call = partial(softmin, x, y, g, Distance(), EPSILON)
        times = turns({name: partial(call, backend=name) for name in ("keops", "tiled")}, count, clock=clock)
        row: Row = {"d": d, "KeOps, s": spread(times["keops"]), "tiles over it": ratio(times["tiled"], times["keops"])}
        found.append(row | {"share of peak": f"{(3 * d + 10) * n**2 / min(times['keops']) / peak:.2f}"})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=10_000, help="points in each of the two sets")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 10, 50])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--no-keops", action="store_true")
    parser.add_argument(
        "--cells", type=int, nargs="*", default=[10_000], help="numbers of points to leave out columns of"
    )
    options = parser.parse_args()
    print(f"{options.points} × {options.points} points, float32, {torch.get_num_threads()} threads\n")
    if options.dimensions:
        print(
            table(against_peers(options.points, options.dimensions, options.turns, not options.no_keops)) + "\n",
            flush=True,
        )
    if options.cells:
        print(table(left_out(options.cells, options.turns)) + "\n", flush=True)
    rows = on_gpu()
    print(table(rows) if rows else "No GPU: 10⁶ × 10⁶ pairs were not measured.")


if __name__ == "__main__":
    main()
