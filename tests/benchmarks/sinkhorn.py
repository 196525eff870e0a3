"""One warm step of the W2 flow, beside geomloss' Sinkhorn divergence and its gradient at equal accuracy, in one process.

    python tests/benchmarks/sinkhorn.py [--points 1000 10000] [--dimensions 2 10] [--quick]

N particles and N target points in float32, blur 0.05 of the data's root mean square distance. Ours: ``SinkhornKantorovich`` is fitted once, the
particles go 0.1 of their way, and the fit and the gradient there are timed. geomloss: ``SamplesLoss("sinkhorn", p=2, blur, scaling)`` and
its gradient by autograd at the same place; it starts anew each time, which is how it is used in a flow. Errors are those of displacements, root
mean square over that of the displacements themselves, from a converged solution in float64. Of each of geomloss' backends there are two rows: its
default ``scaling`` of 0.5, and the fastest whose error is at most ours, or the last that was tried: the error in its row says which. Seconds are CPU time, the least of
``--turns``, one thread unless ``OMP_NUM_THREADS`` says otherwise.
"""

import argparse
import math
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("KEOPS_VERBOSE", "0")
os.environ.setdefault("PYKEOPS_VERBOSE", "0")

import torch
from measure import Row, table
from torch import Tensor

from particles import Cloud, Key
from particles.cloud import mean_square
from particles.data.toy import eight_gaussians
from particles.machine import keep_freed_memory
from particles.potentials.kantorovich import SinkhornKantorovich

BLUR = 0.05
SCALINGS = (0.5, 0.7, 0.9, 0.95, 0.98)
BACKENDS = ("tensorized", "online", "multiscale")


def clouds(n: int, d: int) -> tuple[Cloud, Cloud]:
    """A normal cloud and eight clusters about it."""
    key = Key.of(0)
    if d == 2:
        q = torch.as_tensor(eight_gaussians(n, key.fold("q"))).float()
    else:
        generator = key.fold("q").generator()
        centres = 4 * torch.nn.functional.normalize(torch.randn(8, d, generator=generator))
        q = centres[torch.randint(8, (n,), generator=generator)] + 0.5 * torch.randn(n, d, generator=generator)
    return Cloud(torch.randn(n, d, generator=key.fold("p").generator())), Cloud(q)


def step(potential: SinkhornKantorovich, p: Cloud, q: Cloud) -> Tensor:
    potential.fit(p, q, Key.of(0))
    return potential.grad(p)


def geomloss(p: Cloud, q: Cloud, blur: float, scaling: float, backend: str) -> Tensor:
    """The gradient of its debiased divergence, as a displacement per particle."""
    from geomloss import SamplesLoss

    x = p.x.clone().requires_grad_()
    loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, backend=backend)
    (gradient,) = torch.autograd.grad(loss(x, q.x), x)
    return gradient * len(x)


def seconds(call: Callable[[], object], turns: int, before: Callable[[], object] = lambda: None) -> float:
    """The least CPU time of some turns, each after something that is not timed."""
    least = math.inf
    for _ in range(turns):
        before()
        begin = time.process_time()
        call()
        least = min(least, time.process_time() - begin)
    return least


def rows(
    n: int, d: int, turns: int = 3, budget: float = 30.0, quick: float = 5.0, backends: tuple[str, ...] = BACKENDS
) -> list[Row]:
    """A row per solver: seconds, error, and the ratio to ours.

    Arguments:
        n: The number of particles, and of target points.
        d: The dimension.
        turns: Turns of which the least time counts.
        budget: A backend that takes longer than these seconds at a scaling is not asked for a finer one.
        quick: One that takes longer than these is timed once.
        backends: Those of geomloss.
    """
    p, q = clouds(n, d)
    blur = BLUR * math.sqrt(float(mean_square(p, q)))
    ours = SinkhornKantorovich(blur**2)
    start = step(ours, p, q)
    kept, p = ours.state_dict(), p.at(p.x - 0.1 * start)
    exact = SinkhornKantorovich(blur**2, tolerance=1e-9, max_iterations=3000)
    exact.load_state_dict(kept)
    truth = step(exact, Cloud(p.x.double()), Cloud(q.x.double()))

    def error(gradient: Tensor) -> float:
        return float((gradient - truth).norm() / truth.norm())

    def again() -> None:
        ours.load_state_dict(kept)

    again()
    reached = error(step(ours, p, q))
    least = seconds(lambda: step(ours, p, q), turns, again)

    def row(solver: str, took: float, off: float) -> Row:
        return {
            "N": n, "d": d, "solver": solver, "s": f"{took:.3g}", "error": f"{off:.1e}", "over ours": f"{took / least:.1f}",
        }  # fmt: skip

    found = [row("ours, warm", least, reached)]
    for backend in backends:
        if backend == "multiscale" and d > 3:
            continue
        for scaling in SCALINGS:
            gradients: list[Tensor] = []
            call = partial(_kept, gradients, p, q, blur, scaling, backend)
            took = seconds(call, 1)
            if took < quick and turns > 1:
                took = seconds(call, turns)
            off = error(gradients[-1])
            last = off <= reached or scaling == SCALINGS[-1] or took > budget
            if last or scaling == SCALINGS[0]:
                found.append(row(f"geomloss {backend}, scaling {scaling}", took, off))
            if last:
                break
    return found


def _kept(gradients: list[Tensor], *arguments: Any) -> None:
    gradients[:] = [geomloss(*arguments)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="300 points in the plane, one turn")
    options = parser.parse_args()
    keep_freed_memory()
    print(f"float32, {torch.get_num_threads()} threads, CPU seconds\n")
    sizes = [(300, 2)] if options.quick else [(n, d) for n in options.points for d in options.dimensions]
    for n, d in sizes:
        print(table(rows(n, d, 1 if options.quick else options.turns)) + "\n", flush=True)


if __name__ == "__main__":
    main()
