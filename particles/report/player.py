"""What the player of a page needs of a run: positions at some snapshots, quantised, and what its rows are."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from particles.plot.bins import window
from particles.plot.image_grid import image_shape
from particles.plot.projection import Projection, projection
from particles.plot.style import PARTICLES, PATH, SOURCE, TARGET, class_colors, levels, spread
from particles.run.reader import Run

ROWS, FRAMES, TARGETS = 2000, 150, 2000
"""The most particles, snapshots and target points of a player."""
NUMBERS = 600_000
"""The most coordinates of a page, of all its runs; 2 bytes each."""
PIXELS = 400_000
"""The most pixels of the images of a page, of all its runs; 1 byte each."""
COLUMNS = 8
"""The number of columns whose values are told, of data with more than can be drawn as they are."""
ZOOM = 64
"""How many times larger than at first a player shows its points: the error of 16 bits is then half a pixel, where 1,000 are in view."""


@dataclass(frozen=True)
class Box:
    """What is mapped to [0, 1] in each coordinate.

    Attributes:
        low: The lower corner, with shape (axes,).
        high: The upper one.
    """

    low: np.ndarray
    high: np.ndarray

    def encode(self, points: np.ndarray, kind: str) -> str:
        """Points with shape (..., axes) as text: ``u2``, 16 bits for [0, 1], or ``f4``, for points outside too."""
        part = (points - self.low) / (self.high - self.low)
        if kind == "u2":
            part = np.rint(np.clip(part, 0, 1) * 65535)
        return packed(part, kind)

    def decode(self, text: str, kind: str) -> np.ndarray:
        """Such points, with shape (n, axes), as a player sees them."""
        part = np.frombuffer(base64.b64decode(text), f"<{kind}").astype(float) / (65535 if kind == "u2" else 1)
        found: np.ndarray = self.low + part.reshape(-1, len(self.low)) * (self.high - self.low)
        return found


def packed(values: np.ndarray, kind: str) -> str:
    """Numbers as text: little-endian, in base 64."""
    return base64.b64encode(np.ascontiguousarray(values, f"<{kind}").tobytes()).decode()


def players(runs: list[Run]) -> list[dict[str, Any]]:
    """All that players need, in values of JSON; runs with the same columns are drawn by one projection, on the same axes.

    Positions are in the coordinates of ``particles.plot.projection``, with 16 bits each: off by less than a 131,000th of the width of what is
    in view at first. Where a few points are so far away that they are not in view at first, they have 32 bits.

    Arguments:
        runs: The runs that share a page, and its size.
    """
    alike = all(run.columns == runs[0].columns for run in runs)
    scenes = [_scene(run, projection(runs[0] if alike else run), len(runs)) for run in runs]
    boxes = [fitted(scene.corners, scene.extent) for scene in scenes]
    if alike:
        boxes = [Box(np.min([box.low for box in boxes], 0), np.max([box.high for box in boxes], 0))] * len(runs)
    return [_packed_scene(scene, box) for scene, box in zip(scenes, boxes)]


@dataclass(frozen=True)
class _Scene:
    """What is drawn of a run: numbers of particles, snapshots and target rows, and where they are."""

    run: Run
    project: Projection
    shape: tuple[int, ...] | None
    rows: np.ndarray
    frames: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    target: np.ndarray

    @property
    def corners(self) -> list[np.ndarray]:
        """The clouds that a view has to show: each may be far from the others, but for it to be in view."""
        return [self.positions[0], self.positions[len(self.frames) // 2], self.positions[-1], self.target]

    @property
    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest coordinates of all."""
        ends = [(cloud.min(0), cloud.max(0)) for cloud in (*self.positions, self.target) if len(cloud)]
        return np.min([low for low, _ in ends], 0), np.max([high for _, high in ends], 0)


def _scene(run: Run, project: Projection, among: int) -> _Scene:
    shape = pixels(run)
    most = ROWS if shape is None else max(50, min(ROWS, PIXELS // among // math.prod(shape)))
    rows = spread(run.own, most)
    frames = spread(len(run.steps), max(2, min(FRAMES, NUMBERS // among // (len(rows) * project.axes))))
    targets = spread(len(run.target), TARGETS)
    positions = np.stack([project(run.snapshot(i, rows), float(run.times[i])) for i in frames])
    beyond = 1.05 * (float(run.times[-1]) or 1.0)  # of one coordinate, drawn against time
    target = project(run.target[targets], beyond) if len(targets) else np.empty((0, project.axes))
    return _Scene(run, project, shape, rows, frames, targets, positions, target)


def _packed_scene(scene: _Scene, box: Box) -> dict[str, Any]:
    run, project, rows = scene.run, scene.project, scene.rows
    kind = kind_of([*scene.positions, scene.target], box)
    found: dict[str, Any] = {
        "axes": project.axes,
        "labels": list(project.labels),
        "alike": project.axes == 3 or project.aspect is not None,
        "scale": _scale(run, project, box),
        "steps": run.steps[scene.frames].tolist(),
        "times": run.times[scene.frames].tolist(),
        "snapshots": len(run.steps),
        "own": run.total,
        "rows": (rows if run.rows is None else run.rows[rows]).tolist(),
        "kind": kind,
        "low": box.low.tolist(),
        "high": box.high.tolist(),
        "positions": box.encode(scene.positions, kind),
        "target": box.encode(scene.target, kind),
        "columns": list(run.columns[:COLUMNS]),
        "dimension": len(run.columns),
        "drawn": len(run.columns) <= 3,
        "colors": {"source": SOURCE, "target": TARGET, "particles": PARTICLES, "path": PATH},
        "classes": _classes(run, rows, scene.targets),
    }
    if not found["drawn"]:
        end = run.snapshot(len(run.steps) - 1, rows)
        found["ends"] = packed(end[:, :COLUMNS], "f4")
        if scene.shape is not None:
            found["images"] = _images(run, end, scene.shape)
    return found


def fitted(clouds: list[np.ndarray], extent: tuple[np.ndarray, np.ndarray]) -> Box:
    """A box around all points, whose lowest and highest coordinates are ``extent``, or around most of each cloud, where a few are far away."""
    limits = np.array([window([cloud[:, i] for cloud in clouds]) for i in range(clouds[0].shape[1])])
    low, high = np.minimum(limits[:, 0], extent[0]), np.maximum(limits[:, 1], extent[1])
    near = high - low <= 2 * (limits[:, 1] - limits[:, 0])
    return Box(np.where(near, low, limits[:, 0]), np.where(near, high, limits[:, 1]))


def kind_of(clouds: list[np.ndarray], box: Box) -> str:
    """``u2`` if all points are in the box, else ``f4``."""
    within = all(((cloud >= box.low) & (cloud <= box.high)).all() for cloud in clouds)
    return "u2" if within else "f4"


def pixels(run: Run) -> tuple[int, ...] | None:
    """The height and width of the images that rows are, and 3 if they have colours; ``None`` if they do not look like images.

    They do where their number makes a square, or their names say so, and nearly all of them have the same smallest value, as black has.
    """
    try:
        shape = image_shape(run)
    except ValueError:
        return None
    if not len(run.target):
        return None
    table = run.table(run.target)
    least = np.rint(1000 * (table.min(0) - table.min()) / (np.ptp(table) or 1.0))  # but for rounding
    _, counts = np.unique(least, return_counts=True)
    return shape if counts.max() >= 0.9 * counts.sum() else None


def _images(run: Run, points: np.ndarray, shape: tuple[int, ...]) -> dict[str, Any]:
    """Rows as brightness from 0 to 255, between the extremes of the target, dark on white where the target is mostly low."""
    target = run.table(run.target)
    low, high = float(target.min()), float(target.max())
    part = np.clip((run.table(points) - low) / ((high - low) or 1.0), 0, 1)
    inverted = shape[2:] == () and np.median(target) <= low + 0.25 * (high - low)
    return {
        "height": shape[0],
        "width": shape[1],
        "colors": shape[2:] == (3,),
        "bytes": packed(np.rint(255 * (1 - part if inverted else part)), "u1"),
    }


def _scale(run: Run, project: Projection, box: Box) -> list[float]:
    """By what each coordinate is multiplied, so that lengths in different directions can be compared, or fill the picture."""
    if project.axes == 3:
        return (1 / run.units[:3]).tolist()  # type: ignore[no-any-return]
    if project.aspect is None:
        return (1 / (box.high - box.low)).tolist()  # type: ignore[no-any-return]
    return [1.0, project.aspect]


def _classes(run: Run, rows: np.ndarray, targets: np.ndarray) -> dict[str, Any] | None:
    if run.label is None:
        return None
    names = levels(run.label, run.target_label)
    place = {name: i for i, name in enumerate(names)}
    return {
        "names": names,
        "colors": list(class_colors(names).values()),
        "particles": [place[str(name)] for name in run.label[rows]],
        "target": [] if run.target_label is None else [place[str(name)] for name in run.target_label[targets]],
    }
