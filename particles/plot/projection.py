"""From points of any dimension to the plane, or to space, by a map that has a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from particles.run.reader import Run

Chosen = str | Sequence[str] | Callable[[np.ndarray], np.ndarray]
"""``auto``, ``pca``, ``pca3``, names of two or three columns (or one text with commas between), or an encoder: a function from (n, d)
to (n, 2) or (n, 3), such as the ``encode`` of a latent."""


@dataclass(frozen=True)
class Projection:
    """A map of points, and of when they are there, to coordinates of a picture.

    Attributes:
        of: The map from (n, d) and times, one or n of them, to (n, ``axes``).
        labels: The names of the coordinates.
        aspect: The length of a unit of the second over that of the first, or ``None`` if they are of different kinds.
        named: In a few words, what the map is; empty if points are drawn as they are.
        flat: Whether the two coordinates are the columns themselves, so that a grid of the plane can be taken back to points.
    """

    of: Callable[[np.ndarray, np.ndarray | float], np.ndarray]
    labels: tuple[str, ...]
    aspect: float | None = 1.0
    named: str = ""
    flat: bool = False

    @property
    def axes(self) -> int:
        """How many coordinates there are: 2 or 3."""
        return len(self.labels)

    def __call__(self, points: np.ndarray, time: np.ndarray | float = 0.0) -> np.ndarray:
        return self.of(np.asarray(points), time)


def projection(run: Run, chosen: Chosen = "auto") -> Projection:
    """The map for a run's points.

    Points of one coordinate are drawn against time, of two and three as they are, and of more in the first two principal components of
    the target, in flow units, whose names say how much of its variance they keep.

    Arguments:
        run: Whose target the map is made for.
        chosen: See ``Chosen``; a projection, such as that of another run, is the answer itself.

    Raises:
        ValueError: If there are no such columns, or an encoder answers another shape.
    """
    dimension = len(run.columns)
    if isinstance(chosen, Projection):
        return chosen
    if callable(chosen):
        return _encoder(run, chosen)
    if chosen == "auto":
        if dimension == 1:
            name = run.columns[0]
            return Projection(_against_time, (name, "time"), None, "against time")
        if dimension <= 3:
            return _columns(run, list(range(dimension)))
        return _components(run, 2)
    if chosen in ("pca", "pca3"):
        count = 3 if chosen == "pca3" else 2
        if dimension < count:
            raise ValueError(f"projection {chosen} needs {count} columns at least; the run has {dimension}")
        return _components(run, count)
    names = _names(chosen, run.columns)
    return _columns(run, [run.columns.index(name) for name in names])


def _against_time(points: np.ndarray, time: np.ndarray | float) -> np.ndarray:
    return np.stack((points[:, 0], np.broadcast_to(time, len(points))), 1)


def _names(chosen: str | Sequence[str], columns: list[str]) -> list[str]:
    names = [name.strip() for name in chosen.split(",")] if isinstance(chosen, str) else list(chosen)
    for name in names:
        if name not in columns:
            known = ", ".join(columns[:8]) + (", ..." if len(columns) > 8 else "")
            raise ValueError(f"projection {name!r} is not a column; choose auto, pca, pca3, or two or three of {known}")
    if len(set(names)) != len(names) or len(names) not in (2, 3):
        raise ValueError(f"projection needs two or three different columns, not {', '.join(names)}")
    return names


def _columns(run: Run, chosen: list[int]) -> Projection:
    target, names = run.target, [run.columns[i] for i in chosen]
    if len(chosen) < len(run.columns):
        scaled = (target if len(target) else run.snapshot(-1)) / run.units
        whole = scaled.var(0).sum() or 1.0
        names = [f"{run.columns[i]} ({scaled[:, i].var() / whole:.0%} of the variance)" for i in chosen]
    aspect = float(run.units[chosen[0]] / run.units[chosen[1]])
    own = chosen == [0, 1] and len(run.columns) == 2
    return Projection(lambda x, t: x[:, chosen].astype(float), tuple(names), aspect, "" if own else "columns", own)


def _components(run: Run, count: int) -> Projection:
    reference = (run.target if len(run.target) > 1 else run.snapshot(-1)).astype(float)
    centre = reference.mean(0)
    _, scales, rows = np.linalg.svd((reference - centre) / run.units, full_matrices=False)
    rows = rows * np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(1)])[:, None]  # SVD leaves the signs open
    kept = np.zeros((count, reference.shape[1]))
    kept[: len(rows)] = rows[:count]  # two rows span a line alone
    share = np.append(np.square(scales) / (np.square(scales).sum() or 1.0), np.zeros(count))
    labels = tuple(f"principal component {i + 1} ({share[i]:.0%} of the variance)" for i in range(count))
    return Projection(lambda x, t: (x - centre) / run.units @ kept.T, labels, 1.0, "principal components of the target")


def _encoder(run: Run, encode: Callable[[np.ndarray], np.ndarray]) -> Projection:
    def of(points: np.ndarray, time: np.ndarray | float) -> np.ndarray:
        found = np.asarray(encode(points))
        if found.ndim != 2 or len(found) != len(points) or found.shape[1] not in (2, 3):
            raise ValueError(
                f"the encoder answers the shape {found.shape} to {points.shape}; (n, 2) or (n, 3) is needed"
            )
        return found

    count = of(run.snapshot(0, np.arange(1)), 0.0).shape[1]
    name = getattr(encode, "__name__", "encoder")
    return Projection(of, tuple(f"{name} {i + 1}" for i in range(count)), 1.0, name)
