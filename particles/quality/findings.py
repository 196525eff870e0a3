"""What was found out about synthetic rows: figures, columns, use; as values, frames and text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from particles.quality.utility import Score

ALL = "all rows"
"""The group of all rows, beside those of the classes."""


@dataclass(frozen=True)
class Figure:
    """One number about one group of rows.

    Arguments:
        group: ``all rows``, or a class.
        block: ``primary`` or ``secondary``.
        name: What it is.
        value: That of the synthetic rows.
        real: That of the real rows in their place, or ``None``.
        ideal: Its mean for independent rows of the same law, or ``None`` where that has no closed form.
        low: The lower end of a 95 % interval, or ``None``.
        high: The upper end.
    """

    group: str
    block: str
    name: str
    value: float
    real: float | None = None
    ideal: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Marginal:
    """How far a column of the synthetic rows is from that of fresh rows (without any: of the real ones).

    Arguments:
        column: Its name.
        measure: Kolmogorov-Smirnov or total variation.
        value: The distance, between 0 and 1.
        real: That of the real rows, or ``None`` without a hold-out.
    """

    column: str
    measure: str
    value: float
    real: float | None = None


@dataclass(frozen=True)
class Quality:
    """What was found, the most telling first.

    Arguments:
        rows: The numbers of real, synthetic and held-out rows of each group.
        figures: The figures, primary ones first in each group.
        marginals: The columns, the worst ones first.
        utility: Models trained with and without the synthetic rows; empty without a label or a hold-out.
        measure: What the models' scores are: balanced accuracy or R².
        warnings: What is wrong with the tables, and which figures are left out and why.
        notes: What the figures do not say.
    """

    rows: dict[str, dict[str, int]]
    figures: tuple[Figure, ...]
    marginals: tuple[Marginal, ...]
    utility: tuple[Score, ...]
    measure: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def value(self, name: str, group: str = ALL) -> float | None:
        """One figure of the synthetic rows, or ``None`` if it is left out."""
        return next((one.value for one in self.figures if (one.group, one.name) == (group, name)), None)

    def as_dict(self) -> dict[str, Any]:
        """Everything in plain values, for JSON."""
        groups = {}
        for group, rows in self.rows.items():
            blocks: dict[str, Any] = {"primary": {}, "secondary": {}}
            for one in self.figures:
                if one.group == group:
                    blocks[one.block][one.name] = {
                        name: getattr(one, name) for name in ("value", "real", "ideal", "low", "high")
                    }
            groups[group] = {"rows": rows} | blocks
        return {
            "groups": groups,
            "marginals": [asdict(one) for one in self.marginals],
            "utility": [asdict(one) | {"measure": self.measure} for one in self.utility],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }

    def as_frame(self) -> pd.DataFrame:
        """All numbers, one per row, in the columns block, group, figure, value, low, high, real, ideal.

        Of a model, ``real`` is its score without synthetic rows; its gain has a row of its own.
        """
        rows: list[tuple[Any, ...]] = [
            (block, one.group, one.name, one.value, one.low, one.high, one.real, one.ideal)
            for block in ("primary", "secondary")
            for one in self.figures
            if one.block == block
        ]
        rows += [
            ("secondary", ALL, f"{one.measure}: {one.column}", one.value, None, None, one.real, None)
            for one in self.marginals
        ]
        alone = {one.model: one.value for one in self.utility if one.trained_on == "real"}
        for one in self.utility:
            if one.trained_on != "real" and one.value is not None:
                what = f"{one.model} on {one.trained_on}"
                base = alone[one.model]
                rows.append(("utility", ALL, f"{self.measure}: {what}", one.value, None, None, base, None))
                rows.append(("utility", ALL, f"gain: {what}", float(one.gain or 0), one.low, one.high, 0.0, None))
        frame = pd.DataFrame(rows, columns=["block", "group", "figure", "value", "low", "high", "real", "ideal"])
        return frame.astype(dict.fromkeys(["value", "low", "high", "real", "ideal"], "float64"))

    def __str__(self) -> str:
        """The figures as tables for people, without the warnings."""
        parts = [_counts(self.rows[ALL])]
        for block, title in (
            ("primary", "Primary: fidelity and copying"),
            ("secondary", "Secondary: never to be read alone"),
        ):
            figures = [one for one in self.figures if one.block == block]
            rows = [
                (one.name, _number(one.value) + _interval(one.low, one.high), _number(one.real), _number(one.ideal))
                for one in figures
                if one.group == ALL
            ]
            if rows:
                parts.append(_table(title, ("", "synthetic", "real rows", "ideal"), rows))
            names = list(dict.fromkeys(one.name for one in figures if one.group != ALL))
            found = {(one.group, one.name): _number(one.value) for one in figures}
            classes = [group for group in self.rows if group != ALL]
            if classes and names:
                heads = ("class", "rows", *names)
                lines = [
                    (group, str(self.rows[group]["synthetic"]), *(found.get((group, name), "-") for name in names))
                    for group in classes
                ]
                parts.append(_table(f"{title}, per class", heads, lines))
        if self.marginals:
            worst = [(one.column, one.measure, _number(one.value), _number(one.real)) for one in self.marginals[:8]]
            more = f" (worst {len(worst)} of {len(self.marginals)})" if len(worst) < len(self.marginals) else ""
            parts.append(_table(f"Columns{more}", ("", "distance", "synthetic", "real rows"), worst))
        if self.utility:
            rows = [
                (one.model, one.trained_on, _number(one.value), _number(one.gain) + _interval(one.low, one.high))
                for one in self.utility
            ]
            title = f"Utility: {self.measure} on held-out rows"
            parts.append(_table(title, ("", "trained on", "score", "gain over real rows"), rows))
        return "\n\n".join([*parts, "\n".join(self.notes)])


def _counts(rows: dict[str, int]) -> str:
    held = f", {rows['holdout']} held-out" if "holdout" in rows else ", no hold-out"
    return f"{rows['real']} real rows, {rows['synthetic']} synthetic{held}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1e4 else f"{value:.2e}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"


def _table(title: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [[str(entry) for entry in line] for line in (heads, *rows)]
    widths = [max(len(entry) for entry in column) for column in zip(*lines)]
    body = ["  " + "  ".join(entry.ljust(width) for entry, width in zip(line, widths)).rstrip() for line in lines]
    return "\n".join([title, *body])
