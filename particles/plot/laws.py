"""Laws beside laws: densities with their marginals, and tails."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from particles.plot.bins import CELLS, bandwidth, beyond, edges, heights, level, surface, window
from particles.plot.projection import Chosen, Projection
from particles.plot.projection import projection as make_projection
from particles.plot.style import HOLDOUT, PARTICLES, RASTER, SOURCE, TARGET, as_run, bare, panel
from particles.run.reader import Run

SHARES = (0.9, 0.6, 0.3)
"""The shares of a law within its contours, from the outermost."""
FILL = LinearSegmentedColormap.from_list("target", ["#dbe9f4", "#9fc6e2", "#4c97c9"])
"""Shades of the target's colour, light enough for lines in front."""


def density(
    run: Run | Path | str | np.ndarray,
    target: np.ndarray | None = None,
    *,
    at: float | None = None,
    projection: Chosen = "auto",
    key: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Particles against the target: regions that hold 90, 60 and 30% of each law, and both marginals.

    The target is filled, the particles are lines; the held-out target, where there is one, is in the marginals. Both are smoothed by one
    kernel, the wider one of those that suit them, and have the same bins. Points of one coordinate have one panel. An axis that would be
    ruled by outliers leaves about 1% of each cloud out, and says so.

    Arguments:
        run: A run, its folder, or snapshots with shape (T, M, d).
        target: The target of snapshots, with shape (N, d).
        at: The flow time, of which the nearest snapshot is drawn; by default the end.
        projection: How points of many columns are drawn; see ``Chosen`` in ``particles.plot.projection``. By default those of
            three columns too are drawn in two principal components.
        key: Whether there is a legend.
        ax: Axes to draw on, whose upper and right edges have the marginals outside; new ones if there are none.

    Returns:
        The figure, not shown and not saved.

    Raises:
        ValueError: If something does not fit, naming it.
        FileNotFoundError: If the folder is not a run's.
    """
    run = as_run(run, target)
    index = len(run.times) - 1 if at is None else int(run.nearest([at])[0])
    project = make_projection(run, "pca" if len(run.columns) == 3 and projection == "auto" else projection)
    if project.axes != 2:
        raise ValueError("density draws two coordinates, and the projection has three; choose pca, or two columns")
    alone = ax is None
    figure, ax = panel(ax, size=(5.4, 4.0 if project.named == "against time" else 5.4))
    time = float(run.times[index])
    clouds = {
        "target": project(run.target),
        "held-out target": project(run.holdout),
        "particles": project(run.snapshot(index), time),
    }
    clouds = {name: cloud for name, cloud in clouds.items() if len(cloud)}
    if project.named == "against time":
        _draw_line(run, {name: cloud[:, 0] for name, cloud in clouds.items()}, ax)
        shown = ax
    else:
        shown = _draw_plane(clouds, project, ax)
        if alone:
            (low, high), (bottom, top) = ax.get_xlim(), ax.get_ylim()
            figure.set_size_inches(5.4, 1.5 + 4.5 * min((top - bottom) / (high - low) * (project.aspect or 1.0), 1.3))
    shown.set_title(f"step {int(run.steps[index])}, time {time:.3g}", fontsize=10)
    if key:
        _legend(clouds, figure if alone else ax, lines=project.named != "against time")
    return figure


COLORS = {"source": SOURCE, "target": TARGET, "held-out target": HOLDOUT, "particles": PARTICLES}


def _draw_line(run: Run, clouds: dict[str, np.ndarray], ax: Axes) -> None:
    """The densities of clouds of numbers over common bins."""
    limits = window(list(clouds.values()))
    _steps(clouds, limits, ax)
    ax.set_xlim(limits)
    ax.set_xlabel(_noted(run.columns[0], list(clouds.values()), limits), parse_math=False)
    ax.set_ylabel("density (1 / data unit)")
    bare(ax)


def _draw_plane(clouds: dict[str, np.ndarray], project: Projection, ax: Axes) -> Axes:
    """Contours of target and particles, and the marginals beside them; the axes on top are returned."""
    width = np.max([bandwidth(clouds[name]) for name in ("target", "particles") if name in clouds], axis=0)
    limits = _limits(list(clouds.values()), project.aspect or 1.0)
    limits = [
        (low - 1.5 * w, high + 1.5 * w) for (low, high), w in zip(limits, width)
    ]  # contours lie around the points
    centres = [np.linspace(low, high, 2 * CELLS + 1)[1::2] for low, high in limits]
    if "target" in clouds:
        smooth = surface(clouds["target"], limits, width)
        ax.contourf(*centres, smooth.T, _levels(smooth, top=True), cmap=FILL, zorder=1)
    smooth = surface(clouds["particles"], limits, width)
    ax.contour(*centres, smooth.T, _levels(smooth), colors=PARTICLES, linewidths=(0.8, 1.0, 1.2), zorder=2)
    ax.set_xlim(limits[0])
    ax.set_ylim(limits[1])
    ax.set_aspect(project.aspect or 1.0, adjustable="box")
    for i, name in enumerate(project.labels):
        text = _noted(name, [cloud[:, i] for cloud in clouds.values()], limits[i])
        (ax.set_xlabel if i == 0 else ax.set_ylabel)(text, parse_math=False)
    top, right = ax.inset_axes((0, 1.02, 1, 0.22)), ax.inset_axes((1.02, 0, 0.22, 1))
    for side, i in ((top, 0), (right, 1)):
        _steps({name: cloud[:, i] for name, cloud in clouds.items()}, limits[i], side, sideways=i == 1)
        side.spines[["left", "bottom"]].set_visible(False)
        side.set_xticks([])
        side.set_yticks([])
        bare(side)
    top.set_xlim(limits[0])
    right.set_ylim(limits[1])
    return top


def _levels(smooth: np.ndarray, *, top: bool = False) -> np.ndarray:
    """The heights of the regions, ascending and all different, which contours need."""
    found = [level(smooth, share) for share in SHARES] + [float(smooth.max()) * 1.001] * top
    return np.maximum.accumulate(np.array(found) + np.arange(len(found)) * max(float(smooth.max()) * 1e-6, 1e-300))


def _limits(clouds: list[np.ndarray], aspect: float) -> list[tuple[float, float]]:
    """The limits of both axes, with the shorter one at least half as long as the other as it is drawn."""
    found = [window([cloud[:, i] for cloud in clouds]) for i in (0, 1)]
    scale = np.array([1.0, aspect])
    length = np.array([high - low for low, high in found]) * scale
    room = (np.maximum(length, length.max() / 2) - length) / scale / 2
    return [(low - more, high + more) for (low, high), more in zip(found, room)]


def _steps(clouds: dict[str, np.ndarray], limits: tuple[float, float], ax: Axes, *, sideways: bool = False) -> None:
    """Step functions of clouds over the bins that suit the target."""
    bins = edges(clouds.get("target", clouds["particles"]), limits)
    turned: Literal["horizontal", "vertical"] = "horizontal" if sideways else "vertical"
    for name, cloud in clouds.items():
        values, color = heights(cloud, bins), COLORS[name]
        if name != "held-out target":
            ax.stairs(values, bins, fill=True, color=color, alpha=0.3, orientation=turned, linewidth=0)
        ax.stairs(values, bins, color=color, linewidth=1.1, orientation=turned, label=name, baseline=None)
    (ax.set_xlim if sideways else ax.set_ylim)(0, None)


def _noted(name: str, clouds: list[np.ndarray], limits: tuple[float, float]) -> str:
    """The name of an axis, and how much it leaves out."""
    share = beyond(clouds, limits)
    return f"{name}\n({share:.1%} or less of each lies beyond)" if share else name


def _legend(clouds: dict[str, np.ndarray], place: Figure | Axes, *, lines: bool) -> None:
    handles: list[Patch | Line2D] = []
    for name, cloud in clouds.items():
        text, color = f"{name} ({len(cloud)})", COLORS[name]
        if name == "held-out target" or (lines and name == "particles"):
            handles.append(Line2D([], [], color=color, label=text))
        else:
            handles.append(Patch(color=color, alpha=0.45, label=text))
    if isinstance(place, Figure):
        place.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    else:
        place.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False, fontsize=9
        )


def tails(
    run: Run | Path | str | np.ndarray,
    target: np.ndarray | None = None,
    *,
    column: str | None = None,
    key: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """How much of each law is farther out than r, for all r, on logarithmic axes: straight lines are power laws.

    r is the distance from the target's median: of a single or a chosen column in its own unit, of several in flow units from the point that
    is the median in each. Laws are source, target, held-out target and particles; there is a step at every point, so that of n points a
    share of (n - i) / n is above the i-th.

    Arguments:
        run: A run, its folder, or snapshots with shape (T, M, d), of which the first and the last are drawn.
        target: The target of snapshots, with shape (N, d).
        column: The name of the column; by default all together.
        key: Whether there is a legend.
        ax: Axes to draw on; new ones if there are none.

    Returns:
        The figure, not shown and not saved.

    Raises:
        ValueError: If there is no such column, or all points are at the median.
        FileNotFoundError: If the folder is not a run's.
    """
    run = as_run(run, target)
    if column is not None and column not in run.columns:
        known = ", ".join(run.columns[:8]) + (", ..." if len(run.columns) > 8 else "")
        raise ValueError(f"column {column!r} is not one of {known}")
    clouds = {
        "source": run.snapshot(0),
        "target": run.target,
        "held-out target": run.holdout,
        "particles": run.snapshot(-1),
    }
    reference = run.target if len(run.target) else clouds["particles"]
    single = column or (run.columns[0] if len(run.columns) == 1 else None)
    chosen = slice(None) if single is None else [run.columns.index(single)]
    units = run.units if single is None else np.ones(1)
    centre = np.median(reference[:, chosen], axis=0)
    far = {
        name: np.sort(np.linalg.norm((cloud[:, chosen] - centre) / units, axis=1).astype(float))
        for name, cloud in clouds.items()
        if len(cloud)
    }
    if not any(r[-1] > 0 for r in far.values()):
        raise ValueError("tails needs points that are not all at the target's median; these are")
    alone = ax is None
    figure, ax = panel(ax, size=(5.4, 4.2))
    for name, r in far.items():
        r = np.append(0.0, r)  # as much as all of it is farther out than where the axis begins
        above = np.arange(len(r) - 1, -1, -1) / (len(r) - 1)
        text = f"{name} ({len(r) - 1})"
        ax.plot(
            r, above, drawstyle="steps-post", color=COLORS[name], linewidth=1.3, label=text, rasterized=len(r) > RASTER
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    _frame(ax, np.concatenate([r[r > 0] for r in far.values()]))
    ax.set_ylim(0.6 / max(len(r) for r in far.values()), 1.3)
    ax.set_xlabel("r, distance from the target's median (flow units)" if single is None else "r (data units)")
    ax.set_ylabel("P(distance > r)" if single is None else f"P(|{single} − median of target| > r)", parse_math=False)
    bare(ax)
    if key:
        if alone:
            figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        else:
            ax.legend(frameon=False, fontsize=9, loc="lower left")
    return figure


def _frame(ax: Axes, distances: np.ndarray) -> None:
    """The limits of the axis of distances, and marks that can be read also where it is short."""
    low, high = min(np.quantile(distances, 0.05), distances.max() / 5), distances.max() * 1.3
    ax.set_xlim(low, high)
    short = high / low < 50
    ax.xaxis.set_minor_locator(LogLocator(subs=(2, 5) if short else "auto"))
    ax.xaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if short else NullFormatter())
    if short:
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
