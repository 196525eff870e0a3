"""Sums over all pairs of two sets of points by KeOps, and whether it is to be used; the only importer of pykeops."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from particles import shards
from particles.kernels import Radial
from particles.pairwise.backend import rule

BACKENDS = ("auto", "tiled", "keops")
NOTHING = 1e30
"""Minus the score of a point that is left out: KeOps makes NaN of −∞."""

Result = TypeVar("Result")

broken: list[str] = []


def choose_backend(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: If it is none of a backend.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; choose from {', '.join(BACKENDS)}")
    return name


def is_chosen(backend: str, x: Tensor, y: Tensor) -> bool:
    choose_backend(backend)
    if broken:
        return False
    if backend == "auto":
        return rule(x.device.type)(len(x) * len(y), x.shape[1])
    return backend == "keops"


def attempt(formula: Callable[[], Result]) -> Result | None:
    """What KeOps makes of a formula; ``None``, said once, where it does not work: no compiler, no place to write to."""
    try:
        with _compiled_once(formula):
            return formula()
    except Exception as error:  # KeOps raises whatever went wrong on its way: imports, files, compilers
        if isinstance(error, torch.OutOfMemoryError):
            raise
        broken.append(str(error))
        logging.getLogger(__name__).warning(
            "KeOps does not work here, so large sums go by tiles of torch: %s: %s",
            type(error).__name__,
            str(error).strip().split("\n")[0],
        )
        return None


@contextmanager
def _compiled_once(formula: Callable[[], Result]) -> Iterator[None]:
    """Where several processes need a formula, one of them compiles it while the others wait, who then find it in KeOps' cache.

    A lock, not a barrier: processes without rows of their own do not come this way.
    """
    cells = [cell.cell_contents for cell in formula.__closure__ or ()]  # type: ignore[attr-defined]
    kinds = [(x.shape[1:], x.dtype, x.device.type) if isinstance(x, Tensor) else type(x) for x in cells]
    key = (formula.__code__, *kinds)  # type: ignore[attr-defined]
    if shards.world() == 1 or key in _ready:
        yield
        return
    with open(Path(tempfile.gettempdir()) / f"particles-keops-{os.getuid()}.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    _ready.add(key)


_ready: set[Any] = set()
"""The formulas that this process has, when it is one of several."""


def lazy(points: Tensor, axis: int) -> Any:
    """Points along the rows (axis 1) or along the columns (axis 0) of a symbolic matrix."""
    for package in ("KEOPS", "PYKEOPS"):
        os.environ.setdefault(f"{package}_VERBOSE", "0")  # its chatter would go to standard output
    from pykeops.torch import LazyTensor

    return LazyTensor(points.unsqueeze(axis).contiguous())


def lazy_squares(x: Tensor, y: Tensor) -> Any:
    return ((lazy(x, 1) - lazy(y, 0)) ** 2).sum(-1)


def lazy_scores(x: Tensor, y: Tensor, g: Tensor, cost: Radial, epsilon: float) -> Any:
    scaled = (g / epsilon).to(x.dtype).clamp(min=-NOTHING)
    return lazy(scaled[:, None], 0) - cost.value(lazy_squares(x, y)) * (1 / epsilon)


def lazy_softmin(scores: Any, epsilon: float) -> Tensor:
    values = -scores.logsumexp(1).view(-1)
    return epsilon * torch.where(values < NOTHING / 2, values, math.inf)


def lazy_gradient(x: Tensor, y: Tensor, g: Tensor, cost: Radial, epsilon: float) -> tuple[Tensor, Tensor]:
    scores = lazy_scores(x, y, g, cost, epsilon)
    pull = cost.slope(lazy_squares(x, y)) * (lazy(x, 1) - lazy(y, 0))
    return lazy_softmin(scores, epsilon), scores.sumsoftmaxweight(pull, 1)
