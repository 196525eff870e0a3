"""Pictures of runs: functions that take a run, its folder or arrays, and answer a matplotlib figure, not shown and not saved.

The only importer of matplotlib; functions are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from particles.plot.curves import diagnostics as diagnostics
    from particles.plot.image_grid import images as images
    from particles.plot.laws import density as density
    from particles.plot.laws import tails as tails
    from particles.plot.levels import potential as potential
    from particles.plot.movie import animate as animate
    from particles.plot.overview import figure as figure
    from particles.plot.panels import compare as compare
    from particles.plot.panels import snapshots as snapshots
    from particles.plot.paths import trajectories as trajectories
    from particles.plot.paths import transport as transport

_HOME = {
    "animate": "movie",
    "compare": "panels",
    "density": "laws",
    "diagnostics": "curves",
    "figure": "overview",
    "images": "image_grid",
    "potential": "levels",
    "snapshots": "panels",
    "tails": "laws",
    "trajectories": "paths",
    "transport": "paths",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'particles.plot' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"particles.plot.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
