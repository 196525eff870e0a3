"""CPU seconds per outer step, beside a plain re-statement of the loop in torch, in one process.

    python tests/benchmarks/outer_step.py [--compile]

One outer step is K = 3 ascent steps of a 32 × 3 discriminator (L = 1, KL, Donsker–Varadhan) on N + N points of the mixture
of four Gaussians, the gradient at the particles and an Euler step. The plain loop does the same with torch's own
``spectral_norm`` parametrisation, ``torch.optim.Adam`` and a fresh graph per call. Both run on one thread, taking turns;
the medians and ranges of the turns are printed as a table.

The second table is the floor: what a step asks of torch, over what the machine does in the same process. At 5,000 + 5,000 most of
the time is in matrix products; at 200 + 200 it is in Python and in torch's way to each kernel, some 470 times a step. The third one has ten repeats in one batched network. With
``--compile`` another one has what ``torch.compile`` gains on the CPU; where there is a GPU, a last one has graphs beside plain steps.
"""

import itertools
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from particles import KL, Cloud, DenseNetwork, Euler, Evolve, GradientFlow, Key, NeuralPotential
from particles.data.toy import four_gaussians
from particles.flows.base import Flow
from particles.flows.captured import Captured
from particles.flows.together import Together
from particles.machine import keep_freed_memory

WIDTHS, K, H, RATE = (32, 32, 32), 3, 0.5, 1e-3
Row = dict[str, str | int]


def ours(source: Tensor, target: Tensor, compiled: str = "none") -> Callable[[], None]:
    network = DenseNetwork(2, WIDTHS).to(source.device)
    flow: Flow = GradientFlow(NeuralPotential(KL(), network, learning_rate=RATE, inner_steps=K), Cloud(target))
    if compiled != "none":
        flow = Captured(flow, fused=compiled == "full")
    return stepping(Evolve(flow, Euler(), Cloud(source), step_size=H))


def stepping(process: Evolve) -> Callable[[], None]:
    """Takes a process a step further with every call."""
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


def cpu_seconds(step: Callable[[], object], steps: int) -> float:
    begin = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - begin) / steps


def problem(n: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    key = Key.of(0)
    target = torch.as_tensor(four_gaussians(n, key.fold("target")), dtype=torch.float32)
    source = 0.5 * torch.randn(n, 2, generator=key.fold("source").generator())
    return source.to(device), target.to(device)


def against_plain(turns: int = 15) -> list[Row]:
    """Ours beside plain torch: milliseconds of CPU per step, medians and ranges of the turns, and the median of the turns' ratios."""
    rows = []
    for n, steps in ((200, 40), (1000, 20), (5000, 8)):
        a, b = ours(*problem(n)), plain(*problem(n))
        cpu_seconds(a, 5), cpu_seconds(b, 5)  # warm up
        taken = 1e3 * np.array([(cpu_seconds(a, steps), cpu_seconds(b, steps)) for _ in range(turns)])
        mine, theirs = (
            f"{np.median(times):.2f} ({times.min():.2f} to {times.max():.2f})" for times in (taken[:, 0], taken[:, 1])
        )
        rows.append(
            {
                "N + N": n,
                "ours, ms": mine,
                "plain torch, ms": theirs,
                "plain / ours": f"{np.median(taken[:, 1] / taken[:, 0]):.2f}",
            }
        )
    return rows


def fused(turns: int = 15) -> list[Row]:
    """``torch.compile`` on the CPU, which takes its half minute for each size first: ours without over ours with it."""
    rows = []
    for n, steps in ((200, 40), (1000, 20), (5000, 8)):
        begin = time.perf_counter()
        a, b = ours(*problem(n)), ours(*problem(n), "full")
        cpu_seconds(a, 5), cpu_seconds(b, 5)
        begun = time.perf_counter() - begin
        taken = [cpu_seconds(a, steps) / cpu_seconds(b, steps) for _ in range(turns)]
        rows.append({"N + N": n, "plain / fused": f"{np.median(taken):.2f}", "compiling, s": f"{begun:.0f}"})
    return rows


def on_gpu(turns: int = 9) -> list[Row]:
    """A replayed graph beside the plain step on a CUDA device, by the wall: steps per second, and the median of the turns' ratios."""
    rows = []
    for n, steps in ((200, 100), (100_000, 20)):
        kinds = {kind: ours(*problem(n, "cuda"), kind) for kind in ("none", "auto", "full")}
        for step in kinds.values():
            seconds(step, 5)
        taken = {kind: [] for kind in kinds}  # type: dict[str, list[float]]
        for _ in range(turns):
            for kind, step in kinds.items():
                taken[kind].append(seconds(step, steps))
        row: Row = {"N + N": n}
        row |= {f"{kind}, steps / s": f"{1 / np.median(times):.0f}" for kind, times in taken.items()}
        row |= {
            f"none / {kind}": f"{np.median(np.divide(taken['none'], taken[kind])):.2f}" for kind in ("auto", "full")
        }
        rows.append(row)
    return rows


def seconds(step: Callable[[], object], steps: int) -> float:
    """Seconds per step on the device."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / steps


def side_by_side(runs: int = 10, turns: int = 9) -> list[Row]:
    """Repeats in one batched network beside one run: milliseconds of CPU per step, and so many times the one over all together."""
    rows = []
    for n, widths, steps in ((200, WIDTHS, 10), (200, (64, 64, 64), 5), (800, (64, 64, 64), 3)):
        kinds = [repeats(n, widths, count) for count in (1, runs)]
        for step in kinds:
            cpu_seconds(step, 3)
        taken = 1e3 * np.array([[cpu_seconds(step, steps) for step in kinds] for _ in range(turns)])
        one, together = np.median(taken, 0)
        ratio = np.median(runs * taken[:, 0] / taken[:, 1])
        rows.append(
            {
                "N + N": n,
                "network": ",".join(map(str, widths)),
                "one, ms": f"{one:.2f}",
                f"{runs} together, ms": f"{together:.2f}",
                f"{runs} alone / together": f"{ratio:.2f}",
            }
        )
    return rows


def repeats(n: int, widths: tuple[int, ...], count: int) -> Callable[[], None]:
    flows, (source, target) = [], problem(n)
    for run in range(count):
        network = DenseNetwork(2, widths, key=Key.of(run))
        potential = NeuralPotential(KL(), network, learning_rate=RATE, inner_steps=K)
        flows.append(GradientFlow(potential, Cloud(target)))
    flow = flows[0] if count == 1 else Together(flows)
    process = Evolve(flow, Euler(), Cloud(source.repeat(count, 1)), step_size=H)
    return stepping(process)


class Work(TorchDispatchMode):
    """Counts what is asked of torch: calls, floating-point operations of matrix products, bytes that the other kernels read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.flops, self.bytes = 0, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        if func.overloadpacket in (torch.ops.aten.matmul, torch.ops.aten.addmm):
            self.flops += 2 * args[-2].numel() * args[-1].shape[1]
        elif not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())
        return out


def floor() -> list[Row]:
    """What a step asks of torch, and how long that would take at the speeds that this process reaches on the largest part of each kind:
    products of n × 32 by 32 × 32, a copy of n × 32, a call that does nothing much."""
    rows = []
    for n, steps in ((200, 100), (5000, 20)):
        step = ours(*problem(n))
        cpu_seconds(step, 5)
        with Work() as work:
            step()
        gemm, stream, call = speeds(2 * n)
        parts = 1e3 * np.array([work.flops / gemm, work.bytes / stream, work.calls * call])
        rows.append(
            {
                "N + N": n,
                "products": f"{work.flops / 1e6:.0f} MFlop at {gemm / 1e9:.0f} GFlop/s: {parts[0]:.2f} ms",
                "the rest": f"{work.bytes / 1e6:.1f} MB at {stream / 1e9:.0f} GB/s: {parts[1]:.2f} ms",
                "calls": f"{work.calls} at {1e6 * call:.1f} µs: {parts[2]:.2f} ms",
                "floor, ms": f"{parts.sum():.2f}",
                "reached, ms": f"{1e3 * min(cpu_seconds(step, steps) for _ in range(9)):.2f}",
            }
        )
    return rows


def speeds(points: int) -> tuple[float, float, float]:
    """Floating-point operations and bytes per second on a layer of so many points, and the seconds of a call."""
    x, w, one = torch.randn(points, WIDTHS[0]), torch.randn(WIDTHS[0], WIDTHS[0]), torch.zeros(())
    out = torch.empty_like(x)
    with torch.inference_mode():
        product, copy = best(lambda: torch.mm(x, w, out=out)), best(lambda: out.copy_(x))
        return 2 * x.numel() * len(w) / product, 2 * x.nbytes / copy, best(lambda: one.mul_(one))


def best(call: Callable[[], object], repeats: int = 50) -> float:
    """The least CPU seconds of a call."""
    for _ in range(5):
        call()
    return min(cpu_seconds(call, repeats) for _ in range(15))


def table(rows: list[Row]) -> str:
    """Rows as a table in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # as simulate does; here for both loops
    measures: dict[str, Callable[[], list[Row]]] = {
        "Beside plain torch": against_plain,
        "The floor": floor,
        "Repeats": side_by_side,
    }
    if "--compile" in sys.argv:
        measures["torch.compile"] = fused
    if torch.cuda.is_available():
        measures[torch.cuda.get_device_name()] = on_gpu
    for title, measure in measures.items():
        print(f"{title}:\n\n{table(measure())}\n")


if __name__ == "__main__":
    main()
