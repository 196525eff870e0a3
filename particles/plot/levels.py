"""What particles descend: level sets of the potential, and its downhill field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from particles.experiment.reopen import landscape
from particles.plot.curves import curves
from particles.plot.style import PARTICLES, PATH, POINTS, TARGET, as_run, dots, legend, levels, panel, spread
from particles.run.reader import Run

if TYPE_CHECKING:
    from pathlib import Path

HEIGHT = LinearSegmentedColormap.from_list(
    "height", ["#fef9ee", "#e9e3e5", "#d4cedc", "#bfb9d3", "#aaa5ca", "#9591c1", "#807eb8"]
)
"""From low to high in equal steps of CIELAB, light enough for the dots in front of it; colour-blind people and grey printers see the same."""
LEVELS = 14
ARROWS = 18
"""The number of arrows along the longer side."""
NARROWEST = 0.4
"""The shorter side of the picture over the longer one, at least."""
Function = Callable[[np.ndarray], np.ndarray]


def potential(
    run: Run | Path | str | np.ndarray,
    target: np.ndarray | None = None,
    *,
    at: float | None = None,
    phi: Function | None = None,
    gradient: Function | None = None,
    grid: int = 80,
    label: str | None = None,
    arrows: bool = True,
    key: bool = True,
    ax: Axes | None = None,
) -> Figure:
    r"""Level sets of the potential φ in the plane, the field −∇φ as arrows, the particles and the target.

    The potential of a step is the one that was fitted last on the way there: it drove the particles to where they are shown. It is brought back
    from the checkpoint, with all of the constant that φ may have added to it; nothing in the folder is touched. The flow ``proximal`` has a
    U(x, t), whose field is the velocity :math:`-\nabla U / \alpha`.

    Arrows are the velocity, which is drawn in the units of the data but is the steepest descent in flow units, in which the picture has
    its proportions; so arrows stand on level sets at right angles. Their lengths are to scale, and the one above the picture says which.

    Arguments:
        run: A run, its folder, or snapshots with shape (T, M, 2), which need a ``phi``.
        target: The target of snapshots, with shape (N, 2).
        at: The flow time, by default the end; any other one needs a run with ``--record`` (the snapshot nearest to it is shown, with the
            potential of its step) or of the flow ``proximal`` (U at that very time, particles at the nearest one).
        phi: A function from places (n, 2), in the units of the data, to values (n,), instead of the run's own potential.
        gradient: Its gradient, from (n, 2) to (n, 2); by default differences on the grid.
        grid: The number of grid points along the longer side.
        label: The class whose potential, particles and target are shown, where there are classes; the first by default.
        arrows: Whether the field is drawn.
        key: Whether there is a legend, and a bar for the values of φ.
        ax: Axes to draw on; new ones if there are none.

    Returns:
        The figure, not shown and not saved.

    Raises:
        ValueError: If something does not fit, naming it, or the run has no potential at that time.
        FileNotFoundError: If the folder is not a run's, or its data are not there any more.
    """
    run = as_run(run, target)
    _check(run, phi, gradient, grid)
    label = _class(run, label, every=phi is not None)
    shown = _own(run, phi, gradient, at, label)
    particles = _of_class(run.snapshot(shown.index), run.label, label)
    behind = _of_class(run.target, run.target_label, label)
    alone = ax is None
    x, y = _places(np.concatenate((particles, behind)), run.units, grid)
    field = shown.field(x, y)
    tall = (y[-1] - y[0]) / run.units[1] / ((x[-1] - x[0]) / run.units[0])
    figure, ax = panel(ax, size=(5.6, float(np.clip(4.2 * tall + 1.3, 2.9, 6.6))))
    if alone:
        figure.set_layout_engine("constrained", h_pad=0.1)  # the title, above the arrows' key, else touches the edge
    _draw_levels(ax, x, y, field.values, shown.name if key else None)
    if arrows:
        _draw_arrows(ax, x, y, field, run.units, shown)
    among = max(min(len(behind), POINTS), min(len(particles), POINTS))
    for cloud, color, name in ((behind, TARGET, "target"), (particles, PARTICLES, shown.particles)):
        if len(cloud):
            some = cloud[spread(len(cloud), POINTS)]
            drawn = dots(ax, some, color, f"{name} ({len(cloud)})", alpha=0.9, among=among, zorder=3)
            drawn.set(linewidth=0.25, edgecolor="white")  # so that they are seen on any height
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    ax.set_xlabel(run.columns[0], parse_math=False)
    ax.set_ylabel(run.columns[1], parse_math=False)
    ax.set_aspect(float(run.units[0] / run.units[1]), adjustable="box")  # in flow units
    title = ", ".join(filter(None, (shown.title, f"class {label}" * (label is not None))))
    ax.set_title(title, fontsize=10, pad=22 if arrows else 6, parse_math=False)  # the arrows' key is below it
    if key:
        legend(ax, alone=alone)
    return figure


@dataclass(frozen=True)
class _Field:
    """On a grid: values with shape (rows, columns), slopes and velocities in flow units with shape (rows, columns, 2)."""

    values: np.ndarray
    slopes: np.ndarray
    velocities: np.ndarray


@dataclass(frozen=True)
class _Shown:
    """The field of a picture and its words.

    Attributes:
        field: From the coordinates of a grid's columns and rows to what is there.
        index: The snapshot that belongs to it.
        title: Which potential it is.
        particles: What the legend calls the particles.
        name: What the bar calls the values, with their unit in brackets.
        arrow: What an arrow of some length, in flow units, is.
    """

    field: Callable[[np.ndarray, np.ndarray], _Field]
    index: int
    title: str
    particles: str
    name: str
    arrow: Callable[[_Field, float], str]


def _check(run: Run, phi: Function | None, gradient: Function | None, grid: int) -> None:
    if len(run.columns) != 2:
        raise ValueError(
            f"potential draws the plane, but there are {len(run.columns)} columns; take a run of 2, or another picture"
        )
    if phi is None and run.path is None:
        raise ValueError("phi is needed beside arrays: a function from places (n, 2) to values (n,)")
    if phi is None and gradient is not None:
        raise ValueError("gradient is that of a phi of your own; give phi too, or leave it out")
    if grid < 8:
        raise ValueError(f"grid must be at least 8 points, not {grid}")


def _class(run: Run, label: str | None, *, every: bool) -> str | None:
    """The class that is shown; ``None`` where there are none, or all of them are."""
    if run.label is None:
        if label is not None:
            raise ValueError(f"label {label!r} is no class of the particles, which have none; leave it out")
        if run.spec.get("label") is not None and not every:
            raise ValueError(
                "the run has classes, but is of an older version that did not keep those of its particles; repeat it"
            )
        return None
    names = levels(run.label, run.target_label)
    if label is None:
        return None if every else names[0]
    if str(label) not in names:
        raise ValueError(f"label {str(label)!r} is no class of the run; choose from {', '.join(names)}")
    return str(label)


def _of_class(points: np.ndarray, labels: np.ndarray | None, label: str | None) -> np.ndarray:
    return points if labels is None or label is None else points[labels[: len(points)] == label]


def _own(run: Run, phi: Function | None, gradient: Function | None, at: float | None, label: str | None) -> _Shown:
    """The run's own potential, or the given one."""
    index = len(run.times) - 1 if at is None else int(run.nearest([at])[0])
    when = f"time {run.times[index]:.4g}"
    if phi is not None:
        height = phi
        return _Shown(
            lambda x, y: _given(height, gradient, run.units, x, y),
            index,
            when if len(run.times) > 1 else "",
            "particles",
            "φ",
            lambda field, longest: f"largest slope {longest:.3g} {_per(run)}",
        )
    assert run.path is not None
    known = landscape(run.path, None if at is None else int(run.steps[index]), at)

    def field(x: np.ndarray, y: np.ndarray) -> _Field:
        value, slope, velocity = known(_nodes(x, y), label)
        shape = (len(y), len(x))
        return _Field(value.reshape(shape), slope.reshape(*shape, 2), velocity.reshape(*shape, 2))

    unit = next((curve.unit for curve in curves(run, ("divergence",))), "")
    if known.step is None:
        title, particles = f"U at time {known.time:.4g}", "particles"
        if abs(run.times[index] - known.time) > 1e-6 * max(run.times[-1], 1e-30):
            particles = f"particles at {when}"
        return _Shown(
            field, index, title, particles, f"U {unit}".strip(), lambda field, longest: _speed(run, field, longest)
        )
    if at is None:  # where the run is still going, or was cut off, its checkpoint is not at its last snapshot
        index = int(np.abs(run.steps - known.step).argmin())
    step = int(run.steps[index])
    particles = "particles" if step == known.step else f"particles at step {step}"
    title = f"potential of step {known.step}, time {run.times[index]:.4g}"
    if known.step == 0:
        title = "first potential, fitted to the source, time 0"
    return _Shown(field, index, title, particles, f"φ {unit}".strip(), lambda field, longest: _slope(run, longest))


def _given(phi: Function, gradient: Function | None, units: np.ndarray, x: np.ndarray, y: np.ndarray) -> _Field:
    places, shape = _nodes(x, y), (len(y), len(x))
    values = _answer("phi", phi, places, (len(places),)).reshape(shape)
    if not np.isfinite(values).any():
        raise ValueError("phi answers no finite number anywhere in the picture")
    if gradient is None:
        in_y, in_x = np.gradient(values, y, x, edge_order=2)
        slopes = np.stack((in_x, in_y), -1)
    else:
        slopes = _answer("gradient", gradient, places, places.shape).reshape(*shape, 2)
    return _Field(values, slopes * units, -slopes * units)


def _answer(name: str, function: Function, places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    found = np.asarray(function(places), dtype=float)
    if found.shape != shape:
        raise ValueError(f"{name} answers the shape {found.shape} to {places.shape}; {shape} is needed")
    return found


def _per(run: Run) -> str:
    return "per flow unit" if (run.units != 1).any() else "per unit of length"


def _slope(run: Run, longest: float) -> str:
    bound = next((curve.bound for curve in curves(run, ("max_gradient",))), None)
    return f"−∇φ, largest slope {longest:.3g} {_per(run)}" + (f" ({bound[1]})" if bound is not None else "")


def _speed(run: Run, field: _Field, longest: float) -> str:
    alpha, power = run.spec["alpha"], run.spec.get("power", 2.0)
    name = f"−∇U/α, α = {alpha:.3g}" if power == 2 else "velocity"
    return f"{name}, largest {longest:.3g} flow units / time"


def _places(points: np.ndarray, units: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates of the columns and of the rows of a grid about some points, as far apart in flow units."""
    scaled = points / units
    low, high = scaled.min(0), scaled.max(0)
    side = float((high - low).max()) or 1.0
    half = np.maximum((high - low) / 2 + 0.07 * side, NARROWEST * side / 2)
    step = 2 * half.max() / (grid - 1)
    middle = (low + high) / 2
    x, y = (
        (middle[i] + step * (np.arange(count := 1 + round(2 * half[i] / step)) - (count - 1) / 2)) * units[i]
        for i in range(2)
    )
    return x, y


def _nodes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The places of a grid, row by row, with shape (rows · columns, 2)."""
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


def _draw_levels(ax: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, name: str | None) -> None:
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    flat = high - low <= 1e-6 * max(abs(high), abs(low), 1e-30)
    heights = np.array([low - 0.5, high + 0.5]) if flat else MaxNLocator(LEVELS).tick_values(low, high)
    filled = ax.contourf(x, y, values, levels=heights, cmap=HEIGHT, zorder=0)
    filled.set_edgecolor("face")  # no hairlines between levels in vector files
    if not flat:
        ax.contour(x, y, values, levels=heights, colors="white", linewidths=0.5, linestyles="solid", zorder=1)
    if name is not None:
        bar = ax.figure.colorbar(filled, ax=ax, shrink=0.75, aspect=28, pad=0.02)
        bar.set_label(name)
        bar.outline.set_visible(False)  # type: ignore[operator]
        if flat:
            bar.set_ticks([(low + high) / 2])


def _draw_arrows(ax: Axes, x: np.ndarray, y: np.ndarray, field: _Field, units: np.ndarray, shown: _Shown) -> None:
    """Velocities at some grid points; the longest one as long as these are apart."""
    every = max(1, round(max(len(x), len(y)) / ARROWS))
    rows, columns = (slice((count - 1) % every // 2 + every // 2, None, every) for count in (len(y), len(x)))
    velocity = np.where(np.isfinite(field.velocities), field.velocities, 0.0)
    longest = float(np.sqrt(np.square(velocity).sum(-1)).max())
    rounding = 1e-12 * float(np.nanmax(np.abs(field.values))) / abs(float(x[-1] - x[0]) / units[0])
    if not float(np.nanmax(np.abs(field.slopes))) > rounding:
        return  # φ is flat
    apart = every * float(x[1] - x[0]) / units[0]
    drawn = ax.quiver(
        x[columns],
        y[rows],
        *np.moveaxis((velocity * units)[rows, columns], -1, 0),
        angles="xy",
        scale_units="xy",
        scale=longest / (0.95 * apart),
        pivot="mid",
        color=PATH,
        width=0.0028,
        headwidth=4,
        headlength=4.5,
        headaxislength=4,
        zorder=2,
    )
    look: dict[str, Any] = {"fontproperties": {"size": 8.5}, "labelsep": 0.06}
    text = shown.arrow(field, longest)
    tip = 0.95 * every / (len(x) - 1)
    ax.quiverkey(drawn, tip, 1.035, longest * float(units[0]), text, labelpos="E", coordinates="axes", **look)
