"""Several panels on the same axes: one run at several times, or several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from particles.plot.bins import beyond, edges, heights, window
from particles.plot.grid import grid, settle, share
from particles.plot.paths import checked_color, dress, trajectories
from particles.plot.projection import Chosen, Projection
from particles.plot.projection import projection as make_projection
from particles.plot.style import (
    PARTICLES,
    PATH,
    POINTS,
    TARGET,
    as_run,
    bare,
    class_colors,
    dots,
    legend,
    levels,
    short,
    spread,
)
from particles.run.reader import Run

Given = Run | Path | str | np.ndarray


def snapshots(
    run: Given,
    target: np.ndarray | None = None,
    *,
    times: Sequence[float] | np.ndarray | None = None,
    projection: Chosen = "auto",
    color: str = "auto",
    columns: int = 5,
) -> Figure:
    """The particles at several times, in front of the target, on the same axes.

    Points of one coordinate are drawn as histograms with the same bins.

    Arguments:
        run: A run, its folder, or snapshots with shape (T, M, d).
        target: The target of snapshots, with shape (N, d).
        times: The flow times, of which the nearest snapshots are drawn; by default five of them, evenly chosen from first to last.
        projection: How points of many columns are drawn; see ``Chosen`` in ``particles.plot.projection``.
        color: By ``label`` (the class) or ``none``; ``auto`` is by class where there are classes.
        columns: The most panels side by side.

    Returns:
        The figure, not shown and not saved.

    Raises:
        ValueError: If something does not fit, naming it.
        FileNotFoundError: If the folder is not a run's.
    """
    run = as_run(run, target)
    if times is not None and not len(times):
        raise ValueError("times needs at least one time")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    chosen = spread(len(run.times), 5) if times is None else run.nearest(times)
    project = make_projection(run, projection)
    lines = project.named == "against time"
    colors = _class_colors(run, color, lines)
    figure, axes = grid(len(chosen), columns, project.axes, 2.8 if project.axes == 3 else 2.3)
    if lines:
        _draw_histograms(run, chosen, axes)
    else:
        _draw_dots(run, chosen, project, colors, axes)
    for ax, i in zip(axes, chosen):
        ax.set_title(
            f"step {int(run.steps[i])}, time {run.times[i]:.3g}", fontsize=9, pad=-4 if project.axes == 3 else 6
        )
        ax.tick_params(labelsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    share(axes, columns, None if project.axes == 3 else (axes[0].get_xlabel(), axes[0].get_ylabel()))
    legend(axes[0], alone=True)
    settle(figure, axes, columns, project)
    return figure


def compare(
    runs: Mapping[str, Given] | Sequence[Given],
    captions: Mapping[str, str] | None = None,
    *,
    projection: Chosen = "auto",
    max_paths: int = 100,
    columns: int = 3,
) -> Figure:
    """Several runs side by side, on the same axes: source, target, end, and some trajectories.

    All are drawn by one projection, that of the first run's target. Runs of one coordinate are drawn each against its own time.

    Arguments:
        runs: Runs, or their folders, by their names; by default the names of the folders, with as many folders above as tell them apart.
        captions: A second line for a panel's title, by name.
        projection: How points of many columns are drawn; see ``Chosen`` in ``particles.plot.projection``.
        max_paths: The most paths in a panel, evenly chosen among the particles.
        columns: The most panels side by side.

    Returns:
        The figure, not shown and not saved.

    Raises:
        ValueError: If there are no runs, or their columns are not the same.
        FileNotFoundError: If a folder is not a run's.
    """
    if isinstance(runs, (str, Path, Run)):
        raise ValueError("runs needs several runs, in a list or by their names; trajectories draws one")
    if not len(runs):
        raise ValueError("runs needs at least one run")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    opened = [as_run(run) for run in (runs.values() if isinstance(runs, Mapping) else runs)]
    names = list(runs) if isinstance(runs, Mapping) else _names(opened)
    first = opened[0]
    for name, run in zip(names, opened):
        if run.columns != first.columns:
            raise ValueError(
                f"compare needs runs with the same columns: {names[0]} has {_listed(first.columns)}, and {name} {_listed(run.columns)}"
            )
    project = make_projection(first, projection)
    figure, axes = grid(len(opened), columns, project.axes, 4.0)
    for ax, run in zip(axes, opened):
        trajectories(run, projection=project, color="none", max_paths=max_paths, all_ends=True, key=False, ax=ax)
    for ax, name, about, run in zip(axes, names, _targets(opened), opened):
        lines = (f"{name}, step {int(run.steps[-1])}", about, (captions or {}).get(name))
        ax.set_title("\n".join(filter(None, lines)), fontsize=10, parse_math=False)
    if project.named == "against time":  # which is each flow's own
        limits = np.array([ax.get_xlim() for ax in axes])
        for ax in axes:
            ax.set_xlim(limits[:, 0].min(), limits[:, 1].max())
    else:
        share(axes, columns, None if project.axes == 3 else (project.labels[0], project.labels[1]))
    _join_labels(axes)
    legend(axes[0], alone=True)
    settle(figure, axes, columns, project)
    return figure


# Snapshots


def _class_colors(run: Run, color: str, lines: bool) -> dict[str, str]:
    """A colour for each class, if particles are coloured by it."""
    if color not in ("auto", "label", "none"):
        raise ValueError(f"color {color!r} is not one of auto, label, none")
    if color == "label" and lines:
        raise ValueError("color label needs points of two coordinates or more; histograms of one are of all classes")
    by_class = checked_color(run, color) == "label" and not lines
    return class_colors(levels(run.label, run.target_label)) if by_class else {}


def _draw_dots(run: Run, chosen: np.ndarray, project: Projection, colors: dict[str, str], axes: list[Axes]) -> None:
    shown, rows = spread(len(run.target), POINTS), spread(run.own, POINTS)
    among = 2 * max(len(shown), len(rows))  # panels are half as wide as others, and so are dots
    faint: Any = TARGET
    shade: Any = PARTICLES
    if colors and run.target_label is not None:
        faint = np.array([colors[name] for name in run.target_label[shown]])
    if colors and run.label is not None:
        shade = np.array([colors[name] for name in run.label[rows]])
    behind = project(run.target[shown])
    for ax, i in zip(axes, chosen):
        if len(behind):
            dots(ax, behind, faint, None if colors else f"target ({len(run.target)})", alpha=0.3, among=among)
        points = project(run.snapshot(i, rows), float(run.times[i]))
        dots(ax, points, shade, None if colors else f"particles ({run.total})", alpha=0.9, among=among)
    if colors:
        for text in [f"target ({len(run.target)}), faint"] * bool(len(behind)) + [f"particles ({run.total})"]:
            dots(axes[0], behind[:0], PATH, text, among=among)
        for name, value in colors.items():
            dots(axes[0], behind[:0], value, name, among=among)
    for ax in axes:
        dress(ax, run, project)


def _draw_histograms(run: Run, chosen: np.ndarray, axes: list[Axes]) -> None:
    """The densities of particles and target over the same bins."""
    target, clouds = run.target[:, 0], [run.snapshot(i)[:, 0] for i in chosen]
    limits = window([target, *clouds])
    bins = edges(target if len(target) else clouds[-1], limits)
    share = beyond([target, *clouds], limits)
    shown = [heights(cloud, bins) for cloud in clouds]
    behind = heights(target, bins)
    most = max(float(values.max()) for values in [behind, *shown])
    for ax, values in zip(axes, shown):
        if len(target):
            ax.stairs(behind, bins, fill=True, color=TARGET, alpha=0.35, label=f"target ({len(target)})")
        ax.stairs(values, bins, color=PARTICLES, linewidth=1.2, baseline=None, label=f"particles ({run.total})")
        ax.set_xlim(limits)
        ax.set_ylim(0, 1.05 * most)
        ax.set_xlabel(run.columns[0] + (f"\n({share:.1%} or less beyond)" if share else ""), parse_math=False)
        ax.set_ylabel("density (1 / data unit)")
        bare(ax)


# Several runs


def _names(runs: list[Run]) -> list[str]:
    """The folders' names, with as many folders above as tell them apart; numbers where nothing does."""
    parts = [run.path.resolve().parts[1:] if run.path else () for run in runs]
    for depth in (1, 2, 3):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names) and all(names):
            return names
    names = [run.name for run in runs]
    return [f"{name or 'run'} ({i + 1})" for i, name in enumerate(names)]


def _targets(runs: list[Run]) -> list[str]:
    """What to say of each target, if they are not all the same."""
    first = runs[0].target
    other = [not np.array_equal(run.target, first) for run in runs]
    if not any(other):
        return [""] * len(runs)
    said = [" ".join(filter(None, (short(run.spec.get("target", "")), f"({len(run.target)})"))) for run in runs]
    return [
        f"target {text}" + (", other rows" if differs and text == said[0] else "") for text, differs in zip(said, other)
    ]


def _join_labels(axes: list[Axes]) -> None:
    """Leaves out of the first panel's legend what does not hold for all, in brackets: the titles say it."""
    found = [ax.get_legend_handles_labels() for ax in axes]
    for handle, *labels in zip(found[0][0], *(labels for _, labels in found)):
        if len(set(labels)) > 1:
            handle.set_label(labels[0].partition(" (")[0])


def _listed(columns: list[str]) -> str:
    return ", ".join(columns[:4]) + (f", ... ({len(columns)} columns)" if len(columns) > 4 else "")
