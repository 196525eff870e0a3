"""Four Gaussians from one, judged on points that the flow never saw (the mixture example of arXiv 2210.17230).

    python examples/mixture.py [--seeds 5]

200 particles from N(0, 0.5² I) flow onto 200 points of a mixture at {0, 4}², L = 1, 500 Euler steps of 0.5. W2 to 2,000
fresh points of the mixture is compared with that of other samples of 200 from the mixture itself.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from particles import KL, Cloud, DenseNetwork, Euler, Evolve, GradientFlow, Key, Memory, NeuralPotential, simulate, w2
from particles.data.toy import four_gaussians

CENTRES = torch.tensor([[0.0, 0.0], [0.0, 4.0], [4.0, 0.0], [4.0, 4.0]])


def sample(n: int, key: Key) -> Cloud:
    return Cloud(torch.as_tensor(four_gaussians(n, key), dtype=torch.float32))


def flow(target: Cloud, seed: int) -> list[Cloud]:
    """The particles along the flow; settings as in the paper, but for a true operator norm and a lasting optimiser."""
    key = Key.of(seed)
    source = Cloud(0.5 * torch.randn(200, 2, generator=key.fold("source").generator()))
    potential = NeuralPotential(
        KL(), DenseNetwork(2, (32, 32, 32), lipschitz=1.0, key=key.fold("network")), inner_steps=3
    )
    process = Evolve(GradientFlow(potential, target), Euler(), source, step_size=0.5, key=key.fold("run"))
    store = Memory(log_every=10)
    simulate(process, 500, store)
    return store.clouds


def modes(cloud: Cloud) -> np.ndarray:
    """The share of points within three standard deviations of each centre."""
    return (torch.cdist(cloud.x, CENTRES) < 1.5).double().mean(0).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--figure", type=Path, default=Path("mixture.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    canvas = Figure(figsize=(3 * options.seeds, 3.2), layout="constrained")
    axes = np.atleast_1d(canvas.subplots(1, options.seeds, sharex=True, sharey=True))
    rows = []
    for seed, ax in enumerate(axes):
        key = Key.of(seed).fold("mixture")
        target, fresh = sample(200, key.fold("target")), sample(2000, key.fold("fresh"))
        clouds = flow(target, seed)
        others = [w2(sample(200, key.fold("other", i)), fresh) for i in range(20)]
        covered = int((modes(clouds[-1]) >= 0.25 * modes(target)).sum())
        rows.append((w2(clouds[-1], target), w2(clouds[-1], fresh), w2(target, fresh), float(np.mean(others)), covered))
        print(
            "W2 to target {:.3f}, to fresh points {:.3f} (its target {:.3f}, other samples {:.3f}), modes {}".format(
                *rows[-1]
            )
        )
        for i in range(0, 200, 4):
            ax.plot(*np.array([c.x[i].numpy() for c in clouds]).T, color="black", alpha=0.2, linewidth=0.6)
        ax.scatter(*target.x.T, s=6, color="#0072B2", alpha=0.5, label="target")
        ax.scatter(*clouds[-1].x.T, s=6, color="#D55E00", label="particles")
        ax.set_title(f"W2 to fresh points {rows[-1][1]:.2f} ({rows[-1][3]:.2f})", fontsize=9)
        ax.set_aspect("equal")
    axes[0].legend(frameon=False, fontsize=8)
    mean = np.mean(rows, axis=0)
    print("mean: to target {:.3f}, to fresh points {:.3f} (its target {:.3f}, other samples {:.3f})".format(*mean))
    print(f"to fresh points, over other samples: {mean[1] / mean[3]:.3f}")
    canvas.savefig(options.figure, dpi=130)


if __name__ == "__main__":
    main()
