"""What new rows are worth on held-out ones, and the report of ``particles augment`` as text."""

from __future__ import annotations

import math
import numbers
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from particles.cli.augment import _Table

FEWEST = 5
"""With fewer held-out rows of a class than this, the bootstrap's interval of a gain means nothing."""
NOT_MEASURED = "Whether the new rows help was NOT measured: it takes real rows that were kept out of {path} (--holdout) and a --label."


def measure(
    found: dict[str, Any],
    table: _Table,
    new: pd.DataFrame,
    holdout: Path,
    fresh: pd.DataFrame,
    categorical: Sequence[str],
    key: Any,
) -> None:
    """Adds the distances to held-out rows, the gain of classifiers and what is wrong with the hold-out to the report."""
    from particles.quality.evaluate import evaluate
    from particles.quality.findings import ALL

    tables = [table.frame, new, fresh]
    if table.levels is not None and table.label is not None:  # a declared label may look like a number to predict
        tables = [frame.assign(**{table.label: frame[table.label].map(_spelt)}) for frame in tables]
    quality = evaluate(tables[0], tables[1], tables[2], table.label, categorical=list(categorical), key=key)
    found["quality"] = quality.as_dict()
    energies = {one.group: one for one in quality.figures if one.name == "energy distance"}
    groups = {_spelt(name): name for name in table.names} if table.levels is not None else {ALL: ALL}
    found["holdout"] = {
        "file": str(holdout),
        "rows": len(fresh),
        "energy": [
            {"class": name, "new": energies[group].value, "training": energies[group].real}
            for group, name in groups.items()
            if group in energies
        ],
    }
    for one in quality.figures:
        if (one.group, one.name) == (ALL, "exact copies") and one.real:
            leak = f"{one.real:.0%} of its rows are in {table.path} as well, so that what is measured on it is too kind"
            found["warnings"].append(f"--holdout {holdout}: {leak}; drop them")
    found["warnings"] += [sentence for sentence in quality.warnings if sentence.startswith("utility is left out")]
    if quality.utility:
        fewest = len(fresh)
        if table.levels is not None:
            held = fresh[table.label].map(_spelt).value_counts()
            fewest = min(int(held.get(group, 0)) for group in groups)
            if strange := [name for name in held.index if name not in groups]:
                found["warnings"].append(
                    f"--holdout {holdout} has classes that no row of {table.path} has, {strange[0]!r} for one: "
                    f"no model can predict them, which lowers all scores; drop their rows"
                )
        found["gain"] = gain_of(quality.utility, quality.measure, fewest)


def _spelt(name: Any) -> str:
    """A class as text, the same for 1, 1.0 and True."""
    return f"{float(name):.15g}" if isinstance(name, numbers.Real) else str(name)


def gain_of(scores: Sequence[Any], measure: str, fewest: int) -> dict[str, Any]:
    """What models gain by new rows, and in one sentence whether that is anything.

    The mean over the models decides, as the best of several gains nothing means much. The ends of its interval are the
    means of theirs: it is at least as wide as its own would be, since deviations of a mean are no larger than mean
    deviations.
    """
    real = {one.model: one.value for one in scores if one.trained_on == "real"}
    models = [
        {"model": one.model, "real": real[one.model], "augmented": one.value}
        | {name: getattr(one, name) for name in ("gain", "low", "high")}
        for one in scores
        if one.trained_on == "real + synthetic"
    ]
    mean, low, high = (statistics.fmean(model[name] for model in models) for name in ("gain", "low", "high"))
    said = f"{measure} {mean:+.3f} [{low:+.3f}, {high:+.3f}] in the mean of {len(models)} models"
    if fewest < FEWEST:
        verdict = f"Augmentation: nothing can be told from fewer than {FEWEST} held-out rows (of each class): {said}."
    elif low > 0:
        verdict = f"Augmentation helped: {said}. Class weights or a tuned threshold may do as much."
    elif high < 0:
        verdict = f"Augmentation did harm: {said}. Train on the original rows alone."
    else:
        verdict = f"Augmentation made no measurable difference: {said}."
    return {"measure": measure, "models": models, "mean": mean, "low": low, "high": high, "verdict": verdict}


def as_text(found: dict[str, Any]) -> str:
    """The report as tables and sentences."""
    methods = [
        name for name in ("gaussian", "kde", "flow") if any(name in c["energy_holdout"] for c in found["classes"])
    ]
    heads = ("class", "rows", "made", "method", "start", "steps", *(f"E {name}" for name in methods), "ratio", "copies")
    lines = [
        (
            *(str(c[name]) for name in ("class", "rows", "made", "method", "start", "steps")),
            *(_number(c["energy_holdout"].get(name)) for name in methods),
            *(_number(c["nearest_ratio"]), str(c["copies"]), c["reason"]),
        )
        for c in found["classes"]
    ]
    parts = [_lined((*heads, "why it stopped"), lines)]
    if methods:
        parts.append(
            "E: energy distance to training rows left out in turn, in standard deviations; 0 for the same law."
        )
    parts.append(
        "ratio: median distance of new rows to the nearest training row, over that among training rows; 0 for copies."
    )
    if found["left"]:
        left = ", ".join(f"{one['class']} ({one['rows']} rows)" for one in found["left"])
        parts.append(f"Left as they are: {left}.")
    if found["holdout"] is not None:
        held = found["holdout"]
        lines = [(str(one["class"]), _number(one["new"]), _number(one["training"])) for one in held["energy"]]
        title = f"\nEnergy distance to the {held['rows']} rows of {held['file']}, in standard deviations; 0 for the same law"
        parts += [title, _lined(("class", "new rows", "training rows"), lines)]
    if found["gain"] is not None:
        gain = found["gain"]
        lines = [
            (model["model"], _number(model["real"]), _number(model["augmented"]), _signed(model["gain"]))
            + (f"[{_signed(model['low'])}, {_signed(model['high'])}]",)
            for model in gain["models"]
        ]
        title = f"\n{gain['measure'].capitalize()} on them, trained on training rows alone and with new ones"
        parts += [title, _lined(("model", "without", "with", "gain", "95 % interval"), lines), gain["verdict"]]
    else:
        parts.append(NOT_MEASURED.format(path=found["data"]))
    return "\n".join([*parts, found["privacy"]])


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _lined(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(entry) for entry in column) for column in zip(heads, *lines)]
    return "\n".join(
        "  ".join(entry.ljust(width) for entry, width in zip(line, widths)).rstrip() for line in (heads, *lines)
    )
