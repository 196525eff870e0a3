"""One warm step of the W2 flow, beside geomloss' Sinkhorn divergence and its gradient at equal accuracy, in one process.

    python tests/benchmarks/sinkhorn.py [--points 1000 10000] [--dimensions 2 10]

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
from typing import Any

os.environ.setdefault("KEOPS_VERBOSE", "0")
os.environ.setdefault("PYKEOPS_VERBOSE", "0")

import torch
from torch import Tensor

from particles import Cloud, Key
from particles.cloud import mean_square
from particles.data.toy import eight_gaussians
from particles.potentials.kantorovich import SinkhornKantorovich
from particles.run.allocator import keep_freed_memory

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
    points: tuple[int, ...] = (1000, 10_000),
    dimensions: tuple[int, ...] = (2, 10),
    turns: int = 3,
    budget: float = 30.0,
    quick: float = 5.0,
    backends: tuple[str, ...] = BACKENDS,
) -> list[dict[str, Any]]:
    """A row per size, dimension and solver: seconds, error, and the ratio to ours.

    Arguments:
        points: Numbers of particles, and of target points.
        dimensions: Dimensions.
        turns: Turns of which the least time counts.
        budget: A backend that takes longer than these seconds at a scaling is not asked for a finer one.
        quick: One that takes longer than these is timed once.
        backends: Those of geomloss.
    """
    found = []
    for d in dimensions:
        for n in points:
            p, q = clouds(n, d)
            blur = BLUR * math.sqrt(float(mean_square(p, q)))
            ours = SinkhornKantorovich(blur**2)
            start = step(ours, p, q)
            kept, p = ours.state_dict(), p.at(p.x - 0.1 * start)
            exact = SinkhornKantorovich(blur**2, tolerance=1e-9, max_iterations=3000)
            double = Cloud(p.x.double()), Cloud(q.x.double())
            exact.load_state_dict(kept)
            truth = step(exact, *double)
            size = float(truth.norm())

            def error(gradient: Tensor, truth: Tensor = truth, size: float = size) -> float:
                return float((gradient - truth).norm()) / size

            def warm(ours: SinkhornKantorovich = ours, kept: dict[str, Any] = kept) -> None:
                ours.load_state_dict(kept)

            warm()
            reached = error(step(ours, p, q))
            time_ours = seconds(lambda ours=ours, p=p, q=q: step(ours, p, q), turns, warm)
            row = {"N": n, "d": d, "blur": blur}
            found.append(row | {"solver": "ours, warm", "seconds": time_ours, "error": reached, "ratio": 1.0})
            for backend in backends:
                if backend == "multiscale" and d > 3:
                    continue
                for scaling in SCALINGS:
                    gradients: list[Tensor] = []

                    def call(p=p, q=q, s=scaling, b=backend, blur=blur, gradients=gradients) -> None:  # type: ignore[no-untyped-def]
                        gradients[:] = [geomloss(p, q, blur, s, b)]

                    took = seconds(call, 1)
                    if took < quick:
                        took = seconds(call, turns)
                    theirs = error(gradients[0])
                    last = theirs <= reached or scaling == SCALINGS[-1] or took > budget
                    if last or scaling == SCALINGS[0]:
                        name = f"geomloss {backend}, scaling {scaling}"
                        found.append(
                            row | {"solver": name, "seconds": took, "error": theirs, "ratio": took / time_ours}
                        )
                    if last:
                        break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()
    print(f"float32, {torch.get_num_threads()} threads, CPU seconds\n")
    print("| N | d | solver | seconds | error | over ours |\n| --- | --- | --- | --- | --- | --- |")
    for n in options.points:
        for row in rows((n,), tuple(options.dimensions), options.turns):
            print(
                f"| {row['N']} | {row['d']} | {row['solver']} | {row['seconds']:.3f} | {row['error']:.1e} | {row['ratio']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
