"""The forms in which a column is written (numbers, dates, levels), as float64 numbers and back."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

_TIMES = ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f")
DATE_PATTERNS = (
    "%Y-%m-%d",
    *(f"%Y-%m-%d{between}{time}{zone}" for between in "T " for time in _TIMES for zone in ("", "Z")),
)
"""The ISO 8601 forms that text is recognised as dates by: all entries of a column in one of them."""

CLASSES = 50
"""More different whole numbers than this are values, not classes."""

LONG = "the integer {entry} is beyond 2^53 and would lose digits; drop the column if it is an identifier"

_PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


@dataclass(frozen=True)
class Numbers:
    """Numbers and truth values (as 0 and 1), in the type of the column.

    Arguments:
        where: Table and column, for messages.
        dtype: The column's type; entries of an ``object`` column are numbers of Python.
        plain: The numbers' own type: NumPy's counterpart, or that of the objects.
        absent: How a missing entry is written.
    """

    where: str
    dtype: Any
    plain: np.dtype
    absent: Any

    def numbers(self, series: pd.Series) -> np.ndarray:
        """The entries as numbers, NaN where missing.

        Raises:
            ValueError: If an entry is no number, or infinite, or an integer beyond 2^53.
        """
        found = series
        if series.dtype == object:
            _refuse(self.where, series, np.array([_long(entry) for entry in series], dtype=bool), LONG)
        if not _is_numpy(series.dtype):
            found = pd.to_numeric(series, errors="coerce")
            text = found.isna().to_numpy() & ~series.isna().to_numpy()
            _refuse(self.where, series, text, "{entry!r} is not a number")
            if found.dtype.kind not in "biuf":
                raise ValueError(f"{self.where}: expected numbers, not {series.dtype}")
        values = np.asarray(found.to_numpy(dtype=np.float64, na_value=np.nan))
        _refuse(self.where, series, np.isinf(values), "{entry} is not finite; replace it or drop the row")
        if found.dtype.kind in "iu":
            large = (found > 2**53) | (found < -(2**53))  # as integers: as floats some are 2^53
            _refuse(self.where, series, large.fillna(False).to_numpy(dtype=bool), LONG)
        return values + 0.0  # -0 is 0

    def entries(self, values: np.ndarray, missing: np.ndarray) -> Any:
        """Numbers of the column's support as its entries, ``missing`` where that is true."""
        if self.plain.kind == "b":
            values = values > 0.5
        elif self.plain.kind in "iu":
            values = np.rint(values)
        return filled(values.astype(self.plain), missing, self.dtype, self.absent)


@dataclass(frozen=True)
class Dates:
    """Dates and times, as whole numbers of the longest unit in which the training values are whole, from the earliest.

    They come back exactly if they span less than 2^53 units: 104 days of nanoseconds, 285 years of microseconds.

    Arguments:
        where: Table and column, for messages.
        dtype: The column's type.
        pattern: How text is read and written, ``"date"`` for objects of that name, ``None`` for ``datetime64``.
        resolution: The unit of NumPy's count.
        zone: The time zone, or ``None``.
        wall: Whether to count on the clocks of that zone, as for dates that are all midnights there; else in UTC.
        origin: The count of the earliest one.
        size: The length of a unit, in counts: of a day if all are midnights.
        absent: How a missing entry is written.
    """

    where: str
    dtype: Any
    pattern: str | None
    resolution: str
    zone: Any
    wall: bool
    origin: int
    size: int
    absent: Any

    @staticmethod
    def fit(where: str, series: pd.Series, pattern: str | None) -> Dates:
        """The form of a column of dates, at least one of which is there."""
        stamps = pd.to_datetime(series, format=pattern if pattern and "%" in pattern else None)
        zone = stamps.dt.tz
        resolution = str(np.datetime_data(_stamps(stamps, False).dtype)[0])
        per_day = _PER_DAY[resolution]
        wall = zone is None or bool((_counts(_stamps(stamps, True)) % per_day == 0).all())
        counts = _counts(_stamps(stamps, wall))
        units = [per_day, *(per_day // (24 * parts) for parts in (1, 60, 3600))]
        units += [per_day // (86_400 * parts) for parts in (1000, 1_000_000) if per_day % (86_400 * parts) == 0] + [1]
        size = next(unit for unit in units if (counts % unit == 0).all())
        absent = _absent(series)
        return Dates(where, series.dtype, pattern, resolution, zone, wall, int(counts.min()), size, absent)

    def numbers(self, series: pd.Series) -> np.ndarray:
        """The entries as units from the earliest one, NaN where missing.

        Raises:
            ValueError: If an entry is no date, or text in another form.
        """
        pattern = self.pattern if self.pattern is not None and "%" in self.pattern else None
        if pattern is None and pd.api.types.is_numeric_dtype(series.dtype):
            raise ValueError(f"{self.where}: expected dates, not {series.dtype}")
        found = pd.to_datetime(series, format=pattern, errors="coerce")
        missing = series.isna().to_numpy()
        form = "" if pattern is None else f" in the form {pattern}"
        _refuse(self.where, series, found.isna().to_numpy() & ~missing, f"{{entry!r}} is not a date{form}")
        if (found.dt.tz is None) != (self.zone is None):
            raise ValueError(f"{self.where}: expected dates {'without' if self.zone is None else 'with'} a time zone")
        if self.zone is not None:
            found = found.dt.tz_convert(self.zone)
        stamps = _stamps(found, self.wall).astype(f"datetime64[{self.resolution}]")
        return np.where(missing, np.nan, (stamps.astype(np.int64) - self.origin) / self.size)

    def entries(self, values: np.ndarray, missing: np.ndarray) -> Any:
        """Whole numbers of units as dates in the column's form, ``missing`` where that is true."""
        counts = self.origin + np.rint(values).astype(np.int64) * self.size
        stamps = pd.Series(counts.astype(f"datetime64[{self.resolution}]"))
        if self.pattern is not None:
            written = stamps.dt.date if self.pattern == "date" else stamps.dt.strftime(self.pattern)
            return filled(written.to_numpy(dtype=object), missing, self.dtype, self.absent)
        if self.zone is not None:
            dst = np.ones(len(stamps), dtype=bool)  # an hour that the clocks show twice is the first one
            stamps = (
                stamps.dt.tz_localize(self.zone, ambiguous=dst, nonexistent="shift_forward")
                if self.wall
                else stamps.dt.tz_localize("UTC").dt.tz_convert(self.zone)
            )
        stamps[missing] = pd.NaT
        return filled(stamps.astype(self.dtype).array, missing, self.dtype, self.absent)


@dataclass(frozen=True)
class Levels:
    """Categories, as their places in the list of levels.

    Arguments:
        where: Table and column, for messages.
        dtype: The column's type, with all its categories and their order if it is pandas' ``category``.
        levels: The different training values: in the order of the ``category``, else sorted.
        absent: How a missing entry is written.
    """

    where: str
    dtype: Any
    levels: pd.Index
    absent: Any

    @staticmethod
    def fit(where: str, series: pd.Series) -> Levels:
        """The form of a column of categories, at least one of which is there."""
        if isinstance(series.dtype, pd.CategoricalDtype):
            levels = series.cat.remove_unused_categories().cat.categories
        else:
            try:
                levels = pd.Index(series.dropna().unique())
                levels = levels.sort_values()
            except TypeError:  # numbers among text have no order: as they come; lists are refused
                if not all(isinstance(entry, Hashable) for entry in series):
                    raise ValueError(f"{where}: its entries are no single values; drop the column") from None
        return Levels(where, series.dtype, levels, _absent(series))

    def numbers(self, series: pd.Series) -> np.ndarray:
        """The places of the entries among the levels, NaN where missing.

        Raises:
            ValueError: If an entry is not among the levels.
        """
        missing = series.isna().to_numpy()
        codes = self.levels.astype(object).get_indexer(pd.Index(series.astype(object)))
        unseen = "the category {entry!r} is not among those of the training rows"
        _refuse(self.where, series, (codes < 0) & ~missing, unseen)
        return np.where(missing, np.nan, codes.astype(np.float64))

    def entries(self, values: np.ndarray, missing: np.ndarray) -> Any:
        """The levels at those places, ``missing`` where that is true."""
        codes = values.astype(np.intp)
        if isinstance(self.dtype, pd.CategoricalDtype):
            codes = self.dtype.categories.get_indexer(self.levels)[codes]
            return pd.Categorical.from_codes(np.where(missing, -1, codes), dtype=self.dtype)
        return filled(self.levels.take(codes).array, missing, self.dtype, self.absent)


Form = Numbers | Dates | Levels


def recognise(where: str, series: pd.Series, declared: bool) -> tuple[str, Form]:
    """What a column holds, at least one entry of which is there.

    Arguments:
        where: Table and column, for messages.
        series: The column.
        declared: Whether it was declared to hold categories.

    Returns:
        ``"number"``, ``"boolean"``, ``"date"`` or ``"categorical"``, and the form.

    Raises:
        ValueError: If it holds something else, or text that looks like an identifier.
    """
    dtype = series.dtype
    if isinstance(dtype, pd.SparseDtype):
        raise ValueError(f"{where}: entries of type {dtype} are not supported; make them dense")
    if declared or isinstance(dtype, pd.CategoricalDtype):
        return "categorical", Levels.fit(where, series)
    if dtype.kind == "M" or isinstance(dtype, pd.DatetimeTZDtype):
        return "date", Dates.fit(where, series, None)
    if dtype.kind in "biuf":
        return "boolean" if dtype.kind == "b" else "number", Numbers(where, dtype, plain_dtype(dtype), _absent(series))
    held = pd.api.types.infer_dtype(series, skipna=True)
    if held in ("integer", "floating", "mixed-integer-float", "boolean"):
        if series.dtype == object:
            _refuse(where, series, np.array([_long(entry) for entry in series], dtype=bool), LONG)
        plain = plain_dtype(pd.to_numeric(series.dropna()).dtype)
        return "boolean" if held == "boolean" else "number", Numbers(where, dtype, plain, _absent(series))
    if held in ("date", "datetime"):
        return "date", Dates.fit(where, series, "date" if held == "date" else None)
    if held not in ("string", "mixed", "mixed-integer"):
        what = held if pd.api.types.is_object_dtype(dtype) else dtype
        raise ValueError(f"{where}: entries of type {what} are not supported; make them numbers, dates or text")
    if held == "string" and (pattern := _date_pattern(series.dropna())) is not None:
        return "date", Dates.fit(where, series, pattern)
    form = Levels.fit(where, series)
    if len(form.levels) > max(20, len(series) / 2):
        raise ValueError(
            f"{where}: {len(form.levels)} different texts in {len(series)} rows look like an identifier or free text; "
            f"drop the column, or declare it as categorical"
        )
    return "categorical", form


def is_continuous(entries: pd.Series) -> bool:
    """Whether the entries of a label are values, not classes: numbers with fractions, or many different whole ones.

    Many are more than ``CLASSES``, or more than 20 that are more than half of the entries. Missing ones do not count.
    """
    if not pd.api.types.is_numeric_dtype(entries) or pd.api.types.is_bool_dtype(entries):
        return False
    found = entries.dropna().to_numpy(dtype=np.float64)
    different = len(np.unique(found))
    return bool((found != np.rint(found)).any()) or different > CLASSES or different > max(20, len(found) / 2)


def filled(values: Any, missing: np.ndarray, dtype: Any, absent: Any) -> Any:
    """Values in the type of a column, ``absent`` where ``missing`` is true."""
    column = np.asarray(values).astype(dtype) if isinstance(dtype, np.dtype) else pd.array(values, dtype=dtype)
    if missing.any():
        column[missing] = np.datetime64("NaT") if dtype.kind == "M" and isinstance(dtype, np.dtype) else absent
    return (
        pd.Series(column, dtype=object) if pd.api.types.is_object_dtype(dtype) else column
    )  # or a frame makes text of it


def usable(dtype: Any) -> Any:
    """The type next to NumPy's ``dtype`` with which pandas can do all that is needed: native, no half and no long floats; others as they are."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "iuf":
        return dtype
    return (
        np.dtype("f4" if dtype.itemsize == 2 else "f8")
        if dtype.kind == "f" and dtype.itemsize not in (4, 8)
        else dtype.newbyteorder("=")
    )


def plain_dtype(dtype: Any) -> np.dtype:
    """NumPy's counterpart of one of pandas' own types."""
    plain: np.dtype = np.dtype(getattr(dtype, "numpy_dtype", dtype))
    return plain


def _date_pattern(texts: pd.Series) -> str | None:
    """The form in which all of the texts, once read as dates, are written again as they were."""
    first = texts.iloc[:1]
    for pattern in DATE_PATTERNS:
        if _reads(first, pattern) and _reads(texts, pattern):
            return pattern
    return None


def _reads(texts: pd.Series, pattern: str) -> bool:
    found = pd.to_datetime(texts, format=pattern, errors="coerce")
    return bool(found.notna().all() and (found.dt.strftime(pattern).to_numpy() == texts.to_numpy()).all())


def _stamps(series: pd.Series, wall: bool) -> np.ndarray:
    """NumPy's dates, on the clocks of the column's zone or in UTC."""
    if series.dt.tz is not None:
        series = series.dt.tz_localize(None) if wall else series.dt.tz_convert("UTC").dt.tz_localize(None)
    return np.asarray(series.to_numpy())


def _counts(stamps: np.ndarray) -> np.ndarray:
    return np.asarray(stamps[~np.isnat(stamps)].astype(np.int64))


def _is_numpy(dtype: Any) -> bool:
    """Whether the numbers are NumPy's, which need no reading."""
    return isinstance(dtype, np.dtype) and dtype.kind in "biuf"


def _absent(series: pd.Series) -> Any:
    if _is_numpy(series.dtype):
        return np.nan
    missing = series.isna().to_numpy()
    return series.iloc[int(missing.argmax())] if missing.any() else None


def _refuse(where: str, series: pd.Series, bad: np.ndarray, says: str) -> None:
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(f"{where}, row {series.index[at]!r}: {says.format(entry=_entry(series.iloc[at]))}")


def _long(entry: Any) -> bool:
    return isinstance(entry, int) and abs(entry) > 2**53


def _entry(entry: Any) -> Any:
    return entry.item() if isinstance(entry, np.generic) else entry
