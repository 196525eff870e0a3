"""Panels in rows, on the same axes, with room for what is written about them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from particles.plot.projection import Projection


def grid(count: int, columns: int, coordinates: int, side: float) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels of 2 or 3 coordinates, so many of them, or fewer, in a row, each ``side`` inches wide."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(4.6, side * columns), side * rows + 0.6), layout="constrained")
    shape: dict[str, Any] = {"projection": "3d"} if coordinates == 3 else {}
    # All in one part, so that the common names of the axes are above the legend of the whole.
    part = figure.add_subfigure(figure.add_gridspec(1, 1)[0])
    return figure, [part.add_subplot(rows, columns, i + 1, **shape) for i in range(count)]


def share(axes: list[Axes], columns: int, names: tuple[str, str] | None = None) -> None:
    """Gives all panels the limits that hold what is in any of them.

    Arguments:
        axes: The panels.
        columns: How many of them are in a row.
        names: The names of the two coordinates, which are written once for all; ``None`` leaves each panel its own, as in space.
    """
    for side in "xyz" if axes[0].name == "3d" else "xy":
        limits = np.array([getattr(ax, f"get_{side}lim")() for ax in axes])
        for ax in axes:
            getattr(ax, f"set_{side}lim")(limits[:, 0].min(), limits[:, 1].max())
    if names is None:
        return
    part: Any = axes[0].get_figure()
    part.supxlabel(names[0], fontsize=9, parse_math=False)
    part.supylabel(names[1].replace(" (", "\n("), fontsize=9, parse_math=False)
    for i, ax in enumerate(axes):
        ax.set(xlabel="", ylabel="")
        ax.tick_params(labelleft=i % columns == 0, labelbottom=i + columns >= len(axes))


def settle(figure: Figure, axes: list[Axes], columns: int, project: Projection) -> None:
    """Makes the figure as high as its panels need in the proportions of their data, and leaves everything where it then is.

    matplotlib's layout does not keep titles inside the figure where proportions are given before it. To be called last.
    """
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    if project.axes == 3:
        engine.set(rect=(0, 0, 0.97, 1))  # the name of the third coordinate is not reckoned with
        for ax in axes:
            ax.set_box_aspect((1, 1, 1), zoom=0.82)  # type: ignore[call-arg,arg-type]
        return
    if project.aspect is None:
        return
    for ax in axes:
        ax.set_aspect("auto")
    engine.execute(figure)
    box = axes[0].get_window_extent()
    wanted = np.ptp(axes[0].get_ylim()) / np.ptp(axes[0].get_xlim()) * project.aspect
    rows = -(-len(axes) // min(columns, len(axes)))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + rows * (box.width * np.clip(wanted, 0.5, 1.4) - box.height) / figure.dpi)
    engine.execute(figure)
    figure.set_layout_engine("none")
    for ax in axes:
        ax.set_aspect(project.aspect, adjustable="box")  # in flow units
