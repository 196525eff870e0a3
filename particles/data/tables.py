"""Tables: files of numbers in, particles in the same columns, types and units out."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from particles.cloud import Cloud, at_once
from particles.data.files import Rows, array_frame, read_rows, some
from particles.data.kinds import plain_dtype, usable

logger = logging.getLogger("particles")

SCALES = ("standard", "global", "none")

LOST = "an integer beyond 2^53 would lose digits; drop the column if it is an identifier"


@dataclass(frozen=True)
class Table:
    """The numeric columns of a data set, and the class of each row.

    Arguments:
        name: Where it comes from, for messages.
        values: The rows, float64 with shape (n, d).
        columns: The names of the columns.
        dtypes: The type that each column had, and will have again.
        header: Whether the file names its columns.
        label: The class of each row as it was written, with shape (n,), or ``None``.
        label_column: The name of the column of classes, and its place among all columns; ``None`` without.
    """

    name: str
    values: np.ndarray
    columns: tuple[str, ...]
    dtypes: tuple[np.dtype, ...]
    header: bool = True
    label: np.ndarray | None = None
    label_column: tuple[str, int] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def take(self, index: np.ndarray) -> Table:
        """The chosen rows."""
        return replace(self, values=self.values[index], label=None if self.label is None else self.label[index])

    @property
    def fingerprint(self) -> str:
        """A digest of columns, types, values and labels: two tables with the same one hold the same data."""
        layout = (self.columns, [dtype.str for dtype in self.dtypes], self.header, self.label_column, self.values.shape)
        digest = hashlib.blake2b(repr(layout).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.values).data)
        digest.update(repr(None if self.label is None else self.label.tolist()).encode())
        return digest.hexdigest()


def array_table(
    name: str, values: np.ndarray, label: np.ndarray | None = None, label_name: str = "label", least: int = 2
) -> Table:
    """A table of unnamed columns ``x0``, ``x1``, …; a label column, if there is one, comes last.

    Raises:
        ValueError: If the array is not one of at least ``least`` rows of finite real numbers.
    """
    rows = Rows(array_frame(name, values, label, label_name), True)
    return _frame_table(name, rows, None if label is None else label_name, least)


def read_table(path: Path, label: str | None = None, header: bool | None = None, least: int = 2) -> Table:
    """Reads CSV (any usual separator, encoding and decimal mark), Parquet, ``.npy`` or ``.npz``, compressed or not.

    An ``.npz`` file holds the rows in its only array or in the one called ``x``; ``label`` may name another.

    Arguments:
        path: The file.
        label: The column (or array) of classes, kept out of the numbers; text is welcome there alone.
        header: Whether the first line of a CSV names the columns; found out if ``None``.
        least: The least number of rows; a flow needs 2.

    Raises:
        ValueError: If the file cannot be read as such, naming file, line and column.
        FileNotFoundError: If there is no such file.
    """
    return _frame_table(str(path), read_rows(path, label, header), label, least)


def read_frame(
    path: Path, header: bool | None = None, label: str | None = None, text: Collection[str] = ()
) -> tuple[pd.DataFrame, bool]:
    """Reads the files that :func:`read_table` reads, with columns of any type: text, dates, missing entries.

    Columns of a CSV with whole numbers that begin with a superfluous 0 (postcodes such as 00123) are text.

    Arguments:
        path: The file.
        header: Whether the first line of a CSV names the columns; found out if ``None``.
        label: The column of classes, which stays where it is; of an ``.npz`` file the array of classes, which comes
            last.
        text: Columns of a CSV that are text whatever they look like, as they are in another table.

    Returns:
        The frame, and whether the file names its columns (one that is no CSV always does).

    Raises:
        ValueError: If the file cannot be read as such, or has no column (or array) ``label``.
        FileNotFoundError: If there is no such file.
    """
    rows = read_rows(path, label, header, text)
    frame = rows.frame
    if label is not None and label not in frame.columns:
        raise ValueError(f"{path} has no column {label!r} for the labels; it has {some(frame.columns)}")
    odd = {name: usable(dtype) for name, dtype in frame.dtypes.items() if usable(dtype) != dtype}
    return frame.astype(odd) if odd else frame, rows.named


def text_columns(frame: pd.DataFrame) -> list[str]:
    """The names of the columns whose entries are all text, but for missing ones."""
    found = ((name, pd.api.types.infer_dtype(column, skipna=True)) for name, column in frame.items())
    return [str(name) for name, held in found if held == "string"]


def _frame_table(name: str, rows: Rows, label: str | None, least: int) -> Table:
    """Checks a frame and takes it apart."""
    frame, place, classes = rows.frame, None, None
    if label is not None:
        if label not in frame.columns:
            raise ValueError(f"{name} has no column {label!r} for the labels; it has {some(frame.columns)}")
        place = (label, list(frame.columns).index(label))
        classes = frame[label].to_numpy()
        if (missing := frame[label].isna().to_numpy()).any():
            raise ValueError(f"{name}, line {rows.line(int(missing.argmax()))}: the label {label!r} is missing")
        frame = frame.drop(columns=label)
    if frame.shape[1] == 0:
        raise ValueError(f"{name} has no column of numbers")
    if len(frame) < least:
        needed = "a flow needs at least 2" if least == 2 else f"at least {least} is needed"
        raise ValueError(f"{name} has {len(frame)} row{'s' * (len(frame) != 1)}; {needed}")
    values = np.empty(frame.shape)
    for i, column in enumerate(frame.columns):
        values[:, i] = _numbers(name, str(column), frame[column], rows.line)
    return Table(
        name, values, tuple(map(str, frame.columns)), tuple(map(plain_dtype, frame.dtypes)), rows.named, classes, place
    )


def _numbers(name: str, column: str, series: pd.Series, line: Callable[[int], int]) -> np.ndarray:
    def place(at: np.ndarray) -> str:
        return f"{name}, line {line(int(at.argmax()))}, column {column!r}"

    missing = series.isna().to_numpy()
    if series.dtype == object:
        if (long := np.array([isinstance(entry, int) and abs(entry) > 2**53 for entry in series])).any():
            raise ValueError(f"{place(long)}: {LOST}")
        series = series.map(lambda entry: float(entry) if isinstance(entry, Decimal) else entry)
    if series.dtype.kind not in "biuf":
        text = pd.to_numeric(series, errors="coerce").isna().to_numpy() & ~missing
        if text.any() or not missing.any():
            raise ValueError(
                f"{place(text)}: {series.tolist()[int(text.argmax())]!r} is not a number; "
                f"drop the column, or name it with --label if it holds classes"
            )
    if missing.any():
        raise ValueError(f"{place(missing)}: the value is missing; fill it in or drop the row")
    values = series.to_numpy(dtype=np.float64)
    if not (finite := np.isfinite(values)).all():
        raise ValueError(f"{place(~finite)}: {values[(~finite).argmax()]} is not finite")
    if series.dtype.kind not in "iu":
        return values
    if (
        large := ((series > 2**53) | (series < -(2**53))).to_numpy(dtype=bool)
    ).any():  # as integers: as floats some are 2^53
        raise ValueError(f"{place(large)}: {LOST}")
    return values


@dataclass(frozen=True)
class Schema:
    """The columns of a target, and the scale on which a flow sees them.

    A constant column takes no part in the flow and comes back as it was.

    Arguments:
        table: The target that it was fitted on.
        scale: How: ``standard`` (each column to mean 0 and standard deviation 1), ``global`` (each column to mean 0,
            all of them divided by one number, so that distances keep their proportions) or ``none``.
        varying: Which columns are not constant, with shape (d,).
        shift: The origin of each varying column, in its own unit.
        unit: The length of one unit of the flow in each varying column's own unit.
        levels: The classes, in order, or ``None``.
        dtype: The floating-point type of the particles.
    """

    table: Table
    scale: str
    varying: np.ndarray
    shift: np.ndarray
    unit: np.ndarray
    levels: np.ndarray | None
    dtype: torch.dtype = torch.float32

    @staticmethod
    def fit(table: Table, scale: str, dtype: torch.dtype = torch.float32) -> Schema:
        """The schema of a target.

        Raises:
            ValueError: If ``scale`` is unknown, or all columns are constant.
        """
        if scale not in SCALES:
            raise ValueError(f"scale {scale!r} is not one of {', '.join(SCALES)}")
        varying = table.values.min(0) < table.values.max(0)
        if not varying.any():
            raise ValueError(f"{table.name}: every column is constant, so there is nothing to flow to")
        if not varying.all():
            constant = [name for name, varies in zip(table.columns, varying) if not varies]
            logger.warning("%s: kept constant: column%s %s", table.name, "s" * (len(constant) > 1), some(constant))
        values = table.values[:, varying]
        shift = values.mean(0) if scale != "none" else np.zeros(values.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):  # checked below
            spread = values.std(0)
        if scale == "global":
            spread = np.full_like(spread, np.sqrt(np.square(spread).mean()))
        unit = spread if scale != "none" else np.ones_like(shift)
        limits = torch.finfo(dtype if scale == "none" else torch.float64)
        least, most = limits.tiny, limits.max / 1e3  # room for particles that begin farther out than the rows
        if scale == "none":  # flows see squares of these numbers as they are
            least, most = math.sqrt(least), math.sqrt(most)
        largest = np.abs(values).max(0) + np.abs(shift) + unit
        _check_range(table, np.where(spread > least, largest, np.inf), varying, dtype, most)
        levels = None if table.label is None else np.unique(table.label)
        return Schema(table, scale, varying, shift, unit, levels, dtype)

    @property
    def columns(self) -> list[str]:
        """The names of the varying columns: what the coordinates of a particle are."""
        return [name for name, varies in zip(self.table.columns, self.varying) if varies]

    def encode(self, table: Table, device: torch.device | str = "cpu") -> Cloud:
        """A table with the same columns, as a cloud in the units of the flow.

        Raises:
            ValueError: If columns or classes are not those of the target.
        """
        if len(table.columns) != len(self.table.columns):
            raise ValueError(
                f"{table.name} has {len(table.columns)} columns of numbers, but {self.table.name} has {len(self.table.columns)}"
            )
        if table.header and self.table.header and table.columns != self.table.columns:
            a, b = next((a, b) for a, b in zip(table.columns, self.table.columns) if a != b)
            raise ValueError(
                f"{table.name} has column {a!r} where {self.table.name} has {b!r}; give both the same columns"
            )
        x, largest = torch.empty(len(table), len(self.shift), dtype=self.dtype), np.zeros(len(self.shift))
        rows = at_once(x)
        for begin in range(0, len(table), rows):
            part = (table.values[begin : begin + rows, self.varying] - self.shift) / self.unit
            largest = np.maximum(largest, np.abs(part).max(0))
            x[begin : begin + rows] = torch.from_numpy(part)
        _check_range(table, largest, self.varying, self.dtype, math.sqrt(torch.finfo(self.dtype).max))
        label = None
        if self.levels is not None:
            if table.label is None:
                raise ValueError(f"{table.name} has no labels, but {self.table.name} has")
            if strange := sorted(set(table.label.tolist()) - set(self.levels.tolist()), key=str):
                raise ValueError(f"{table.name} has the class {strange[0]!r}, which {self.table.name} has not")
            label = torch.as_tensor(np.searchsorted(self.levels, table.label), device=device)
        return Cloud(x.to(device), label)

    def points(self, x: torch.Tensor) -> np.ndarray:
        """Points in the units of the target, varying columns alone; in the type of ``x`` where that is fine and wide enough.

        Raises:
            FloatingPointError: If a finite point is none in these units.
        """
        single = x.dtype == torch.float32 and not self._needs_double.any()
        found = np.empty(x.shape, np.float32 if single else np.float64)
        self.check(x, found)
        return found

    def check(self, x: torch.Tensor, into: np.ndarray | None = None) -> None:
        """Raises FloatingPointError if a finite point is none in the units of the target; points in these units are left in ``into``."""
        largest = np.where(
            ~self._needs_double & (x.dtype == torch.float32), np.finfo(np.float32).max, np.finfo(np.float64).max
        )
        points, columns = 0, np.zeros(len(self.shift), dtype=bool)
        rows = at_once(x)
        for begin in range(0, len(x), rows):
            part = x[begin : begin + rows].detach().cpu().double().numpy()
            with np.errstate(over="ignore", invalid="ignore"):  # checked below
                values = part * self.unit + self.shift
            lost = np.isfinite(part) & ~(np.abs(values) <= largest)
            points, columns = points + int(lost.any(1).sum()), columns | lost.any(0)
            if into is not None:
                with np.errstate(over="ignore", invalid="ignore"):
                    into[begin : begin + rows] = values
        if points:
            raise FloatingPointError(
                f"column {self.columns[int(columns.argmax())]!r}: {points} of {len(x)} points are too large to be written in its unit; "
                f"a smaller step_size or lipschitz may keep them near, or divide the column by a power of ten"
            )

    @property
    def _needs_double(self) -> np.ndarray:
        """Which varying columns are so far from 0, measured in their own spread, that float32 would make steps of them, or too large."""
        largest = np.abs(self.shift) + self.unit
        coarse = np.spacing(np.minimum(largest, 1e30).astype(np.float32)) > 1e-5 * self.unit
        return np.asarray(coarse | (largest > 1e30))

    def decode(self, cloud: Cloud) -> pd.DataFrame:
        """A cloud as rows of the target: its columns in its order, its types and its units."""
        values = np.empty((len(cloud), len(self.varying)), dtype=np.float64)
        values[:, ~self.varying] = self.table.values[0, ~self.varying]
        points = np.empty(cloud.x.shape)
        self.check(cloud.x, points)
        values[:, self.varying] = points
        single = np.zeros(len(self.varying), dtype=bool)
        single[self.varying] = ~self._needs_double & (self.dtype == torch.float32)
        rows = zip(self.table.columns, values.T, self.table.dtypes, single)
        frame = pd.DataFrame({name: _typed(x, dtype, np.float32 if s else np.float64) for name, x, dtype, s in rows})
        if self.levels is not None and self.table.label_column is not None and cloud.label is not None:
            name, place = self.table.label_column
            frame.insert(place, name, self.levels[cloud.label.cpu().numpy()])
        return frame


def _check_range(table: Table, largest: np.ndarray, varying: np.ndarray, dtype: torch.dtype, most: float) -> None:
    wide = ~(largest < most)  # also where it is not a number
    if wide.any():
        column = int(np.flatnonzero(varying)[wide.argmax()])
        small = np.abs(table.values[:, column]).max() < 1
        raise ValueError(
            f"{table.name}, column {table.columns[column]!r}: its values are too {'small' if small else 'large'} for "
            f"{str(dtype).removeprefix('torch.')}; {'multiply' if small else 'divide'} the column by a power of ten"
        )


def _typed(values: np.ndarray, dtype: np.dtype, float_type: type) -> np.ndarray:
    if dtype.kind == "b":
        return np.asarray(values > 0.5)
    if dtype.kind in "iu":
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
        high = high if int(high) <= np.iinfo(dtype).max else np.nextafter(high, 0)  # 2^63 − 1 is no float
        values, float_type = np.rint(values).clip(low, high), dtype.type
    return np.asarray(values, dtype=float_type)
