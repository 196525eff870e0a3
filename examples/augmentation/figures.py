"""The study in pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from intervals import CELL, gains, interval
from matplotlib.figure import Figure
from rivals import NAMES
from scipy.spatial import cKDTree

OURS, OTHER = "#D55E00", "#0072B2"


def draw(rows: pd.DataFrame, run: Path) -> list[Path]:
    """Every figure that there are rows for."""
    figures = {
        "gains": gain_figure(rows),
        "fidelity": fidelity_figure(rows),
        "imbalance": imbalance_figure(rows),
        "swiss roll": swiss_figure(run),
    }
    figures |= {path.stem: digit_figure(path) for path in sorted(run.glob("mnist *.npz"))}
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(run / f"{name}.png", dpi=130)
    return [run / f"{name}.png" for name, figure in figures.items() if figure is not None]


def colour(method: str) -> str:
    return OURS if method.startswith(("ours", "start")) else OTHER


def methods_of(rows: pd.DataFrame) -> list[str]:
    return [name for name in NAMES if name in set(rows.method)]


def gain_figure(rows: pd.DataFrame) -> Figure | None:
    """Gain of balanced accuracy per data set, size and method; what more real rows give is in the title."""
    found = gains(rows[rows.part == "scarce"])
    methods = [name for name in methods_of(found) if name not in ("none", "oracle")]
    if not methods:
        return None
    names = list(found.data.unique())
    figure = Figure(figsize=(3.4 * len(names), 0.34 * len(methods) + 1.4), layout="constrained")
    for data, ax in zip(names, figure.subplots(1, len(names), sharey=True, squeeze=False)[0]):
        own = found[found.data == data]
        sizes = sorted(own.n.unique())
        for k, n in enumerate(sizes):
            for place, method in enumerate(methods):
                mean, low, high = interval(own[(own.n == n) & (own.method == method)].gain)
                y = place + 0.22 * (k - (len(sizes) - 1) / 2)
                ax.plot((low, high), (y, y), color=colour(method), linewidth=1)
                ax.plot(mean, y, "osD^"[k % 4], color=colour(method), markersize=4)
        ceiling = [own[(own.n == n) & (own.method == "oracle")].gain.mean() for n in sizes]
        said = ", ".join(f"{value:+.1f}" for value in ceiling if np.isfinite(value))
        ax.set_title(f"{data}; real rows {said}" if said else str(data), fontsize=9)
        ax.axvline(0, color="black", linewidth=0.8, linestyle=":")
        ax.set_xlabel(f"gain, points (n = {', '.join(map(str, sizes))})", fontsize=8)
        ax.set_yticks(range(len(methods)), methods, fontsize=8)
    ax.invert_yaxis()
    return figure


def fidelity_figure(rows: pd.DataFrame) -> Figure | None:
    """Energy distance to held-out rows over the distance ratio: good is low and to the right."""
    found = rows[(rows.part == "fidelity") & rows.energy.notna()]
    if found.empty:
        return None
    cells = list(found.groupby(CELL, sort=False))
    figure = Figure(figsize=(3.4 * len(cells), 3.4), layout="constrained")
    for ((data, n), own), ax in zip(cells, figure.subplots(1, len(cells), squeeze=False)[0]):
        for method in methods_of(own):
            one = own[own.method == method]
            energy, low, high = interval(one.energy)
            ratio = one.nearest_ratio.mean()
            ax.plot((ratio, ratio), (low, high), color=colour(method), linewidth=1)
            ax.plot(ratio, energy, "o", color=colour(method), markersize=4)
            ax.annotate(method, (ratio, energy), xytext=(3, 2), textcoords="offset points", fontsize=7)
        ax.axhline(0, color="black", linewidth=0.8, linestyle=":")
        ax.axvline(0.7, color="black", linewidth=0.8, linestyle=":")
        ax.set_title(f"{data}, n = {n}", fontsize=9)
        ax.set_xlabel("distance to training rows / that of held-out rows", fontsize=8)
    figure.axes[0].set_ylabel("energy distance to held-out rows", fontsize=8)
    return figure


def imbalance_figure(rows: pd.DataFrame) -> Figure | None:
    found = rows[(rows.part == "imbalance") & rows.f1_lr.notna()]
    methods = methods_of(found)
    if not methods:
        return None
    figure = Figure(figsize=(9, 0.34 * len(methods) + 1.4), layout="constrained")
    for score, ax in zip(("f1", "ap"), figure.subplots(1, 2, sharey=True)):
        for k, name in enumerate(("lr", "svm", "rf")):
            for place, method in enumerate(methods):
                own = found[found.method == method].groupby("seed")[f"{score}_{name}"].mean()
                mean, low, high = interval(own)
                y = place + 0.22 * (k - 1)
                ax.plot((low, high), (y, y), color=colour(method), linewidth=1)
                ax.plot(mean, y, "osD"[k], color=colour(method), markersize=4, label=name if place == 0 else None)
        ax.set_xlabel({"f1": "F1", "ap": "average precision"}[score])
        ax.set_yticks(range(len(methods)), methods, fontsize=8)
    ax.legend(fontsize=8)
    ax.invert_yaxis()
    return figure


def swiss_figure(run: Path) -> Figure | None:
    """The roll from its side: 200 points, and 5,000 new ones of each method."""
    paths = [run / f"swiss roll {name}.npz" for name in NAMES]
    paths = [path for path in paths if path.exists()]
    if not paths:
        return None
    figure = Figure(figsize=(3 * len(paths), 3.2), layout="constrained")
    for path, ax in zip(paths, figure.subplots(1, len(paths), sharex=True, sharey=True, squeeze=False)[0]):
        with np.load(path) as file:
            ax.scatter(*file["new"][:, [0, 2]].T, s=1, color=colour(path.stem.removeprefix("swiss roll ")), alpha=0.3)
            ax.scatter(*file["x"][:, [0, 2]].T, s=4, color="black")
        ax.set_title(path.stem.removeprefix("swiss roll "), fontsize=9)
        ax.set_aspect("equal")
    return figure


def digit_figure(path: Path, pairs: int = 3, side: int = 28) -> Figure:
    """New digits, and beneath each the training image of its class that is nearest."""
    with np.load(path) as file:
        x, y, new, new_y = (np.asarray(file[name], dtype=float) for name in ("x", "y", "new", "new_y"))
    columns = []
    for c in np.unique(y):
        chosen = new[new_y == c][:pairs]
        _, near = cKDTree(x[y == c]).query(chosen)
        both = np.stack((chosen, x[y == c][near]), 1).reshape(-1, side, side)
        columns.append(np.concatenate(both))
    figure = Figure(figsize=(10, 2 * pairs + 0.4), layout="constrained")
    ax = figure.subplots()
    ax.imshow(np.concatenate(columns, axis=1), cmap="gray_r", vmin=0, vmax=255)
    for k in range(1, pairs):
        ax.axhline(2 * side * k - 0.5, color=OURS, linewidth=0.8)
    ax.set_yticks([side * (k + 0.5) for k in range(2 * pairs)], ["new", "nearest"] * pairs)
    ax.set_xticks([])
    return figure
