"""One column of a frame: what it holds, its coordinates, and its entries again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from particles.data.kinds import Form, Levels, Numbers, recognise
from particles.data.support import Grid, Support


@dataclass(frozen=True)
class Column:
    """One column of a frame.

    Arguments:
        name: Its name.
        position: Its place in the frame.
        kind: See :attr:`Columns.kinds`.
        dtype: Its type.
        form: How its entries are written, or ``None`` if all are missing.
        support: The values that its numbers take; ``None`` for categories and where nothing varies.
        place: Its coordinates in an encoded row: none if it is constant, missing or a duplicate.
        twin: The position of the column that it repeats, or ``None``.
        constant: Its only value as a number, if it is constant.
        absent: How a missing entry is written.
    """

    name: Hashable
    position: int
    kind: str
    dtype: Any
    form: Form | None
    support: Support | None
    place: slice
    twin: int | None = None
    constant: float = 0.0
    absent: Any = None

    @property
    def varies(self) -> bool:
        """Whether it has coordinates of its own."""
        return bool(self.place.stop > self.place.start)

    @property
    def step(self) -> float:
        """The distance between the values that its numbers take; 0 if they are dense."""
        grid = None if self.support is None else self.support.grid
        return 0.0 if grid is None else grid.step / grid.over

    @property
    def coordinates(self) -> list[str]:
        """The names of its coordinates."""
        if not self.varies:
            return []
        if isinstance(self.form, Levels):
            return [f"{self.name}={level}" for level in self.form.levels]
        return [str(self.name)]

    def raw(self, series: pd.Series) -> np.ndarray:
        """Its entries as numbers or as one-hot rows, NaN where missing, with shape (n, number of coordinates)."""
        assert self.form is not None
        return _one_hot(self.form, self.form.numbers(series))

    def entries(self, raw: np.ndarray, missing: np.ndarray) -> Any:
        """Its entries nearest to the numbers ``raw`` with shape (n, number of coordinates)."""
        if self.form is None:
            return pd.Series([self.absent] * len(missing), dtype=self.dtype).array
        if not self.varies:
            return self.form.entries(np.full(len(missing), self.constant), missing)
        if self.support is not None:
            return self.form.entries(self.support.nearest(raw[:, 0]), missing)
        return self.form.entries(raw.argmax(1), missing)


def _one_hot(form: Form, numbers: np.ndarray) -> np.ndarray:
    if not isinstance(form, Levels):
        return numbers[:, None]
    return np.where(np.isnan(numbers)[:, None], np.nan, numbers[:, None] == np.arange(len(form.levels)))


def recognise_columns(
    frame: pd.DataFrame, missing: np.ndarray, categorical: set[Hashable], table: str
) -> tuple[list[Column], np.ndarray]:
    """The columns with their forms and places, and the raw rows.

    Arguments:
        frame: The training rows, with shape (n, columns).
        missing: Which entries are missing, with shape (n, columns).
        categorical: The columns that were declared to hold categories.
        table: Where the frame comes from, for messages.

    Returns:
        The columns, where numbers still have the kind ``number`` and no support, and the rows as float64 with shape
        (n, number of coordinates), NaN where missing.
    """
    columns: list[Column] = []
    blocks = [np.empty((len(frame), 0))]
    seen: dict[Hashable, int] = {}
    start = 0
    for at, name in enumerate(frame.columns):
        series = frame.iloc[:, at]
        nowhere = slice(start, start)
        if missing[:, at].all():
            columns.append(Column(name, at, "missing", series.dtype, None, None, nowhere, absent=series.iloc[0]))
            continue
        kind, form = recognise(f"{table}, column {name!r}", series, name in categorical)
        numbers = form.numbers(series)
        observed = numbers[~np.isnan(numbers)]
        content = (kind, str(series.dtype), numbers.tobytes(), _written(form))
        constant = Column(name, at, "constant", series.dtype, form, None, nowhere, constant=float(observed[0]))
        floating = _floating(constant)
        rounding = 0.0 if floating is None else 8 * float(np.finfo(floating).eps)  # not worth a coordinate
        if observed.max() / 2 - observed.min() / 2 <= rounding / 2 * np.abs(observed).max():
            column = constant
        elif content in seen:
            column = Column(name, at, "duplicate", series.dtype, form, None, nowhere, twin=seen[content])
        else:
            seen[content] = at
            blocks.append(_one_hot(form, numbers))
            stop = start + blocks[-1].shape[1]
            column = Column(name, at, kind, series.dtype, form, None, slice(start, stop))
            start = stop
        columns.append(column)
    return columns, np.concatenate(blocks, axis=1)


def _written(form: Form) -> Hashable:
    """What besides the numbers makes two columns with the same ones different."""
    if isinstance(form, Levels):
        categories = form.dtype.categories if isinstance(form.dtype, pd.CategoricalDtype) else ()
        return (tuple(form.levels), tuple(categories), getattr(form.dtype, "ordered", None))
    return tuple(getattr(form, what, None) for what in ("pattern", "origin", "size", "wall"))


def _floating(column: Column) -> np.dtype | None:
    """The floating-point type in which the column's numbers are written, if they are."""
    return column.form.plain if isinstance(column.form, Numbers) and column.form.plain.kind == "f" else None


def common_grid(raw: np.ndarray, numbers: Sequence[Column]) -> Grid | None:
    """The common grid of columns of numbers, if they look like the pixels of images.

    They do if there are at least 16 of them, all on one grid of at most 65,536 values, and a third of them have nearly
    (to a tenth of the whole range) the greatest maximum.
    """
    if len(numbers) < 16:
        return None
    block = raw[:, [column.place.start for column in numbers]]
    points = np.unique(block[~np.isnan(block)])
    floating = [dtype for column in numbers if (dtype := _floating(column)) is not None]
    grid = Grid.of(points, max(floating, key=lambda dtype: np.finfo(dtype).eps) if floating else None)
    if grid is None or (points[-1] - points[0]) * grid.over / grid.step > 65_535:
        return None
    bright = np.nanmax(block, axis=0) >= points[-1] - (points[-1] - points[0]) / 10
    return grid if bright.mean() >= 1 / 3 else None


def supported(column: Column, raw: np.ndarray, common: Grid | None) -> Column:
    """The column with its support, and its kind where that was open."""
    if not column.varies or isinstance(column.form, Levels):
        return column
    values = raw[:, column.place.start]
    values = values[~np.isnan(values)]
    pixel = column.kind == "number" and common is not None
    grid = common if pixel else Grid.of(np.unique(values), _floating(column))
    support = Support.of(values, grid)
    return replace(column, support=support, kind=_kind(column, support) if column.kind == "number" else column.kind)


def _kind(column: Column, support: Support) -> str:
    grid = support.grid
    if _floating(column) is None or (grid is not None and grid.over == 1 and grid.step % 1 == grid.first % 1 == 0):
        return "integer"
    if grid is not None:
        return "grid"
    return "zero-inflated" if len(support.atoms) else "numeric"
