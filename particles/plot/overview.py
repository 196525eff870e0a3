"""The first picture of a run: where particles came from, how they went, where they are, and the curves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
STILL = 1e-30
"""The kinetic energy below which nothing moves, and nothing is drawn on a logarithmic axis."""
PATHS = 100
POINTS = 3000


def figure(run: Run) -> Figure:
    """Source, target, end and some trajectories, beside the curves of the series.

    Points of more than two dimensions are shown in the first two principal components of the target, in flow units.

    Arguments:
        run: What is shown.

    Returns:
        A figure, not shown and not saved.
    """
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = np.asarray(canvas.subfigures(1, 2, width_ratios=(1.15, 1)))
    draw_clouds(run, left.subplots())
    _curves(run, right.subplots(3, 1, sharex=True))
    spec = run.spec
    canvas.suptitle(
        f"{_short(spec['source'])} → {_short(spec['target'])}: {_method(spec)}, {_steps(run)}",
        fontsize=11,
    )
    return canvas


def draw_clouds(run: Run, ax: Axes, alone: bool = True) -> None:
    """Source, target, end and some trajectories in one panel, with a legend if it stands alone."""
    own = run.trajectory.shape[1] - run.carried
    project, names = _projection(run)
    shown, last = _spread(own, POINTS), float(run.times[-1]) or 1.0
    start, end = project(run.trajectory[0][shown], 0.0), project(run.trajectory[-1][shown], last)
    target = project(run.target[_spread(len(run.target), POINTS)], 1.05 * last)
    size = float(np.clip(3000 / max(len(target), len(end)), 3, 14))
    many = max(len(target), len(end)) > 1000

    def dots(points: np.ndarray, colour: str, alpha: float, label: str) -> None:
        ax.scatter(
            points[:, 0], points[:, 1], s=size, color=colour, alpha=alpha, label=label, rasterized=many, linewidths=0
        )

    dots(target, TARGET, 0.45, f"target ({len(run.target)})")
    dots(start, SOURCE, 0.6, f"source ({own})")
    for i in _spread(own, PATHS):
        path = project(np.asarray(run.trajectory[:, i]), run.times)
        ax.plot(*path.T, color="black", alpha=0.18, linewidth=0.6, zorder=1)
    dots(end, PARTICLES, 0.8, f"end (step {int(run.steps[-1])})")
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    if run.target.shape[1] > 1:
        flat = run.target.shape[1] == 2
        ax.set_aspect(
            run.units[0] / run.units[1] if flat else "equal", adjustable="datalim" if alone else "box"
        )  # in flow units
    if alone:
        ax.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False, markerscale=1.8, handletextpad=0.2
        )
    ax.spines[["top", "right"]].set_visible(False)


def _steps(run: Run) -> str:
    """How many steps, and of what."""
    spec = run.spec
    if spec.get("flow") == "proximal":
        trained = f", {int(run.series['step'].iloc[-1])} steps of training" if spec.get("solver") == "network" else ""
        return f"{int(run.steps[-1])} steps of {spec['horizon'] / spec['time_steps']:g}{trained}"
    return f"{int(run.steps[-1])} steps of {spec['step_size']:g}"


def _method(spec: dict[str, Any]) -> str:
    """What particles descended, in a few words."""
    flow = spec.get("flow", "lipschitz")
    bound = (
        "no bound"
        if spec["constraint"] == "none" and flow in ("lipschitz", "proximal")
        else f"L = {spec['lipschitz']:g}"
    )
    return {
        "lipschitz": f"{spec['divergence']}, {bound}",
        "transport": f"transport, {spec['divergence']}, {bound}",
        "w2": f"W2 loss, {spec.get('solver')}",
        "mmd": f"MMD, {spec.get('kernel')}",
        "kale": f"KALE, {spec.get('kernel')}",
        "proximal": f"W1 ⊕ W2 by {spec.get('solver')}, {spec['divergence']}, {bound}, α = {spec.get('alpha', 0):.3g}",
        "kernel": f"{spec.get('kernel')} kernel, {spec['divergence']}, {bound}",
    }[flow]


def _curves(run: Run, axes: np.ndarray) -> None:
    from matplotlib.ticker import NullFormatter

    series = run.series
    panels = [
        (["divergence"], "divergence", False, [PARTICLES]),
        (["kinetic_energy"], "kinetic energy", True, [PARTICLES]),
        (["w2", "w2_holdout"], "W2 (flow units)", False, [TARGET, HOLDOUT]),
    ]
    for ax, (columns, label, logarithmic, colours) in zip(axes, panels):
        for column, colour in zip(columns, colours):
            if column in series and (rows := series[["step", column]].dropna()).shape[0]:
                moving = rows[rows[column] > STILL]
                rows = moving if logarithmic and len(moving) else rows
                name = {"w2": "to target", "w2_holdout": "to held-out target"}.get(column)
                mark = "o" if len(rows) == 1 else ""
                ax.plot(rows["step"], rows[column], color=colour, linewidth=1.2, marker=mark, markersize=4, label=name)
        if logarithmic and (series.get(columns[0], np.zeros(1)) > STILL).any():
            ax.set_yscale("log")
            values = series[columns[0]][series[columns[0]] > STILL]
            if values.max() > 10 * values.min():
                ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_ylabel(label)
        ax.spines[["top", "right"]].set_visible(False)
    if axes[-1].get_legend_handles_labels()[0]:
        axes[-1].legend(frameon=False)
    trained = run.spec.get("flow") == "proximal" and run.spec.get("solver") == "network"
    axes[-1].set_xlabel("step of training" if trained else "step")


def _projection(run: Run) -> tuple[Callable[..., np.ndarray], tuple[str, str]]:
    """A map of points, and of when they are there, to the plane; and the names of its axes.

    A single column is drawn against time; more than two are drawn in the first two principal components of the target, in
    flow units, whose names say what they keep of its variance.
    """
    target, columns = run.target, run.columns
    if target.shape[1] == 1:
        return lambda x, t: np.stack((x[:, 0], np.broadcast_to(t, len(x))), 1), (columns[0], "time (target above)")
    if target.shape[1] == 2:
        return lambda x, t: np.asarray(x), (columns[0], columns[1])
    centre = target.mean(0)
    _, scales, axes = np.linalg.svd((target - centre) / run.units, full_matrices=False)
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]  # SVD leaves the signs open
    plane = np.zeros((2, target.shape[1]))
    plane[: len(axes)] = axes[:2]  # two target rows span a line alone
    share = np.append(np.square(scales) / np.square(scales).sum(), 0.0)
    first, second = (f"principal component {i + 1} ({share[i]:.0%} of the variance)" for i in range(2))
    return lambda x, t: (np.asarray(x) - centre) / run.units @ plane.T, (first, second)


def _spread(count: int, most: int) -> np.ndarray:
    """At most ``most`` indices, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def _short(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]
