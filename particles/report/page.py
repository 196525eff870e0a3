"""Runs in, a page out: one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from particles.experiment.provenance import changes, command
from particles.experiment.specification import Specification
from particles.files import replacing
from particles.report import facts
from particles.report.charts import charts, table
from particles.report.pictures import pictures, side_by_side
from particles.report.player import players
from particles.run.reader import Run

SCRIPTS = ("numbers.js", "cloud.js", "player.js", "controls.js")


def report(runs: Run | Path | str | Sequence[Run | Path | str], output: Path | str | None = None) -> str:
    """A page about one or several runs: what was run, a player of the trajectories, curves, pictures, quality.

    Arguments:
        runs: A run, or several, or their folders.
        output: A file for the page; replaced at one stroke if it is there.

    Returns:
        The page, as HTML.

    Raises:
        ValueError: If there are no runs, or one is damaged.
        FileNotFoundError: If a folder is not a run's.
    """
    given = [runs] if isinstance(runs, (Run, Path, str)) else list(runs)
    if not given:
        raise ValueError("runs needs at least one run")
    opened = [run if isinstance(run, Run) else Run.open(run) for run in given]
    if any(run.path is None for run in opened):
        raise ValueError("runs needs run folders, or runs that were read from them, not arrays")
    named = dict(zip(facts.names(opened), opened))
    page = _render(named)
    if output is not None:
        with replacing(Path(output)) as draft:
            draft.write_text(page, encoding="utf-8")
    return page


def _render(runs: dict[str, Run]) -> str:
    style, script = _text("report.css"), "\n".join(_text(name) for name in SCRIPTS)
    summaries = [facts.summary(run) for run in runs.values()]
    clouds = players(list(runs.values()))
    found = [
        _about(name, run, known) | {"player": cloud}
        for (name, run), known, cloud in zip(runs.items(), summaries, clouds)
    ]
    drawn = charts(runs)
    return _template().render(
        title=" · ".join(runs) if len(runs) < 4 else f"{len(runs)} runs",
        runs=found,
        several=side_by_side(runs) if len(runs) > 1 else None,
        pictures=list(dict.fromkeys(picture.title for about in found for picture in about["pictures"])),
        charts=drawn,
        quality=facts.quality(summaries),
        data={
            "runs": [{"name": about["name"], **about["player"]} for about in found],
            "charts": [{"last": chart.last, "linked": chart.linked, "lines": [vars(line) for line in chart.lines]} for chart in drawn],
        },
        style=style,
        script=script,
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'",
    )  # fmt: skip


def _about(name: str, run: Run, known: dict[str, Any]) -> dict[str, Any]:
    """What the template says about a run."""
    columns, rows, logged = table(run)
    return {
        "name": name,
        "sentence": facts.sentence(run),
        "state": facts.state(run),
        "advice": known.get("advice"),
        "settings": facts.settings(run),
        "units": [unit.replace("_", " ") for unit in facts.units(known)],
        "pictures": pictures(run),
        "columns": columns,
        "rows": rows,
        "logged": logged,
        **_repeated(name, run),
    }


def _repeated(name: str, run: Run) -> dict[str, Any]:
    """The command that repeats a run, and what is not as it was; or why there is none."""
    assert run.path is not None
    try:
        spec, noted = Specification.load(run.path / "spec.toml")
    except ValueError as error:
        return {"command": None, "changes": [f"{error}."]}
    return {"command": command(spec, f"runs/{run.name}-again"), "changes": changes(spec, noted)}


def _hash(text: str) -> str:
    """How a policy allows this text, and no other, to run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _text(name: str) -> str:
    return (files("particles.report") / name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.from_string(_text("report.html"))
