"""What runs take of memory beside what was foretold (``particles/experiment/demand.py``): one process per run, its peak by the system's own account.

    python tests/benchmarks/demand.py [--cases 3]

The estimate is good if it is within a factor of 2 where a run takes more than 200 MB, and never below it by more than a fifth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CASES: list[dict[str, object]] = [
    {"n": 200},
    {"n": 200, "flow": "w2"},
    {"n": 100_000, "d": 10, "inner_steps": 1},
    {"n": 5000, "particles": 1_000_000, "d": 10, "batch_size": 512, "steps": 4, "log_every": 2},
    {"n": 100_000, "d": 100, "inner_steps": 1, "metric_size": 50},
    {"n": 100_000, "d": 10, "inner_steps": 1, "network": [512, 512]},
    {"n": 100_000, "d": 10, "inner_steps": 1, "network": [512, 512], "batch_size": 500},
    {"n": 20_000, "d": 2, "inner_steps": 1, "network": [256, 256, 256], "constraint": "penalty"},
    {"n": 20_000, "d": 2, "inner_steps": 1, "network": [256, 256, 256], "activation": "groupsort"},
    {"n": 500, "particles": 20_000, "stepper": "proximal", "mode": "semi-implicit", "flow": "mmd", "max_inner": 40},
    {"n": 4000, "flow": "transport"},
    {"n": 2000, "flow": "transport", "dtype": "float64"},
    {"n": 2000, "flow": "w2"},
    {"n": 4000, "flow": "w2"},
    {"n": 1000, "particles": 8000, "flow": "w2"},
    {"n": 2000, "flow": "w2", "solver": "sinkhorn"},
    {"n": 4000, "flow": "w2", "solver": "sinkhorn"},
    {"n": 10_000, "flow": "w2", "solver": "neural", "batch_size": 2000},
    {"n": 20_000, "flow": "mmd"},
    {"n": 2000, "flow": "mmd", "metric_size": 2000},
    {"n": 2000, "flow": "kale"},
    {"n": 1000, "flow": "kernel"},
    {"n": 2000, "flow": "kernel"},
    {"n": 100_000, "d": 10, "flow": "proximal"},
    {"n": 30_000, "d": 10, "flow": "proximal", "network": [512, 512]},
    {"n": 2000, "flow": "proximal", "solver": "transport", "time_steps": 1},
    {"n": 2500, "flow": "proximal", "solver": "plan", "time_steps": 1, "divergence": "w1"},
    {"n": 1000, "flow": "proximal", "solver": "plan", "time_steps": 1},
]


def one(case: dict[str, object]) -> None:
    """Runs a case in this process, and prints what was foretold, what it took and what there was before."""
    import numpy as np
    import torch

    from particles import Key, simulate
    from particles.experiment import demand, resources
    from particles.experiment.build import build
    from particles.experiment.specification import Specification
    from particles.metrics.summary import summarise

    torch.set_num_threads(1)
    settings = dict(case)
    rows, dimension = int(settings.pop("n")), int(settings.pop("d", 2))  # type: ignore[call-overload]
    steps = int(settings.pop("steps", 1))  # type: ignore[call-overload]
    sizes = []
    check = resources.check_memory
    resources.check_memory = lambda spec, size: (sizes.append(size), check(spec, size))  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npy")
        np.save(path, np.random.default_rng(0).normal(size=(rows, dimension)).astype("f4"))
        settings["network"] = tuple(settings.get("network", (64, 64, 64)))  # type: ignore[arg-type]
        simulation = build(Specification(str(path), steps=steps, holdout=0, **settings))  # type: ignore[arg-type]
        store = simulation.store(Path(folder, "run"))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = megabytes("VmRSS:")
        state = simulate(simulation.process, simulation.spec.steps, store, simulation.observers)
        if rows <= 20_000 or dimension <= 10:  # of many rows in many columns the nearest ones take long to find
            summarise(state.cloud.active, simulation.target, None, Key.of(0))
    parts = demand.memory(simulation.spec, sizes[0])
    print(json.dumps([sum(part.size for part in parts) / 1e6, megabytes("VmHWM:") - before, before]))


def megabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--one", help="A case, as JSON, in this process.")
    arguments.add_argument("--cases", type=int, help="Only the first so many.")
    given = arguments.parse_args()
    if given.one:
        one(json.loads(given.one))
        return
    print(f"{'MB: foretold':>12} {'taken':>8} {'ratio':>6}  (and before)  case")
    for case in CASES[: given.cases]:
        words = [sys.executable, __file__, "--one", json.dumps(case)]
        found = subprocess.run(words, capture_output=True, text=True)
        if found.returncode:
            print("failed", case, found.stderr.strip().splitlines()[-1:])
            continue
        foretold, taken, before = json.loads(found.stdout.splitlines()[-1])
        print(f"{foretold:12.0f} {taken:8.0f} {foretold / taken:6.2f}  {before:8.0f}     {case}", flush=True)


if __name__ == "__main__":
    main()
