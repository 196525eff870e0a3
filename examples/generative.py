"""The W1 + W2 proximal flow on the targets of arXiv 2407.11901: Pinwheel and Moons in 2, 7 and 12 dimensions.

    python examples/generative.py [--targets pinwheel,moons] [--dimensions 2,7,12] [--seeds 3] [--solvers network,transport]

Source N(0, I), target in the first two coordinates and 0 in all others; 100,000 points of each, T = 1, five Euler steps. Judged on 2,000
fresh points of each: exact W2²/2 in *all* coordinates (the published networks: 0.017, 0.034, 0.041 on Pinwheel and 0.19, 0.068, 0.127 on
Moons, in the first two), the root mean square of an orthogonal coordinate, path length over displacement, the kinetic energy over that of
the best way to the same ends, the steepest slope of the discriminator that was found, and how far the ends move with 2 and 32 times the steps.

The failures that the paper reports without a proximal: --solvers no-w1 (no bound on the discriminator) and no-w2 (no kinetic energy).
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import make_moons

from particles import (
    KL,
    W1,
    Cloud,
    DenseNetwork,
    Diverged,
    Euler,
    Evolve,
    HopfLaxFlow,
    Key,
    Memory,
    NeuralPotential,
    ProximalFlow,
    RunningCost,
    TimedNetwork,
    Train,
    TransportPotential,
    realised_lipschitz,
    simulate,
    straightness,
    w2,
)
from particles.proximal.training import Stratified

ALPHA = {"pinwheel": {2: 0.06, 7: 0.03, 12: 0.03}, "moons": {2: 0.008, 7: 0.01, 12: 0.01}}
LIPSCHITZ = 1.0
"""No point goes further than L T / α, 17 and more; Moons asks for 6.6."""
STEPS = 3000
SAMPLES = 100_000


def pinwheel(n: int, key: Key) -> np.ndarray:
    """Five arms with as many points each, as in the authors' code, times 1.4."""
    random, arm = key.numpy(), np.arange(n) % 5
    radial, tangential = 1 + 0.3 * random.standard_normal(n), 0.1 * random.standard_normal(n)
    angle = 2 * np.pi * arm / 5 + 0.25 * np.exp(radial)
    cos, sin = np.cos(angle), np.sin(angle)
    return 1.4 * np.stack((radial * cos - tangential * sin, radial * sin + tangential * cos), 1)


def moons(n: int, key: Key) -> np.ndarray:
    """Two half circles, shifted and times 4.2, as in the authors' code."""
    return (make_moons(n, noise=0.05, random_state=key.seed % 2**32)[0] - np.array([0.5, 0.2])) * 4.2


def target(name: str, n: int, dimension: int, key: Key) -> Cloud:
    plane = {"pinwheel": pinwheel, "moons": moons}[name](n, key)
    return Cloud(torch.tensor(np.concatenate((plane, np.zeros((n, dimension - 2))), 1), dtype=torch.float32))


def source(n: int, dimension: int, key: Key) -> Cloud:
    return Cloud(torch.randn(n, dimension, generator=key.generator()))


def trained(p: Cloud, q: Cloud, alpha: float, key: Key, steps: int, w1: bool = True, kinetic: bool = True) -> Train:
    """A flow by a network, and its discriminator, trained."""
    size = float(q.x.square().sum(1).mean()) ** 0.5
    network = TimedNetwork(q.dimension, (64, 64, 64), size=size, scale=alpha * size**2, key=key.fold("flow"))
    bound = LIPSCHITZ if w1 else math.inf
    critic = DenseNetwork(q.dimension, (64, 64, 64), bound, activation="groupsort", key=key.fold("critic"))
    discriminator = NeuralPotential(KL(), critic, learning_rate=2e-3, decay=steps / 4, inner_steps=5)
    train = Train(
        ProximalFlow([network], RunningCost(alpha)), discriminator, p, q,
        learning_rate=3e-3, decay=steps / 4, kinetic=kinetic, max_slope=1e3 * LIPSCHITZ, key=key.fold("run"),
    )  # fmt: skip
    state = train.init()
    store = Memory(log_every=steps)
    train.path = lambda state: [state]  # type: ignore[method-assign]  # no look at all points on the way
    simulate(train, steps, store)
    del train.path, state
    return train


def exact(p: Cloud, q: Cloud, alpha: float, key: Key, points: int = 4000) -> HopfLaxFlow:
    """The flow by the dual of the exact problem of some thousand points, drawn evenly, with no network."""
    blur = 0.04 * float(q.x.square().sum(1).mean()) ** 0.5  # a length; the target's own spacing is shorter
    potential = TransportPotential(
        W1(),
        LIPSCHITZ,
        radius=LIPSCHITZ / alpha,
        epsilon=alpha * blur**2,
        debias=False,
        tolerance=1e-2,
        max_iterations=1000,
    )
    few, many = Stratified(p).draw(points, key.fold("p")), Stratified(q).draw(points, key.fold("q"))
    flow = HopfLaxFlow(potential, many, RunningCost(alpha), LIPSCHITZ)
    simulate(Evolve(flow, Euler(), few, step_size=0.2), 1)  # it is fitted at its first velocity
    return flow


def cell(name: str, dimension: int, seed: int, solver: str, steps: int) -> tuple[dict[str, float], np.ndarray]:
    """What was measured, and the paths of the fresh points."""
    key, alpha = Key.of(seed), ALPHA[name][dimension]
    p, q = source(SAMPLES, dimension, key.fold("source")), target(name, SAMPLES, dimension, key.fold("target"))
    begun = time.process_time()
    if solver == "transport":
        flow, potential = exact(p, q, alpha, key), None
    else:
        train = trained(p, q, alpha, key, steps, w1=solver != "no-w1", kinetic=solver != "no-w2")
        flow, potential = train.flow, train.discriminator
    seconds = time.process_time() - begun

    fresh = source(2000, dimension, Key.of(1000 + seed))
    clouds = flow.path(fresh, 5)
    end = clouds[-1]
    paths = torch.stack([cloud.x for cloud in clouds]).numpy()
    kinetic = float(np.square(np.diff(paths, axis=0) / 0.2).sum(2).mean() / 2)
    found = {
        "half W2^2": w2(end, target(name, 2000, dimension, Key.of(2000 + seed))) ** 2 / 2,
        "orthogonal rms": float(end.x[:, 2:].square().mean()) ** 0.5 if dimension > 2 else 0.0,
        "straightness": straightness(paths),
        "kinetic energy": kinetic,
        "over the best": kinetic / (w2(fresh, end) ** 2 / 2),
    }
    if potential is None:
        found["slope"] = max(float(flow.slope(t, cloud.x).norm(dim=1).max()) for t, cloud in ((0.0, fresh), (1.0, end)))
    else:
        found["slope"] = realised_lipschitz(potential, end, q.draw(2000, key))
    for finer in (2, 32):
        other = flow.transport(fresh, 5 * finer)
        found[f"shift {finer}n"] = float((other.x - end.x).square().sum(1).mean()) ** 0.5
    return found | {"CPU seconds": seconds}, paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--targets", default="pinwheel,moons")
    parser.add_argument("--dimensions", default="2,7,12")
    parser.add_argument("--solvers", default="network,transport", help="of network, transport, no-w1, no-w2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of the network")
    parser.add_argument("--figure", type=Path, default=Path("generative.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    targets, dimensions = options.targets.split(","), list(map(int, options.dimensions.split(",")))
    solvers = options.solvers.split(",")
    canvas = Figure(figsize=(3 * len(dimensions) * len(solvers), 3.2 * len(targets)), layout="constrained")
    axes = canvas.subplots(len(targets), len(dimensions) * len(solvers), squeeze=False)
    for name, row in zip(targets, axes):
        for (solver, dimension), ax in zip([(s, d) for s in solvers for d in dimensions], row):
            cells = []
            for seed in range(options.seeds):
                try:
                    found, paths = cell(name, dimension, seed, solver, options.steps)
                except Diverged as error:
                    print(f"{name} {dimension} {solver} seed {seed}: {error}", flush=True)
                    continue
                print(name, dimension, solver, seed, " ".join(f"{k} {v:.4g}" for k, v in found.items()), flush=True)
                cells.append(found)
            ax.set_title(f"{name}, {dimension}-D, {solver}", fontsize=9)
            if not cells:
                continue
            mean = {k: np.mean([found[k] for found in cells]) for k in cells[0]}
            print(name, dimension, solver, "mean", " ".join(f"{k} {v:.4g}" for k, v in mean.items()), flush=True)
            ax.plot(*paths[:, :60, :2].transpose(2, 0, 1), color="black", alpha=0.3, linewidth=0.6)
            ax.scatter(*paths[-1, :, :2].T, s=2, color="#D55E00")
            ax.set_aspect("equal")
    canvas.savefig(options.figure, dpi=130)


if __name__ == "__main__":
    main()
