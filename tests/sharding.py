"""Runs of several flows by this process and its like, for ``test_shards.py``: every case's particles at all steps, into one file.

python tests/sharding.py OUTPUT FOLDER                  # one process
RANK=0 WORLD_SIZE=2 PARTICLES_RENDEZVOUS=... python tests/sharding.py OUTPUT FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from particles import Memory, Specification, shards, simulate
from particles.experiment.build import build
from particles.pairwise import sharded
from particles.pairwise import sums as pair_sums
from particles.potentials import kernel
from particles.run.loop import Diverged

SMALL = {
    "target": "moons",
    "target_size": 53,
    "holdout": 0,
    "particles": 37,
    "steps": 4,
    "network": (16, 16),
    "step_size": 0.3,
}
CASES: dict[str, dict[str, Any]] = {
    "neural": {"steps": 12},
    "neural, minibatches": {"batch_size": 20},
    "neural, alpha": {"divergence": "alpha"},
    "neural, jensen-shannon": {"divergence": "jensen-shannon"},
    "neural, penalty": {"constraint": "penalty"},
    "neural, blocks": {"tolerance": 1e-3},
    "neural, classes": {"target": "classes.csv", "label": "class"},
    "neural, carried": {"carried": 4},
    "neural, minibatches of classes": {"target": "classes.csv", "label": "class", "batch_size": 20},
    "neural, fewer points than processes": {"particles": 2, "target_size": 2, "carried": 1},
    "transport": {"flow": "transport"},
    "transport, reverse-kl": {"flow": "transport", "divergence": "reverse-kl", "debias": False, "epsilon": 0.1},
    "transport, fewer points than processes": {"flow": "transport", "particles": 2, "target_size": 2},
    "transport, classes": {"flow": "transport", "target": "classes.csv", "label": "class"},
    "w2, exact": {"flow": "w2"},
    "w2, sinkhorn": {"flow": "w2", "solver": "sinkhorn", "epsilon": 0.05},
    "w2, neural": {"flow": "w2", "solver": "neural", "batch_size": 30, "steps": 3},
    "mmd": {"flow": "mmd"},
    "mmd, keops": {"flow": "mmd", "backend": "keops", "steps": 1},
    "mmd, noise": {"flow": "mmd", "kernel": "gaussian", "noise": 0.3, "carried": 5},
    "kale": {"flow": "kale"},
    "kernel": {"flow": "kernel", "steps": 3},
    "heun": {"stepper": "heun"},
    "ab3": {"flow": "mmd", "stepper": "ab3"},
    "adaptive": {"flow": "mmd", "stepper": "adaptive", "accuracy": 1e-2},
    "proximal step": {"flow": "mmd", "stepper": "proximal"},
    "proximal step, transport": {"flow": "transport", "stepper": "proximal", "steps": 3, "carried": 3},
    "proximal step, semi-implicit": {"stepper": "proximal", "mode": "semi-implicit", "steps": 3},
    "persistent minibatch": {"persistent": "minibatch", "persistency": 2, "minibatch": 9, "carried": 2},
}
SINGLE = (
    "neural",
    "neural, minibatches of classes",
    "neural, penalty",
    "transport",
    "w2, exact",
    "w2, sinkhorn",
    "w2, neural",
    "mmd",
    "kernel",
    "proximal step, transport",
)
"""Those that are run in float32, too. Left out are some in which a number within rounding of its bound decides what happens next (blocks
of ascents, a line search without a closed form), or the sign of a gradient that is nothing but rounding, at Adam's first step."""


def particles(settings: dict[str, Any], dtype: str) -> np.ndarray:
    """The particles at all steps, with shape (T, M, d)."""
    simulation = build(Specification(**SMALL | settings, dtype=dtype))  # type: ignore[arg-type]
    if settings.get("solver") == "neural":
        simulation.process.flow.potential.warmup = 20  # type: ignore[union-attr]
    store = Memory(1)
    simulate(simulation.process, simulation.spec.steps, store)
    return torch.stack([cloud.x for cloud in store.clouds]).numpy()


def sums() -> dict[str, np.ndarray]:
    """The Donsker–Varadhan objective and its gradient in φ's weights, φ(x) = w · x, on rows of unequal numbers; and other sums."""
    from particles import KL, Cloud, Key

    generator = Key.of(3).generator()
    points = [torch.randn(n, 4, generator=generator, dtype=torch.double) * 3 for n in (11, 7)]
    masses = [torch.rand(n, generator=generator, dtype=torch.double) for n in (11, 7)]
    found = {}
    for name, weights in (("even", (None, None)), ("weighted", tuple(m / m.sum() for m in masses))):
        p, q = (Cloud(x, weight=m).sharded() for x, m in zip(points, weights))
        w = torch.tensor([1.0, -0.5, 0.2, 2.0], dtype=torch.double, requires_grad=True)
        value = KL().objective(p.x @ w, q.x @ w, p, q)
        (own,) = torch.autograd.grad(value, w)
        (gradient,) = shards.total_gradient([own])
        found |= {f"value, {name}": value.detach(), f"gradient, {name}": gradient}
        if name == "even":  # what averaging the processes' own objectives would give
            parts = [len(x) / 7 * (torch.logsumexp(x @ w, 0) - np.log(len(x))) for x in points[1].tensor_split(2)]
            found["averaged"] = ((points[0] @ w).mean() - sum(parts)).detach()
    whole = Cloud(torch.arange(10.0).view(5, 2), carried=2)
    part = whole.sharded()
    found["gathered"] = part.gathered().x
    found["back"] = part.whole(part.local(whole.x))
    found["largest"] = shards.largest(torch.tensor([float(shards.rank()), -float(shards.rank())]))
    found["no number"] = shards.largest(torch.tensor(torch.nan if shards.rank() == 0 else 1.0))
    drawn = Cloud(torch.arange(100.0).view(50, 2)).sharded().draw(7, Key.of(1)).gathered().x
    found["drawn"] = drawn[drawn[:, 0].argsort()]
    return {name: np.asarray(value) for name, value in found.items()}


def main(output: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    kernel.EXACT = 30  # so that conjugate gradients do it, over shared sums
    pair_sums.KEPT = sharded.KEPT = 500  # so that costs are kept of some and not of others
    found: dict[str, np.ndarray] = {}
    with shards.together():
        found |= {f"sum: {name}": value for name, value in sums().items()}
        # Three processes share the rows unevenly: what goes well there is tried with two in part.
        for dtype, names in (("float64", list(SINGLE if shards.world() == 2 else CASES)), ("float32", list(SINGLE))):
            for name in names:
                settings = CASES[name]
                if str(settings.get("target", "")).endswith(".csv"):
                    settings = settings | {"target": str(folder / settings["target"])}
                try:
                    found[f"{dtype}: {name}"] = particles(settings, dtype)
                except (Diverged, ValueError) as error:
                    raise SystemExit(f"{name}: {error}") from error
        if shards.rank() == 0:
            np.savez(output, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
