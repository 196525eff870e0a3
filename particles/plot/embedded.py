"""Pictures as text, to be put into a page."""

from __future__ import annotations

import base64
import io

import matplotlib
from matplotlib.figure import Figure

LARGE = 120_000
"""The size in bytes above which lines become pixels."""
DPI = 150


def embedded(figure: Figure) -> str:
    """A figure as the address of an image that has everything in it: SVG if that is small, else PNG.

    The same figure gives the same text.
    """
    drawn = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "particles"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    if len(drawn.getvalue()) <= LARGE:
        return _address("svg+xml", drawn.getvalue())
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    return _address("png", drawn.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
