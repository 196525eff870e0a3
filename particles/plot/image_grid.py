"""Particles that are images, each with the row of the target that is nearest to it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.spatial.distance import cdist

from particles.plot.style import PATH, as_run, levels, panel, spread
from particles.run.reader import Run

if TYPE_CHECKING:
    from pathlib import Path

SMALLEST = 4
"""The least side of a square that is taken for an image where nobody says so."""
CHUNK = 4096
"""The number of target rows that distances are taken to at once."""
YARDSTICK = 200
"""The number of rows on which it is measured how far fresh rows are from the target."""
BETWEEN, BENEATH, APART, NAMED = 0.1, 0.06, 0.2, 0.42
"""The gaps between images side by side, between lines of a block, between blocks, and between these where classes are named there; in
widths of an image."""


def images(
    run: Run | Path | str | np.ndarray,
    target: np.ndarray | None = None,
    *,
    at: float | None = None,
    times: Sequence[float] | np.ndarray | None = None,
    count: int | None = None,
    shape: Sequence[int] | None = None,
    nearest: bool = True,
    columns: int = 12,
    ax: Axes | None = None,
) -> Figure:
    """A grid of particles as images, beneath each the row of the target that is nearest to it, in flow units.

    Particles are evenly chosen, as many of each class as of the others where there are classes, and ordered by class. Constant columns of
    the table, which take no part in a flow, are put back. All images have the limits of the target: from its least to its largest
    value. Where most of that is empty, as with digits, high values are dark on white; else they are light, as in photographs.

    Arguments:
        run: A run, its folder, or snapshots with shape (T, M, d).
        target: The target of snapshots, with shape (N, d).
        at: The flow time, of which the nearest snapshot is drawn; by default the end.
        times: Several flow times instead, with a line of the same particles for each.
        count: The number of particles; by default two lines of them, of several times one.
        shape: Height and width in pixels, rows of pixels one after the other, or height, width and 3 for colours; by default as the columns are
            named (``pixel_0_1``), or a square.
        nearest: Whether the nearest rows of the target are shown, if there is a target; of several times those of the last one.
        columns: The most images side by side.
        ax: Axes to draw on; new ones if there are none.

    Returns:
        The figure, not shown and not saved.

    Raises:
        ValueError: If something does not fit, naming it, or the columns are no image.
        FileNotFoundError: If the folder is not a run's.
    """
    run = as_run(run, target)
    if at is not None and times is not None:
        raise ValueError("at is one time and times are several; give one of them")
    if times is not None and not len(times):
        raise ValueError("times needs at least one time")
    for name, number in (("count", 1 if count is None else count), ("columns", columns)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
    pixels = image_shape(run, shape)
    moments = [len(run.times) - 1] if at is None else run.nearest([at])
    moments = moments if times is None else run.nearest(times)
    count = (columns if times is not None else 2 * columns) if count is None else count
    rows = chosen(run, count)
    near = nearest and len(run.target) > 0
    lines = {_name(run, int(i), times is not None): run.snapshot(int(i), rows) for i in moments}
    caption = ""
    if near:
        last = next(reversed(lines.values()))
        index, distance = nearest_rows(last, run.target, run.units)
        lines["nearest\ntarget row"] = run.target[index]
        caption = _caption(run, float(np.median(distance)))
    across = min(columns, len(rows))
    blocks = [slice(i, i + across) for i in range(0, len(rows), across)]
    apart = APART if run.label is None else NAMED
    tall = len(blocks) * (len(lines) * (pixels[0] / pixels[1] + BENEATH) + apart)
    cell = float(np.clip(6.2 / across, 0.3, 1.1))
    figure, ax = panel(ax, size=(max(across * (1 + BETWEEN) * cell + 1.4, 4.0), tall * cell + 0.8))
    look = _look(run)
    y = 0.0 if run.label is not None else BENEATH - apart  # nothing stands above the first block
    ticks: list[float] = []
    for block in blocks:
        y += apart
        if run.label is not None:
            _draw_classes(ax, run.label[rows[block]], y)
        for points in lines.values():
            ticks.append(y + pixels[0] / pixels[1] / 2)
            _draw_line(ax, run.table(points[block]), pixels, y, look)
            y += pixels[0] / pixels[1] + BENEATH
    ax.set(xlim=(-BETWEEN, across * (1 + BETWEEN)), ylim=(y, -0.05), xticks=[], aspect="equal")
    ax.set_yticks(ticks, list(lines) * len(blocks), fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(_title(run, len(rows), [int(i) for i in moments], times is not None), fontsize=10)
    ax.set_xlabel(caption if across * cell > 5 else caption.replace(", ", "\n"), fontsize=8.5)
    return figure


def image_shape(run: Run, shape: Sequence[int] | None = None) -> tuple[int, ...]:
    """The height and width of the images that rows are, and 3 if they have colours.

    Arguments:
        run: Whose rows.
        shape: What it is taken to be; found out if ``None``.

    Raises:
        ValueError: If rows are no such image.
    """
    size = len(run.columns) + len(run.constant or {})
    older = (
        "; this run of an older version does not say which columns were constant and left out: bring it up to date "
        f"with particles simulate --resume {run.path}"
        if run.constant is None
        else ""
    )
    if shape is not None:
        given = tuple(int(side) for side in shape)
        if len(given) not in (2, 3) or min(given) < 1 or given[2:] not in ((), (1,), (3,)):
            raise ValueError(
                f"shape must be height and width, with 3 behind them for colours, not {' × '.join(map(str, given))}"
            )
        if math.prod(given) != size:
            raise ValueError(
                f"shape {' × '.join(map(str, given))} has {math.prod(given)} values, but rows have {size}{older}"
            )
        return given[:2] if given[2:] == (1,) else given
    named = _named(run, size)
    if named is not None:
        return named
    side = math.isqrt(size)
    if side * side != size or side < SMALLEST:
        raise ValueError(
            f"images needs rows that are images, and these of {size} column{'s' * (size != 1)} are no square of at least {SMALLEST} × "
            f"{SMALLEST} pixels; shape says what they are: height and width, and 3 for colours{older}"
        )
    return side, side


def _named(run: Run, size: int) -> tuple[int, int] | None:
    """The shape in which all columns are where their names say, ``pixel_0_1`` or ``1x2`` from 0 or from 1."""
    found = [re.search(r"(?<!\d)(\d+)[_x,](\d+)\D*$", name) for name in run.columns]
    if not all(found) or not found:
        return None
    places = np.array([[int(match[1]), int(match[2])] for match in found if match])
    table = np.delete(np.arange(size), list(run.constant or {}))
    for first in (0, 1):
        i, j = (places - first).T
        below = i > 0
        if min(i.min(), j.min()) < 0 or not below.any():
            continue
        width = int((table[below] - j[below])[0] // i[below][0])
        if width > j.max() and size % width == 0 and (i * width + j == table).all():
            return size // width, width
    return None


def chosen(run: Run, count: int) -> np.ndarray:
    """The numbers of evenly chosen particles, by class where there are classes, as many of each."""
    if run.label is None:
        return spread(run.own, min(count, run.own))
    own = run.label[: run.own]
    names = levels(own)
    shares = [count // len(names) + (i < count % len(names)) for i in range(len(names))]
    members = [np.flatnonzero(own == name) for name in names]
    return np.concatenate([some[spread(len(some), share)] for some, share in zip(members, shares)])


def nearest_rows(
    points: np.ndarray, target: np.ndarray, units: np.ndarray, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The target row that is nearest to each point in flow units, exactly, and how far it is.

    Arguments:
        points: The points, with shape (n, d).
        target: The rows, with shape (N, d).
        units: The length of a flow unit in each column's own, with shape (d,).
        among: For points that are target rows themselves, which ones: each is then no neighbour of its own. With shape (n,).
    """
    best, index = np.full(len(points), np.inf), np.zeros(len(points), dtype=int)
    for start in range(0, len(target), CHUNK):
        distance = cdist(points / units, target[start : start + CHUNK] / units)
        if among is not None:
            own = np.flatnonzero((among >= start) & (among < start + CHUNK))
            distance[own, among[own] - start] = np.inf
        here = distance.argmin(1)
        found = distance[np.arange(len(points)), here]
        closer = found < best
        best[closer], index[closer] = found[closer], start + here[closer]
    return index, best


def _caption(run: Run, near: float) -> str:
    """How far the nearest rows are, and how far those of fresh rows are: what copying would make small."""
    unit = " flow units" if (run.units != 1).any() else ""
    text = f"nearest target row: median distance {near:.3g}{unit}"
    if len(run.holdout):
        fresh = nearest_rows(run.holdout[spread(len(run.holdout), YARDSTICK)], run.target, run.units)[1]
        of = "of held-out rows"
    elif len(run.target) > 1:
        some = spread(len(run.target), YARDSTICK)
        fresh = nearest_rows(run.target[some], run.target, run.units, some)[1]
        of = "from one target row to the next"
    else:
        return text
    usual = float(np.median(fresh))
    return f"{text}, {near / usual:.2f} of that {of} (0: copies)" if usual else text


def _look(run: Run) -> dict[str, Any]:
    """The limits of the target, and whether high values are dark."""
    values = run.target if len(run.target) else run.snapshot(-1)
    rest = list((run.constant or {}).values())
    low, high = min([float(values.min()), *rest]), max([float(values.max()), *rest])
    some = run.table(values[spread(len(values), 1000)])
    empty = float(np.median(some)) <= low + 0.25 * (high - low)
    return {"vmin": low, "vmax": high if high > low else low + 1.0, "cmap": "gray_r" if empty else "gray"}


def _draw_line(ax: Axes, rows: np.ndarray, pixels: tuple[int, ...], y: float, look: dict[str, Any]) -> None:
    """Rows as images side by side, the first one's left edge at 0, with their upper edges at ``y``."""
    frames = []
    for i, row in enumerate(rows):
        left, tall = i * (1 + BETWEEN), pixels[0] / pixels[1]
        image = row.reshape(pixels)
        if len(pixels) == 3:
            image = ((image - look["vmin"]) / (look["vmax"] - look["vmin"])).clip(0, 1)
        ax.imshow(image, extent=(left, left + 1, y + tall, y), interpolation="nearest", **look)
        frames.append(Rectangle((left, y), 1, tall))
    ax.add_collection(PatchCollection(frames, facecolor="none", edgecolor="#bbbbbb", linewidth=0.5))


def _draw_classes(ax: Axes, names: np.ndarray, y: float) -> None:
    """The name of each class above the first of its images, whose upper edges are at ``y``."""
    for i, name in enumerate(names):
        if i == 0 or name != names[i - 1]:
            short = name if len(name) < 10 else f"{name[:9]}…"
            ax.text(i * (1 + BETWEEN), y - 0.06, short, fontsize=8, color=PATH, va="bottom", parse_math=False)


def _name(run: Run, index: int, several: bool) -> str:
    return f"time {run.times[index]:.3g}" if several else "particles"


def _title(run: Run, count: int, moments: list[int], several: bool) -> str:
    of = f"{count} of {run.total} particles" if count < run.total else f"{count} particle{'s' * (count != 1)}"
    if several or len(run.times) == 1:
        return of
    return f"{of}, step {int(run.steps[moments[0]])}, time {run.times[moments[0]]:.4g}"
