"""What benchmarks share: turns, medians, fits, peaks of memory, tables, and what the machine is."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

Row = dict[str, str | int]
Clock = Callable[[], float]


def seconds(call: Callable[[], object], times: int = 1, clock: Clock = time.process_time) -> float:
    """The seconds of a call, the mean of so many in a row; of the processor, all threads of the process together."""
    begin = clock()
    for _ in range(times):
        call()
    return (clock() - begin) / times


def turns(
    calls: dict[str, Callable[[], object]], count: int, times: int = 1, clock: Clock = time.process_time
) -> dict[str, list[float]]:
    """The seconds of several calls that take turns, so that what disturbs one disturbs all; after one call of each for nothing."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(count):
        for name, call in calls.items():
            found[name].append(seconds(call, times, clock))
    return found


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 3) -> str:
    """The median, and the range in brackets."""
    middle, low, high = (f"{scale * v:.{digits}g}" for v in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def ratio(over: Sequence[float], under: Sequence[float]) -> str:
    """Of each turn, the one over the other."""
    return spread([a / b for a, b in zip(over, under)])


def exponent(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """The p of values ∝ sizes^p by least squares in logarithms, and half the width of its 95 % interval (infinite for two sizes)."""
    from scipy import stats

    fit = stats.linregress(np.log(sizes), np.log(values))
    free = len(sizes) - 2
    return float(fit.slope), float(stats.t.ppf(0.975, free) * fit.stderr) if free else float("inf")


def fitted(sizes: Sequence[float], values: Sequence[float]) -> str:
    power, half = exponent(sizes, values)
    return f"{power:.3f} ± {half:.3f}" if np.isfinite(half) else f"{power:.3f}"


def table(rows: Sequence[Row]) -> str:
    """Rows in Markdown, with the names of the first as its head."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(row.get(name, "")) for name in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def forget_peak() -> float:
    """Lets the peak of this process's memory begin anew (Linux), and answers what it has now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS:")


def peak() -> float:
    """The most bytes that this process has had since ``forget_peak``."""
    return _status("VmHWM:")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith(name))


def machine() -> str:
    """The processor, its cores, the threads and the versions, in a sentence."""
    import torch

    words = {
        name: next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(name)), "unknown")
        for text in [Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""]
        for name in ("model name",)
    }
    versions = []
    for package in ("torch", "pykeops", "geomloss", "POT", "numpy"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    load = os.getloadavg()[0]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    cores = len(os.sched_getaffinity(0))
    return (
        f"{words['model name']}, {cores} cores, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}{gpu}; "
        f"Python {platform.python_version()}, {', '.join(versions)}; load when it began {load:.1f}"
    )
