"""The curves of runs as charts of lines, with a place for a cursor: numbers for a template, in the units of its picture."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from particles.plot import style
from particles.plot.curves import STILL, Curve, curves
from particles.plot.style import CLASSES, PATH, spread
from particles.report.facts import number
from particles.run.reader import Run

WIDTH, HEIGHT = 360.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 20.0, 10.0, 36.0
POINTS = 400
"""The most points of a line."""
ROWS = 60
"""The most rows of a table of a run's series."""


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        run: The number of its run.
        name: What it is.
        color: Its colour.
        dashed: Whether it is dashed.
        steps: The steps of its points.
        values: Their values.
        path: The same as the path of an SVG picture.
    """

    run: int
    name: str
    color: str
    dashed: bool
    steps: list[float]
    values: list[float]
    path: str


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: What is measured.
        unit: In which unit.
        across: What the axis below is called.
        logarithmic: Whether the axis on the left is.
        linked: Whether its steps are those of the player.
        last: The last step of the axis below.
        lines: Its lines.
        below: Places and texts of marks below.
        left: Places and texts of marks on the left.
        words: What it shows, in words.
    """

    title: str
    unit: str
    across: str
    logarithmic: bool
    linked: bool
    last: float
    lines: list[Line]
    below: list[tuple[float, str]]
    left: list[tuple[float, str]]
    words: str


def charts(runs: dict[str, Run]) -> list[Chart]:
    """A chart for each thing that was measured, with the lines of all runs that measured it in the same unit."""
    found: dict[tuple[str, str, bool], list[tuple[int, Run, Curve]]] = {}
    for i, run in enumerate(runs.values()):
        for curve in curves(run):
            found.setdefault((plain(curve.label), plain(curve.unit), style.trains(run)), []).append((i, run, curve))
    titles = [title for title, _, _ in found]
    ordered = sorted(found.items(), key=lambda item: titles.index(item[0][0]))
    last = {trained: _last([run for run in runs.values() if style.trains(run) == trained]) for trained in (False, True)}
    return [_chart(*key, known, list(runs), last[key[2]]) for key, known in ordered]


def _last(runs: list[Run]) -> float:
    """The last step of some runs, so that all charts have the same axis below."""
    return max((float(run.series["step"].max()) for run in runs if len(run.series)), default=0.0) or 1.0


def _chart(
    title: str, unit: str, trained: bool, known: list[tuple[int, Run, Curve]], names: list[str], last: float
) -> Chart:
    logarithmic = all(curve.logarithmic for _, _, curve in known)
    drawn = [(i, *found) for i, run, curve in known for found in _measured(run, curve, logarithmic)]
    values = [value for *_, several in drawn for value in several]
    logarithmic = logarithmic and min(values) > 0
    low, high, marks = _limits(values, logarithmic)
    bound = known[0][2].bound if all(curve.bound == known[0][2].bound for _, _, curve in known) else None

    def up(value: float) -> float:
        part = (math.log10(value) if logarithmic else value) - low
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - part / (high - low)), 1)

    def along(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * step / last, 1)

    lines = []
    several = len(names) > 1
    for i, name, color, nth, steps, some in drawn:
        path = "M" + " ".join(f"{along(k)},{up(v)}" for k, v in zip(steps, some))
        shade = CLASSES[i % len(CLASSES)] if several else color
        lines.append(
            Line(
                i,
                ", ".join(filter(None, [names[i] if several else "", name])),
                shade,
                several and nth > 0,
                steps,
                some,
                path,
            )
        )
    if bound is not None and low <= (math.log10(bound[0]) if logarithmic else bound[0]) <= high:
        lines.append(
            Line(
                -1,
                bound[1],
                PATH,
                True,
                [0.0, last],
                [bound[0]] * 2,
                f"M{along(0)},{up(bound[0])} {along(last)},{up(bound[0])}",
            )
        )
    said = "; ".join(
        f"{line.name or title} from {number(line.values[0], 3)} at step {line.steps[0]:g} to {number(line.values[-1], 3)} at step {line.steps[-1]:g}"
        for line in lines
        if line.run >= 0
    )
    return Chart(
        title=title,
        unit=unit,
        across="step of training" if trained else "step",
        logarithmic=logarithmic,
        linked=not trained,
        last=last,
        lines=lines,
        below=[(along(k), f"{k:,.0f}") for k in _round(0, last, 5, whole=True)],
        left=[(up(10**mark if logarithmic else mark), _mark(mark, logarithmic)) for mark in marks],
        words=f"{title} {unit}: {said}.",
    )


def _measured(run: Run, curve: Curve, logarithmic: bool) -> list[tuple[str, str, int, list[float], list[float]]]:
    """Name, colour, number, steps and values of each column of a curve that was measured."""
    found = []
    for nth, (column, (name, color)) in enumerate(curve.columns.items()):
        if column not in run.series:
            continue
        rows = run.series[["step", column]].dropna()
        rows = rows[np.isfinite(rows[column])]
        moving = rows[rows[column] > STILL]
        rows = moving if logarithmic and len(moving) else rows
        if len(rows):
            rows = rows.iloc[spread(len(rows), POINTS)]
            found.append((name, color, nth, rows["step"].astype(float).tolist(), rows[column].astype(float).tolist()))
    return found


def _limits(values: list[float], logarithmic: bool) -> tuple[float, float, list[float]]:
    """The ends of an axis, and its marks; powers of ten of a logarithmic one."""
    low, high = min(values), max(values)
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
        first, last = math.floor(low), math.ceil(high)
        every = max(1, math.ceil((last - first) / 5))
        return first, max(last, first + 1), [float(mark) for mark in range(first, max(last, first + 1) + 1, every)]
    low, high = (min(low, 0.0), high) if low >= 0 or high - low > abs(low) else (low, high)
    if high <= low:
        high = low + (abs(low) or 1.0)
    room = 0.04 * (high - low)
    return low - (room if low < 0 else 0), high + room, _round(low, high, 4)


def _round(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """About so many round numbers from ``low`` to ``high``."""
    step = (high - low) / most
    power = 10 ** math.floor(math.log10(step))
    step = next(power * part for part in (1, 2, 2.5, 5, 10) if power * part >= step * 0.999)
    step = max(1.0, round(step)) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [(first + i) * step for i in range(int((high - first * step) / step + 1e-9) + 1)]


def _mark(mark: float, logarithmic: bool) -> str:
    if not logarithmic:
        return f"{mark:.10g}" if 1e-3 <= abs(mark) < 1e5 or mark == 0 else f"{mark:.3g}"
    return f"10{''.join('⁰¹²³⁴⁵⁶⁷⁸⁹'[int(digit)] if digit.isdigit() else '⁻' for digit in str(int(mark)))}"


def plain(text: str) -> str:
    """A text of matplotlib without lines and formulas."""
    return re.sub(r"\$\^\{?([^}$]*)\}?\$", r"^\1", text.replace("\n", " "))


def table(run: Run) -> tuple[list[str], list[list[str]], int]:
    """The series of a run: columns, some rows evenly chosen, and how many there are."""
    columns = [str(name) for name in run.series.columns]
    rows = run.series.iloc[spread(len(run.series), ROWS)] if len(run.series) else run.series
    cells: list[list[Any]] = [[row[name] for name in run.series.columns] for _, row in rows.iterrows()]
    return (
        columns,
        [
            [number(int(value) if name == "step" else float(value)) for name, value in zip(columns, row)]
            for row in cells
        ],
        len(run.series),
    )
