"""The quality of a synthetic table, whatever made it: fidelity to fresh rows, copying, and use to a model."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from particles.cloud import Cloud
from particles.data.column import Column
from particles.data.columns import Columns
from particles.data.kinds import Levels, is_continuous
from particles.keys import Key
from particles.metrics.memorisation import copies
from particles.quality.figures import figures_of, groups, secondary
from particles.quality.findings import Figure, Marginal, Quality
from particles.quality.marginals import correlation_difference, marginal_distances, total_variation
from particles.quality.utility import Score, train_synthetic_test_real

MARK = "synthetic"
"""The column that marks synthetic rows."""
NOT_PRIVATE = "None of these figures is a guarantee of privacy: rows that are no copies can still give a person away."
NOT_FRESH = (
    "Fidelity was NOT measured on fresh rows, as there is no hold-out: what is compared with the real rows themselves is "
    "best for copies of them."
)
NOT_ALONE = (
    "W2, precision, density and coverage reward points that huddle in the middle, and every fidelity figure rewards "
    "copies: read them beside variance ratio, recall and the copying figures."
)


def evaluate(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    holdout: pd.DataFrame | None = None,
    label: str | None = None,
    *,
    categorical: Collection[str] = (),
    key: Key,
    size: int = 2000,
) -> Quality:
    """The quality of synthetic rows, for the output of any tool.

    Distances are measured on numbers: columns to deviation 1 (or one scale for all, if they are alike), categories as
    scaled indicators, missing values filled in; all fitted on the real rows alone.

    Arguments:
        real: The rows that the synthetic ones were made from.
        synthetic: The synthetic rows; of a table with a column ``synthetic`` those that it marks.
        holdout: Rows of the same law that had no part in making them. Without any, fidelity is not measured.
        label: The column of classes, or of a continuous target: numbers with fractions, or many whole ones
            (``is_continuous``).
        categorical: The columns of numbers that are names of categories.
        key: The source of subsamples, folds, forests and the bootstrap.
        size: The most rows of a table that distances are measured on; copying is looked for in all real rows.

    Raises:
        ValueError: If a table is empty or lacks a column, real or held-out rows are marked as synthetic, a label is
            missing, or a column cannot be read as that of the real rows.
    """
    tables = _tables(real, synthetic, holdout)
    warnings: list[str] = list(_columns_match(tables))
    tables = {name: frame[list(tables["real"].columns)].reset_index(drop=True) for name, frame in tables.items()}
    _check_names(tables, label, categorical)
    continuous = label is not None and is_continuous(tables["real"][label])
    classes = {} if label is None or continuous else _classes(tables, label)
    features = [name for name in tables["real"].columns if continuous or name != label]
    if not features:
        raise ValueError(f"the real rows have no column beside the label {label!r}")
    nominal = [name for name in categorical if name in features]
    columns = Columns.fit(tables["real"][features], categorical=nominal, name="table", transform=False)
    if columns.width == 0:
        raise ValueError("no column of the real rows varies, so there is nothing to compare")
    warnings += _departures(tables, columns)
    clouds = _encoded(tables, columns)
    warnings += _shared(clouds, classes, label)
    figures, rows = [], {}
    for group, chosen in groups(classes, clouds):
        rows[group] = {name: len(chosen[name]) if name in chosen else 0 for name in tables}
        found, left_out = figures_of(group, chosen, key.fold("group", group), size)
        figures += found
        warnings += left_out
    marginals, correlation = _by_column(tables, columns, classes, label)
    utility, measure = [], "R²" if continuous else "balanced accuracy"
    if label is not None and holdout is not None:
        try:
            utility = _utility(tables, clouds, classes, label, nominal, key.fold("utility"))
        except ValueError as error:
            warnings.append(f"utility is left out: {error}")
    notes = (NOT_ALONE if holdout is not None else NOT_FRESH, NOT_PRIVATE)
    return Quality(rows, (*figures, *correlation), marginals, tuple(utility), measure, tuple(warnings), notes)


# The tables


def _tables(real: pd.DataFrame, synthetic: pd.DataFrame, holdout: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    """The tables by name, without the column that marks synthetic rows."""
    tables = {"real": real, "synthetic": synthetic} | ({} if holdout is None else {"holdout": holdout})
    for name, frame in tables.items():
        if MARK in frame.columns:
            marked = _marked(frame[MARK])
            if name == "synthetic" and not marked.any():
                raise ValueError(f"no synthetic row is marked with 1 or True in the column {MARK!r}; drop that column")
            if name != "synthetic" and marked.any():
                raise ValueError(
                    f"{int(marked.sum())} of the {_spelt(name)} rows are marked in the column {MARK!r}; "
                    f"synthetic rows are no evidence of what real ones are like: leave them out"
                )
            tables[name] = (frame[marked] if name == "synthetic" else frame).drop(columns=MARK)
        if tables[name].empty:
            raise ValueError(f"there are no {_spelt(name)} rows, or no columns; at least one of each is needed")
    return tables


def _marked(column: pd.Series) -> np.ndarray:
    return np.asarray(column.map(lambda entry: str(entry).strip().lower() in ("1", "1.0", "true", "yes")), dtype=bool)


def _spelt(name: str) -> str:
    return {"holdout": "hold-out"}.get(name, name)


def _columns_match(tables: dict[str, pd.DataFrame]) -> Iterator[str]:
    """Refuses tables that lack columns of the real one; warns of columns that only they have."""
    wanted = tables["real"].columns
    if not wanted.is_unique:
        raise ValueError(f"the real rows have the column {wanted[wanted.duplicated()][0]!r} more than once")
    for name, frame in tables.items():
        if lacking := [column for column in wanted if column not in frame.columns]:
            raise ValueError(f"the {_spelt(name)} rows lack the column{'s' * (len(lacking) > 1)} {_some(lacking)}")
        if not frame.columns.is_unique:
            double = frame.columns[frame.columns.duplicated()][0]
            raise ValueError(f"the {_spelt(name)} rows have the column {double!r} more than once")
        if extra := [column for column in frame.columns if column not in wanted]:
            yield f"the {_spelt(name)} rows have columns that the real ones have not, which are left out: {_some(extra)}"


def _check_names(tables: dict[str, pd.DataFrame], label: str | None, categorical: Collection[str]) -> None:
    columns = tables["real"].columns
    for name in [*categorical, *([] if label is None else [label])]:
        if name not in columns:
            raise ValueError(f"there is no column {name!r}; the real rows have {_some(columns)}")
    for name, frame in tables.items():
        if label is not None and (missing := frame[label].isna().to_numpy()).any():
            raise ValueError(
                f"{int(missing.sum())} of the {_spelt(name)} rows have no label {label!r}; fill it in or drop them"
            )


def _classes(tables: dict[str, pd.DataFrame], label: str) -> dict[str, np.ndarray]:
    """The class of each row of each table, as it is written; equal numbers are one class."""
    numeric = all(pd.api.types.is_numeric_dtype(frame[label]) for frame in tables.values())
    written = {}
    for name, frame in tables.items():
        entries = frame[label].to_numpy(dtype=np.float64) if numeric else frame[label].to_numpy(dtype=object)
        written[name] = np.array([f"{entry:.15g}" if numeric else str(entry) for entry in entries], dtype=object)
    if not set(written["real"]) & set(written["synthetic"]):
        raise ValueError(
            f"no synthetic row has a label {label!r} of the real rows, which are {_some(sorted(set(written['real'])))}"
        )
    return written


def _encoded(tables: dict[str, pd.DataFrame], columns: Columns) -> dict[str, Cloud]:
    """The tables as points, on the scale of the real rows; categories that no real row has count as missing."""
    clouds = {}
    for name, frame in tables.items():
        known = frame[list(columns.index)].copy()
        for column in columns.columns:
            if (unknown := _unknown(column, known[column.name])).any():
                known[column.name] = known[column.name].astype(object).mask(unknown)
        try:
            x = columns.encode(known)
        except ValueError as error:
            raise ValueError(f"{_spelt(name)} rows: {error}") from None
        clouds[name] = Cloud(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64)))
    return clouds


def _unknown(column: Column, series: pd.Series) -> np.ndarray:
    """Which entries are categories that no real row has."""
    if not isinstance(column.form, Levels):
        return np.zeros(len(series), dtype=bool)
    codes = column.form.levels.astype(object).get_indexer(pd.Index(series.astype(object)))
    return np.asarray((codes < 0) & series.notna().to_numpy())


def _numbers(column: Column, series: pd.Series, table: str) -> np.ndarray:
    assert column.form is not None
    try:
        return column.form.numbers(series)
    except ValueError as error:
        raise ValueError(f"{table} rows: {error}") from None


# Warnings


def _departures(tables: dict[str, pd.DataFrame], columns: Columns) -> Iterator[str]:
    """What real rows do not have: a classifier recognises synthetic rows by it, instead of learning from them.

    Few values outside the range, or off a grid that is none, are what held-out rows have too: those are no departure.
    """
    synthetic, others = tables["synthetic"], [tables["holdout"]] if "holdout" in tables else []
    noisy: list[Any] = []
    apart: list[Any] = []
    unknown: list[Any] = []
    off_grid: list[str] = []
    outside: list[str] = []
    for column in columns.columns:
        series = synthetic[column.name]
        if column.form is None:
            if series.notna().any():
                noisy.append(column.name)
        elif _unknown(column, series).any():
            (noisy if column.kind == "constant" else unknown).append(column.name)
        elif not isinstance(column.form, Levels):
            values = _numbers(column, series, "synthetic")
            made = values[~np.isnan(values)]
            if column.kind == "constant" and not np.allclose(made, column.constant, rtol=1e-12, atol=0):
                noisy.append(column.name)
            if column.twin is not None:
                twin = columns.columns[column.twin]
                if not np.array_equal(values, _numbers(twin, synthetic[twin.name], "synthetic"), equal_nan=True):
                    apart.append(column.name)
            if column.support is not None:
                for found, share in ((outside, _beyond), (off_grid, _off_grid)):
                    usual = max((share(column, fresh[column.name], "hold-out") for fresh in others), default=0.0)
                    if share is _beyond:  # what independent rows have on average
                        usual = max(usual, 2 / (len(columns.reference) + 1))
                    if (part := share(column, series, "synthetic")) > 2 * usual + 0.02:
                        found.append(f"{column.name} ({part:.0%})")
    if noisy:
        yield f"synthetic rows have other values in columns that are constant or empty in the real rows: {_some(noisy)}"
    if apart:
        yield f"synthetic rows differ in columns that repeat another one in the real rows: {_some(apart)}"
    if off_grid:
        yield f"synthetic rows have values off the grid of the real rows (whole numbers, decimals) in: {_some(off_grid)}"
    if outside:
        yield f"synthetic rows have values outside the range of the real rows in: {_some(outside)}"
    if unknown:
        yield f"synthetic rows have categories that no real row has, missing ones to all distances, in: {_some(unknown)}"


def _beyond(column: Column, series: pd.Series, table: str) -> float:
    """The share of values outside the range of the training rows."""
    assert column.support is not None
    values = _numbers(column, series, table)
    return float(((values < column.support.low) | (values > column.support.high)).mean())


def _off_grid(column: Column, series: pd.Series, table: str) -> float:
    """The share of values off the grid of the training rows."""
    assert column.support is not None
    if (grid := column.support.grid) is None:
        return 0.0
    values = _numbers(column, series, table)
    values = values[~np.isnan(values)]
    return float((~np.isclose(grid.nearest(values), values, rtol=1e-9, atol=0)).mean()) if len(values) else 0.0


def _shared(clouds: dict[str, Cloud], classes: dict[str, np.ndarray], label: str | None) -> Iterator[str]:
    """Rows in the hold-out and among the real ones, classes without real rows, and other shares of classes."""
    if "holdout" in clouds and (share := copies(clouds["holdout"], clouds["real"])) > 0:
        count = round(share * len(clouds["holdout"]))
        yield (
            f"{count} of {len(clouds['holdout'])} hold-out rows are copies of real rows: "
            f"the copying figures are too kind, as they take these rows for fresh ones"
        )
    if not classes:
        return
    if odd := sorted(set(classes["synthetic"]) - set(classes["real"])):
        yield f"synthetic rows have labels {label!r} that no real row has: {_some(odd)}"
    against = "holdout" if "holdout" in classes else "real"
    if (gap := total_variation(*(pd.Series(classes[name]) for name in ("synthetic", against)))) > 0.1:
        yield (
            f"the classes of the synthetic rows have other shares than those of the {_spelt(against)} rows "
            f"(total variation {gap:.2f}), which shows in the figures of all rows: read those of the classes"
        )


def _by_column(
    tables: dict[str, pd.DataFrame], columns: Columns, classes: dict[str, np.ndarray], label: str | None
) -> tuple[tuple[Marginal, ...], list[Figure]]:
    """The columns and the label, the worst first, and the figure of the correlations."""
    frames = {}
    for name, frame in tables.items():
        held = {
            str(column.name): frame[column.name]
            if isinstance(column.form, Levels)
            else _numbers(column, frame[column.name], _spelt(name))
            for column in columns.columns
            if column.form is not None
        }
        frames[name] = pd.DataFrame(held | ({str(label): classes[name]} if classes else {}))
    nominal = [str(column.name) for column in columns.columns if isinstance(column.form, Levels)]
    nominal += [str(label)] if classes else []
    fresh = frames.get("holdout", frames["real"])
    found = marginal_distances(frames["synthetic"], fresh, nominal)
    real = marginal_distances(frames["real"], fresh, nominal) if "holdout" in frames else {}
    measure = {True: "total variation", False: "Kolmogorov-Smirnov"}
    worst = sorted(found, key=lambda name: -found[name])
    marginals = tuple(Marginal(name, measure[name in nominal], found[name], real.get(name)) for name in worst)
    gap = correlation_difference(frames["synthetic"], fresh, nominal)
    if not math.isfinite(gap):
        return marginals, []
    theirs = correlation_difference(frames["real"], fresh, nominal) if "holdout" in frames else None
    return marginals, [secondary("correlation difference", gap, theirs)]


def _utility(
    tables: dict[str, pd.DataFrame],
    clouds: dict[str, Cloud],
    classes: dict[str, np.ndarray],
    label: str,
    nominal: list[str],
    key: Key,
) -> list[Score]:
    if classes:
        rows = {name: (cloud.x.numpy(), classes[name].astype(str)) for name, cloud in clouds.items()}
    else:
        features = tables["real"].drop(columns=label)
        if features.empty:
            raise ValueError(f"there is no column beside {label!r}")
        columns = Columns.fit(
            features, categorical=[name for name in nominal if name != label], name="table", transform=False
        )
        if columns.width == 0:
            raise ValueError(f"no column beside {label!r} varies")
        inputs = _encoded(tables, columns)
        rows = {name: (cloud.x.numpy(), tables[name][label].to_numpy(np.float64)) for name, cloud in inputs.items()}
    return train_synthetic_test_real(rows["real"], rows["synthetic"], rows["holdout"], key, continuous=not classes)


def _some(names: Iterable[Any], most: int = 8) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
