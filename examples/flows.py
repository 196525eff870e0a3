"""Every flow on the mixture of four Gaussians: W2 to the 200 points that its 200 particles are driven to.

    python examples/flows.py [--seeds 3]

Source N(0, 0.5² I), target 200 points of the mixture at {0, 4}², as in the first example of arXiv 2210.17230. A small distance says
that a flow arrives, not that it generalises: W2 to fresh points is printed beside it, with that of the target itself.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from particles import Cloud, Memory, Simulation, Specification, simulate, w2
from particles.experiment.build import build

FLOWS: dict[str, dict[str, Any]] = {
    "lipschitz": {"flow": "lipschitz", "network": (32, 32, 32), "inner_steps": 3, "steps": 500},
    "transport, kl": {"flow": "transport", "step_size": 1.0, "steps": 300},
    "transport, w1": {"flow": "transport", "divergence": "w1", "step_size": 1.0, "steps": 300},
    "w2, exact": {"flow": "w2", "steps": 100},
    "w2, sinkhorn": {"flow": "w2", "solver": "sinkhorn", "steps": 60},
    "mmd, riesz": {"flow": "mmd", "steps": 1000},
    "mmd, gaussian": {"flow": "mmd", "kernel": "gaussian", "bandwidth": 4.0, "step_size": 10.0, "steps": 1000},
    "mmd, gaussian, noise": {
        "flow": "mmd", "kernel": "gaussian", "bandwidth": 2.0, "step_size": 4.0,
        "noise": 2.0, "noise_halving": 800.0, "steps": 2000,
    },
    "kale": {"flow": "kale", "bandwidth": 2.0, "regularisation": 0.01, "step_size": 0.5, "steps": 500},
    "kernel": {
        "flow": "kernel", "kernel": "inverse-multiquadric", "bandwidth": 4.0, "step_size": 1.0, "decay": 100.0, "steps": 600,
    },
}  # fmt: skip


def flow(name: str, seed: int) -> tuple[Simulation, list[Cloud]]:
    """What was simulated, and the particles along the flow."""
    settings = FLOWS[name]
    simulation = build(
        Specification(
            "4-gaussians", target_size=200, holdout=2000, source_std=0.5, particles=200, seed=seed, **settings
        )
    )
    store = Memory(log_every=settings["steps"] // 50)
    simulate(simulation.process, settings["steps"], store)
    return simulation, store.clouds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="flows to run, with semicolons between")
    parser.add_argument("--figure", type=Path, default=Path("flows.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = options.only.split(";") if options.only else list(FLOWS)
    canvas = Figure(figsize=(3 * min(len(chosen), 5), 3.2 * math.ceil(len(chosen) / 5)), layout="constrained")
    axes = canvas.subplots(math.ceil(len(chosen) / 5), min(len(chosen), 5), sharex=True, sharey=True, squeeze=False)
    print("| flow | W2 to target (each seed) | W2 to fresh points (the target's own) | ms per step |")
    print("| --- | --- | --- | --- |")
    for name, ax in zip(chosen, axes.ravel()):
        found, fresh, floor, milliseconds = [], [], [], []
        for seed in range(options.seeds):
            begun = time.process_time()
            simulation, clouds = flow(name, seed)
            milliseconds.append(1e3 * (time.process_time() - begun) / FLOWS[name]["steps"])
            assert simulation.holdout is not None
            found.append(w2(clouds[-1], simulation.target))
            fresh.append(w2(clouds[-1], simulation.holdout))
            floor.append(w2(simulation.target, simulation.holdout))
        print(
            f"| {name} | {np.mean(found):.3f} ({', '.join(f'{value:.3f}' for value in found)}) "
            f"| {np.mean(fresh):.3f} ({np.mean(floor):.3f}) | {np.mean(milliseconds):.1f} |",
            flush=True,
        )
        for i in range(0, 200, 4):
            ax.plot(*np.array([c.x[i].numpy() for c in clouds]).T, color="black", alpha=0.2, linewidth=0.6)
        ax.scatter(*simulation.target.x.T, s=6, color="#0072B2", alpha=0.5)
        ax.scatter(*clouds[-1].x.T, s=6, color="#D55E00")
        ax.set_title(f"{name}: {found[-1]:.2f}", fontsize=9)
        ax.set_aspect("equal")
    canvas.savefig(options.figure, dpi=130)


if __name__ == "__main__":
    main()
