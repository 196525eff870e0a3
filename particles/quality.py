"""The quality of a synthetic table, whatever made it: fidelity to fresh rows, copying, and use to a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from particles.cloud import Cloud
from particles.data.column import Column
from particles.data.columns import Columns
from particles.data.kinds import Levels, is_continuous
from particles.keys import Key
from particles.metrics.coverage import expected_coverage, overlap
from particles.metrics.energy import energy_distance
from particles.metrics.marginals import correlation_difference, marginal_distances, total_variation
from particles.metrics.memorisation import closer_share, copies, distinct, near_copies, nearest_ratio
from particles.metrics.spread import variance_ratio
from particles.metrics.transport import w2
from particles.metrics.two_sample import two_sample
from particles.metrics.utility import Score, train_synthetic_test_real

MARK = "synthetic"
"""The column that marks synthetic rows."""
ALL = "all rows"
"""The group of all rows, beside those of the classes."""
NEIGHBOURS = 5
"""The k of precision, recall, density and coverage."""
NOT_PRIVATE = "None of these figures is a guarantee of privacy: rows that are no copies can still give a person away."
NOT_FRESH = (
    "Fidelity was NOT measured on fresh rows, as there is no hold-out: what is compared with the real rows themselves is "
    "best for copies of them."
)
NOT_ALONE = (
    "W2, precision, density and coverage reward points that huddle in the middle, and every fidelity figure rewards "
    "copies: read them beside variance ratio, recall and the copying figures."
)


@dataclass(frozen=True)
class Figure:
    """One number about one group of rows.

    Arguments:
        group: ``all rows``, or a class.
        block: ``primary`` or ``secondary``.
        name: What it is.
        value: That of the synthetic rows.
        real: That of the real rows in their place, or ``None``.
        ideal: Its mean for independent rows of the same law, or ``None`` where that has no closed form.
        low: The lower end of a 95 % interval, or ``None``.
        high: The upper end.
    """

    group: str
    block: str
    name: str
    value: float
    real: float | None = None
    ideal: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Marginal:
    """How far a column of the synthetic rows is from that of fresh rows (without any: of the real ones).

    Arguments:
        column: Its name.
        measure: Kolmogorov-Smirnov or total variation.
        value: The distance, between 0 and 1.
        real: That of the real rows, or ``None`` without a hold-out.
    """

    column: str
    measure: str
    value: float
    real: float | None = None


@dataclass(frozen=True)
class Quality:
    """What was found, the most telling first.

    Arguments:
        rows: The numbers of real, synthetic and held-out rows of each group.
        figures: The figures, primary ones first in each group.
        marginals: The columns, the worst ones first.
        utility: Models trained with and without the synthetic rows; empty without a label or a hold-out.
        measure: What the models' scores are: balanced accuracy or R².
        warnings: What is wrong with the tables, and which figures are left out and why.
        notes: What the figures do not say.
    """

    rows: dict[str, dict[str, int]]
    figures: tuple[Figure, ...]
    marginals: tuple[Marginal, ...]
    utility: tuple[Score, ...]
    measure: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def value(self, name: str, group: str = ALL) -> float | None:
        """One figure of the synthetic rows, or ``None`` if it is left out."""
        return next((one.value for one in self.figures if (one.group, one.name) == (group, name)), None)

    def as_dict(self) -> dict[str, Any]:
        """Everything in plain values, for JSON."""
        groups = {}
        for group, rows in self.rows.items():
            blocks: dict[str, Any] = {"primary": {}, "secondary": {}}
            for one in self.figures:
                if one.group == group:
                    blocks[one.block][one.name] = {
                        name: getattr(one, name) for name in ("value", "real", "ideal", "low", "high")
                    }
            groups[group] = {"rows": rows} | blocks
        return {
            "groups": groups,
            "marginals": [asdict(one) for one in self.marginals],
            "utility": [asdict(one) | {"measure": self.measure} for one in self.utility],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }

    def as_frame(self) -> pd.DataFrame:
        """All numbers, one per row, in the columns block, group, figure, value, low, high, real, ideal.

        Of a model, ``real`` is its score without synthetic rows; its gain has a row of its own.
        """
        rows: list[tuple[Any, ...]] = [
            (block, one.group, one.name, one.value, one.low, one.high, one.real, one.ideal)
            for block in ("primary", "secondary")
            for one in self.figures
            if one.block == block
        ]
        rows += [
            ("secondary", ALL, f"{one.measure}: {one.column}", one.value, None, None, one.real, None)
            for one in self.marginals
        ]
        alone = {one.model: one.value for one in self.utility if one.trained_on == "real"}
        for one in self.utility:
            if one.trained_on != "real" and one.value is not None:
                what = f"{one.model} on {one.trained_on}"
                base = alone[one.model]
                rows.append(("utility", ALL, f"{self.measure}: {what}", one.value, None, None, base, None))
                rows.append(("utility", ALL, f"gain: {what}", float(one.gain or 0), one.low, one.high, 0.0, None))
        frame = pd.DataFrame(rows, columns=["block", "group", "figure", "value", "low", "high", "real", "ideal"])
        return frame.astype(dict.fromkeys(["value", "low", "high", "real", "ideal"], "float64"))

    def __str__(self) -> str:
        """The figures as tables for people, without the warnings."""
        parts = [_counts(self.rows[ALL])]
        for block, title in (
            ("primary", "Primary: fidelity and copying"),
            ("secondary", "Secondary: never to be read alone"),
        ):
            figures = [one for one in self.figures if one.block == block]
            rows = [
                (one.name, _number(one.value) + _interval(one.low, one.high), _number(one.real), _number(one.ideal))
                for one in figures
                if one.group == ALL
            ]
            if rows:
                parts.append(_table(title, ("", "synthetic", "real rows", "ideal"), rows))
            names = list(dict.fromkeys(one.name for one in figures if one.group != ALL))
            found = {(one.group, one.name): _number(one.value) for one in figures}
            classes = [group for group in self.rows if group != ALL]
            if classes and names:
                heads = ("class", "rows", *names)
                lines = [
                    (group, str(self.rows[group]["synthetic"]), *(found.get((group, name), "-") for name in names))
                    for group in classes
                ]
                parts.append(_table(f"{title}, per class", heads, lines))
        if self.marginals:
            worst = [(one.column, one.measure, _number(one.value), _number(one.real)) for one in self.marginals[:8]]
            more = f" (worst {len(worst)} of {len(self.marginals)})" if len(worst) < len(self.marginals) else ""
            parts.append(_table(f"Columns{more}", ("", "distance", "synthetic", "real rows"), worst))
        if self.utility:
            rows = [
                (one.model, one.trained_on, _number(one.value), _number(one.gain) + _interval(one.low, one.high))
                for one in self.utility
            ]
            title = f"Utility: {self.measure} on held-out rows"
            parts.append(_table(title, ("", "trained on", "score", "gain over real rows"), rows))
        return "\n\n".join([*parts, "\n".join(self.notes)])


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
    for group, chosen in _groups(classes, clouds):
        rows[group] = {name: len(chosen[name]) if name in chosen else 0 for name in tables}
        found, left_out = _figures(group, chosen, key.fold("group", group), size)
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


# Figures


@dataclass(frozen=True)
class _Group:
    """The rows of one group: all training rows and all held-out ones, and parts of the three to measure distances on."""

    training: Cloud
    fresh: Cloud | None
    p: Cloud
    q: Cloud
    h: Cloud | None
    key: Key


def _groups(classes: dict[str, np.ndarray], clouds: dict[str, Cloud]) -> Iterator[tuple[str, dict[str, Cloud]]]:
    """All rows, then those of each class; a class without rows in a table lacks that table."""
    yield ALL, clouds
    for level in sorted(set(classes.get("real", ())), key=_natural):
        places = {name: torch.from_numpy(np.flatnonzero(of == level)) for name, of in classes.items()}
        yield level, {name: clouds[name].take(index) for name, index in places.items() if len(index)}


def _natural(level: str) -> tuple[int, float, str]:
    try:
        return 0, float(level), level
    except ValueError:
        return 1, 0.0, level


def _figures(name: str, clouds: dict[str, Cloud], key: Key, size: int) -> tuple[list[Figure], list[str]]:
    """The figures of one group, and a sentence for each one that is left out."""
    where = "" if name == ALL else f"class {name!r}: "
    if "synthetic" not in clouds:
        return [], [f"{where}there are no synthetic rows"]
    small = {table: cloud.draw(size, key.fold(table)) for table, cloud in clouds.items()}
    fresh = clouds.get("holdout")
    group = _Group(clouds["real"], fresh, small["synthetic"], small["real"], small.get("holdout"), key)
    measures: dict[str, Callable[[_Group], Iterable[Figure]]] = {
        "energy distance": _energy,
        "variance ratio": _spread,
        "recall": _recall,
        "distance ratio": _ratio,
        "closer share": _closer,
        "copies": _copies,
        "near copies": _near,
        "two-sample AUC": _classifier,
        "W2": _transport,
        "precision, density, coverage": _supports,
        "energy distance (V)": _biased,
    }
    if fresh is None:
        measures = {what: measures[what] for what in ("variance ratio", "distance ratio", "copies", "near copies")}
    figures, left_out = [], []
    for what, measure in measures.items():
        try:
            figures += [replace(figure, group=name) for figure in measure(group)]
        except ValueError as error:
            left_out.append(f"{where}{what} left out: {error}")
    return figures, left_out


def _energy(group: _Group) -> Iterator[Figure]:
    assert group.h is not None
    real = energy_distance(group.q, group.h, unbiased=True) if len(group.q) > 1 else None
    yield _primary("energy distance", energy_distance(group.p, group.h, unbiased=True), real, 0.0)


def _spread(group: _Group) -> Iterator[Figure]:
    against = group.q if group.h is None else group.h
    value = variance_ratio(group.p, against)
    if not math.isfinite(value):
        raise ValueError("the other rows are all the same")
    known = group.h is not None and len(group.q) > 1
    yield _primary("variance ratio", value, variance_ratio(group.q, against) if known else None, 1.0)


def _recall(group: _Group) -> Iterator[Figure]:
    assert group.h is not None
    real = overlap(group.q, group.h).recall if len(group.q) > NEIGHBOURS else None
    yield _primary("recall", overlap(group.p, group.h).recall, real)


def _ratio(group: _Group) -> Iterator[Figure]:
    once = distinct(group.training)
    if group.h is None and len(once) < 2:
        raise ValueError("it needs 2 distinct real rows without a hold-out")
    value = nearest_ratio(group.p, once, group.h)
    if not math.isfinite(value):
        raise ValueError("most fresh rows are equal to a real row")
    yield _primary("distance ratio", value, None, 1.0)


def _closer(group: _Group) -> Iterator[Figure]:
    assert group.fresh is not None
    yield _primary(
        "closer to real", closer_share(group.p, group.training, group.fresh, group.key.fold("closer")), None, 0.5
    )


def _copies(group: _Group) -> Iterator[Figure]:
    real = None if group.h is None else copies(group.h, group.training)
    yield _primary("exact copies", copies(group.p, group.training), real, None if real else 0.0)


def _near(group: _Group) -> Iterator[Figure]:
    real = None if group.h is None else near_copies(group.h, group.training)
    yield _primary("near copies", near_copies(group.p, group.training), real)


def _classifier(group: _Group) -> Iterator[Figure]:
    assert group.h is not None
    found = two_sample(group.p, group.h, group.key.fold("two-sample"))
    yield replace(_secondary("two-sample AUC", found.auc, None, 0.5), low=found.low, high=found.high)


def _transport(group: _Group) -> Iterator[Figure]:
    assert group.h is not None
    equal = min(len(group.p), len(group.q))  # W2 falls with the number of rows: as many of both
    p, q = (cloud.draw(equal, group.key.fold("w2", i)) for i, cloud in enumerate((group.p, group.q)))
    yield _secondary("W2", w2(p, group.h), w2(q, group.h))


def _supports(group: _Group) -> Iterator[Figure]:
    assert group.h is not None
    found = overlap(group.p, group.h)
    real = overlap(group.q, group.h) if len(group.q) > NEIGHBOURS else None
    ideal = {"density": 1.0, "coverage": expected_coverage(len(group.p), len(group.h))}
    for name in ("precision", "density", "coverage"):
        theirs = None if real is None else getattr(real, name)
        yield _secondary(name, getattr(found, name), theirs, ideal.get(name))


def _biased(group: _Group) -> Iterator[Figure]:
    assert group.h is not None
    yield _secondary("energy distance (V)", energy_distance(group.p, group.h), energy_distance(group.q, group.h))


def _primary(name: str, value: float, real: float | None = None, ideal: float | None = None) -> Figure:
    return Figure(ALL, "primary", name, value, real, ideal)


def _secondary(name: str, value: float, real: float | None = None, ideal: float | None = None) -> Figure:
    return Figure(ALL, "secondary", name, value, real, ideal)


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
    return marginals, [_secondary("correlation difference", gap, theirs)]


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


# Text


def _counts(rows: dict[str, int]) -> str:
    held = f", {rows['holdout']} held-out" if "holdout" in rows else ", no hold-out"
    return f"{rows['real']} real rows, {rows['synthetic']} synthetic{held}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1e4 else f"{value:.2e}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"


def _table(title: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [[str(entry) for entry in line] for line in (heads, *rows)]
    widths = [max(len(entry) for entry in column) for column in zip(*lines)]
    body = ["  " + "  ".join(entry.ljust(width) for entry, width in zip(line, widths)).rstrip() for line in lines]
    return "\n".join([title, *body])


def _some(names: Iterable[Any], most: int = 8) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
