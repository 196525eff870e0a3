"""From the names in a specification to clouds: what the flow moves, and what it moves to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from particles.experiment.specification import Specification
from particles.names import REAL, SOURCES, TOYS, choose, find, plain_name

if TYPE_CHECKING:
    from particles.cloud import Cloud
    from particles.data.tables import Schema, Table
    from particles.keys import Key


def device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}; choose from auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def load_table(spec: Specification, name: str, size: int, key: Key) -> Table:
    """The rows of a file, a toy law (``size`` of them) or a real data set.

    Raises:
        ValueError: If it cannot be read, or the name is unknown.
        FileNotFoundError: If it looks like a file and is not there.
    """
    from particles.data.tables import array_table, read_table

    plain = plain_name(name)
    if plain in TOYS:
        if spec.label is not None:
            raise ValueError(f"{plain} has no classes, so there is no column {spec.label!r} for the labels")
        return array_table(plain, find("target", plain, TOYS)(size, key))
    if plain in REAL:
        return find("target", plain, REAL)(spec.label)  # type: ignore[no-any-return]
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~somebody who is not there
        path = Path(name)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return read_table(path, spec.label, spec.header)
    choose("target", name, (*TOYS, *REAL))  # raises, with the nearest match
    raise AssertionError(name)


def target(spec: Specification, key: Key) -> tuple[Table, Table | None]:
    """The rows that the flow sees, and those that it does not."""
    import numpy as np

    table = load_table(spec, spec.target, spec.target_size, key.fold("target"))
    rows = len(table)
    held = round(spec.holdout * rows) if spec.holdout < 1 else int(spec.holdout)
    least = 2 if table.label is None else max(2, len(np.unique(table.label)))
    if table.name in TOYS:
        return table, load_table(spec, spec.target, max(held, 2), key.fold("holdout")) if held else None
    if held > rows - least:
        raise ValueError(
            f"holdout {spec.holdout:g} leaves {rows - held} of the {rows} rows of {table.name}; at least {least} are needed"
        )
    if held == 0:
        return table, None
    order = key.fold("holdout").numpy().permutation(rows)
    if table.label is not None:  # the same share of every class
        _, classes = np.unique(table.label, return_inverse=True)
        place = np.empty(rows)
        for c in range(classes.max() + 1):
            mine = order[classes[order] == c]
            place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
            place[mine[-1]] = np.inf  # the last one stays
        order = order[np.argsort(place[order], kind="stable")]
    return table.take(np.sort(order[held:])), table.take(np.sort(order[:held]))


def count(spec: Specification, target: Cloud) -> int | None:
    """The number of particles that are drawn from a law; ``None`` for the rows of a file or a real data set."""
    name = plain_name(spec.source)
    return spec.particles or len(target) if name in SOURCES or name in TOYS else None


def source_std(spec: Specification) -> float:
    default = 0.1 if plain_name(spec.source) == "bootstrap" else 1.0
    return default if spec.source_std is None else spec.source_std


def source(spec: Specification, schema: Schema, target: Cloud, key: Key) -> tuple[Cloud, str | None]:
    """The first cloud, with the carried particles behind it, and the fingerprint of the file if it is from one."""
    from particles.data.sources import balanced

    cloud, riders, fingerprint = _particles(spec, schema, target, key.fold("source"))
    if target.label is not None and cloud.label is not None:
        assert schema.levels is not None
        missing = sorted(set(target.label.tolist()) - set(cloud.label.tolist()))
        if missing:
            level = schema.levels.tolist()[missing[0]]
            raise ValueError(f"the source has no particle of the class {level!r}, which {schema.table.name} has")
        cloud = balanced(cloud, target)
    return cloud if riders is None else cloud.join(riders), fingerprint


def _particles(spec: Specification, schema: Schema, target: Cloud, key: Key) -> tuple[Cloud, Cloud | None, str | None]:
    import torch

    name = plain_name(spec.source)
    if name in SOURCES or name in TOYS:
        law = _law(spec, schema, target)
        cloud = law(spec.particles or len(target), key.fold("particles"))
        return cloud, law(spec.carried, key.fold("carried")) if spec.carried else None, None
    try:
        table = load_table(spec, spec.source, 0, key)
    except ValueError as error:
        if str(error).startswith("unknown target"):
            choose("source", spec.source, (*SOURCES, *TOYS, *REAL))
        raise
    rows = schema.encode(table, target.x.device)
    count = spec.particles or len(rows) - spec.carried
    if not 2 <= count <= len(rows) - spec.carried:
        raise ValueError(
            f"particles cannot be {count}, with {spec.carried} carried ones: the source {table.name} has {len(rows)} rows"
        )
    order = torch.arange(len(rows))
    if count < len(rows):
        order = torch.randperm(len(rows), generator=key.generator())
    order = order.to(target.x.device)
    riders = rows.take(order[count : count + spec.carried]) if spec.carried else None
    return rows.take(order[:count]), riders, table.fingerprint


def _law(spec: Specification, schema: Schema, target: Cloud) -> Callable[[int, Key], Cloud]:
    """A source that any number of particles can be drawn from."""
    name = plain_name(spec.source)
    if name in SOURCES:
        draw = find("source", name, SOURCES)
        return lambda count, key: draw(target, count, spec.source_mean, source_std(spec), key)
    device = target.x.device
    return lambda count, key: schema.encode(load_table(spec, name, max(count, 2), key), device).take(slice(0, count))


def lasting(name: str) -> str:
    """A path that still means the same file elsewhere; a name as it is."""
    if plain_name(name) in {**TOYS, **REAL, **SOURCES}:
        return plain_name(name)
    return str(Path(name).expanduser().resolve())
