"""Pictures after each other into a file: GIF by Pillow, MP4 by ffmpeg, a frame at a time."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from PIL import GifImagePlugin, Image
from scipy.spatial import cKDTree

HOLD = 1.5
"""For how long the last frame is shown, in seconds."""
SLOWEST = 0.1
"""The fewest frames a second: formats have bounds for how long one is shown."""
FASTEST = 50.0
"""The most frames a second in a GIF: programs show frames of less than 20 ms slowly."""
COLORS = 255
"""The number of colours in a GIF; one more stands for what has not changed."""


class Gif:
    """A GIF that is written as its frames come: of each, what has changed, in one palette for all.

    Arguments:
        file: Where to write.
        samples: Some frames, with shape (height, width, 3), whose colours the palette has to have.
        keep: Colours that the palette has exactly, with shape (k, 3).
        loop: How many times it is repeated; 0 is for ever.
    """

    def __init__(self, file: BinaryIO, samples: Iterable[np.ndarray], keep: np.ndarray, loop: int = 0):
        self.file, self.loop = file, loop
        self.colors = palette(samples, keep)
        self.nearest = _nearest(self.colors, len(_known(keep)))
        self.before: np.ndarray | None = None

    def add(self, frame: np.ndarray, duration: int) -> None:
        """Writes a frame, which is shown for so many hundredths of a second."""
        red, green, blue = (frame[..., i].astype(np.int32) >> 2 for i in range(3))
        found = self.nearest[red, green, blue]
        top, left, bottom, right = (0, 0, *found.shape) if self.before is None else _box(found != self.before)
        piece = found[top:bottom, left:right]
        more: dict[str, int] = {}
        if self.before is None:
            header, _ = GifImagePlugin.getheader(self._image(found), info={"loop": self.loop, "duration": 10})
            self._write(header)
        else:
            piece = np.where(piece == self.before[top:bottom, left:right], np.uint8(COLORS), piece)
            more["transparency"] = COLORS
        self._write(GifImagePlugin.getdata(self._image(piece), (left, top), duration=10 * duration, disposal=1, **more))
        self.before = found

    def _image(self, numbers: np.ndarray) -> Image.Image:
        image = Image.fromarray(np.ascontiguousarray(numbers))
        image.putpalette(self.colors.tobytes())
        return image

    def _write(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.file.write(piece)

    def close(self) -> None:
        """Writes the end of the file."""
        self.file.write(b";")


def palette(samples: Iterable[np.ndarray], keep: np.ndarray) -> np.ndarray:
    """256 colours with which some frames can be drawn, those of ``keep`` first; the last stands for what has not changed.

    Each colour counts once, however much of a picture it fills, for most of it is white.
    """
    found = np.unique(np.concatenate([np.unique(frame.reshape(-1, 3), axis=0) for frame in samples]), axis=0)
    known = _known(keep)
    room = COLORS - len(known)
    if len(found) > room:
        mixed = Image.fromarray(found[None]).quantize(room, Image.Quantize.MEDIANCUT).getpalette() or []
        found = np.array(mixed, np.uint8).reshape(-1, 3)[:room]
    colors = np.concatenate((known, found))
    return np.concatenate((colors, np.zeros((256 - len(colors), 3), np.uint8)))


def _known(keep: np.ndarray) -> np.ndarray:
    """The colours that a palette has to have, white first."""
    found = np.concatenate((np.array([[255, 255, 255], [0, 0, 0]]), keep)).astype(np.uint8)
    return found[np.sort(np.unique(found, axis=0, return_index=True)[1])]


def _nearest(colors: np.ndarray, known: int) -> np.ndarray:
    """The number of the nearest colour, by the upper six bits of red, green and blue; the ``known`` first ones are met."""
    middle = 4 * np.stack(np.meshgrid(*3 * [np.arange(64)], indexing="ij"), -1).reshape(-1, 3) + 1.5
    found = cKDTree(colors[:COLORS].astype(float)).query(middle)[1].astype(np.uint8).reshape(64, 64, 64)
    for number, color in reversed(list(enumerate(colors[:known] >> 2))):
        found[tuple(color)] = number
    return np.ascontiguousarray(found)


def _box(changed: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around what has changed, or a single pixel if nothing has."""
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    if not len(rows):
        return 0, 0, 1, 1
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def durations(frames: int, fps: float) -> list[int]:
    """How long frames are shown, in hundredths of a second, so that none is ever half of one late; the last is held."""
    ends = np.round(np.arange(1, frames + 1) * 100 / fps).astype(int)
    found = np.diff(ends, prepend=0).tolist()
    return [*found[:-1], round(100 * HOLD)]


class Mp4:
    """An MP4 (H.264) of frames that are piped to ffmpeg.

    Arguments:
        path: Where to write.
        program: The program, of ``ffmpeg``.
        size: The width and the height of frames, both even.
        fps: The number of frames a second.
    """

    def __init__(self, path: Path, program: str, size: tuple[int, int], fps: float):
        command = [program, "-hide_banner", "-loglevel", "error", "-y"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", f"{fps:g}", "-i", "-"]
        command += ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart"]
        command += ["-map_metadata", "-1", "-fflags", "+bitexact", "-f", "mp4", str(path)]
        self.path = path
        self.words = tempfile.TemporaryFile()  # noqa: SIM115, not a pipe, which nobody would empty while frames are written
        # In a session of its own: Ctrl-C is for us, and we end it.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self.words, start_new_session=True
        )

    def add(self, frame: np.ndarray) -> None:
        """Writes a frame with shape (height, width, 3).

        Raises:
            OSError: If ffmpeg has given up.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            raise self._failed() from None

    def close(self) -> None:
        """Waits until the file is complete.

        Raises:
            OSError: If ffmpeg has given up.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        if self.process.wait():
            raise self._failed()

    def _failed(self) -> OSError:
        self.process.wait()
        self.words.seek(0)
        said = self.words.read().decode(errors="replace").strip().splitlines()
        told = [line for line in said if self.path.name in line] or said[
            -1:
        ]  # newer versions end with words about no file
        return OSError(f"ffmpeg failed: {told[-1] if told else f'exit code {self.process.returncode}'}")

    def __enter__(self) -> Mp4:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.process.kill()
            self.process.wait()
        self.words.close()


def ffmpeg() -> str:
    """An ffmpeg that can write H.264: that on the PATH, else that of the package imageio-ffmpeg.

    Raises:
        ValueError: If there is none.
    """
    found = [program for program in (shutil.which("ffmpeg"), _bundled()) if program is not None]
    for program in found:
        if b" libx264 " in subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True).stdout:
            return program
    lack = "the ffmpeg that is installed cannot write H.264 (libx264)" if found else "MP4 needs ffmpeg"
    raise ValueError(f"{lack}; install ffmpeg, or `pip install imageio-ffmpeg`, or name a .gif file")


def _bundled() -> str | None:
    try:
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except (ImportError, RuntimeError):  # not installed, or without a program for this machine
        return None
