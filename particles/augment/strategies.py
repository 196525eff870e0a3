"""How many new rows each class gets: imbalanced-learn's sampling strategies, and numbers of rows."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from particles.augment.containers import Given


def row_count(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise ValueError(f"{what} needs a number of rows from 0 up, not {value!r}")
    return int(value)


def some_classes(classes: Sequence[Any]) -> str:
    shown = ", ".join(repr(getattr(name, "item", lambda name=name: name)()) for name in classes[:8])
    return shown + (f" and {len(classes) - 8} more" if len(classes) > 8 else "")


TOTALS = numbers.Integral | dict
"""The strategies that make sense of a single class."""


def wanted_rows(strategy: Any, table: Given) -> dict[Any, int]:
    """The number of new rows of each class."""
    sizes = dict(zip(table.classes, np.bincount(table.group, minlength=len(table.classes)).tolist()))
    if callable(strategy):
        strategy = strategy(table.y)
    if isinstance(strategy, bool) or not isinstance(strategy, str | dict | numbers.Real):
        raise ValueError(
            f"'sampling_strategy' should be a string, a number, a dictionary or a function of y, not {strategy!r}"
        )
    if table.kind != "classes":
        return {0: _without_classes(strategy, len(table.group))}
    largest = max(sizes.values())
    if isinstance(strategy, dict):
        if unknown := [name for name in strategy if name not in sizes]:
            raise ValueError(
                f"The {unknown} target class is/are not present in the data. The classes are {some_classes(table.classes)}"
            )
        for name, total in strategy.items():
            if row_count(total, f"class {name!r}") < sizes[name]:
                raise ValueError(
                    f"With over-sampling methods, the number of samples in a class should be greater or equal to the original "
                    f"number of samples. Originally, there is {sizes[name]} samples and {total} samples are asked."
                )
        return {name: total - sizes[name] for name, total in strategy.items()}
    if isinstance(strategy, str):
        smallest = min(sizes, key=lambda name: sizes[name])
        biggest = max(sizes, key=lambda name: sizes[name])
        chosen = {
            "auto": [name for name in sizes if name != biggest],
            "not majority": [name for name in sizes if name != biggest],
            "minority": [smallest],
            "not minority": [name for name in sizes if name != smallest],
            "all": list(sizes),
        }
        if strategy not in chosen:
            raise ValueError(
                f"When 'sampling_strategy' is a string, it needs to be one of {sorted(chosen)}. Got {strategy!r} instead."
            )
        return {name: largest - sizes[name] for name in chosen[strategy]}
    if isinstance(strategy, numbers.Integral):
        total = row_count(strategy, "sampling_strategy")
        return {name: max(total - size, 0) for name, size in sizes.items()}
    if len(sizes) != 2:
        raise ValueError(
            '"sampling_strategy" can be a float only when the type of target is binary. For multi-class, use a dict.'
        )
    minority = min(sizes, key=lambda name: sizes[name])
    new = int(float(strategy) * largest) - sizes[minority] if 0 < float(strategy) <= 1 else -1
    if new < 0:
        raise ValueError(
            f"The specified ratio required to remove samples from the minority class while trying to generate new samples. "
            f"Please increase the ratio: it must be above {sizes[minority] / largest:.3g} and at most 1, not {strategy}"
        )
    return {minority: new}


def _without_classes(strategy: Any, size: int) -> int:
    if strategy == "auto":
        return size
    if isinstance(strategy, numbers.Integral):
        total = row_count(strategy, "sampling_strategy")
        if total < size:
            raise ValueError(f"sampling_strategy {total} is less than the {size} rows that are there")
        return total - size
    raise ValueError(f"without classes sampling_strategy is auto or a number of rows, not {strategy!r}")
