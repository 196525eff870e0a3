"""What is said about a run: in a sentence, as a list of settings, in a table of measurements."""

from __future__ import annotations

import json
import math
from typing import Any

from particles.files import UNREADABLE
from particles.metrics.summary import QUALITY
from particles.plot import style
from particles.run.lock import busy
from particles.run.reader import Run

WHOLE_FLOW = {
    "straightness": ("path length over displacement", "1 for straight paths"),
    "kinetic_energy": ("kinetic energy of the whole way", "what the particles' way costs"),
    "kinetic_over_best": ("  over that of the best way", "to the same ends; 1 is the best"),
    "shift_2": ("ends move with 2 times the steps", "flow units"),
    "shift_32": ("ends move with 32 times the steps", "flow units"),
    "hj_residual": ("Hamilton–Jacobi residual", "0 for an exact solution"),
    "terminal_residual": ("terminal residual", "slope of U at the end to the discriminator's, root mean square"),
    "terminal_cosine": ("  cosine between them", "1 where they agree"),
    "manifold_distance": ("distance to the target's manifold", "flow units"),
}
"""The measurements that the summary of a generative flow has beside those of quality."""


def number(value: Any, digits: int = 4) -> str:
    """A number for people; a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"


def count(value: int, what: str) -> str:
    """How many of something, in words: ``1 row``, ``1,000 rows``."""
    return f"{value:,} {what}{'s' * (value != 1)}"


def names(runs: list[Run]) -> list[str]:
    """A name for each run, no two the same: that of its folder, with the folders above where it needs them."""
    paths = [run.path.resolve() if run.path else None for run in runs]
    for depth in range(1, 1 + max((len(path.parts) for path in paths if path), default=0)):
        found = ["/".join(path.parts[-depth:]) if path else "run" for path in paths]
        if len(set(found)) == len(found):
            return found
    return [f"{name} ({i + 1})" for i, name in enumerate(found)]


def summary(run: Run) -> dict[str, Any]:
    """What ``summary.json`` says; empty if there is none, or it cannot be read."""
    try:
        assert run.path is not None
        found = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    except (AssertionError, *UNREADABLE):
        return {}
    return found if isinstance(found, dict) else {}


def state(run: Run) -> str:
    """Whether the run has ended, and how, as a sentence; empty if it has come to its end."""
    if run.path is None:
        return ""
    if any(run.path.glob("diverged.*")):
        return f"The run diverged; its last snapshot is that of step {int(run.steps[-1])}."
    reached = f"step {int(run.steps[-1]):,}" + ("" if style.trains(run) else f" of {int(run.spec['steps']):,}")
    if busy(run.path):
        return f"The run still goes on: this is what there was at {reached}."
    if not any(run.path.glob("particles.*")):
        return f"The run was cut off before its end: this is what there was at {reached}."
    return ""


def measured(run: Run, column: str) -> list[float]:
    """The values of a column of the series, as far as it was measured."""
    return run.series[column].dropna().astype(float).tolist() if column in run.series else []


def fall(run: Run, column: str = "w2") -> str:
    """From what to what a column of the series went; empty if it was not measured."""
    values = measured(run, column)
    if len(values) < 2:
        return number(values[0], 3) if values else ""
    return f"{number(values[-1], 3)} from {number(values[0], 3)} at the start"


def ends(run: Run) -> str:
    """Where particles are at the end: the words that texts in place of pictures begin with."""
    way = f", W2 to the target {fall(run)} (flow units)" if fall(run) else ""
    return f"{count(run.total, 'particle')} at step {int(run.steps[-1]):,}{way}"


def sentence(run: Run) -> str:
    """What was run."""
    spec = run.spec
    held = f" (and {count(len(run.holdout), 'row')} held out)" if len(run.holdout) else ""
    classes = (
        "" if run.label is None else f" of {count(len(set(run.label.tolist())), 'class').replace('classs', 'classes')}"
    )
    found = (
        f"{count(run.total, 'particle')}{classes} moved from {style.short(spec['source'])} towards "
        f"{style.short(spec['target'])}, {count(len(run.target), 'row')}{held} in "
        f"{count(len(run.columns), 'column')}, in {style.steps(run)} ({style.method(spec)})."
    )
    return found + (f" W2 to the target is {fall(run)}, in flow units." if fall(run) else "")


def settings(run: Run) -> list[tuple[str, str]]:
    """Terms and what they are, of a run."""
    spec, learnt = run.spec, run.spec.get("flow") == "proximal"
    bounded = f"{spec['lipschitz']:g} / flow unit"
    rows = f"{len(run.target):,}, and {len(run.holdout):,} held out"
    found = {
        "source": spec["source"],
        "target": spec["target"],
        "target rows": rows,
        "particles": f"{run.total:,}" + (f", and {run.spec['carried']:,} carried" if run.carried else ""),
        "columns": f"{len(run.columns):,}: {_some(run.columns)}",
        "classes": _some(sorted(set(run.label.tolist()))) if run.label is not None else None,
        "scale": spec["scale"],
        "flow": spec["flow"] + (f", solver {spec['solver']}" if spec.get("solver") else ""),
        "divergence": spec["divergence"] if spec["flow"] in ("lipschitz", "transport", "kernel", "proximal") else None,
        "kernel": spec.get("kernel"),
        "Lipschitz bound L": bounded if spec["flow"] in ("lipschitz", "transport", "kernel", "proximal") else None,
        "constraint": spec["constraint"] if spec["flow"] in ("lipschitz", "proximal") else None,
        "stepper": None if learnt else spec["stepper"],
        "steps": style.steps(run),
        "decay of the step size": f"halved after {spec['decay']:g} steps" if math.isfinite(spec["decay"]) else None,
        "time at the end": number(float(run.times[-1])),
        "seed": str(spec["seed"]),
        "device": f"{spec['device']}, {spec['dtype']}",
        "versions": ", ".join(f"{name} {value}" for name, value in spec.get("versions", {}).items()),
    }
    return [(term, str(text)) for term, text in found.items() if text]


def quality(summaries: list[dict[str, Any]]) -> list[tuple[str, str, list[list[str]]]]:
    """The rows of the table: title, meaning, and for each run the numbers of the columns of ``units``."""
    found = []
    for name, (title, meaning) in QUALITY.items():
        cells = [[number(_in(known, unit).get(name)) for unit in units(known)] for known in summaries]
        found.append((title, meaning, cells))
    for name, (title, meaning) in WHOLE_FLOW.items():
        cells = [[number(_in(known, "flow").get(name)), *["–"] * (len(units(known)) - 1)] for known in summaries]
        found.append((title, meaning, cells))
    return [row for row in found if any(cell != "–" for cells in row[2] for cell in cells)]


def units(known: dict[str, Any]) -> list[str]:
    """The parts of a summary that are columns of the table."""
    return ["flow_units", "data_units"] if "data_units" in known else ["flow_units"]


def _in(known: dict[str, Any], part: str) -> dict[str, Any]:
    found = known.get(part, {})
    return {k: v for k, v in found.items() if isinstance(v, (int, float))} if isinstance(found, dict) else {}


def _some(values: list[str], most: int = 8) -> str:
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")
