"""Where particles went: their paths, and arrows from start to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Line3DCollection

from particles.plot.projection import Chosen, Projection, projection
from particles.plot.style import (
    PARTICLES,
    PATH,
    POINTS,
    RASTER,
    SOURCE,
    TARGET,
    TIME,
    as_run,
    bare,
    class_colors,
    dots,
    legend,
    levels,
    panel,
    spread,
)
from particles.run.reader import Run

if TYPE_CHECKING:
    from pathlib import Path

FRAMES = 200
"""The most snapshots that a path is drawn through, evenly chosen."""
COLORS = ("auto", "time", "label", "none")


def trajectories(
    run: Run | Path | str | np.ndarray,
    target: np.ndarray | None = None,
    *,
    projection: Chosen = "auto",
    color: str = "auto",
    max_paths: int = 100,
    all_ends: bool = False,
    key: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Paths of particles from start to end, in front of the target.

    Arguments:
        run: A run, its folder, or snapshots with shape (T, M, d).
        target: The target of snapshots, with shape (N, d).
        projection: How points of many columns are drawn; see ``Chosen`` in ``particles.plot.projection``.
        color: By ``time``, by ``label`` (the class) or ``none``; ``auto`` is by class where there are classes, else by time.
        max_paths: The most paths that are drawn, evenly chosen among the particles.
        all_ends: Whether starts and ends of all particles are marked, not of these alone.
        key: Whether there is a legend, and a bar for the colours of time.
        ax: Axes to draw on; new ones if there are none.

    Returns:
        The figure, not shown and not saved.

    Raises:
        ValueError: If something does not fit, naming it.
        FileNotFoundError: If the folder is not a run's.
    """
    run = as_run(run, target)
    color = checked_color(run, color)
    if max_paths < 0:
        raise ValueError(f"max_paths must be at least 0, not {max_paths}")
    project = _projection(run, projection)
    alone = ax is None
    figure, ax = panel(ax, project.axes)
    rows = spread(run.own, max_paths) if max_paths else np.arange(0)
    colors = class_colors(levels(run.label, run.target_label)) if color == "label" else {}
    if len(rows):
        draw_paths(run, rows, project, ax, color, colors, key=key)
    _draw_ends(run, spread(run.own, POINTS) if all_ends else rows, project, ax, colors)
    dress(ax, run, project)
    if key:
        legend(ax, alone=alone)
    return figure


def transport(
    run: Run | Path | str | np.ndarray,
    target: np.ndarray | None = None,
    *,
    projection: Chosen = "auto",
    color: str = "auto",
    max_paths: int = 150,
    key: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Arrows from where particles started straight to where they are at the end, in front of the target.

    Arguments:
        run: A run, its folder, or snapshots with shape (T, M, d), of which the first and the last are drawn.
        target: The target of snapshots, with shape (N, d).
        projection: How points of many columns are drawn; see ``Chosen`` in ``particles.plot.projection``.
        color: By ``label`` (the class) or ``none``; ``auto`` is by class where there are classes.
        max_paths: The most arrows, evenly chosen among the particles.
        key: Whether there is a legend.
        ax: Axes to draw on; new ones if there are none.

    Returns:
        The figure, not shown and not saved.

    Raises:
        ValueError: If something does not fit, naming it.
        FileNotFoundError: If the folder is not a run's.
    """
    run = as_run(run, target)
    if color == "time" or (color == "auto" and run.label is None):
        color = "none"  # an arrow is of all times
    color = checked_color(run, color)
    if max_paths < 1:
        raise ValueError(f"max_paths must be at least 1, not {max_paths}")
    project = _projection(run, projection)
    alone = ax is None
    figure, ax = panel(ax, project.axes)
    rows = spread(run.own, max_paths)
    colors = class_colors(levels(run.label, run.target_label)) if color == "label" else {}
    start, end = _ends(run, rows, project)
    shades = [colors[name] for name in run.label[rows]] if colors and run.label is not None else PATH
    look: dict[str, Any] = {"alpha": 0.45, "zorder": 2}
    if project.axes == 3:
        ax.quiver(*start.T, *(end - start).T, colors=shades, linewidths=0.7, arrow_length_ratio=0.08, **look)
    else:
        ax.quiver(
            *start.T, *(end - start).T, color=shades, angles="xy", scale_units="xy", scale=1, width=0.0022, headwidth=5,
            rasterized=len(rows) > RASTER, **look,
        )  # fmt: skip
    _draw_ends(run, rows, project, ax, colors)
    dress(ax, run, project)
    if key:
        legend(ax, alone=alone)
    return figure


def _ends(run: Run, rows: np.ndarray, project: Projection) -> tuple[np.ndarray, np.ndarray]:
    """Where some particles are at first and at last."""
    first, last = float(run.times[0]), float(run.times[-1])
    return project(run.snapshot(0, rows), first), project(run.snapshot(-1, rows), last)


def _draw_ends(run: Run, rows: np.ndarray, project: Projection, ax: Axes, colors: dict[str, str]) -> None:
    """The target behind, and starts and ends of some particles before it; by class if there are colours for classes."""
    among = max(min(len(run.target), POINTS), len(rows))
    last = float(run.times[-1]) or 1.0
    shown = spread(len(run.target), POINTS)
    behind = project(run.target[shown], last if project.aspect else 1.05 * last)
    faint: Any = TARGET
    shade: Any = PARTICLES
    if colors and run.target_label is not None:
        faint = np.array([colors[name] for name in run.target_label[shown]])
    if colors and run.label is not None:
        shade = np.array([colors[name] for name in run.label[rows]])
    start, end = _ends(run, rows, project)
    texts = f"target ({len(run.target)})", f"end (step {int(run.steps[-1])})"
    if len(run.target):
        dots(ax, behind, faint, None if colors else texts[0], alpha=0.3, among=among, zorder=0)
    count = f"{run.total}" if len(rows) == run.total else f"{len(rows)} of {run.total}"
    dots(ax, start, SOURCE, f"start ({count})", alpha=0.8, among=among, zorder=3)
    dots(ax, end, shade, None if colors else texts[1], alpha=0.9, among=among, zorder=4)
    if colors:
        for text in [f"{texts[0]}, faint"] * bool(len(run.target)) + [texts[1]]:
            dots(ax, end[:0], PATH, text, among=among)
    for name, value in colors.items():
        dots(ax, end[:0], value, name, among=among)


def draw_paths(
    run: Run, rows: np.ndarray, project: Projection, ax: Axes, color: str, colors: dict[str, str], *, key: bool
) -> None:
    """The paths of some particles as lines; the snapshots are read one by one."""
    frames = spread(len(run.times), FRAMES)
    times = run.times[frames]
    way = np.stack(
        [project(run.snapshot(i, rows), float(t)) for i, t in zip(frames, times)], 1
    )  # (paths, frames, axes)
    kind: Any = Line3DCollection if project.axes == 3 else LineCollection
    many = way.shape[0] * way.shape[1] > RASTER
    look: dict[str, Any] = {"linewidths": 0.8, "alpha": 0.55, "zorder": 1, "rasterized": many}
    if color == "time" and len(times) > 1:
        pieces = np.stack((way[:, :-1], way[:, 1:]), 2).reshape(-1, 2, project.axes)
        middle = np.tile((times[:-1] + times[1:]) / 2, len(way))
        lines = kind(pieces, cmap=TIME, **look)
        lines.set_array(middle)
        lines.set_clim(float(times[0]), float(times[-1]))
        ax.add_collection(lines)
        if key:
            bar = ax.figure.colorbar(lines, ax=ax, shrink=0.6, aspect=28, pad=0.1 if project.axes == 3 else 0.02)
            if bar.solids is not None:
                bar.solids.set_alpha(1)
            bar.set_label("time")
            bar.outline.set_visible(False)  # type: ignore[operator]
    else:
        shades = [colors[name] for name in run.label[rows]] if color == "label" and run.label is not None else PATH
        ax.add_collection(kind(way, colors=shades, **(look if color == "label" else look | {"alpha": 0.25})))
    corners = np.stack((way.min((0, 1)), way.max((0, 1))))
    if project.axes == 3:
        ax.auto_scale_xyz(*corners.T)  # type: ignore[attr-defined]
    else:
        ax.update_datalim(corners)


def dress(ax: Axes, run: Run, project: Projection, *, fixed: bool = False) -> None:
    """Names and proportions of the axes; ``fixed`` keeps the size of the axes' data and changes their box instead."""
    ax.set_xlabel(project.labels[0], parse_math=False)
    ax.set_ylabel(project.labels[1], parse_math=False)
    if project.axes == 3:
        ax.set_zlabel(project.labels[2], parse_math=False)  # type: ignore[attr-defined]
        ax.set_box_aspect((1, 1, 1), zoom=0.9)  # type: ignore[call-arg,arg-type]
        return
    ax.autoscale_view()
    if project.aspect is not None:
        ax.set_aspect(project.aspect, adjustable="box" if fixed else "datalim")  # in flow units
    bare(ax)


def checked_color(run: Run, color: str) -> str:
    """``time``, ``label`` or ``none``.

    Raises:
        ValueError: If it is none of these, or the particles have no classes.
    """
    if color not in COLORS:
        raise ValueError(f"color {color!r} is not one of {', '.join(COLORS)}")
    if color == "label" and run.label is None:
        raise ValueError("color label needs particles with classes, and these have none; choose time or none")
    return ("time" if run.label is None else "label") if color == "auto" else color


_projection = projection
