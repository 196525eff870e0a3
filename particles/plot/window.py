"""Figures to files, and to windows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure

from particles.files import replacing

DATES: dict[str, dict[str, Any]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
"""What files of each kind say about themselves, so that the same picture is the same file."""


def save(figure: Figure, path: Path, dpi: float) -> None:
    """Writes a figure, in the format that the file's name ends in; a file that is there is replaced at one stroke.

    Arguments:
        figure: What is written.
        path: A ``.png``, ``.pdf`` or ``.svg`` file.
        dpi: Pixels to an inch, of the dots too that are pixels in a vector file.

    Raises:
        ValueError: If it has another ending.
        OSError: If it cannot be written.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in DATES:
        raise ValueError(f"a picture is a .png, .pdf or .svg file, not {path.name}")
    drawn = io.BytesIO()  # where a disk is full, writers of formats raise whatever they like
    with matplotlib.rc_context({"svg.hashsalt": "particles"}):
        figure.savefig(drawn, format=kind, dpi=dpi, metadata=DATES[kind])
    with replacing(path) as draft:
        draft.write_bytes(drawn.getvalue())


def has_screen() -> bool:
    """Whether windows can be opened."""
    try:
        probe = pyplot.figure()
    except Exception:  # whatever a window system raises that is not there
        return False
    try:
        return getattr(probe.canvas, "required_interactive_framework", None) is not None
    finally:
        pyplot.close(probe)


def show(figure: Figure) -> None:
    """Opens a window with a figure, and waits until it is closed."""
    try:
        pyplot.figure(figure)
    except ValueError:  # before matplotlib 3.11, pyplot showed its own figures alone
        probe = pyplot.figure()
        canvas, number = type(probe.canvas), probe.number  # type: ignore[attr-defined]
        pyplot.close(probe)
        Gcf._set_new_active_manager(canvas.new_manager(figure, number))  # type: ignore[attr-defined]
    pyplot.show(block=True)
