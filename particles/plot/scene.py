"""The picture of a run at any moment: what stays is drawn once, what moves is put in front of it."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.art3d import Line3DCollection

from particles.plot import style
from particles.plot.curves import STILL, curves
from particles.plot.paths import dress
from particles.plot.projection import Chosen, Projection, projection
from particles.plot.style import (
    PARTICLES,
    PATH,
    POINTS,
    SOURCE,
    TARGET,
    TIME,
    bare,
    class_colors,
    dots,
    legend,
    levels,
    spread,
)
from particles.run.reader import Run

TAILS = 100
"""The most particles that draw a tail."""
METRICS = ("w2_holdout", "w2", "divergence", "kinetic_energy")
"""What ``inset='auto'`` chooses from: the first that was measured at two steps at least."""


@dataclass(frozen=True)
class Moment:
    """Particles at a place between two snapshots.

    Attributes:
        points: The positions, with shape (m, d); between snapshots on the straight line.
        time: The flow time.
        step: The number of the step.
    """

    points: np.ndarray
    time: float
    step: float


def moment(run: Run, place: float, rows: np.ndarray) -> Moment:
    """Some particles at ``place``, a number of a snapshot, or one between two numbers."""
    first = int(place)
    share = place - first
    points = run.snapshot(first, rows).astype(float)
    if share:
        points = (1 - share) * points + share * run.snapshot(first + 1, rows)
    numbers = np.arange(len(run.times))
    return Moment(points, float(np.interp(place, numbers, run.times)), float(np.interp(place, numbers, run.steps)))


class Scene:
    """The picture of a run at any moment.

    Arguments:
        run: The run, with two snapshots at least.
        places: All moments that will be asked for, in order: numbers of snapshots, or between two of them.
        chosen: How points of many columns are drawn; see ``Chosen`` in ``particles.plot.projection``.
        color: ``time``, ``label`` or ``none``.
        inset: The column of the series that is drawn beneath, ``auto``, or ``None``.
        trail: The number of snapshots that a tail reaches back.
        pixels: The width and the height of the picture.
        dpi: The number of pixels to an inch, which says how large text is.
    """

    def __init__(
        self,
        run: Run,
        places: np.ndarray,
        *,
        chosen: Chosen,
        color: str,
        inset: str | None,
        trail: int,
        pixels: tuple[int, int],
        dpi: float,
    ):
        self.run, self.trail = run, trail
        self.stations = np.unique(places.astype(int))
        self.rows = spread(run.own, POINTS)
        self.by_time = color == "time"
        column = metric(run, inset)
        self.figure = Figure(figsize=(pixels[0] / dpi, pixels[1] / dpi), dpi=dpi, layout="constrained")
        self.canvas = FigureCanvasAgg(self.figure)
        ratios = [1.0] if column is None else [1.0, 0.2]
        grid = self.figure.add_gridspec(len(ratios), 1, height_ratios=ratios)
        one = len(run.columns) == 1 and chosen == "auto"
        self.project: Projection | None = None if one else projection(run, chosen)
        three = self.project is not None and self.project.axes == 3
        self.ax = self.figure.add_subplot(grid[0], projection="3d" if three else None)
        names = levels(run.label, run.target_label) if color == "label" else []
        colors = class_colors(names)
        self.moving: list[Any] = []
        self._strip(colors) if self.project is None else self._cloud(self.project, colors, places)
        if title := style.title(run):
            self.figure.suptitle(
                textwrap.fill(title, int(14 * self.figure.get_figwidth())), fontsize=9, parse_math=False
            )
        last = moment(run, len(run.times) - 1, self.rows[:1])
        self.clock = self.ax.set_title(_clock(last), loc="left", fontsize=9, color=PATH)
        self.ax.tick_params(labelsize=8)
        for axis in (self.ax.xaxis, self.ax.yaxis, getattr(self.ax, "zaxis", self.ax.xaxis)):
            axis.label.set_fontsize(8)
        legend(self.ax, alone=True)
        self.dot: Any = None
        if column is not None:
            self._curve(self.figure.add_subplot(grid[1]), column)
        self._settle()

    def _settle(self) -> None:
        """Lays everything out, and keeps what stays."""
        self.canvas.draw()
        self.figure.set_layout_engine("none")
        self.moving += [artist for artist in (self.clock, self.dot) if artist is not None]
        for artist in self.moving:
            artist.set_animated(True)
        self.canvas.draw()
        self.still = self.canvas.copy_from_bbox(self.figure.bbox)

    def colors(self) -> np.ndarray:
        """The colours of roles in the picture, with shape (k, 3), from 0 to 255."""
        found = [SOURCE, TARGET, PARTICLES, PATH]
        return np.round(255 * np.array([to_rgb(color) for color in found])).astype(np.uint8)

    def draw(self, place: float) -> np.ndarray:
        """The picture at ``place``, with shape (height, width, 3)."""
        now = moment(self.run, place, self.rows)
        if self.project is None:
            self._draw_strip(now)
        else:
            self._draw_cloud(self.project, now, place)
        self.clock.set_text(_clock(now))
        if self.dot is not None:
            steps, values = self.measured
            self.dot.set_data([now.step], [np.interp(now.step, steps, values, left=np.nan)])
        self.canvas.restore_region(self.still)
        for artist in self.moving:
            if hasattr(artist, "do_3d_projection"):
                artist.do_3d_projection()
            artist.axes.draw_artist(artist)
        return np.ascontiguousarray(np.asarray(self.canvas.buffer_rgba())[..., :3])

    # Points of two or three coordinates

    def _cloud(self, project: Projection, colors: dict[str, str], places: np.ndarray) -> None:
        run, ax = self.run, self.ax
        last = float(run.times[-1])
        shown = spread(len(run.target), POINTS)
        if len(run.target):
            behind = project(run.target[shown], last if project.aspect else 1.05 * (last or 1.0))
            of_class = colors and run.target_label is not None
            faint = np.array([colors[name] for name in run.target_label[shown]]) if of_class else TARGET  # type: ignore[index]
            dots(ax, behind, faint, "" if colors else f"target ({len(run.target)})", alpha=0.3, zorder=0)
            if colors:
                dots(ax, behind[:0], PATH, f"target ({len(run.target)}), faint", among=len(shown))
        start = project(run.snapshot(0, self.rows), float(run.times[0]))
        dots(ax, start, SOURCE, f"source ({run.total})", alpha=0.5, zorder=1)
        shade: Any = PARTICLES
        if colors and run.label is not None:
            shade = np.array([colors[name] for name in run.label[self.rows]])
        self.tails: Any = None
        if self.trail:
            self.tailed = spread(len(self.rows), TAILS)
            kind: Any = Line3DCollection if project.axes == 3 else LineCollection
            some = to_rgba_array(shade)[self.tailed] if colors else np.repeat(to_rgba_array(PATH), len(self.tailed), 0)
            self.tail_colors = some
            self.tails = kind(np.zeros((1, 2, project.axes)), linewidths=0.8, zorder=2)
            ax.add_collection(self.tails, autolim=False)
            self.moving.append(self.tails)
        name = f"particles ({run.total})"
        self.particles = dots(ax, start, shade, "" if colors else name, alpha=0.9, zorder=3)
        self.moving.append(self.particles)
        for label, value in colors.items():
            dots(ax, start[:0], value, label, among=len(self.rows))
        self.known: dict[int, np.ndarray] = {}
        corners = self._corners(project)
        ax.auto_scale_xyz(*corners.T) if project.axes == 3 else ax.update_datalim(corners)  # type: ignore[attr-defined]
        dress(ax, run, project)
        if project.axes != 3:
            ax.margins(0.03)

    def _corners(self, project: Projection) -> np.ndarray:
        """The box around all that will be drawn, of snapshots that are read one by one."""
        low, high = np.inf, -np.inf
        for i in np.unique(np.minimum(np.concatenate((self.stations, self.stations + 1)), len(self.run.times) - 1)):
            points = project(self.run.snapshot(i, self.rows), float(self.run.times[i]))
            low, high = np.minimum(low, points.min(0)), np.maximum(high, points.max(0))
        return np.stack((low, high))

    def _draw_cloud(self, project: Projection, now: Moment, place: float) -> None:
        points = project(now.points, now.time)
        if project.axes == 3:
            self.particles._offsets3d = tuple(points.T)  # what mplot3d has in place of set_offsets
        else:
            self.particles.set_offsets(points)
        if self.by_time:
            self.particles.set_facecolor(self._shade(now))
            self.particles.set_alpha(0.9)
        if self.tails is None:
            return
        before = self.stations[self.stations < place][-self.trail :]
        self.known = {i: self.known[i] if i in self.known else self._tail(project, i) for i in before.tolist()}
        way = np.stack([*self.known.values(), points[self.tailed]], 1)
        count = way.shape[1] - 1
        pieces = np.stack((way[:, :-1], way[:, 1:]), 2).reshape(-1, 2, project.axes)
        shade = np.repeat(self.tail_colors, count, 0)
        shade[:, 3] = np.tile(0.5 * (np.arange(self.trail - count, self.trail) + 1) / self.trail, len(way))
        self.tails.set_visible(count > 0)
        if count:
            self.tails.set_segments(pieces)
            self.tails.set_color(shade)

    def _shade(self, now: Moment) -> tuple[float, float, float, float]:
        first, last = float(self.run.times[0]), float(self.run.times[-1])
        return TIME((now.time - first) / ((last - first) or 1.0))

    def _tail(self, project: Projection, index: int) -> np.ndarray:
        return project(self.run.snapshot(index, self.rows[self.tailed]), float(self.run.times[index]))

    # Points of one coordinate: how many there are where

    def _strip(self, colors: dict[str, str]) -> None:
        run, ax = self.run, self.ax
        ends = [run.snapshot(0, self.rows)[:, 0], run.snapshot(-1, self.rows)[:, 0], run.target[:, 0]]
        low, high = np.inf, -np.inf
        for values in [*ends, *(run.snapshot(i, self.rows)[:, 0] for i in self.stations)]:
            if len(values):
                low, high = min(low, values.min()), max(high, values.max())
        pad = 0.02 * (high - low) or 0.5
        self.edges = np.linspace(low - pad, high + pad, int(np.clip(2 * len(ends[2]) ** 0.5, 20, 80)) + 1)
        heights = [self._density(values) for values in ends]
        ax.stairs(heights[2], self.edges, color=TARGET, fill=True, alpha=0.3, label=f"target ({len(ends[2])})")
        ax.stairs(heights[0], self.edges, color=SOURCE, linewidth=1.2, label=f"source ({run.total})")
        if colors and run.label is not None:
            self.classes = {name: run.label[self.rows] == name for name in colors}
            shades = colors
        else:
            name = f"particles ({run.total})"
            self.classes, shades = {name: np.ones(len(self.rows), bool)}, {name: PARTICLES}
        self.steps = [
            ax.stairs(
                heights[0],
                self.edges,
                color=shades[name],
                linewidth=1.8,
                label=f" {name}" if name.startswith("_") else name,
            )
            for name in shades
        ]
        self.moving += self.steps
        most = max(self._density(run.snapshot(i, self.rows)[:, 0]).max() for i in self.stations)
        top = min(most, 3 * max(heights[1].max(), heights[2].max()))  # many in one place would hide everything else
        top = max(top, heights[1].max(), heights[2].max())
        ax.set(
            xlim=self.edges[[0, -1]],
            ylim=(0, 1.15 * top),
        )
        ax.set_xlabel(run.columns[0], parse_math=False)
        ax.set_ylabel(f"density (1 / {run.columns[0]})", parse_math=False)
        bare(ax)

    def _density(self, values: np.ndarray) -> np.ndarray:
        counts, edges = np.histogram(values, self.edges)
        return counts / max(len(values), 1) / np.diff(edges)

    def _draw_strip(self, now: Moment) -> None:
        for patch, chosen in zip(self.steps, self.classes.values()):
            patch.set_data(self._density(now.points[chosen, 0]) * chosen.mean())
            if self.by_time:
                patch.set_edgecolor(self._shade(now))

    # What was measured on the way

    def _curve(self, ax: Axes, column: str) -> None:
        run = self.run
        curve = next((found for found in curves(run) if column in found.columns), None)
        rows = run.series[["step", column]].dropna()
        if curve is not None and curve.logarithmic and (rows[column] > STILL).any():
            rows = rows[rows[column] > STILL]
            ax.set_yscale("log")
        self.measured = rows["step"].to_numpy(), rows[column].to_numpy()
        name, color = (column.replace("_", " "), PARTICLES) if curve is None else curve.columns[column]
        ax.plot(*self.measured, color=color, linewidth=1.2)
        (self.dot,) = ax.plot(*(values[:1] for values in self.measured), "o", color=color, markersize=5, zorder=5)
        self.dot.set_clip_on(False)
        ax.set_xlabel("step", fontsize=8, labelpad=1)
        ax.set_ylabel(curve.text if curve is not None else name, fontsize=8)
        if curve is not None and name:
            ax.set_title(name, loc="right", fontsize=8, pad=2)
        ax.tick_params(labelsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if ax.get_yscale() == "linear":
            ax.yaxis.set_major_locator(MaxNLocator(3))
        bare(ax)


def metric(run: Run, inset: str | None) -> str | None:
    """The column of the series that is shown.

    Raises:
        ValueError: If it was not measured, or at other steps than those of the particles.
    """

    def rows(column: str) -> int:
        return int(run.series[column].notna().sum()) if column in run.series else 0

    if inset is None:
        return None
    if style.trains(run):
        if inset == "auto":
            return None
        raise ValueError(
            f"inset {inset}: the series of this run is that of its training, not of the particles; leave it out"
        )
    if inset == "auto":
        return next((column for column in METRICS if rows(column) > 1), None)
    if inset in ("step", "time") or not rows(inset):
        known = [column for column in run.series.columns if column not in ("step", "time") and rows(column)]
        raise ValueError(f"inset {inset!r} was not measured; choose one of {', '.join(known) or 'none'}")
    return inset


def _clock(now: Moment) -> str:
    return f"time {now.time:.3g}, step {now.step:.0f}"
