"""What was measured on the way: the columns of a run's series, each with its unit."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from particles.plot import style
from particles.plot.style import HOLDOUT, PARTICLES, PATH, TARGET, as_run, bare
from particles.run.reader import Run

STILL = 1e-30
"""The kinetic energy below which nothing moves, and nothing is drawn on a logarithmic axis."""
NATS = ("kl", "reverse-kl", "jensen-shannon")


@dataclass(frozen=True)
class Curve:
    """A panel: columns of the series with one unit.

    Attributes:
        label: What is measured.
        unit: Its unit; empty if it has none.
        columns: The columns, with what the legend calls each and its colour.
        logarithmic: Whether the axis is, with values of zero left out.
        bound: A value that is drawn as a dashed line, with its name, or ``None``.
    """

    label: str
    unit: str
    columns: dict[str, tuple[str, str]]
    logarithmic: bool = False
    bound: tuple[float, str] | None = None

    @property
    def text(self) -> str:
        """The name of the axis, in two lines where there is a unit."""
        return f"{self.label}\n{self.unit}" if self.unit else self.label


def diagnostics(run: Run | Path | str | np.ndarray) -> Figure:
    """The curves of a run, one panel below the other: only those that its series has.

    They are the divergence, the kinetic energy, the realised Lipschitz constant (dashed: its bound), W2 to the target and to the
    held-out target, and the step size; of a flow that is learnt (``proximal`` with a network) also the objective and the
    residuals of the Hamilton–Jacobi equation and of the terminal condition, against the steps of the training.

    Arguments:
        run: A run, or its folder.

    Returns:
        The figure, not shown and not saved.

    Raises:
        ValueError: If nothing was measured, as with arrays.
        FileNotFoundError: If the folder is not a run's.
    """
    run = as_run(run)
    chosen = curves(run)
    if not chosen:
        what = f"the series of {run.path} has none yet" if run.path else "arrays have none"
        raise ValueError(f"diagnostics needs a run with measurements, and {what}; give a run folder with some steps")
    figure = Figure(figsize=(5.4, 0.9 + 1.35 * len(chosen)), layout="constrained")
    draw(run, chosen, figure.subplots(len(chosen), 1, sharex=True, squeeze=False)[:, 0])
    figure.align_ylabels()
    figure.suptitle(textwrap.fill(style.title(run), 60), fontsize=10, parse_math=False)
    return figure


def curves(run: Run, wanted: tuple[str, ...] | None = None) -> list[Curve]:
    """The panels whose columns have values in the series, or the ``wanted`` of them, named by their first columns."""
    if not run.spec:
        return []
    found = [curve for curve in _all(run.spec) if any(_measured(run, column) for column in curve.columns)]
    return [curve for curve in found if wanted is None or next(iter(curve.columns)) in wanted]


def draw(run: Run, chosen: list[Curve], axes: np.ndarray) -> None:
    """A curve on each of the axes, which share theirs below."""
    for ax, curve in zip(axes, chosen):
        _draw(run, curve, ax)
    axes[-1].set_xlabel("step of training" if style.trains(run) else "step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))


def _all(spec: dict[str, Any]) -> list[Curve]:
    """All curves, with the units that they have in such a run."""
    learnt = spec.get("flow") == "proximal"
    power = length_power(spec)
    nats = "nats" if _in_nats(spec) else ""
    bounded = _bound(spec)
    priced = learnt and spec.get("solver") != "network"
    return [
        Curve(
            "divergence and\nprice of the way" if priced else "divergence",
            f"({nats})" if nats else _unit(power),
            {"divergence": ("divergence", PARTICLES), "objective": ("with the price of the way", PATH)},
        ),
        Curve(
            "kinetic energy",
            f"(flow units / time){_raised(float(spec.get('power', 2.0)) if learnt else 2.0)}",
            {"kinetic_energy": ("", PARTICLES)},
            logarithmic=True,
        ),
        Curve("largest slope", _unit(power - 1), {"max_gradient": ("realised", PARTICLES)}, bound=bounded),
        Curve("W2", "(flow units)", {"w2": ("to target", TARGET), "w2_holdout": ("to held-out target", HOLDOUT)}),
        Curve("Hamilton–Jacobi\nresidual", f"({nats or '1'} / time)", {"hj_residual": ("", PARTICLES)}, logarithmic=True),
        Curve("terminal residual", _unit(power - 1), {"terminal_residual": ("", PARTICLES)}, logarithmic=True),
        Curve("step size", "(time)", {"step_size": ("", PARTICLES)}),
    ]  # fmt: skip


def length_power(spec: dict[str, Any]) -> float:
    """The power of a length that the divergence of a run is: of an f-divergence 0, of the W2 loss, ½ W2², 2."""
    flow = spec.get("flow", "lipschitz")
    if flow == "w2":
        return 2.0
    if flow == "mmd" and spec.get("kernel") == "riesz":  # −‖x − y‖^exponent
        return float(spec.get("exponent", 1.0))
    return 0.0


def _in_nats(spec: dict[str, Any]) -> bool:
    flow = spec.get("flow", "lipschitz")
    return flow == "kale" or (
        flow in ("lipschitz", "transport", "kernel", "proximal") and spec.get("divergence") in NATS
    )


def _bound(spec: dict[str, Any]) -> tuple[float, str] | None:
    """The bound L of the slope, where there is one."""
    flow = spec.get("flow", "lipschitz")
    trained = flow == "lipschitz" or (flow == "proximal" and spec.get("solver") == "network")
    there = spec.get("constraint") != "none" if trained else flow in ("transport", "kernel", "proximal")
    bound = float(spec.get("lipschitz", np.inf))
    return (bound, f"L = {bound:g}") if there and np.isfinite(bound) else None


def _raised(power: float) -> str:
    return {1.0: "", 2.0: "²"}.get(power, f"$^{{{power:g}}}$")


def _unit(power: float) -> str:
    """A power of a flow unit in brackets; empty for none."""
    if power == 0:
        return ""
    return f"(flow units{_raised(power)})" if power > 0 else f"(1 / flow unit{_raised(-power)})"


def _measured(run: Run, column: str) -> bool:
    return column in run.series and bool(run.series[column].notna().any())


def _draw(run: Run, curve: Curve, ax: Axes) -> None:
    there = [column for column in curve.columns if _measured(run, column)]
    shown = []
    for column in there:
        name, color = curve.columns[column]
        rows = run.series[["step", column]].dropna()
        moving = rows[rows[column] > STILL]
        rows = moving if curve.logarithmic and len(moving) else rows
        mark = "o" if len(rows) == 1 else ""
        ax.plot(rows["step"], rows[column], color=color, linewidth=1.2, marker=mark, markersize=4, label=name)
        shown.append(rows[column].to_numpy())
    if curve.bound is not None:
        ax.axhline(curve.bound[0], color=PATH, linewidth=0.9, linestyle="--", label=curve.bound[1])
    values = np.concatenate(shown)
    if curve.logarithmic and (values > STILL).any():
        ax.set_yscale("log")
        if values.max() > 10 * values.min():
            ax.yaxis.set_minor_formatter(NullFormatter())
    if len(there) > 1 or curve.bound is not None or "w2" in there:
        ax.legend(frameon=False, fontsize=8.5)
    ax.set_ylabel(curve.text, fontsize=9)
    bare(ax)
