"""The figures of each group of rows: all of them, and those of each class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from particles.cloud import Cloud
from particles.keys import Key
from particles.metrics.coverage import expected_coverage, overlap, variance_ratio
from particles.metrics.distances import w2
from particles.metrics.energy import energy_distance
from particles.metrics.memorisation import closer_share, copies, distinct, near_copies, nearest_ratio
from particles.quality.findings import ALL, Figure
from particles.quality.two_sample import two_sample

NEIGHBOURS = 5
"""The k of precision, recall, density and coverage."""


@dataclass(frozen=True)
class Group:
    """The rows of one group: all training rows and all held-out ones, and parts of the three to measure distances on."""

    training: Cloud
    fresh: Cloud | None
    p: Cloud
    q: Cloud
    h: Cloud | None
    key: Key


def groups(classes: dict[str, np.ndarray], clouds: dict[str, Cloud]) -> Iterator[tuple[str, dict[str, Cloud]]]:
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


def figures_of(name: str, clouds: dict[str, Cloud], key: Key, size: int) -> tuple[list[Figure], list[str]]:
    """The figures of one group, and a sentence for each one that is left out."""
    where = "" if name == ALL else f"class {name!r}: "
    if "synthetic" not in clouds:
        return [], [f"{where}there are no synthetic rows"]
    small = {table: cloud.draw(size, key.fold(table)) for table, cloud in clouds.items()}
    fresh = clouds.get("holdout")
    group = Group(clouds["real"], fresh, small["synthetic"], small["real"], small.get("holdout"), key)
    measures: dict[str, Callable[[Group], Iterable[Figure]]] = {
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


def _energy(group: Group) -> Iterator[Figure]:
    assert group.h is not None
    real = energy_distance(group.q, group.h, unbiased=True) if len(group.q) > 1 else None
    yield primary("energy distance", energy_distance(group.p, group.h, unbiased=True), real, 0.0)


def _spread(group: Group) -> Iterator[Figure]:
    against = group.q if group.h is None else group.h
    value = variance_ratio(group.p, against)
    if not math.isfinite(value):
        raise ValueError("the other rows are all the same")
    known = group.h is not None and len(group.q) > 1
    yield primary("variance ratio", value, variance_ratio(group.q, against) if known else None, 1.0)


def _recall(group: Group) -> Iterator[Figure]:
    assert group.h is not None
    real = overlap(group.q, group.h).recall if len(group.q) > NEIGHBOURS else None
    yield primary("recall", overlap(group.p, group.h).recall, real)


def _ratio(group: Group) -> Iterator[Figure]:
    once = distinct(group.training)
    if group.h is None and len(once) < 2:
        raise ValueError("it needs 2 distinct real rows without a hold-out")
    value = nearest_ratio(group.p, once, group.h)
    if not math.isfinite(value):
        raise ValueError("most fresh rows are equal to a real row")
    yield primary("distance ratio", value, None, 1.0)


def _closer(group: Group) -> Iterator[Figure]:
    assert group.fresh is not None
    yield primary(
        "closer to real", closer_share(group.p, group.training, group.fresh, group.key.fold("closer")), None, 0.5
    )


def _copies(group: Group) -> Iterator[Figure]:
    real = None if group.h is None else copies(group.h, group.training)
    yield primary("exact copies", copies(group.p, group.training), real, None if real else 0.0)


def _near(group: Group) -> Iterator[Figure]:
    real = None if group.h is None else near_copies(group.h, group.training)
    yield primary("near copies", near_copies(group.p, group.training), real)


def _classifier(group: Group) -> Iterator[Figure]:
    assert group.h is not None
    found = two_sample(group.p, group.h, group.key.fold("two-sample"))
    yield replace(secondary("two-sample AUC", found.auc, None, 0.5), low=found.low, high=found.high)


def _transport(group: Group) -> Iterator[Figure]:
    assert group.h is not None
    equal = min(len(group.p), len(group.q))  # W2 falls with the number of rows: as many of both
    p, q = (cloud.draw(equal, group.key.fold("w2", i)) for i, cloud in enumerate((group.p, group.q)))
    yield secondary("W2", w2(p, group.h), w2(q, group.h))


def _supports(group: Group) -> Iterator[Figure]:
    assert group.h is not None
    found = overlap(group.p, group.h)
    real = overlap(group.q, group.h) if len(group.q) > NEIGHBOURS else None
    ideal = {"density": 1.0, "coverage": expected_coverage(len(group.p), len(group.h))}
    for name in ("precision", "density", "coverage"):
        theirs = None if real is None else getattr(real, name)
        yield secondary(name, getattr(found, name), theirs, ideal.get(name))


def _biased(group: Group) -> Iterator[Figure]:
    assert group.h is not None
    yield secondary("energy distance (V)", energy_distance(group.p, group.h), energy_distance(group.q, group.h))


def primary(name: str, value: float, real: float | None = None, ideal: float | None = None) -> Figure:
    return Figure(ALL, "primary", name, value, real, ideal)


def secondary(name: str, value: float, real: float | None = None, ideal: float | None = None) -> Figure:
    return Figure(ALL, "secondary", name, value, real, ideal)
