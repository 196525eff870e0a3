"""The small real data sets that come with scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn import datasets

from particles.data.tables import Table


def _bundled(name: str, label: str | None) -> Table:
    if label not in (None, "target"):
        raise ValueError(f"{name} has no column {label!r} for the labels; its classes are called 'target'")
    found = getattr(datasets, f"load_{name}")()
    values = np.asarray(found.data, dtype=np.float64)
    whole = np.dtype(np.int64) if (values == np.rint(values)).all() else np.dtype(np.float64)
    columns = tuple(map(str, found.feature_names))
    classes, place = (found.target, ("target", len(columns))) if label else (None, None)
    return Table(name, values, columns, (whole,) * len(columns), True, classes, place)


def digits(label: str | None = None) -> Table:
    """1,797 handwritten digits of 8 × 8 pixels from 0 to 16."""
    return _bundled("digits", label)


def breast_cancer(label: str | None = None) -> Table:
    """569 tumours, 30 measurements, two classes."""
    return _bundled("breast_cancer", label)


def wine(label: str | None = None) -> Table:
    """178 wines, 13 measurements, three classes."""
    return _bundled("wine", label)


def iris(label: str | None = None) -> Table:
    """150 flowers, 4 measurements, three classes."""
    return _bundled("iris", label)
