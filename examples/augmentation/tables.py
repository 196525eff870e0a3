"""The tables, gates and figures of a study that was run, or of the part of it that is there.

    python examples/augmentation/tables.py runs/augmentation [--method ours]

``tables.md`` and the figures are put beside the rows. Intervals hold 95 %: of the mean over seeds for a cell, and over data
sets for what is pooled. ``--method`` holds another method to the gates.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from figures import draw, methods_of
from gates import GATES, Check, checks
from intervals import ACCURACIES, CELL, difference, gains, interval, per_seed, pooled
from rivals import NAMES

QUALITY = {
    "energy": "energy",
    "energy_v": "energy, V",
    "energy_law": "energy of 3,000",
    "w2": "W2",
    "variance_ratio": "variance",
    "recall": "recall",
    "precision": "precision",
    "coverage": "coverage",
    "nearest_ratio": "ratio",
    "closer_share": "closer",
    "copies": "copies",
    "near_copies": "near copies",
    "c2st": "C2ST",
}


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    body = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines)]
    return "\n".join(body) + "\n"


def number(value: float, digits: int = 3) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def signed(found: tuple[float, float, float], digits: int = 1) -> str:
    value, low, high = found
    return "" if pd.isna(value) else f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def ranged(found: tuple[float, float, float], digits: int = 3) -> str:
    value, low, high = found
    if pd.isna(value) or pd.isna(low):
        return number(value, digits)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def gate_tables(found: list[Check], method: str) -> str:
    if not found:
        return ""
    lines = []
    for gate, meaning in GATES.items():
        own = [check for check in found if check.gate == gate]
        if own:
            met, near = sum(c.reached for c in own), sum(c.open for c in own if not c.reached)
            said = "reached" if met == len(own) else "missed"
            count = f"{met} of {len(own)}" + (f", {near} more within the interval" if near else "")
            lines.append((gate, meaning, own[0].wanted if len({c.wanted for c in own}) == 1 else "", said, count))
    detail = [(c.gate, c.where, c.wanted, ranged((c.value, c.low, c.high)), c.verdict) for c in found]
    return (
        f"## Gates, for `{method}`\n\n"
        + markdown(("gate", "what", "wanted", "", "checks that reach it"), lines)
        + "\n<details><summary>every check</summary>\n\n"
        + markdown(("gate", "where", "wanted", "figure [95 %]", ""), detail)
        + "\n</details>\n"
    )


def pooled_table(rows: pd.DataFrame) -> str:
    """Scarce classes, over all cells."""
    scarce = rows[rows.part == "scarce"]
    found = gains(scarce)
    lines = []
    for method in methods_of(found):
        own = found[found.method == method]
        each = [number(own.groupby(CELL)[name].mean().mean(), 2) for name in ACCURACIES]
        mean = "0" if method == "none" else signed(pooled(own, "gain"), 2)
        win = "" if method == "none" else number((own.gain.dropna() > 0).mean(), 2)
        lines.append((method, NAMES[method], *each, mean, win, str(int(own.failure.notna().sum()))))
    header = ("method", "", "LR", "SVM", "RF", "MLP", "mean [95 % over data sets]", "win", "failures")
    return (
        "## Scarce classes: gain of balanced accuracy over no augmentation, in points, all cells\n\n"
        "`failures`: it raised, or left a class with hardly any new rows; gains are of the runs that gave any.\n\n"
        + markdown(header, lines)
    )


def cell_tables(rows: pd.DataFrame) -> str:
    found = gains(rows[rows.part == "scarce"])
    text = "## Scarce classes, each data set: gain, mean of four classifiers [95 % over seeds]\n"
    for data, own in found.groupby("data", sort=False):
        sizes = sorted(own.n.unique())
        lines = [
            (method, *(signed(interval(own[(own.n == n) & (own.method == method)].gain)) for n in sizes))
            for method in methods_of(own)
            if method != "none"
        ]
        absolute = (
            100
            * rows[(rows.part == "scarce") & (rows.data == data) & (rows.method == "none")]
            .groupby("n")[ACCURACIES]
            .mean()
        )
        base = [" / ".join(f"{value:.1f}" for value in absolute.loc[n]) for n in sizes if n in absolute.index]
        said = f"Without augmentation (LR / SVM / RF / MLP): {'; '.join(base)}."
        note = ""
        if data == "wine":
            note = " Its smallest class keeps 15 rows for testing, so that 50 are 33."
        if data == "mnist":
            note = " Generators see all 784 pixels, classifiers 50 principal components of the real training rows."
        text += f"\n### {data}\n\n{said}{note}\n\n" + markdown(("method", *(f"n = {n}" for n in sizes)), lines)
    return text


def quality_line(method: str, own: pd.DataFrame, energy: tuple[float, float, float] | None = None) -> list[str]:
    """The means of one method; seconds are those of generation."""
    first = ranged(energy or interval(own.energy), 4)
    rest = [number(own.groupby(CELL)[name].mean().mean()) for name in list(QUALITY)[1:]]
    return [method, first, *rest, number(own.groupby(CELL).seconds.mean().mean(), 2)]


HEADER = ("method", "energy [95 %]", *list(QUALITY.values())[1:], "CPU s")


def fidelity_tables(rows: pd.DataFrame) -> str:
    text = (
        "## Fidelity: 400 new rows beside held-out ones\n\n"
        "In units of the training rows. Energy is the U-statistic: 0 for real rows, but copies that are spread evenly reach it as "
        "well, so that `ros_bal` stands beside and the copying figures with it: the ratio is 1, closer 0.5, and both kinds of "
        "copies 0 for real rows. Recall is 0 by construction where every row is there six times.\n"
    )
    for (data, n), own in rows[(rows.part == "fidelity") & rows.energy.notna()].groupby(CELL, sort=False):
        lines = [quality_line(method, own[own.method == method]) for method in methods_of(own)]
        text += f"\n### {data}, {n} rows made 400\n\n" + markdown(HEADER, lines)
    return text


def scarce_quality(rows: pd.DataFrame) -> str:
    scarce = rows[(rows.part == "scarce") & rows.energy.notna()]
    lines = [
        quality_line(method, own, pooled(own, "energy"))
        for method, own in ((m, scarce[scarce.method == m]) for m in methods_of(scarce))
    ]
    text = "## Scarce classes: the new rows of a class beside held-out ones, mean over cells\n\n" + markdown(
        HEADER, lines
    )
    means = scarce.groupby([*CELL, "method"], sort=False).energy.mean().unstack("method")
    methods = [method for method in methods_of(scarce) if method in means]
    lines = [[f"{data} {n}", *(number(means.loc[(data, n), method]) for method in methods)] for data, n in means.index]
    return text + "\n### energy distance in each cell\n\n" + markdown(("cell", *methods), lines)


def imbalance_table(rows: pd.DataFrame) -> str:
    found = rows[rows.part == "imbalance"]
    found = found.assign(f1=found.filter(regex="^f1_").mean(axis=1), ap=found.filter(regex="^ap_").mean(axis=1))
    lines = []
    for method in methods_of(found):
        own = found[found.method == method]
        scores = [f"{score}_{name}" for score in ("f1", "ap") for name in ("lr", "svm", "rf")]
        each = [number(own.groupby("data")[name].mean().mean()) for name in scores]
        accuracy = number(own[ACCURACIES[:3]].mean(axis=1).mean())
        less = [
            "" if method == "smote" else signed(interval(per_seed(difference(found, score, method, "smote"))), 3)
            for score in ("f1", "ap")
        ]
        lines.append((method, *each, accuracy, *less, str(int(own.failure.notna().sum()))))
    header = (
        *("method", "F1 LR", "SVM", "RF", "AP LR", "SVM", "RF", "balanced accuracy"),
        *("F1 less SMOTE's [95 %]", "AP less SMOTE's [95 %]", "failures"),
    )
    return (
        "## Imbalance: 15 rows of digit 3 or 8 against 300 of the others\n\n"
        "Mean of both digits. Test rows are weighted so that the digit has the share that it has in training.\n\n"
        + markdown(header, lines)
    )


def control_table(rows: pd.DataFrame) -> str:
    found = gains(rows[rows.part == "control"])
    lines = [
        (data, method, signed(interval(own.gain)))
        for (data, method), own in found.groupby(["data", "method"], sort=False)
        if method != "none"
    ]
    return "## Labels dealt at random: there is nothing to gain\n\n" + markdown(
        ("data", "method", "gain [95 %]"), lines
    )


def paper_tables(rows: pd.DataFrame) -> str:
    found = rows[(rows.part == "paper") & rows.energy.notna()]
    swiss, digits = found[found.data == "swiss roll"], found[found.data.str.startswith("mnist ")]
    text = ""
    if len(swiss):
        lines = [
            [ranged(interval(own.manifold)), *quality_line(method, own)]
            for method, own in ((m, swiss[swiss.method == m]) for m in methods_of(swiss))
        ]
        lines = [[method, distance, *rest] for distance, method, *rest in lines]
        text += (
            "## The paper's swiss roll: 200 points made 5,000\n\n"
            "The distance is the root mean square one to the roll itself, in its own units (it is 21 wide); the other figures are "
            "of 1,000 of the points beside as many fresh ones. `oracle` are points of the law itself.\n\n"
            + markdown((HEADER[0], "distance to the roll [95 %]", *HEADER[1:]), lines)
        )
    if len(digits):
        kept = [name for name in QUALITY if name != "c2st"]
        lines = [
            (str(data), method, *(number(own[name].mean()) for name in kept))
            for (data, method), own in digits.groupby(["data", "method"], sort=False)
        ]
        text += "\n## MNIST: 20 images of each digit made 80\n\n" + markdown(
            ("digit", "method", *(QUALITY[name] for name in kept)), lines
        )
    return text


def cost_table(rows: pd.DataFrame) -> str:
    found = rows[rows.part == "cost"]
    lines = [
        (f"{data}, {n} rows per class made 200", method, ranged(interval(own.seconds), 1))
        for (data, n, method), own in found.groupby([*CELL, "method"], sort=False)
    ]
    return "## CPU seconds of one `fit_resample`\n\n" + markdown(("table", "method", "seconds"), lines)


def failure_table(rows: pd.DataFrame) -> str:
    found = rows[rows.failure.notna()]
    if found.empty:
        return ""
    lines = [
        (part, data, str(n), method, str(len(own)), str(own.failure.iloc[0]).replace("|", "/"))
        for (part, data, n, method), own in found.groupby(["part", *CELL, "method"], sort=False)
    ]
    return "## Failures and refusals\n\n" + markdown(("part", "data", "n", "method", "times", "the first"), lines)


def report(run: Path, method: str = "ours") -> str:
    """The text of ``tables.md``, which it writes, with the figures, into the folder of the study."""
    rows = pd.read_csv(run / "rows.csv")
    order = {name: place for place, name in enumerate(("scarce", "fidelity", "imbalance", "control", "paper", "cost"))}
    rows = rows.sort_values(["part", "seed"], key=lambda c: c.map(order) if c.name == "part" else c, kind="stable")
    sections = {
        "scarce": (pooled_table, cell_tables, scarce_quality),
        "fidelity": (fidelity_tables,),
        "imbalance": (imbalance_table,),
        "control": (control_table,),
        "paper": (paper_tables,),
        "cost": (cost_table,),
    }
    counts = rows.groupby("part", sort=False).seed.nunique()
    text = [f"# Augmentation, seeds: {', '.join(f'{part} {count}' for part, count in counts.items())}\n"]
    text.append(gate_tables(checks(rows, method), method))
    for part, makers in sections.items():
        if part in counts.index:
            text += [make(rows) for make in makers]
    text.append(failure_table(rows))
    text += [f"![{path.stem}]({path.name.replace(' ', '%20')})\n" for path in draw(rows, run)]
    whole = "\n".join(part for part in text if part)
    (run / "tables.md").write_text(whole)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--method", default="ours", help=f"of {', '.join(NAMES)}")
    options = parser.parse_args()
    print(report(options.run, options.method))


if __name__ == "__main__":
    main()
