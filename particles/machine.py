"""The machine: free memory, and how the C library keeps what is freed."""

from __future__ import annotations

import ctypes
from pathlib import Path


def free_memory() -> float:
    """The bytes of memory that this process may still take: of the machine, of its control groups and by its own limit."""
    import resource

    found = [_kilobytes("/proc/meminfo", "MemAvailable:"), *_groups()]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and (taken := _kilobytes("/proc/self/status", "VmSize:")) is not None:
        found.append(limit - taken)
    return min((room for room in found if room is not None), default=float("inf"))


def _kilobytes(path: str, name: str) -> float | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:  # another system than Linux
        return None
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


def _groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[float]:
    """What the control groups of this process have left, of either version; caches that can be dropped count as free."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, place in lines:
        if controllers not in ("", "memory"):
            continue
        base = root / controllers
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        inner = base / place.lstrip("/")
        for folder in [inner, *inner.parents]:
            if not folder.is_relative_to(base):
                break
            try:
                limit, taken = ((folder / name).read_text().strip() for name in names)
                cached = (folder / "memory.stat").read_text().split()
            except OSError:  # the root has no limit, and a container does not see what is above it
                continue
            if limit != "max":
                key = "total_inactive_file" if controllers else "inactive_file"
                cache = float(cached[cached.index(key) + 1]) if key in cached else 0.0
                found.append(float(limit) - float(taken) + cache)
    return found


def check_points(name: str, count: int, dimension: int = 3) -> None:
    """Whether so many points can be drawn from a law, before they are.

    Raises:
        ValueError: If not, with the number that could be.
    """
    one, room = 64.0 * dimension, free_memory()
    if count > room / one:
        most, needed = int(0.5 * room / one), min(count, 1e290) * one
        raise ValueError(
            f"{name} {count} asks for about {in_bytes(needed)} of memory, and {in_bytes(room)} are free; at most {most} would fit"
        )


def keep_freed_memory() -> None:
    """Asks glibc not to give freed memory back to the system, in this process and from now on.

    A step frees and asks for the same few megabytes again and again, and fresh pages cost more than the sums in them:
    without this, a step on 5,000 + 5,000 points takes half as long again, as does one on 10⁶ + 10⁶ points where no more than 1 GiB is
    kept. Single blocks above 1 GiB are given back. With another C library it does nothing.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(-1, -1)  # M_TRIM_THRESHOLD: none is too much to keep
    mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD


def in_bytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"
