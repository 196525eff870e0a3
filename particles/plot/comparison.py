"""Several flows side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from particles.plot.overview import draw_clouds
from particles.run.reader import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def comparison(runs: Mapping[str, Run], captions: Mapping[str, str] | None = None) -> Figure:
    """One panel per run, on the same axes: source, target, end, and some trajectories.

    Arguments:
        runs: The runs by their names, all with the same target.
        captions: A second line for a panel's title.

    Returns:
        A figure, not shown and not saved.
    """
    from matplotlib.figure import Figure

    columns = min(len(runs), 3)
    rows = -(-len(runs) // columns)
    canvas = Figure(figsize=(max(5, 4 * columns), 4 * rows + 0.6), layout="constrained")
    axes = np.atleast_1d(canvas.subplots(rows, columns, squeeze=False)).ravel()
    for ax, (name, run) in zip(axes, runs.items()):
        draw_clouds(run, ax, alone=False)
        title = f"{name}, step {int(run.steps[-1])}"
        ax.set_title("\n".join(filter(None, (title, (captions or {}).get(name)))), fontsize=10)
    for ax in axes[len(runs) :]:
        ax.set_visible(False)
    if next(iter(runs.values())).target.shape[1] > 1:  # a single column is drawn against each flow's own time
        limits = np.array([(*ax.get_xlim(), *ax.get_ylim()) for ax in axes[: len(runs)]])
        for ax in axes[: len(runs)]:
            ax.set_xlim(limits[:, 0].min(), limits[:, 1].max())
            ax.set_ylim(limits[:, 2].min(), limits[:, 3].max())
    handles, labels = axes[0].get_legend_handles_labels()
    if len({int(run.steps[-1]) for run in runs.values()}) > 1:  # the panels say which step it is
        labels = ["end" if label.startswith("end (") else label for label in labels]
    canvas.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, markerscale=1.8)
    return canvas
