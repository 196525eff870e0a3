"""Tiles against KeOps on this machine: the measurement behind the rule of ``choice``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from particles.kernels import Distance
from particles.keys import Key
from particles.pairwise import keops
from particles.pairwise.backend import Timing
from particles.pairwise.sums import softmin_gradient

DIMENSIONS = {"cpu": (2, 10, 50), "cuda": (2, 10, 50, 200)}
SIZES = {"cpu": (1000, 4000), "cuda": (3000, 10_000, 30_000)}
BUDGET = 60.0
"""Seconds after which no formula is compiled any more, nor a sum begun."""


def timings(device: str, budget: float = BUDGET) -> Iterator[Timing]:
    """Seconds of a softmin of distances with its gradient, float32, at growing sizes and dimensions, as long as the budget lasts.

    Nothing comes where KeOps does not work, which ``attempt`` of ``lazy`` says once.

    Arguments:
        device: ``cpu`` or ``cuda``.
        budget: The seconds; what has begun is finished.
    """
    end = time.perf_counter() + budget
    for dimension in DIMENSIONS[device]:
        for points in SIZES[device]:
            if time.perf_counter() > end:
                return
            x, y = (
                torch.randn(points, dimension, generator=Key.of(0).fold(name).generator()).to(device) for name in "xy"
            )
            g = torch.zeros(points, device=device)

            def call(backend: str, x: torch.Tensor = x, y: torch.Tensor = y, g: torch.Tensor = g) -> None:
                softmin_gradient(x, y, g, Distance(), 0.1, backend=backend)
                if device == "cuda":
                    torch.cuda.synchronize()

            call("keops")  # compiles
            if keops.broken:
                return
            yield Timing(device, dimension, points, *(_seconds(call, name) for name in ("tiled", "keops")))


def _seconds(call: Callable[[str], None], backend: str, turns: int = 3) -> float:
    """The least of some turns, after one for nothing."""
    call(backend)
    least = float("inf")
    for _ in range(turns):
        begin = time.perf_counter()
        call(backend)
        least = min(least, time.perf_counter() - begin)
    return least
