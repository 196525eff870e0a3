"""What a W2-penalised step is for: noise about a manifold, and steps of any size.

    python examples/steps.py

Left: particles are points of a line with noise across it, the target is the line. The Lipschitz-regularised divergence is L times the mean
distance to the line (arXiv 2407.11901), so every explicit step of size h is hL long, and in the end particles jump from one side to the other.
The implicit step is a soft threshold: they come to rest on the line. Right: the divergence after one step of size h; the explicit step
overshoots, the implicit one never rises.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from particles import (
    KL,
    W1,
    Cloud,
    Euler,
    Evolve,
    GradientFlow,
    Key,
    Memory,
    Proximal,
    Stepper,
    TransportPotential,
    simulate,
)

STEP = 0.3
SIZES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def line() -> tuple[Cloud, Cloud]:
    """Points of a line with noise across it, and without."""
    along = torch.linspace(-2, 2, 40, dtype=torch.double)
    across = torch.randn(40, generator=Key.of(0).generator(), dtype=torch.double)
    return Cloud(torch.stack((along, across), 1)), Cloud(torch.stack((along, 0 * along), 1))


def potential(kind: str, radius: float = 0.0) -> TransportPotential:
    divergence = {"w1": W1, "kl": KL}[kind]()
    return TransportPotential(divergence, 1.0, radius=radius, epsilon=0.005, debias=False, max_iterations=2000)


def distances(stepper: Stepper, radius: float, steps: int = 20) -> np.ndarray:
    """The root mean square distance to the line, step by step."""
    p, q = line()
    store = Memory()
    simulate(Evolve(GradientFlow(potential("w1", radius), q), stepper, p, step_size=STEP), steps, store)
    return np.array([float(cloud.x[:, 1].square().mean().sqrt()) for cloud in store.clouds])


def after_one_step(stepper: Stepper, h: float) -> tuple[float, float]:
    """The divergence before and after one step of size h, onto two far Gaussians."""
    generator = Key.of(1).generator()
    p = Cloud(torch.randn(60, 2, generator=generator, dtype=torch.double))
    side = 6.0 * torch.randint(2, (60, 1), generator=generator) - 3
    q = Cloud(torch.randn(60, 2, generator=generator, dtype=torch.double) / 2 + side * torch.tensor([[1.0, 0.0]]))
    judge = potential("kl")
    before = float(judge.fit(p, q, Key.of(0))["divergence"])
    process = Evolve(GradientFlow(potential("kl"), q), stepper, p, step_size=h)
    state, _ = process.step(process.init())
    return before, float(potential("kl").fit(state.cloud, q, Key.of(0))["divergence"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--figure", type=Path, default=Path("steps.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    canvas = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = canvas.subplots(1, 2)
    ways = {
        "explicit Euler": (Euler(), 0.0),
        "semi-implicit": (Proximal("semi-implicit"), 0.0),
        "implicit, in closed form (radius = step size · L)": (Euler(), STEP),
    }
    for name, (stepper, radius) in ways.items():
        found = distances(stepper, radius)
        print(f"{name}: distance to the line {found[0]:.3f} at first, {found[-1]:.4f} after {len(found) - 1} steps")
        left.semilogy(np.maximum(found, 1e-6), label=name)
    left.set(xlabel="step", ylabel="rms distance to the line", title=f"step size {STEP}")
    for name, stepper in {"explicit Euler": Euler(), "implicit": Proximal()}.items():
        found = [after_one_step(stepper, h) for h in SIZES]
        print(
            f"{name}: D = {found[0][0]:.3f}, after one step "
            + ", ".join(f"{h:g}: {d:.3f}" for h, (_, d) in zip(SIZES, found))
        )
        right.loglog(SIZES, [d for _, d in found], marker="o", label=name)
    right.axhline(found[0][0], color="grey", linewidth=0.8, label="before")
    right.set(xlabel="step size h", ylabel="divergence after one step", title="one step of size h")
    for ax in (left, right):
        ax.legend(frameon=False, fontsize=8, loc="lower left")
        ax.spines[["top", "right"]].set_visible(False)
    canvas.savefig(options.figure, dpi=130)


if __name__ == "__main__":
    main()
