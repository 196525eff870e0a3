"""Rows and classes as they come from users, and new ones in the same containers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from particles.data.kinds import is_continuous, usable


@dataclass
class Given:
    """Rows and classes as they came, and the frame that they are to the generator.

    Attributes:
        given: The rows as they came.
        y: The classes or values as they came, or ``None``.
        kind: ``classes``, ``values`` or ``none``.
        frame: The rows, with values behind them as one more column.
        group: The number of the class of each row.
        classes: The classes by that number; a single 0 without.
        listed: Whether the rows came as a list.
    """

    given: Any
    y: Any
    kind: str
    frame: pd.DataFrame
    group: np.ndarray
    classes: list[Any]
    listed: bool = False

    @staticmethod
    def of(X: Any, y: Any, classes: bool = False) -> Given:
        """Reads rows and classes.

        Arguments:
            X: The rows.
            y: Their classes or values.
            classes: Whether numbers are classes whatever they look like.
        """
        # What becomes of the names and types of a caller's frame afterwards is no matter of new rows.
        given = X.copy(deep=False) if isinstance(X, pd.DataFrame) else X if sparse.issparse(X) else _array(X)
        y = y.copy(deep=False) if isinstance(y, pd.DataFrame | pd.Series) else y
        if getattr(given, "ndim", 2) != 2:
            raise ValueError(
                f"Expected 2D array: X needs shape (rows, columns), not {np.shape(given)}. Reshape your data"
            )
        n, d = given.shape
        if n < 2 or d < 1:
            what = f"{n} sample(s)" if n < 2 else f"{d} feature(s)"
            raise ValueError(
                f"Found array with {what} (shape=({n}, {d})) while a minimum of {2 if n < 2 else 1} is required: "
                f"{'one row has no spread to learn from' if n == 1 else 'there is nothing to learn from'}"
            )
        frame, listed = _frame(given), isinstance(X, list)
        alone = np.zeros(n, dtype=np.intp)
        if y is None:
            return Given(given, None, "none", frame, alone, [0], listed)
        values = _one_column(y)
        if len(values) != n:
            raise ValueError(
                f"X has {n} rows and y has {len(values)} entries, inconsistent numbers of samples; give one entry per row"
            )
        if values.isna().any():
            raise ValueError(
                f"y is missing (NaN) in row {int(values.isna().to_numpy().argmax())}; drop the row or fill it in"
            )
        if not classes and is_continuous(values):
            return Given(given, y, "values", frame.assign(**{_free(frame): values.to_numpy()}), alone, [0], listed)
        try:
            found, group = np.unique(values.to_numpy(), return_inverse=True)
        except TypeError:
            raise ValueError(
                "y mixes types that have no order, such as text and numbers; make all of it text"
            ) from None
        plain = found.tolist() if found.dtype.kind in "biufU" else list(found)  # plain values, for messages
        return Given(given, y, "classes", frame, group, plain, listed)

    def split(self, rows: pd.DataFrame, group: np.ndarray) -> tuple[pd.DataFrame, Any]:
        """New rows of the generator, and their classes or values."""
        if self.kind == "values":
            return rows.iloc[:, :-1], rows.iloc[:, -1].to_numpy()
        classes = np.empty(len(self.classes), dtype=object)
        classes[:] = self.classes
        return rows, classes[group] if self.kind == "classes" else None

    def rows_like(self, rows: pd.DataFrame, container: str, behind: bool = False) -> Any:
        """New rows in the container of those that came, alone or behind them."""
        if isinstance(self.given, pd.DataFrame):
            new = rows.set_axis(self.given.columns, axis=1)
            return _behind(self.given, new) if behind else new.astype(_types(self.given))
        if sparse.issparse(self.given):
            more = sparse.csr_matrix(rows.to_numpy(dtype=self.given.dtype))
            form = self.given.format
            found = type(self.given)(sparse.vstack((self.given, more), form) if behind else more.asformat(form))
            if container == "pandas":
                return pd.DataFrame.sparse.from_spmatrix(found, columns=_unnamed(found))  # type: ignore[attr-defined]
            return found
        array = rows.to_numpy(dtype=self.given.dtype).reshape(len(rows), self.given.shape[1])
        array = np.concatenate((self.given, array)) if behind else array
        if container == "pandas":
            return pd.DataFrame(array, columns=_unnamed(array)).infer_objects()
        return array.tolist() if self.listed else array

    def values_like(self, new: Any, behind: bool = False) -> Any:
        """New classes or values in the container of those that came, alone or behind them."""
        new = np.asarray(new)
        if isinstance(self.y, pd.Series):
            series = pd.Series(new, dtype=self.y.dtype, name=self.y.name)
            if not behind:
                return series
            return pd.concat((self.y, series.set_axis(_more(self.y.index, len(series))))).astype(self.y.dtype)
        shape = np.shape(self.y)
        if len(shape) == 2 and shape[1] > 1:  # one column per class
            new = (new[:, None] == np.arange(shape[1])).astype(int)
        if isinstance(self.y, pd.DataFrame):
            frame = pd.DataFrame(new.reshape(len(new), shape[1]), columns=self.y.columns).astype(_types(self.y))
            return _behind(self.y, frame) if behind else frame
        given = np.asarray(self.y)
        new = new.astype(given.dtype).reshape(len(new), *given.shape[1:])
        new = np.concatenate((given, new)) if behind else new
        return new.tolist() if isinstance(self.y, list) else new


def _unnamed(array: Any) -> list[str]:
    """Names of columns that have none, as scikit-learn makes them."""
    return [f"x{i}" for i in range(array.shape[1])]


def _types(frame: pd.DataFrame) -> dict[Any, Any]:
    return dict(zip(frame.columns, frame.dtypes))


def _behind(frame: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """A frame with new rows behind its own, in its types."""
    if not len(new):
        return frame.copy()
    new = new.set_axis(_more(frame.index, len(new)))
    return pd.concat((frame, new.astype(_types(frame)))).astype(_types(frame))


def _array(X: Any) -> np.ndarray:
    """Anything but frames and sparse matrices as an array; numbers beside text in lists stay numbers."""
    array = np.asarray(X)
    return np.asarray(X, dtype=object) if isinstance(X, list | tuple) and array.dtype.kind in "US" else array


def _frame(given: Any) -> pd.DataFrame:
    if isinstance(given, pd.DataFrame):
        frame = given.reset_index(drop=True)
        thin = {name: kind.subtype for name, kind in _types(frame).items() if isinstance(kind, pd.SparseDtype)}
        thin |= {name: plain for name, kind in _types(frame).items() if (plain := usable(kind)) != kind}
        return frame.astype(thin) if thin else frame
    array = given.toarray() if sparse.issparse(given) else given
    if array.dtype.kind == "c":
        raise ValueError("Complex data not supported: the columns of X must be real numbers, categories or dates")
    frame = pd.DataFrame(array.astype(usable(array.dtype), copy=False))
    return frame.infer_objects() if array.dtype == object else frame


def _one_column(y: Any) -> pd.Series:
    """Classes or values as one column; an array with a column of zeros and ones per class as the numbers of the columns."""
    array = np.asarray(y)
    if array.ndim > 2 or array.ndim == 0:
        raise ValueError(f"y should be a 1d array with one entry per row; got an array of shape {array.shape} instead")
    if array.ndim == 2 and array.shape[1] != 1:
        if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all() or not (array.sum(1) == 1).all():
            raise ValueError(
                "y has several columns that are not one of zeros and ones per class. "
                "Multilabel and multioutput targets are not supported."
            )
        return pd.Series(array.argmax(1))
    if isinstance(y, pd.DataFrame):
        return y.iloc[:, 0].reset_index(drop=True).infer_objects()
    if isinstance(y, pd.Series):
        return y.reset_index(drop=True).infer_objects()
    if array.dtype.kind == "c":
        raise ValueError("Complex data not supported: y must hold classes or real numbers")
    return pd.Series(array.ravel()).infer_objects()


def _free(frame: pd.DataFrame) -> str:
    name = "y"
    while name in frame.columns:
        name += "_"
    return name


def _more(index: pd.Index, count: int) -> pd.Index:
    """Names for so many rows behind those of an index."""
    if isinstance(index, pd.MultiIndex):
        lead = _more(index.get_level_values(0), count)
        return pd.MultiIndex.from_arrays([lead, *[[""] * count] * (index.nlevels - 1)], names=index.names)
    if pd.api.types.is_integer_dtype(index.dtype) and not index.hasnans:
        first = max(int(np.max(index.to_numpy())), -1) + 1 if len(index) else 0
        if first + count < 2**63:
            return pd.RangeIndex(first, first + count, name=index.name)
    taken = set(index)
    free = (name for number in itertools.count() if (name := f"synthetic-{number}") not in taken)
    return pd.Index(list(itertools.islice(free, count)), name=index.name)
