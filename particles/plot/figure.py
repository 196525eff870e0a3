"""The first picture of a run: where particles came from, how they went, where they are, and the curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from particles.run.reader import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOURCE, TARGET, PARTICLES, HOLDOUT = (
    "#999999",
    "#0072B2",
    "#D55E00",
    "#009E73",
)  # Okabe and Ito's, safe for the colour-blind
PATHS = 100
POINTS = 3000


def figure(run: Run) -> Figure:
    """Source, target, end and some trajectories, beside the curves of the series.

    Points of more than two dimensions are shown in the first two principal components of the target.

    Arguments:
        run: What is shown.

    Returns:
        A figure, not shown and not saved.
    """
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = np.asarray(canvas.subfigures(1, 2, width_ratios=(1.15, 1)))
    _clouds(run, left.subplots())
    _curves(run, right.subplots(3, 1, sharex=True))
    spec = run.spec
    canvas.suptitle(
        f"{_short(spec['source'])} → {_short(spec['target'])}: {spec['divergence']}, L = {spec['lipschitz']:g}, "
        f"{int(run.steps[-1])} steps of {spec['step_size']:g}",
        fontsize=11,
    )
    return canvas


def _clouds(run: Run, ax: Axes) -> None:
    own = run.trajectory.shape[1] - run.carried
    project, names = _projection(run.target, run.columns)
    shown = _spread(own, POINTS)
    start, end = project(run.trajectory[0][shown]), project(run.trajectory[-1][shown])
    target = project(run.target[_spread(len(run.target), POINTS)])
    size = float(np.clip(3000 / max(len(target), len(end)), 3, 14))
    many = max(len(target), len(end)) > 1000

    def dots(points: np.ndarray, colour: str, alpha: float, label: str) -> None:
        ax.scatter(
            points[:, 0], points[:, 1], s=size, color=colour, alpha=alpha, label=label, rasterized=many, linewidths=0
        )

    dots(target, TARGET, 0.45, f"target ({len(run.target)})")
    dots(start, SOURCE, 0.6, f"source ({own})")
    for i in _spread(own, PATHS):
        path = project(np.asarray(run.trajectory[:, i]))
        ax.plot(*path.T, color="black", alpha=0.18, linewidth=0.6, zorder=1)
    dots(end, PARTICLES, 0.8, f"end (step {int(run.steps[-1])})")
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    if target.shape[1] == 2 and run.target.shape[1] > 1:
        ax.set_aspect("equal", adjustable="datalim")
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False, markerscale=1.8, handletextpad=0.2
    )
    ax.spines[["top", "right"]].set_visible(False)


def _curves(run: Run, axes: np.ndarray) -> None:
    series = run.series
    panels = [
        (["divergence"], "divergence", False, [PARTICLES]),
        (["kinetic_energy"], "kinetic energy", True, [PARTICLES]),
        (["w2", "w2_holdout"], "W2 (flow units)", False, [TARGET, HOLDOUT]),
    ]
    for ax, (columns, label, logarithmic, colours) in zip(axes, panels):
        for column, colour in zip(columns, colours):
            if column in series and (rows := series[["step", column]].dropna()).shape[0]:
                name = {"w2": "to target", "w2_holdout": "to held-out target"}.get(column)
                ax.plot(rows["step"], rows[column], color=colour, linewidth=1.2, label=name)
        if logarithmic and (series.get(columns[0], np.zeros(1)) > 0).any():
            ax.set_yscale("log")
        ax.set_ylabel(label)
        ax.spines[["top", "right"]].set_visible(False)
    if axes[-1].get_legend_handles_labels()[0]:
        axes[-1].legend(frameon=False)
    axes[-1].set_xlabel("step")


def _projection(target: np.ndarray, columns: list[str]):  # type: ignore[no-untyped-def]
    """A map of points to the plane, and the names of its axes with what they keep of the target's variance."""
    d = target.shape[1]
    if d == 1:
        return lambda x: np.concatenate((x, np.zeros_like(x)), 1), (columns[0], "")
    if d == 2:
        return lambda x: np.asarray(x), (columns[0], columns[1])
    centre = target.mean(0)
    _, scales, axes = np.linalg.svd(target - centre, full_matrices=False)
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]  # SVD leaves the signs open
    share = np.square(scales) / np.square(scales).sum()
    names = tuple(f"principal component {i + 1} ({share[i]:.0%} of the variance)" for i in range(2))
    return lambda x: (np.asarray(x) - centre) @ axes[:2].T, names


def _spread(count: int, most: int) -> np.ndarray:
    """At most ``most`` indices, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def _short(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]
