"""A run as an animation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from particles.files import replacing
from particles.plot import film
from particles.plot.paths import COLORS
from particles.plot.projection import Chosen
from particles.plot.scene import Scene
from particles.plot.style import as_run
from particles.run.reader import Run

SAMPLES = 8
"""The number of frames that the palette of a GIF is made from."""


FRAMES = 100_000
"""The most frames of an animation: hours."""


@dataclass(frozen=True)
class Movie:
    """An animation that was written.

    Attributes:
        path: The file.
        frames: How many different moments it shows.
        seconds: How long it is, with the last frame.
        bytes: How large it is.
    """

    path: Path
    frames: int
    seconds: float
    bytes: int


def animate(
    run: Run | Path | str | np.ndarray,
    output: Path | str,
    target: np.ndarray | None = None,
    *,
    projection: Chosen = "auto",
    color: str = "auto",
    fps: float = 20,
    seconds: float = 8.0,
    smooth: bool = True,
    inset: str | None = "auto",
    trail: int = 8,
    size: tuple[float, float] = (4.8, 5.4),
    dpi: float = 100,
    loop: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Movie:
    """Writes the way of the particles from the source to the target as a GIF or an MP4.

    Frames are chosen evenly among the snapshots, from the first to the last, which is held for 1.5 seconds. Where there are more
    frames than snapshots, particles are drawn on the straight lines from snapshot to snapshot, as in ``trajectories``: where
    they were in between is not known. Frames are written one by one, and snapshots read one by one, so memory does not grow
    with their number. Points of one column are shown by their density, a histogram.

    Arguments:
        run: A run, its folder, or snapshots with shape (T, M, d).
        output: The file, which is replaced at one stroke: ``.gif``, or ``.mp4`` where there is ffmpeg.
        target: The target of snapshots, with shape (N, d).
        projection: How points of many columns are drawn; see ``Chosen`` in ``particles.plot.projection``.
        color: Of particles: by ``label`` (the class), by ``time`` or ``none``; ``auto`` is by class where there are classes.
        fps: The number of frames a second; of a GIF at most 50.
        seconds: How long the way takes.
        smooth: Whether particles are drawn between snapshots; otherwise at the last one that is reached.
        inset: The column of the series that is drawn beneath, ``auto`` for the distance to the held-out target or the best that
            there is, or ``None``.
        trail: The number of snapshots that the tails of at most 100 particles reach back; 0 for none.
        size: The width and the height, in inches.
        dpi: The number of pixels to an inch; width and height are rounded to even numbers of them.
        loop: How many times a GIF is repeated; 0 is for ever.
        progress: Called with the number of frames that are written, and of all.

    Returns:
        What was written.

    Raises:
        ValueError: If something does not fit, naming it, or there is no ffmpeg for an MP4; nothing is written then.
        FileNotFoundError: If the folder is not a run's.
        OSError: If the file cannot be written.
    """
    run, output = as_run(run, target), Path(output)
    kind = output.suffix.lower()
    if kind not in (".gif", ".mp4"):
        raise ValueError(f"an animation is a .gif or a .mp4 file, not {output.name}")
    color = _color(run, color)
    _check(run, kind, fps, seconds, trail, loop)
    program = film.ffmpeg() if kind == ".mp4" else ""
    places = _places(len(run.times), max(2, round(seconds * fps)), smooth)
    pixels = _even(size[0] * dpi), _even(size[1] * dpi)
    scene = Scene(run, places, chosen=projection, color=color, inset=inset, trail=trail, pixels=pixels, dpi=dpi)
    done = progress or (lambda count, of: None)
    with replacing(output) as draft:
        if kind == ".gif":
            _gif(scene, places, draft, fps, loop, done)
        else:
            _mp4(scene, places, draft, fps, program, pixels, done)
        written = draft.stat().st_size
    shown = (len(places) - 1) / fps + film.HOLD
    return Movie(output, len(places), shown, written)


def _gif(
    scene: Scene, places: np.ndarray, draft: Path, fps: float, loop: int, done: Callable[[int, int], None]
) -> None:
    some = places[np.linspace(0, len(places) - 1, SAMPLES).astype(int)]
    with open(draft, "wb") as file:
        gif = film.Gif(file, (scene.draw(place) for place in some), scene.colors(), loop)
        for i, (place, duration) in enumerate(zip(places, film.durations(len(places), fps))):
            gif.add(scene.draw(place), duration)
            done(i + 1, len(places))
        gif.close()


def _mp4(
    scene: Scene,
    places: np.ndarray,
    draft: Path,
    fps: float,
    program: str,
    pixels: tuple[int, int],
    done: Callable[[int, int], None],
) -> None:
    with film.Mp4(draft, program, pixels, fps) as mp4:
        for i, place in enumerate(places):
            frame = scene.draw(place)
            mp4.add(frame)
            done(i + 1, len(places))
        for _ in range(round(film.HOLD * fps) - 1):
            mp4.add(frame)
        mp4.close()


def _places(snapshots: int, frames: int, smooth: bool) -> np.ndarray:
    """The numbers of the snapshots that are shown, evenly; between two of them only if ``smooth``, and if there are too few."""
    places = np.linspace(0, snapshots - 1, frames)
    if frames <= snapshots:
        return places.round()
    return places if smooth else np.floor(places)


def _even(length: float) -> int:
    return max(2, 2 * round(length / 2))


def _color(run: Run, color: str) -> str:
    if color not in COLORS:
        raise ValueError(f"color {color!r} is not one of {', '.join(COLORS)}")
    if color == "label" and run.label is None:
        raise ValueError("color label needs particles with classes, and these have none; choose time or none")
    return ("none" if run.label is None else "label") if color == "auto" else color


def _check(run: Run, kind: str, fps: float, seconds: float, trail: int, loop: int) -> None:
    if len(run.times) < 2:
        raise ValueError("an animation needs two snapshots at least, and there is one")
    for name, value in {"fps": fps, "seconds": seconds}.items():
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be above 0, not {value:g}")
    if fps < film.SLOWEST:
        raise ValueError(f"fps must be at least {film.SLOWEST:g}, not {fps:g}")
    if seconds * fps > FRAMES:
        raise ValueError(
            f"seconds · fps is {seconds * fps:g} frames, and at most {FRAMES} are drawn; choose fewer seconds"
        )
    if kind == ".gif" and fps > film.FASTEST:
        raise ValueError(f"fps of a GIF is at most {film.FASTEST:g}, not {fps:g}; choose fewer, or an .mp4 file")
    for name, value in {"trail": trail, "loop": loop}.items():
        if value < 0:
            raise ValueError(f"{name} must be at least 0, not {value}")
