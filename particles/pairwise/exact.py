"""Exact optimal transport between weighted points: POT's network simplex, checked."""

from __future__ import annotations

import os
import warnings

import numpy as np

ITERATIONS = 10_000_000
"""The most pivots of the network simplex."""


class Unsolved(FloatingPointError, ValueError):
    """A transport problem that cannot be solved: in a step of a run its numbers are to blame, elsewhere the points that were given."""


def network_simplex(a: np.ndarray, b: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The cheapest plan from masses a, with shape (M,), to masses b, with shape (N,), the dual potential on b's side, and the cost.

    POT answers what it has when it gives up, which may be a plan of no mass and a cost of 0, and only warns.

    Raises:
        Unsolved: If it gives up.
    """
    hush()
    import ot

    if not np.isfinite(costs).all():
        raise Unsolved(
            "squared distances are not finite in double precision; divide the points by a power of ten, or look for what sent them away"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # raised below
        plan, log = ot.emd(a, b, costs, numItermax=ITERATIONS, log=True)
    if log["warning"] is not None:
        reason = str(log["warning"]).partition(".")[0]
        raise Unsolved(
            f"the transport problem of {len(a)} and {len(b)} points was not solved ({reason}); fewer points, or an entropic solver, may help"
        )
    return plan, log["v"], float(log["cost"])


def hush() -> None:
    """Keeps POT from looking for frameworks that take seconds to import, and KeOps from writing to standard output."""
    for framework in ("JAX", "TENSORFLOW", "CUPY"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{framework}", "1")
    for package in ("KEOPS", "PYKEOPS"):
        os.environ.setdefault(f"{package}_VERBOSE", "0")
