"""Particles and target in characters, for a terminal: eight dots to each, in Braille."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from particles.plot.projection import Chosen, projection
from particles.run.arrays import read_growing
from particles.run.reader import Run

BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint8)
"""Which bit of a Braille character is the dot in row 0 to 3, column 0 or 1."""
EMPTY = 0x2800
PARTICLES, TARGET, PLAIN = "\x1b[38;5;166m", "\x1b[38;5;32m", "\x1b[0m"
"""The colours nearest to those of the roles in pictures, among the 256 of terminals."""
MOST = 5000
"""The most points of a cloud that are drawn."""


class View:
    """A run folder in characters, at its newest snapshot.

    Arguments:
        path: A run folder with one snapshot at least.
        chosen: How points of many columns are drawn; the first two coordinates of that are taken. One column is drawn as heaps.

    Raises:
        FileNotFoundError: If the folder is not a run's.
        ValueError: If there is no such projection.
    """

    def __init__(self, path: Path, chosen: Chosen = "auto"):
        self.path, run = path, Run.open(path)
        self.own = run.own
        self.heaps = len(run.columns) == 1
        self.project = projection(run, chosen)
        names = [run.columns[0]] if self.heaps else [name.split(" (")[0] for name in self.project.labels[:2]]
        self.names = [_printable(name) for name in names]
        self.aspect = None if self.heaps else self.project.aspect
        self.target = self._points(run.target)
        start = self._points(run.snapshot(0))
        self.box = _box([self.target, start])

    def _points(self, points: np.ndarray) -> np.ndarray:
        rows = points[:: max(1, len(points) // MOST)]
        return rows.astype(float) if self.heaps else self.project(rows)[:, :2]

    def draw(self, size: tuple[int, int], *, color: bool, braille: bool = True) -> list[str]:
        """The lines of the newest snapshot, and a legend under them.

        Arguments:
            size: The most columns and rows that there are.
            color: Whether particles and target are told apart by colour; otherwise the target is dotted where no particle is.
            braille: Whether there are Braille characters; otherwise ``o`` and ``.`` alone.
        """
        particles = self._points(read_growing(self.path / "trajectory.npy")[-1, : self.own])
        self.box = _box([particles, self.box])
        columns, rows = fit(self.box, self.aspect, (max(size[0], 10), max(size[1] - 1, 3)))
        clouds, box = [particles, self.target], self.box
        if self.heaps:
            clouds, box = heaps(clouds, self.box[:, 0], 2 * columns)
        lines = scatter(clouds[0], clouds[1], box, (columns, rows), color=color, braille=braille)
        return [*lines, self._legend(color, braille, size[0])]

    def _legend(self, color: bool, braille: bool, width: int) -> str:
        low, high = self.box
        ranges = ", ".join(f"{name} {a:.3g} to {b:.3g}" for name, a, b in zip(self.names, low, high))
        mark, faint = ("⣿", "·" if not color else "⣿") if braille else ("o", ".")
        text = f"{mark} particles  {faint} target  {ranges}"[:width]
        if color:
            text = text.replace(f"{mark} ", f"{PARTICLES}{mark}{PLAIN} ", 1)
            text = text.replace(f"  {faint} ", f"  {TARGET}{faint}{PLAIN} ", 1)
        return text


def scatter(
    particles: np.ndarray,
    target: np.ndarray,
    box: np.ndarray,
    size: tuple[int, int],
    *,
    color: bool,
    braille: bool = True,
) -> list[str]:
    """Two clouds as lines of characters.

    Arguments:
        particles: Points with shape (n, 2).
        target: Points with shape (m, 2).
        box: The lower left and the upper right corner, with shape (2, 2).
        size: The number of columns and rows.
        color: Whether they are told apart by colour; a character has that of the particles if one is in it.
        braille: Whether there are Braille characters.
    """
    ours, theirs = dots(particles, box, size), dots(target, box, size)
    lines = []
    for mine, other in zip(ours, theirs):
        line, last = "", PLAIN
        for a, b in zip(mine.tolist(), other.tolist()):
            mark, shade = _mark(a, b, color, braille), PARTICLES if a else TARGET if b else last
            line += (shade if color and shade != last else "") + mark
            last = shade
        lines.append(line.rstrip() + (PLAIN if color and last != PLAIN else ""))
    return lines


def _mark(ours: int, theirs: int, color: bool, braille: bool) -> str:
    if not ours and not theirs:
        return " "
    if not braille:
        return "o" if ours else "."
    if color:
        return chr(EMPTY + (ours | theirs))
    return chr(EMPTY + ours) if ours else "·"


def dots(points: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The bits of the characters, with shape (rows, columns); points outside the box, or not finite, are left out."""
    columns, rows = size
    found = np.zeros((rows, columns), np.uint8)
    points = points[np.isfinite(points).all(1) & (points >= box[0]).all(1) & (points <= box[1]).all(1)]
    place = (points - box[0]) / (box[1] - box[0])
    x = np.minimum((place[:, 0] * 2 * columns).astype(int), 2 * columns - 1)
    y = np.minimum(((1 - place[:, 1]) * 4 * rows).astype(int), 4 * rows - 1)
    np.bitwise_or.at(found, (y // 4, x // 2), BITS[y % 4, x % 2])
    return found


def fit(box: np.ndarray, aspect: float | None, most: tuple[int, int]) -> tuple[int, int]:
    """How many columns and rows the box fills, with units as long upwards as across; all of them without an ``aspect``."""
    if aspect is None:
        return most
    width, height = box[1] - box[0]
    scale = min(2 * most[0] / width, 4 * most[1] / (height * aspect))
    columns, rows = np.ceil([width * scale / 2 - 1e-9, height * aspect * scale / 4 - 1e-9]).astype(int)
    return int(np.clip(columns, 1, most[0])), int(np.clip(rows, 1, most[1]))


def heaps(clouds: Sequence[np.ndarray], span: np.ndarray, bins: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Numbers as points on top of each other, as high as there are parts of their cloud; and the box of all."""
    edges = np.linspace(float(span[0]), float(span[1]), bins + 1)
    found = []
    for cloud in clouds:
        values = np.sort(cloud[:, 0])
        place = np.clip(np.searchsorted(edges, values, "right") - 1, 0, bins - 1)
        rank = np.arange(len(values)) - np.searchsorted(place, place)
        found.append(np.stack((values, (rank + 0.5) / max(len(values), 1)), 1))
    top = max(points[:, 1].max() for points in found if len(points))
    return found, np.array([[span[0], 0.0], [span[1], top]])


def _box(clouds: Sequence[np.ndarray]) -> np.ndarray:
    """The corners of a box around all points, which has an extent."""
    points = np.concatenate(clouds)
    points = points[np.isfinite(points).all(1)]
    low, high = points.min(0), points.max(0)
    return np.stack((np.where(low < high, low, low - 0.5), np.where(low < high, high, high + 0.5)))


def _printable(name: str) -> str:
    """A name without the characters by which a file could steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
