"""One transport potential at large N, beside geomloss' Sinkhorn with KeOps, in one process.

    python tests/benchmarks/transport.py [--points 10000] [--dimension 2] [--no-geomloss]

N particles from N(0, I) and N target points of eight Gaussians, L = 1, KL, ε = 0.1, float32. Ours: a cold fit with the gradient at all
particles, then a warm one after they have moved by 0.1, with and without debiasing, and how many Sinkhorn iterations (two sums over
all pairs each) they took at full size, to a dual gap of ``--tolerance`` times ε. geomloss: its online Sinkhorn for the same cost and ε (``p=1``, balanced), timed per
iteration of two such sums; on ``--rows`` rows and scaled up if that is fewer than all.
"""

import argparse
import os
import resource
import time

os.environ.setdefault("KEOPS_VERBOSE", "0")
os.environ.setdefault("PYKEOPS_VERBOSE", "0")

import torch

from particles import KL, Cloud, Key
from particles.data.toy import eight_gaussians
from particles.machine import keep_freed_memory
from particles.potentials.transport import TransportPotential

EPSILON = 0.1


def clouds(n: int, d: int) -> tuple[Cloud, Cloud]:
    key = Key.of(0)
    if d == 2:
        q = torch.as_tensor(eight_gaussians(n, key.fold("q"))).float()
    else:
        generator = key.fold("q").generator()
        centres = 4 * torch.nn.functional.normalize(torch.randn(8, d, generator=generator))
        q = centres[torch.randint(8, (n,), generator=generator)] + 0.5 * torch.randn(n, d, generator=generator)
    return Cloud(torch.randn(n, d, generator=key.fold("p").generator())), Cloud(q)


def ours(p: Cloud, q: Cloud, debias: bool, tolerance: float) -> None:
    potential = TransportPotential(KL(), epsilon=EPSILON, debias=debias, tolerance=tolerance)
    for start in ("cold", "warm"):
        wall, cpu = time.perf_counter(), time.process_time()
        info = potential.fit(p, q, Key.of(0))
        gradient = potential.grad(p)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(
            f"| ours, {'debiased' if debias else 'plain'}, {start} | {wall:.2f} | {cpu:.2f} | {int(float(info['iterations']))} "
            f"| {float(info['divergence']):.4f} | {float(info['gap']):.1e} | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} |",
            flush=True,
        )
        p = p.at(p.x - 0.1 * gradient)


def geomloss(p: Cloud, q: Cloud, rows: int) -> None:
    from geomloss import SamplesLoss

    y, x = p.x[:rows], q.x

    def solve(scaling: float) -> tuple[float, float]:
        loss = SamplesLoss("sinkhorn", 1, EPSILON, scaling=scaling, diameter=16.0, debias=False, backend="online")
        wall, cpu = time.perf_counter(), time.process_time()
        loss(y, x)
        return time.perf_counter() - wall, time.process_time() - cpu

    solve(0.1)  # compiles
    (few, few_cpu), (many, many_cpu) = solve(0.1), solve(0.5)
    more = 5  # iterations: at blurs 16, 16, 1.6, 0.16, 0.1 the first, at 16, 16, 8, ..., 0.125, 0.1 the second
    scale = len(p) / len(y)
    note = f"on {rows} rows, scaled up" if scale > 1 else "measured"
    print(
        f"| geomloss online, per iteration ({note}) | {(many - few) / more * scale:.2f} | {(many_cpu - few_cpu) / more * scale:.2f} | 1 | | | |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=2)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--tolerance", type=float, default=1e-2)
    parser.add_argument("--no-geomloss", action="store_true")
    parser.add_argument("--no-debias", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    p, q = clouds(options.points, options.dimension)
    print(f"N = M = {options.points}, d = {options.dimension}, {torch.get_num_threads()} threads\n")
    print("| what | wall s | CPU s | iterations | divergence | gap | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for debias in (False,) if options.no_debias else (False, True):
        ours(p, q, debias, options.tolerance)
    if not options.no_geomloss:
        geomloss(p, q, min(options.rows, options.points))


if __name__ == "__main__":
    main()
