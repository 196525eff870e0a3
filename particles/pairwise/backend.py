"""Where ``auto`` takes KeOps: a rule per device, built in, or measured on this machine by ``particles info --benchmark``.

A measured rule is a small JSON file in the user's cache folder (``$XDG_CACHE_HOME/lipschitz-particles``, else ``~/.cache/lipschitz-particles``)
whose name and content have the host, the processors, the graphics cards and the versions of torch and KeOps. A file that is missing,
damaged or of something else is as good as none.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Rule:
    """From how many pairs, and up to how many dimensions, KeOps is taken; from infinitely many: never."""

    pairs: float = math.inf
    dimension: int = 0

    def __call__(self, pairs: int, dimension: int) -> bool:
        return pairs >= self.pairs and dimension <= self.dimension

    def __str__(self) -> str:
        if self.pairs == math.inf:
            return "tiles"
        return f"KeOps from {self.pairs:.3g} pairs and up to {self.dimension} dimensions, tiles elsewhere"


BUILT_IN = {"cpu": Rule(), "cuda": Rule(10**8, 100)}
"""Tiles were faster wherever we measured on processors; on cards it is KeOps' own advice, not a measurement of ours."""


@dataclass(frozen=True)
class Timing:
    """The seconds of one sum by both backends."""

    device: str
    dimension: int
    points: int
    """In each of the two sets."""
    tiled: float
    keops: float


def derived(timings: Sequence[Timing]) -> Rule:
    """The rule that takes KeOps where it was faster: from a number of pairs on, in all dimensions up to one.

    Arguments:
        timings: Those of one device.
    """
    rule = Rule()
    for dimension in sorted({timing.dimension for timing in timings}):
        here = sorted(
            (timing for timing in timings if timing.dimension == dimension), key=lambda timing: -timing.points
        )
        least = math.inf
        for timing in here:
            if not timing.keops < timing.tiled:
                break
            least = timing.points**2
        if least == math.inf:
            break
        rule = Rule(least if rule.pairs == math.inf else max(rule.pairs, least), dimension)
    return rule


def rule(device: str) -> Rule:
    """That of a type of device on this machine."""
    return _stored().get(device, BUILT_IN.get(device, Rule()))


def store(rules: Mapping[str, Rule]) -> Path:
    """Writes the rules of this machine's devices, at one stroke; they hold from now on.

    Raises:
        OSError: If they cannot be written.
    """
    path = place()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: {"pairs": None if math.isinf(r.pairs) else r.pairs, "dimension": r.dimension} for name, r in rules.items()}  # fmt: skip
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(json.dumps({"machine": machine(), "rules": content}, indent=2) + "\n", encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _stored.cache_clear()
    return path


def place() -> Path:
    """The file of this machine."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(home) if os.path.isabs(home) else Path("~/.cache").expanduser()
    key = hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()[:16]
    return folder / "lipschitz-particles" / f"backends-{key}.json"


@functools.cache
def _stored() -> dict[str, Rule]:
    try:
        found = json.loads(place().read_text(encoding="utf-8"))
        if found["machine"] != machine():
            return {}
        return {str(name): _read(rule) for name, rule in found["rules"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):  # of a home that is not known too
        return {}


def _read(stored: Any) -> Rule:
    pairs, dimension = stored["pairs"], stored["dimension"]
    if pairs is None:
        return Rule()
    if type(pairs) not in (int, float) or type(dimension) is not int or not (pairs >= 0 and dimension >= 0):
        raise ValueError("not a rule")
    return Rule(pairs, dimension)


@functools.cache
def machine() -> dict[str, Any]:
    """What a measurement holds for."""
    import torch

    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"host": platform.node(), "cpu": _processor(), "gpu": cards, "torch": torch.__version__, "pykeops": _keops()}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _keops() -> str:
    try:
        return version("pykeops")
    except PackageNotFoundError:
        return ""
