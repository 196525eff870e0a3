"""How a run is made again: by which command, and what is no longer as it was."""

from __future__ import annotations

import dataclasses
import platform
import shlex
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from particles.experiment import inputs
from particles.experiment.specification import Specification
from particles.keys import Key
from particles.names import SOURCES, TOYS, plain_name


def options(spec: Specification) -> list[str]:
    """The words after ``particles simulate`` that give a specification: all that is not a default, as the command line spells it."""
    words: list[str] = []
    for field in dataclasses.fields(spec):
        value, option = getattr(spec, field.name), field.name.replace("_", "-")
        if field.name != "target" and value == field.default:
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return words


def command(spec: Specification, output: str | None = None) -> str:
    """The command that repeats a run, for a shell, with a folder for it if one is named."""
    return shlex.join(["particles", "simulate", *options(spec), *([] if output is None else ["--output", output])])


def changes(spec: Specification, noted: dict[str, Any]) -> list[str]:
    """What is not as it was when a run was made, so that the command cannot repeat it, or not to the bit: a sentence each.

    Arguments:
        spec: The settings of the run.
        noted: What was noted with them, in its ``spec.toml``: fingerprints of the data and versions.
    """
    return [*_changed_data(spec, noted.get("data", {})), *_changed_device(spec), *_versions(noted.get("versions", {}))]


def _changed_data(spec: Specification, data: dict[str, Any]) -> list[str]:
    key = Key.of(spec.seed)
    found: list[str] = []
    try:
        target, held = inputs.target(spec, key)
        now = {"target": target.fingerprint, "holdout": None if held is None else held.fingerprint}
        if any(data.get(f"{role}_fingerprint") != fingerprint for role, fingerprint in now.items()):
            found.append(f"The target {spec.target} does not hold the data that the run was made with.")
    except (ValueError, OSError) as error:
        found.append(f"The target cannot be read any more: {error}.")
    if plain_name(spec.source) in {**SOURCES, **TOYS}:
        return found
    try:
        if inputs.load_table(spec, spec.source, 0, key).fingerprint != data.get("source_fingerprint"):
            found.append(f"The source {spec.source} does not hold the data that the run was made with.")
    except (ValueError, OSError) as error:
        found.append(f"The source cannot be read any more: {error}.")
    return found


def _changed_device(spec: Specification) -> list[str]:
    try:
        inputs.device(spec.device)
    except ValueError as error:
        return [f"The device of the run is not here: {error}."]
    return []


def _versions(noted: dict[str, str]) -> list[str]:
    other = [f"{name} {was} (here {now})" for name, was in noted.items() if (now := _version(name)) != was]
    return [f"Other versions may give other bits: the run was made with {', '.join(other)}."] if other else []


def _version(name: str) -> str:
    try:
        return platform.python_version() if name == "python" else version(name)
    except PackageNotFoundError:
        return "not installed"
