"""CPU seconds per outer step, beside a plain re-statement of the loop in torch, in one process.

    python tests/benchmarks/outer_step.py

One outer step is K = 3 ascent steps of a 32 × 3 discriminator (L = 1, KL, Donsker–Varadhan) on N + N points of the mixture
of four Gaussians, the gradient at the particles and an Euler step. The plain loop does the same with torch's own
``spectral_norm`` parametrisation, ``torch.optim.Adam`` and a fresh graph per call. Both run on one thread, taking turns;
the medians and ranges of the turns are printed as a table.
"""

import itertools
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from particles import KL, Cloud, DenseNetwork, Euler, Evolve, GradientFlow, Key, NeuralPotential
from particles.data.toy import four_gaussians
from particles.run.allocator import keep_freed_memory

WIDTHS, K, H, RATE = (32, 32, 32), 3, 0.5, 1e-3


def ours(source: Tensor, target: Tensor) -> Callable[[], None]:
    potential = NeuralPotential(KL(), DenseNetwork(2, WIDTHS), learning_rate=RATE, inner_steps=K)
    process = Evolve(GradientFlow(potential, Cloud(target)), Euler(), Cloud(source), step_size=H)
    state = process.init()

    def step() -> None:
        nonlocal state
        state, _ = process.step(state)

    return step


def plain(source: Tensor, target: Tensor) -> Callable[[], None]:
    sizes = (2, *WIDTHS, 1)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [spectral_norm(nn.Linear(inputs, outputs)), nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    y, log_n = source.clone(), float(np.log(len(target)))

    def step() -> None:
        nonlocal y
        for _ in range(K):
            optimizer.zero_grad()
            value = network(y).mean() - (torch.logsumexp(network(target)[:, 0], 0) - log_n)
            (-value).backward()
            optimizer.step()
        moving = y.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(moving).sum(), moving)
        y = y - H * gradient
        value.item()

    return step


def cpu_seconds(step: Callable[[], None], steps: int) -> float:
    begin = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - begin) / steps


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # as simulate does; here for both loops
    print("| N + N | ours, ms | plain torch, ms | plain / ours |\n| --- | --- | --- | --- |")
    for n, steps in ((200, 40), (1000, 20), (5000, 8)):
        key = Key.of(0)
        target = torch.as_tensor(four_gaussians(n, key.fold("target")), dtype=torch.float32)
        source = 0.5 * torch.randn(n, 2, generator=key.fold("source").generator())
        a, b = ours(source, target), plain(source, target)
        cpu_seconds(a, 5), cpu_seconds(b, 5)  # warm up
        turns = 1e3 * np.array([(cpu_seconds(a, steps), cpu_seconds(b, steps)) for _ in range(15)])
        (mine, theirs), low, high = np.median(turns, 0), turns.min(0), turns.max(0)
        ratio = np.median(turns[:, 1] / turns[:, 0])
        print(
            f"| {n} | {mine:.2f} ({low[0]:.2f} to {high[0]:.2f}) | {theirs:.2f} ({low[1]:.2f} to {high[1]:.2f}) | {ratio:.2f} |"
        )


if __name__ == "__main__":
    main()
