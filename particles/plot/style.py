"""What all pictures have in common: who has which colour, how dots and axes look, and the axes that there are."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from particles.run.reader import Run

SOURCE, TARGET, PARTICLES, HOLDOUT, PATH = "#999999", "#0072B2", "#D55E00", "#009E73", "#333333"
"""The colours of roles in all pictures, by Okabe and Ito: safe for the colour-blind."""
TIME = LinearSegmentedColormap.from_list("time", ["#bdbdbd", "#b97ca5", "#c2507a", "#d55e00"])
"""From the source's colour to the particles', ever darker or more saturated, so that it also reads in grey."""
CLASSES = (
    *("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255", "#999933", "#44AA99"),
    *("#661100", "#117733"),
)
"""The colours of classes, in order; after the last they begin again."""
RASTER = 10_000
"""The number of points above which dots become pixels in vector files."""
POINTS = 20_000
"""The most points of a cloud that are drawn, evenly chosen."""


def spread(count: int, most: int) -> np.ndarray:
    """At most ``most`` indices below ``count``, evenly spread, with the first and the last one."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def panel(ax: Axes | None, axes: int = 2, size: tuple[float, float] = (5.4, 4.8)) -> tuple[Figure, Axes]:
    """The axes to draw on, and their figure; new ones if there are none.

    Arguments:
        ax: Axes that are there, or ``None``.
        axes: How many coordinates are drawn: 2 or 3.
        size: The width and height of a new figure, in inches.

    Raises:
        ValueError: If ``ax`` has another number of coordinates.
    """
    if ax is None:
        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.add_subplot(projection="3d" if axes == 3 else None)
    if (ax.name == "3d") != (axes == 3):
        raise ValueError(
            f"ax has {3 if ax.name == '3d' else 2} coordinates, but {axes} are drawn; "
            + (
                "make it with projection='3d', or choose a projection to two"
                if axes == 3
                else "make it without projection='3d'"
            )
        )
    found = ax.get_figure(root=True)
    assert found is not None
    return found, ax


def dots(
    ax: Axes,
    points: np.ndarray,
    color: Any,
    label: str | None = None,
    *,
    alpha: float = 0.7,
    among: int = 0,
    **more: Any,
) -> Any:
    """Points as dots, the smaller the more there are; as pixels above ``RASTER`` of them.

    Arguments:
        ax: Where.
        points: The points, with shape (n, 2) or (n, 3).
        color: One colour, or one for each.
        label: What the legend says.
        alpha: How opaque they are.
        among: The number of points in the largest cloud of the picture, so that all have dots of one size.
    """
    count = max(len(points), among)
    size = float(np.clip(3000 / max(count, 1), 2, 14))
    more |= {"s": size, "c" if isinstance(color, np.ndarray) else "color": color}
    more |= {"depthshade": False} if ax.name == "3d" else {}
    label = f" {label}" if label and label.startswith("_") else label  # which legends would leave out
    return ax.scatter(*points.T, alpha=alpha, label=label, linewidths=0, rasterized=count > RASTER, **more)


def legend(ax: Axes, *, alone: bool) -> None:
    """A legend under the axes, or, where they are ``alone``, under the whole figure, so that nothing is cut off."""
    handles, labels = ax.get_legend_handles_labels()
    columns = 3 if len(labels) <= 6 else 5
    look: dict[str, Any] = {"ncols": columns, "frameon": False, "handletextpad": 0.3, "fontsize": 9}
    if alone:
        figure = ax.get_figure(root=True)
        assert figure is not None
        found = figure.legend(handles, labels, loc="outside lower center", **look)
    else:
        found = ax.legend(
            handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.05 if ax.name == "3d" else -0.13), **look
        )
    for text in found.get_texts():
        text.set_parse_math(False)  # the names of classes are no formulas
    for handle in found.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
        if isinstance(handle, PathCollection):
            handle.set_sizes([22.0])  # however small the dots are


def bare(ax: Axes) -> None:
    """Leaves out what of the frame says nothing."""
    if ax.name != "3d":
        ax.spines[["top", "right"]].set_visible(False)


def levels(*labels: np.ndarray | None) -> list[str]:
    """All classes that occur, in order; numbers as numbers."""
    found = {str(label) for some in labels if some is not None for label in some}

    def place(name: str) -> tuple[int, float, str]:
        try:
            return 0, float(name), name
        except ValueError:
            return 1, 0.0, name

    return sorted(found, key=place)


def class_colors(names: list[str]) -> dict[str, str]:
    """A colour for each class."""
    return {name: CLASSES[i % len(CLASSES)] for i, name in enumerate(names)}


def as_run(run: Run | str | Any, target: np.ndarray | None = None) -> Run:
    """What is drawn: a run, the folder of one, or a trajectory of shape (T, M, d) with its target.

    Raises:
        ValueError: If there is a target beside a run, which has its own, or shapes do not fit.
        FileNotFoundError: If the folder is not a run's.
    """
    if isinstance(run, np.ndarray):
        return Run.of(run, target)
    if target is not None:
        raise ValueError("a run has its own target; give one to a trajectory alone")
    return run if isinstance(run, Run) else Run.open(run)


def title(run: Run) -> str:
    """From where to where, by which method, in how many steps; the empty text for arrays."""
    spec = run.spec
    return f"{short(spec['source'])} → {short(spec['target'])}: {method(spec)}, {steps(run)}" if spec else ""


def steps(run: Run) -> str:
    """How many steps, and of what."""
    spec = run.spec
    if spec.get("flow") == "proximal":
        trained = f", {int(run.series['step'].iloc[-1])} steps of training" if spec.get("solver") == "network" else ""
        return f"{int(run.steps[-1])} steps of {spec['horizon'] / spec['time_steps']:g}{trained}"
    return f"{int(run.steps[-1])} steps of {spec['step_size']:g}"


def method(spec: dict[str, Any]) -> str:
    """What particles descended."""
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


def trains(run: Run) -> bool:
    """Whether the steps of the series are those of a training, and not those of the particles."""
    return run.spec.get("flow") == "proximal" and run.spec.get("solver") == "network"


def short(name: str) -> str:
    """A file's name without its folders."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]
