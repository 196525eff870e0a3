"""Tables column by column, and the correlations between columns: functions of two pandas frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd


def marginal_distances(a: pd.DataFrame, b: pd.DataFrame, categorical: Collection[str] = ()) -> dict[str, float]:
    """How far each column of one table is from the same one of another, between 0 and 1.

    Numbers and dates: the Kolmogorov-Smirnov distance, with missing values as one value below all others. Everything
    else, and the ``categorical`` columns: the total variation distance, with missing values as one more level. Two
    samples of one law do not score 0, but about 1 / √n: compare with what real rows score.

    Arguments:
        a: One table.
        b: The other, with at least the columns of ``a``.
        categorical: The columns of numbers that are names of classes.

    Raises:
        ValueError: If ``b`` lacks a column, or a table has no rows.
    """
    _check(a, b)
    found = {}
    for column in a.columns:
        first, second = _numbers(a[column]), _numbers(b[column])
        if column in categorical or first is None or second is None:
            found[str(column)] = total_variation(a[column], b[column])
        else:
            found[str(column)] = kolmogorov_smirnov(first, second)
    return found


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of the distribution functions of two samples (SciPy); NaN counts as a value below all."""
    from scipy.stats import ks_2samp

    below = [np.where(np.isnan(values), -np.inf, values) for values in (a, b)]
    return float(ks_2samp(below[0], below[1], method="asymp").statistic)


def total_variation(a: pd.Series, b: pd.Series) -> float:
    """Half the sum of the absolute differences of the levels' shares; missing values are one level.

    Levels are the same if they are equal or equal numbers: 1 and 1.0 are one level, 1 and "1" are two.
    """
    first, second = _shares(a), _shares(b)
    return sum(abs(first.get(level, 0.0) - second.get(level, 0.0)) for level in first.keys() | second.keys()) / 2


def _shares(series: pd.Series) -> dict[Any, float]:
    counts = Counter(series.astype(object).where(series.notna(), None))
    return {level: count / len(series) for level, count in counts.items()}


def correlation_difference(a: pd.DataFrame, b: pd.DataFrame, categorical: Collection[str] = ()) -> float:
    """The mean absolute difference of the Pearson correlations of two tables, over all pairs of columns of numbers.

    Rows with a missing value are left out of the pairs that they miss it in; pairs with a column that is constant in one
    of the tables are left out. NaN if no pair remains. 0 for equal tables alone, about 1 / √n for two samples of one law.

    Arguments:
        a: One table.
        b: The other, with at least the columns of ``a``.
        categorical: The columns of numbers that are names of classes, and left out.

    Raises:
        ValueError: If ``b`` lacks a column, or a table has no rows.
    """
    _check(a, b)
    pairs = []
    for column in a.columns:
        first, second = _numbers(a[column]), _numbers(b[column])
        if column not in categorical and first is not None and second is not None:
            pairs.append((first, second))
    if len(pairs) < 2:
        return float("nan")
    gap = np.abs(_correlations([pair[0] for pair in pairs]) - _correlations([pair[1] for pair in pairs]))
    gap = gap[np.triu_indices(len(pairs), 1)]
    gap = gap[~np.isnan(gap)]
    return float(gap.mean()) if len(gap) else float("nan")


def _correlations(columns: list[np.ndarray]) -> np.ndarray:
    """The correlations of the columns; NaN with a constant one, whose deviation may be a rounding error."""
    frame = pd.DataFrame(np.stack(columns, 1))
    found = frame.corr().to_numpy(copy=True)
    constant = (frame.nunique() < 2).to_numpy()
    found[constant], found[:, constant] = np.nan, np.nan
    return found


def _check(a: pd.DataFrame, b: pd.DataFrame) -> None:
    if lacking := [str(column) for column in a.columns if column not in b.columns]:
        raise ValueError(f"the second table has no column {lacking[0]!r}; both need the same columns")
    if a.empty or b.empty:
        raise ValueError(f"both tables need rows and columns, not shapes {a.shape} and {b.shape}")


def _numbers(series: pd.Series) -> np.ndarray | None:
    """The column in floating point, with NaN where it is missing; dates in seconds; ``None`` if it is neither."""
    if pd.api.types.is_datetime64_any_dtype(series):
        stamps = pd.to_datetime(series, utc=True)
        return np.asarray((stamps - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1), dtype=np.float64)
    if pd.api.types.is_bool_dtype(series) or not pd.api.types.is_numeric_dtype(series):
        return None
    return series.to_numpy(dtype=np.float64, na_value=np.nan)
