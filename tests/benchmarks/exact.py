"""One exact W2 potential beside POT alone, in one process.

    python tests/benchmarks/exact.py [--quick]

N + N points of the mixture of four Gaussians in the plane. Ours: a fit of ``ExactKantorovich`` and the gradient at all particles, as a step
of ``--flow w2`` has it. POT: ``ot.dist`` and ``ot.emd`` of the same points in double precision, which answers the plan and the duals.
CPU time of one thread; the two take turns.
"""

from __future__ import annotations

import argparse

import torch
from measure import Row, ratio, spread, table, turns

from particles import Cloud, Key
from particles.data.toy import four_gaussians
from particles.pairwise.exact import hush
from particles.potentials.kantorovich import ExactKantorovich


def rows(quick: bool) -> list[Row]:
    hush()
    import ot

    found: list[Row] = []
    for n in (200, 500) if quick else (200, 500, 1000, 2000):
        key = Key.of(0).fold(n)
        y = torch.as_tensor(four_gaussians(n, key.fold("target")), dtype=torch.float32)
        x = 0.5 * torch.randn(n, 2, generator=key.fold("source").generator())
        p, q, potential = Cloud(x), Cloud(y), ExactKantorovich()

        def ours(p: Cloud = p, q: Cloud = q, potential: ExactKantorovich = potential) -> None:
            potential.fit(p, q, Key.of(0))
            potential.grad(p)

        def theirs(x: torch.Tensor = x, y: torch.Tensor = y) -> None:
            a, b = x.double().numpy(), y.double().numpy()
            ot.emd([], [], ot.dist(a, b), numItermax=10_000_000, log=True)

        taken = turns({"ours": ours, "POT": theirs}, 3 if quick else 7)
        found.append(
            {
                "N + N": n,
                "ours, ms": spread(taken["ours"], 1e3),
                "POT, ms": spread(taken["POT"], 1e3),
                "ours / POT": ratio(taken["ours"], taken["POT"]),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    torch.set_num_threads(1)
    print(table(rows(parser.parse_args().quick)))


if __name__ == "__main__":
    main()
