"""Columns of any kind as real coordinates for a generator, and back with type, range, grid, levels and gaps restored."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from particles.data.column import Column, common_grid, recognise_columns, supported
from particles.data.skew import Bend
from particles.keys import Key

SCALES = ("auto", "standard", "global", "none")
CATEGORY_UNIT = float(np.sqrt(2))
"""One-hot coordinates are divided by √2, so that rows in different categories are 1 apart: one standard deviation."""
WIDEST = 10.0
"""No column spans more than this many units under the scale ``standard``: nearly constant columns do not blow up."""
FARTHEST = 1e15
"""No row lies this many times farther from the mean than the training rows."""
NEIGHBOURS = 5
"""A missing value is filled in with the mean of this many nearest rows."""


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a training frame, and their real coordinates in which a generator works.

    Arguments:
        name: Where the frame comes from, for messages.
        index: The names of its columns.
        columns: What each of them holds.
        scale: The scale in use: ``standard``, ``global`` or ``none``.
        bend: The transform of skewed coordinates.
        shift: What is subtracted from each bent coordinate, with shape (width,).
        unit: What it is divided by then, with shape (width,).
        reference: The encoded training rows, NaN where missing, with shape (n, width): missing values are filled in
            from them.
        missing: Which entries of the training rows are missing, with shape (n, columns).
        group: The class of each training row, with shape (n,), or ``None``.
    """

    name: str
    index: pd.Index
    columns: tuple[Column, ...]
    scale: str
    bend: Bend
    shift: np.ndarray
    unit: np.ndarray
    reference: np.ndarray
    missing: np.ndarray
    group: np.ndarray | None

    @staticmethod
    def fit(
        frame: pd.DataFrame,
        *,
        group: np.ndarray | None = None,
        categorical: Sequence[Hashable] = (),
        scale: str = "auto",
        transform: bool = True,
        name: str = "the table",
    ) -> Columns:
        """Finds out what the columns of training rows hold.

        Numbers and dates are one coordinate each; categories (text, pandas' ``category``, declared columns) are one
        for each level, 1 / √2 there and 0 elsewhere, less the mean. Columns that are constant, wholly missing or equal
        to an earlier column have none.

        Arguments:
            frame: The training rows, with shape (n, columns), n >= 1.
            group: The class of each row, integers with shape (n,); patterns of missing values are drawn within it.
            categorical: The columns whose entries are categories, whatever their type.
            scale: ``standard`` divides each column of numbers by its standard deviation, or by a tenth of its range if
                that is more; ``global`` divides all of them by one number, the root of their mean variance, so that
                distances keep their proportions; truth values are not divided under either, and dates always by their
                own deviation; all are centred. ``none`` does neither. ``auto`` is ``global`` for pixels: at least 16
                columns of numbers, all on one common grid of at most 65,536 values, a third of the varying ones with
                nearly (to a tenth of the whole range) the same maximum; else ``standard``.
            transform: Whether to make skewed columns more symmetric (:class:`Bend`), under ``standard`` alone.
            name: Where the frame comes from, for messages.

        Raises:
            ValueError: If there is no row or column, a name is unknown or occurs twice, or a column cannot be used:
                infinite, of an unsupported type, an identifier.
        """
        _check(frame, group, categorical, scale, name)
        missing = frame.isna().to_numpy()
        columns, raw = recognise_columns(frame, missing, set(categorical), name)
        common = common_grid(raw, [column for column in columns if column.kind == "number"])
        if scale == "auto":
            scale = "standard" if common is None else "global"
        columns = [supported(column, raw, common) for column in columns]
        names = [name for column in columns for name in column.coordinates]
        kinds = np.array([column.kind for column in columns for _ in column.coordinates], dtype=object)
        numeric = np.isin(kinds, ("numeric", "integer", "grid", "zero-inflated"))
        bend = Bend.none()
        if transform and scale == "standard":
            steps = [column.step for column in columns for _ in column.coordinates]
            bend = Bend.fit(raw, numeric, np.array(steps, dtype=np.float64))
        x = bend.forward(raw)
        mean, deviation, span = _moments(x, name, names)
        shift, unit = mean, np.maximum(deviation, span / WIDEST)
        if scale == "global" and numeric.any():
            largest = deviation[numeric].max()
            unit[numeric] = largest * np.sqrt(np.square(deviation[numeric] / largest).mean())
        unit[kinds == "boolean"] = 1
        unit[kinds == "categorical"] = CATEGORY_UNIT
        if scale == "none":
            shift, unit = np.zeros(len(names)), np.where(kinds == "categorical", CATEGORY_UNIT, 1.0)
        reference = (x - shift) / unit
        group = None if group is None else np.asarray(group)
        return Columns(name, frame.columns, tuple(columns), scale, bend, shift, unit, reference, missing, group)

    @property
    def width(self) -> int:
        """The number of real coordinates of an encoded row; 0 if no column varies."""
        return len(self.shift)

    @property
    def names(self) -> list[str]:
        """The names of the coordinates: ``age``, ``colour=red``."""
        return [name for column in self.columns for name in column.coordinates]

    @property
    def kinds(self) -> dict[Hashable, str]:
        """What each column holds.

        ``numeric``, ``integer`` (whole numbers), ``grid`` (multiples of a step), ``zero-inflated`` (numeric but for
        atoms), ``boolean``, ``categorical``, ``date``, ``constant``, ``duplicate`` (of an earlier column) or
        ``missing`` (wholly).
        """
        return {column.name: column.kind for column in self.columns}

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        """Rows with the same columns, in any order, as finite coordinates: float64 with shape (n, width).

        Missing values are filled in with the mean over the 5 nearest training rows that have them
        (scikit-learn's ``KNNImputer``).

        Raises:
            ValueError: If columns are not those of the training rows, or an entry is not of its column's kind: a
                category unseen in training, text among numbers, an infinite number.
        """
        x = self._coordinates(frame)
        if np.isnan(x).any():
            from sklearn.impute import KNNImputer

            imputer = KNNImputer(n_neighbors=min(NEIGHBOURS, len(self.reference))).fit(self.reference)
            x = np.asarray(imputer.transform(x))
        return x

    def decode(
        self, values: np.ndarray, key: Key, group: np.ndarray | None = None, missing: np.ndarray | None = None
    ) -> pd.DataFrame:
        """Coordinates as rows like the training rows: their columns, types, ranges, grids, levels and missing entries.

        A number becomes the nearest that its column's support allows (:class:`~particles.data.support.Support`), a
        category the level with the greatest coordinate.

        Arguments:
            values: Finite coordinates, with shape (m, width).
            key: Draws for each new row the training row whose missing entries it repeats.
            group: The class of each new row, integers with shape (m,); the training row is one of the same class.
                Without, it is any.
            missing: Which entries are missing instead, with shape (m, columns).

        Raises:
            ValueError: If a shape does not fit, a value is not finite, or a class has no training row.
        """
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != self.width:
            raise ValueError(f"{self.name}: coordinates need shape (rows, {self.width}), not {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(
                f"{self.name}: coordinates are not finite in row {int((~np.isfinite(values)).any(1).argmax())}"
            )
        missing = self._patterns(len(values), key, group) if missing is None else np.asarray(missing, dtype=bool)
        if missing.shape != (len(values), len(self.columns)):
            raise ValueError(
                f"{self.name}: missing needs shape ({len(values)}, {len(self.columns)}), not {missing.shape}"
            )
        raw = self.bend.backward(values * self.unit + self.shift)
        entries: dict[int, Any] = {}
        for column in self.columns:
            at = column.position
            source = column if column.twin is None else self.columns[column.twin]
            entries[at] = source.entries(raw[:, source.place], missing[:, at])
        frame = pd.DataFrame(entries, index=pd.RangeIndex(len(values)), columns=range(len(self.columns)))
        frame.columns = self.index
        return frame

    def _coordinates(self, frame: pd.DataFrame) -> np.ndarray:
        if not frame.columns.equals(self.index):
            if unknown := [column for column in frame.columns if column not in self.index]:
                raise ValueError(f"{self.name} has no column {unknown[0]!r}; give the columns of the training rows")
            if lacking := [column for column in self.index if column not in frame.columns]:
                raise ValueError(f"the column {lacking[0]!r} of {self.name} is not there; give all of its columns")
            if len(frame.columns) != len(self.index):
                raise ValueError(f"{self.name} has {len(self.index)} columns, not {len(frame.columns)}")
            frame = frame[list(self.index)]
        raw = np.empty((len(frame), self.width))
        for column in self.columns:
            if column.varies:
                raw[:, column.place] = column.raw(frame.iloc[:, column.position])
        with np.errstate(over="ignore"):  # checked below
            x = (self.bend.forward(raw) - self.shift) / self.unit
        far = ~(np.abs(x) / FARTHEST <= np.nanmax(np.abs(self.reference), initial=1)) & ~np.isnan(x)
        if far.any():
            raise ValueError(
                f"{self.name}, {self.names[int(far.any(0).argmax())]!r}: too far outside the training range"
            )
        return np.asarray(x)

    def _patterns(self, size: int, key: Key, group: np.ndarray | None) -> np.ndarray:
        """Which entries of new rows are missing: for each those of a random training row of its class."""
        if group is not None and np.shape(group) != (size,):
            raise ValueError(f"{self.name}: group needs shape ({size},), one class per row, not {np.shape(group)}")
        if group is not None and self.group is None:
            raise ValueError(f"{self.name} was fitted without group, so rows cannot be decoded with one")
        random = key.fold("missing").numpy()
        if group is None or self.group is None:
            return np.asarray(self.missing[random.integers(len(self.missing), size=size)])
        chosen = np.empty(size, dtype=np.intp)
        for each in np.unique(group):
            (rows,) = np.nonzero(self.group == each)
            if not len(rows):
                raise ValueError(f"{self.name} has no training row of the class {each}")
            new = np.asarray(group) == each
            chosen[new] = random.choice(rows, size=int(new.sum()))
        return np.asarray(self.missing[chosen])


def _check(
    frame: pd.DataFrame, group: np.ndarray | None, categorical: Sequence[Hashable], scale: str, name: str
) -> None:
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} is not one of {', '.join(SCALES)}")
    if not len(frame) or not len(frame.columns):
        raise ValueError(
            f"{name} has {len(frame)} rows and {len(frame.columns)} columns; at least one of each is needed"
        )
    if (double := frame.columns.duplicated()).any():
        raise ValueError(f"{name}: the column name {frame.columns[double][0]!r} occurs more than once")
    if isinstance(categorical, str):
        raise ValueError(f"categorical needs a list of column names, not the text {categorical!r}")
    if unknown := [column for column in categorical if column not in frame.columns]:
        raise ValueError(f"{name} has no column {unknown[0]!r}, which was declared as categorical")
    if group is not None and np.shape(group) != (len(frame),):
        raise ValueError(f"{name}: group needs shape ({len(frame)},), one class per row, not {np.shape(group)}")


def _moments(x: np.ndarray, name: str, coordinates: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and range of each coordinate; squares of very large numbers are never taken."""
    low, high = np.nanmin(x, axis=0, initial=np.inf), np.nanmax(x, axis=0, initial=-np.inf)
    with np.errstate(over="ignore"):
        span = high - low
    if (wide := ~np.isfinite(span)).any():
        column = coordinates[int(wide.argmax())]
        raise ValueError(f"{name}, column {column!r}: its values are too large; divide it by a power of ten")
    part = (x - low) / span
    return low + span * np.nanmean(part, axis=0), span * np.nanstd(part, axis=0), span
