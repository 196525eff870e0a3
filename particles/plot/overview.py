"""The first picture of a run: where particles came from, how they went, where they are, and the curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from particles.plot import style
from particles.plot.curves import curves, draw
from particles.plot.paths import trajectories
from particles.plot.projection import projection
from particles.plot.style import as_run

if TYPE_CHECKING:
    from pathlib import Path

    from particles.run.reader import Run

CURVES = ("divergence", "kinetic_energy", "w2")


def figure(run: Run | Path | str) -> Figure:
    """Source, target, end and some trajectories, beside the curves of the series.

    Points of more than three columns are shown in the first two principal components of the target, in flow units.

    Arguments:
        run: A run, or its folder.

    Returns:
        The figure, not shown and not saved.

    Raises:
        FileNotFoundError: If the folder is not a run's.
    """
    run = as_run(run)
    chosen = curves(run, CURVES)
    canvas = Figure(figsize=(11, 4.8) if chosen else (6, 4.8), layout="constrained")
    parts = np.atleast_1d(
        np.asarray(canvas.subfigures(1, 2, width_ratios=(1.15, 1)) if chosen else canvas.subfigures())
    )
    ax = parts[0].add_subplot(projection="3d" if projection(run).axes == 3 else None)
    trajectories(run, color="none", all_ends=True, ax=ax)
    if chosen:
        draw(run, chosen, parts[1].subplots(len(chosen), 1, sharex=True, squeeze=False)[:, 0])
        parts[1].align_ylabels()
    canvas.suptitle(style.title(run), fontsize=11, parse_math=False)
    return canvas
