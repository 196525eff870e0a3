"""Tables: files of numbers in, particles in the same columns, types and units out."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import logging
import re
import warnings
import zipfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from particles.cloud import Cloud
from particles.data.kinds import plain_dtype

logger = logging.getLogger("particles")

SCALES = ("standard", "global", "none")


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
        digest.update(np.ascontiguousarray(self.values).tobytes())
        digest.update(repr(None if self.label is None else self.label.tolist()).encode())
        return digest.hexdigest()


def array_table(
    name: str, values: np.ndarray, label: np.ndarray | None = None, label_name: str = "label", least: int = 2
) -> Table:
    """A table of unnamed columns ``x0``, ``x1``, …; a label column, if there is one, comes last.

    Raises:
        ValueError: If the array is not one of at least ``least`` rows of finite real numbers.
    """
    frame = _array_frame(name, values, label, label_name)
    return _frame_table(name, frame, None if label is None else label_name, True, 1, least)


def _array_frame(name: str, values: np.ndarray, label: np.ndarray | None, label_name: str) -> pd.DataFrame:
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{name}: expected an array of real numbers with shape (rows, columns), not {values.dtype} {values.shape}"
        )
    frame = pd.DataFrame(values, columns=[f"x{i}" for i in range(values.shape[1])])
    if label is None:
        return frame
    if label.shape != (len(values),):
        raise ValueError(f"{name}: the labels need shape ({len(values)},), one per row, not {label.shape}")
    return frame.assign(**{label_name: label})


def read_table(path: Path, label: str | None = None, header: bool | None = None, least: int = 2) -> Table:
    """Reads CSV (any usual separator), Parquet, ``.npy`` or ``.npz``.

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
    frame, named = _read(path, label, header)
    first_line = 2 if named and _kind(path) == "csv" else 1
    return _frame_table(str(path), frame, label, named, first_line, least)


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
    frame, named = _read(path, label, header, text)
    if label is not None and label not in frame.columns:
        raise ValueError(f"{path} has no column {label!r} for the labels; it has {_some(frame.columns)}")
    return frame, named


def text_columns(frame: pd.DataFrame) -> list[str]:
    """The names of the columns whose entries are all text, but for missing ones."""
    found = ((name, pd.api.types.infer_dtype(column, skipna=True)) for name, column in frame.items())
    return [str(name) for name, held in found if held == "string"]


def _kind(path: Path) -> str:
    return {".npy": "array", ".npz": "array", ".parquet": "parquet", ".pq": "parquet"}.get(path.suffix.lower(), "csv")


def _read(
    path: Path, label: str | None, header: bool | None, text: Collection[str] | None = None
) -> tuple[pd.DataFrame, bool]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a CSV, Parquet, npy or npz file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    kind = _kind(path)
    if kind == "array":
        return _read_arrays(path, label), True
    return (_read_parquet(path), True) if kind == "parquet" else _read_csv(path, header, text)


def _read_arrays(path: Path, label: str | None) -> pd.DataFrame:
    try:
        found = np.load(path, allow_pickle=False)
        arrays = found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a NumPy file: {error}") from None
    if isinstance(arrays, np.ndarray):
        if label is not None:
            raise ValueError(f"{path} is one array and has no column {label!r}; put rows and labels into an npz file")
        return _array_frame(str(path), arrays, None, "label")
    if label is not None and label not in arrays:
        raise ValueError(f"{path} has no array {label!r} for the labels; it holds {', '.join(arrays)}")
    rows = [name for name in arrays if name != label]
    chosen = "x" if "x" in rows else rows[0] if len(rows) == 1 else None
    if chosen is None:
        raise ValueError(f"{path} holds the arrays {', '.join(arrays)}; expected one, or one called x")
    return _array_frame(str(path), arrays[chosen], arrays[label] if label else None, label or "label")


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError:
        raise ValueError(f"{path}: reading Parquet needs pyarrow: pip install 'lipschitz-particles[parquet]'") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from None


def _read_csv(path: Path, header: bool | None, kept: Collection[str] | None = None) -> tuple[pd.DataFrame, bool]:
    """The rows; unless ``kept`` is ``None``, these columns and those of codes such as 00123 are kept as text."""

    def parse(dtype: Any) -> pd.DataFrame:
        return pd.read_csv(
            io.StringIO(text),
            index_col=False,
            sep=r"\s+" if separator == " " else separator,
            header=0 if header else None,
            skip_blank_lines=False,
            skipinitialspace=True,
            float_precision="round_trip",
            dtype=dtype,
        )

    try:
        text = path.read_text(encoding="utf-8-sig").rstrip("\r\n")
        while not text.rpartition("\n")[2].strip() and text:  # blank lines at the end
            text = text.rpartition("\n")[0].rstrip("\r\n")
        head = [line.rstrip("\r\n") for line in itertools.islice(io.StringIO(text), 20)]
        if not head or not head[0].strip():
            raise ValueError(f"{path}, line 1 is blank; expected the names of the columns, or the first row")
        separator = _separator(head)
        names = (
            head[0].split() if separator == " " else next(csv.reader(head, delimiter=separator, skipinitialspace=True))
        )
        names = [name.strip() for name in names]
        header = _is_header(names) if header is None else header
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            frame = parse(None)
            if kept is not None and (kept or re.search(r"(?<![\d.eE+-])0\d", text)):
                written = parse(str)
                whole = [name for name in frame.columns if frame[name].dtype.kind in "iuf"]
                codes = [
                    name
                    for name in whole
                    if str(name).strip() in kept or written[name].str.fullmatch(r"\s*0\d+\s*").eq(True).any()
                ]
                frame = parse(dict.fromkeys(codes, str)) if codes else frame
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except pd.errors.ParserWarning:
        raise ValueError(f"{path}, line 2: more entries than the {len(names)} columns that the header names") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {str(error).strip()}") from None
    if not header:
        frame.columns = pd.Index([f"x{i}" for i in range(frame.shape[1])])
    elif duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: the column name {duplicates[0]!r} occurs more than once")
    return _without_index(path, frame.rename(columns=lambda name: str(name).strip())), header


def _separator(lines: Sequence[str]) -> str:
    counts = {mark: min(line.count(mark) for line in lines) for mark in ",;\t|"}
    best = max(counts, key=lambda mark: counts[mark])
    if counts[best]:
        return best
    fields = [line.split() for line in lines]
    aligned = len(fields[0]) > 1 and all(len(row) == len(fields[0]) for row in fields)
    return " " if aligned and all(_numeric(entry) for row in fields[1:] for entry in row) else ","


def _is_header(first: Sequence[str]) -> bool:
    places = list(first[1:] if first[0] == "" else first)  # pandas writes 0, 1, … for columns without names
    counted = len(first) > 1 and places == [str(i) for i in range(len(places))]
    return counted or not all(_numeric(entry) for entry in first if entry)


def _numeric(entry: str) -> bool:
    try:
        float(entry)
    except ValueError:
        return False
    return True


def _without_index(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without the row numbers that pandas writes into a first column without a name."""
    first = frame.columns[0]
    if first.startswith("Unnamed: ") and np.array_equal(frame[first], np.arange(len(frame))):
        logger.warning("%s: the first column has no name and counts the rows; it is left out", path)
        return frame.drop(columns=first)
    return frame


def _frame_table(name: str, frame: pd.DataFrame, label: str | None, header: bool, first_line: int, least: int) -> Table:
    """Checks a frame and takes it apart; ``first_line`` is the number, in the file, of its first row."""
    place, classes = None, None
    if label is not None:
        if label not in frame.columns:
            raise ValueError(f"{name} has no column {label!r} for the labels; it has {_some(frame.columns)}")
        place = (label, list(frame.columns).index(label))
        classes = frame[label].to_numpy()
        if (missing := frame[label].isna().to_numpy()).any():
            raise ValueError(f"{name}, line {first_line + int(missing.argmax())}: the label {label!r} is missing")
        frame = frame.drop(columns=label)
    if frame.shape[1] == 0:
        raise ValueError(f"{name} has no column of numbers")
    if len(frame) < least:
        needed = "a flow needs at least 2" if least == 2 else f"at least {least} is needed"
        raise ValueError(f"{name} has {len(frame)} row{'s' * (len(frame) != 1)}; {needed}")
    values = np.empty(frame.shape)
    for i, column in enumerate(frame.columns):
        values[:, i] = _numbers(name, str(column), frame[column], first_line)
    return Table(
        name, values, tuple(map(str, frame.columns)), tuple(map(plain_dtype, frame.dtypes)), header, classes, place
    )


def _numbers(name: str, column: str, series: pd.Series, first_line: int) -> np.ndarray:
    def place(at: np.ndarray) -> str:
        return f"{name}, line {first_line + int(at.argmax())}, column {column!r}"

    missing = series.isna().to_numpy()
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
    if series.dtype.kind in "iu" and (large := np.abs(values) > 2**53).any():
        raise ValueError(
            f"{place(large)}: an integer beyond 2^53 would lose digits; drop the column if it is an identifier"
        )
    return values


def _some(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    listed = ", ".join(repr(str(name)) for name in names[:most])
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")


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
            logger.warning("%s: kept constant: column%s %s", table.name, "s" * (len(constant) > 1), _some(constant))
        values = table.values[:, varying]
        shift = values.mean(0) if scale != "none" else np.zeros(values.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):  # checked below
            spread = values.std(0)
        if scale == "global":
            spread = np.full_like(spread, np.sqrt(np.square(spread).mean()))
        unit = spread if scale != "none" else np.ones_like(shift)
        _check_range(table, np.abs(values).max(0) + np.abs(shift) + unit, varying, dtype)
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
        x = (table.values[:, self.varying] - self.shift) / self.unit
        _check_range(table, np.abs(x).max(0), self.varying, self.dtype)
        label = None
        if self.levels is not None:
            if table.label is None:
                raise ValueError(f"{table.name} has no labels, but {self.table.name} has")
            if strange := sorted(set(table.label.tolist()) - set(self.levels.tolist()), key=str):
                raise ValueError(f"{table.name} has the class {strange[0]!r}, which {self.table.name} has not")
            label = torch.as_tensor(np.searchsorted(self.levels, table.label), device=device)
        return Cloud(torch.as_tensor(x, dtype=self.dtype, device=device), label)

    def points(self, x: torch.Tensor) -> np.ndarray:
        """Points in the units of the target, varying columns alone; in the type of ``x`` where that is fine enough."""
        values = self._in_data_units(x)
        return values if self._needs_double.any() else values.astype(x.detach().cpu().numpy().dtype)

    def _in_data_units(self, x: torch.Tensor) -> np.ndarray:
        return np.asarray(x.detach().cpu().double().numpy() * self.unit + self.shift)

    @property
    def _needs_double(self) -> np.ndarray:
        """Which varying columns are so far from 0, measured in their own spread, that float32 would make steps of them."""
        return np.asarray(np.spacing((np.abs(self.shift) + self.unit).astype(np.float32)) > 1e-5 * self.unit)

    def decode(self, cloud: Cloud) -> pd.DataFrame:
        """A cloud as rows of the target: its columns in its order, its types and its units."""
        values = np.empty((len(cloud), len(self.varying)), dtype=np.float64)
        values[:, ~self.varying] = self.table.values[0, ~self.varying]
        values[:, self.varying] = self._in_data_units(cloud.x)
        single = np.zeros(len(self.varying), dtype=bool)
        single[self.varying] = ~self._needs_double & (self.dtype == torch.float32)
        rows = zip(self.table.columns, values.T, self.table.dtypes, single)
        frame = pd.DataFrame({name: _typed(x, dtype, np.float32 if s else np.float64) for name, x, dtype, s in rows})
        if self.levels is not None and self.table.label_column is not None and cloud.label is not None:
            name, place = self.table.label_column
            frame.insert(place, name, self.levels[cloud.label.cpu().numpy()])
        return frame

    def write(self, cloud: Cloud, path: Path) -> None:
        """A cloud as a CSV file of the target's kind."""
        self.decode(cloud).to_csv(path, index=False, header=self.table.header)


def _check_range(table: Table, largest: np.ndarray, varying: np.ndarray, dtype: torch.dtype) -> None:
    wide = ~(largest < torch.finfo(dtype).max)  # also where it is not a number
    if wide.any():
        column = np.array(table.columns)[varying][wide.argmax()]
        raise ValueError(
            f"{table.name}, column {str(column)!r}: its values are too large for {str(dtype).removeprefix('torch.')}; "
            f"divide the column by a power of ten"
        )


def _typed(values: np.ndarray, dtype: np.dtype, float_type: type) -> np.ndarray:
    if dtype.kind == "b":
        return np.asarray(values > 0.5)
    if dtype.kind in "iu":
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
        high = high if int(high) <= np.iinfo(dtype).max else np.nextafter(high, 0)  # 2^63 − 1 is no float
        values, float_type = np.rint(values).clip(low, high), dtype.type
    return np.asarray(values, dtype=float_type)
