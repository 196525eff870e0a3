"""Whether a run fits into memory and on the disk, and what to change where it does not; it is refused only where its estimate is above what there is."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from particles.experiment.demand import Part, Size, disk, memory, total
from particles.experiment.specification import Specification
from particles.machine import free_memory, in_bytes
from particles.names import TOYS

logger = logging.getLogger("particles")

WARN = 0.8
"""The part of what there is from which on a warning is given."""


def check_memory(spec: Specification, size: Size) -> None:
    """Whether a run fits into memory, before it asks for it; from 80 % on there is a warning.

    Raises:
        ValueError: If it does not, with the settings that would.
    """
    room, elsewhere = free_memory(), free_on(spec.device)

    def needs(spec: Specification, size: Size) -> list[tuple[list[Part], float]]:
        parts = memory(spec, size)
        if elsewhere is None:
            return [(parts, room)]
        there = [part for part in parts if not part.host]
        return [([part for part in parts if part.host], room), (there, elsewhere)]

    _check("memory", spec, size, needs)


def check_disk(spec: Specification, size: Size, path: Path, warn: bool = True) -> None:
    """Whether the folder of a run fits on its disk, what is in it already counted as free; from 80 % on there is a warning.

    Raises:
        ValueError: If it does not, with the settings that would.
    """
    room = free_disk(path)
    _check(f"room in {path}", spec, size, lambda spec, size: [(disk(spec, size), room)], warn)


Needs = Callable[[Specification, Size], list[tuple[list[Part], float]]]


def _check(what: str, spec: Specification, size: Size, needs: Needs, warn: bool = True) -> None:
    parts, room = _tightest(spec, size, needs)
    needed, most = total(parts), parts[0]
    if needed <= WARN * room:
        return
    told = f"the run needs about {in_bytes(needed)} of {what}, {in_bytes(most.size)} of it for {most.what}, and {in_bytes(room)} are free"
    if needed <= room:
        if warn:
            logger.warning("%s: it may not fit", told)
        return
    raise ValueError(f"{told}; {_advice(spec, size, needs)}")


def _tightest(spec: Specification, size: Size, needs: Needs) -> tuple[list[Part], float]:
    """The parts at the place where room is scarcest, the largest first, and the room there."""
    parts, room = max(needs(spec, size), key=lambda need: total(need[0]) / max(need[1], 1.0))
    return sorted(parts, key=lambda part: -part.size), room


def _advice(spec: Specification, size: Size, needs: Needs) -> str:
    """What to change: one setting if there is one that is enough, else several, each but the last as far as it goes."""
    texts: list[str] = []
    while True:
        parts, _ = _tightest(spec, size, needs)
        names = list(dict.fromkeys(name for part in parts for name in part.cures))
        enough = [text for name in names if (text := _enough(name, spec, size, needs))]
        if enough:
            return "it fits with " + ", or with ".join(" and ".join([*texts, text]) for text in enough[:3])
        left = (
            name for name in names if name not in ("particles", "target_size", "solver") and _helps(name, spec, size)
        )
        if (name := next(left, None)) is None:
            return "take fewer rows or columns, or a machine that has it"
        least = _least(name, spec)
        texts.append(_said(name, least, spec))
        spec, size = _changed(name, least, spec, size)


def _enough(name: str, spec: Specification, size: Size, needs: Needs) -> str | None:
    """The mildest value of a setting with which it fits, in words, if there is one."""

    def fits(value: Any) -> bool:
        return all(total(parts) <= room for parts, room in needs(*_changed(name, value, spec, size)))

    least = _least(name, spec)
    if not _helps(name, spec, size) or not fits(least):
        return None
    if isinstance(least, int) and not isinstance(least, bool):
        good, bad = least, _now(name, spec, size)
        while abs(good - bad) > max(1, abs(good) // 100):
            middle = (good + bad) // 2
            good, bad = (middle, bad) if fits(middle) else (good, middle)
        least = _rounded(name, good, spec)
    return _said(name, least, spec)


def _helps(name: str, spec: Specification, size: Size) -> bool:
    """Whether a setting has a value that takes less than the one that it has."""
    least = _least(name, spec)
    if least is None or isinstance(least, (bool, str)):
        return least is not None
    now = _now(name, spec, size)
    return bool(least > now if name in ("log_every", "snapshot_every") else least < now)


LEAST = {
    "metric_size": 100,
    "chunk_size": 256,
    "batch_size": 64,
    "max_inner": 2,
    "time_steps": 1,
    "stages": 1,
    "trajectory_particles": 100,
    "particles": 2,
    "target_size": 2,
}
"""The least values of settings that are of use."""


def _least(name: str, spec: Specification) -> Any:
    """The value of a setting that takes least, of those that are of use; ``None`` if it does not help."""
    if name == "solver":
        return {("w2", "exact"): "sinkhorn", ("w2", None): "sinkhorn", ("proximal", "plan"): "transport"}.get(
            (spec.flow, spec.solver)
        )
    if name == "record":
        return False if spec.record else None
    if name in ("log_every", "snapshot_every"):
        return max(spec.steps, 1)
    return LEAST[name]


def _now(name: str, spec: Specification, size: Size) -> int:
    if name in ("particles", "target_size"):
        return size.particles if name == "particles" else size.target
    if name == "trajectory_particles":
        return spec.trajectory_particles or size.all
    if name == "batch_size":
        return spec.batch_size or max(size.particles, size.target)
    return int(getattr(spec, name) or 1)


def _changed(name: str, value: Any, spec: Specification, size: Size) -> tuple[Specification, Size]:
    if name == "particles":
        return spec, dataclasses.replace(size, particles=value)
    if name == "target_size":
        return spec, dataclasses.replace(size, target=value)
    if name == "solver" and spec.flow == "w2":
        return dataclasses.replace(spec, solver=value, epsilon=spec.epsilon or 1.0), size
    return dataclasses.replace(spec, **{name: value}), size


def _rounded(name: str, value: int, spec: Specification) -> int:
    """Two digits of a value, on its safe side; snapshots are taken at logged steps alone."""
    if name in ("log_every", "snapshot_every"):
        unit = (spec.log_every or 1) if name == "snapshot_every" else 1
        return -(-value // unit) * unit
    unit = int(10 ** max(0, len(str(value)) - 2))
    return value // unit * unit


def _said(name: str, value: Any, spec: Specification) -> str:
    if name == "target_size" and spec.target not in TOYS:
        return f"a target of at most {value} rows"
    if name == "record":
        return "record left out"
    return f"{name} = {value}"


def free_on(device: str) -> float | None:
    """The bytes that are free on a GPU; ``None`` for the host."""
    import torch

    if not device.startswith("cuda"):
        return None
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + reserved)


def free_disk(path: Path) -> float:
    """The bytes that a run in a folder may take: what is free on its file system, and what its own files have."""
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    found = os.statvfs(there)
    own = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else 0
    return float(found.f_bavail * found.f_frsize + own)
