"""How much memory there is."""

from __future__ import annotations

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
