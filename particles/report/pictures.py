"""The pictures of a page, each with its title and with what it shows in words."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from particles import plot
from particles.plot.curves import curves
from particles.report.facts import count, ends, measured, number
from particles.report.player import pixels
from particles.run.reader import Run

HEAVY = 12.0
"""The median kurtosis of columns above which tails are drawn; 3 is that of a Gaussian, 9 of an exponential law."""


@dataclass(frozen=True)
class Picture:
    """A picture, or why there is none.

    Attributes:
        title: What it is of.
        address: The image itself, as an address; empty if it could not be drawn.
        words: What it shows, for those who do not see it; or why it is not there.
        wide: Whether it needs the whole width of a page.
    """

    title: str
    address: str
    words: str
    wide: bool = False


def pictures(run: Run) -> list[Picture]:
    """All pictures that such a run has."""
    found = [_drawn("Paths", lambda: plot.trajectories(run), paths_in_words(run))]
    if len(run.columns) == 2:
        found.append(_drawn("Potential at the end", lambda: plot.potential(run), potential_in_words(run)))
    found.append(_drawn("Snapshots", lambda: plot.snapshots(run), snapshots_in_words(run)))
    if pixels(run) is not None:
        found.append(_drawn("Particles as images", lambda: plot.images(run), images_in_words(run)))
    found.append(_drawn("Particles against target", lambda: plot.density(run), density_in_words(run)))
    if curves(run):
        found.append(_drawn("Measurements", lambda: plot.diagnostics(run), diagnostics_in_words(run)))
    if heavy(run) and pixels(run) is None:
        found.append(_drawn("Tails", lambda: plot.tails(run), tails_in_words(run)))
    return found


def heavy(run: Run) -> bool:
    """Whether most columns of the target have heavy tails."""
    centred = run.target - run.target.mean(0) if len(run.target) else np.zeros((1, 1))
    spread = np.square(centred).mean(0)
    kurtosis = (centred**4).mean(0) / np.where(spread > 0, spread, 1) ** 2
    return bool(np.median(kurtosis) > HEAVY)


def side_by_side(runs: dict[str, Run]) -> Picture:
    """All runs in one picture."""
    words = "Paths of several runs on the same axes. " + " ".join(f"{name}: {ends(run)}." for name, run in runs.items())
    return _drawn("Side by side", lambda: plot.compare(runs), words)


def paths_in_words(run: Run) -> str:
    shown = f"the paths of {min(run.own, 100)} of them" if run.own > 100 else "their paths"
    return (
        f"Paths of particles in front of {count(len(run.target), 'target row')}: {ends(run)}; {shown} are drawn. They are "
        f"{_way(run)} away from where they started, in the median, in flow units."
    )


def potential_in_words(run: Run) -> str:
    slope = measured(run, "max_gradient")
    steep = f"; it is at most {number(slope[-1], 3)} steep at a particle, per flow unit" if slope else ""
    return f"Level sets of the potential that was fitted last, with arrows down its slope, particles and target: {ends(run)}{steep}."


def images_in_words(run: Run) -> str:
    return f"Some of the particles as images, and beneath each the target row that is nearest to it: {ends(run)}."


def tails_in_words(run: Run) -> str:
    far = [
        number(float(np.quantile(np.abs(x - np.median(run.target, 0)) / run.units, 0.99)), 3)
        for x in (run.snapshot(len(run.times) - 1), run.target)
    ]
    return (
        "How much of each law is farther out than any distance, on logarithmic axes. One in a hundred coordinates is farther than "
        f"{far[0]} flow units from the target's median among the particles, and than {far[1]} in the target."
    )


def snapshots_in_words(run: Run) -> str:
    chosen = np.unique(np.linspace(0, len(run.times) - 1, 5).astype(int))
    times = ", ".join(f"{run.times[i]:.3g}" for i in chosen)
    return f"The particles in front of the target at the times {times}: {ends(run)}."


def density_in_words(run: Run) -> str:
    end, target = run.snapshot(len(run.times) - 1), run.target
    shown = range(min(len(run.columns), 2))
    if not len(target):
        return f"How particles are distributed at the end: {ends(run)}."
    laws = "; ".join(
        f"{run.columns[i]}: mean {number(float(end[:, i].mean()), 3)} and deviation {number(float(end[:, i].std()), 3)}, of the target "
        f"{number(float(target[:, i].mean()), 3)} and {number(float(target[:, i].std()), 3)}"
        for i in shown
    )
    return f"How particles and target are distributed. Particles at the end, by column: {laws}."


def diagnostics_in_words(run: Run) -> str:
    said = []
    for curve in curves(run):
        for column, (name, _) in curve.columns.items():
            values = measured(run, column)
            if values:
                what = " ".join(f"{curve.label} {name if name != curve.label else ''}".split())
                said.append(f"{what} {number(values[0], 3)} at first, {number(values[-1], 3)} at last")
    return "Curves of what was measured on the way: " + "; ".join(said) + "."


def _way(run: Run) -> str:
    """The median distance from start to end, in flow units."""
    moved = (run.snapshot(len(run.times) - 1) - run.snapshot(0)) / run.units
    return number(float(np.median(np.linalg.norm(moved, axis=1))), 3)


def _drawn(title: str, draw: Callable[[], Any], words: str) -> Picture:
    """A picture; one that fails leaves the others alone."""
    try:
        figure = draw()
        width, height = figure.get_size_inches()
        return Picture(title, embedded(figure), words, bool(width > 1.8 * height))
    except Exception as error:
        return Picture(title, "", f"This picture could not be drawn: {' '.join(str(error).split())}")


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
