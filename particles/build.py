"""From a specification to objects: process, observers, store."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from particles.names import DIVERGENCES, REAL, SOURCES, STEPPERS, TOYS, choose, find, make, plain_name
from particles.specification import Specification

if TYPE_CHECKING:
    from particles.cloud import Cloud
    from particles.data.tables import Schema, Table
    from particles.keys import Key
    from particles.processes import Evolve
    from particles.run.loop import Observer, Rule
    from particles.run.store import Folder, Row


@dataclass(frozen=True)
class Simulation:
    """A specification made real.

    Attributes:
        spec: The specification, with everything found out.
        process: What is repeated.
        observers: What looks at it.
        at_rest: When it ends early, or ``None``.
        schema: Columns and units.
        target: The target, in units of the flow.
        holdout: The part of it that the flow never sees, or ``None``.
        noted: What goes into ``spec.toml`` besides.
    """

    spec: Specification
    process: Evolve
    observers: list[Observer]
    at_rest: Rule | None
    schema: Schema
    target: Cloud
    holdout: Cloud | None
    noted: dict[str, Any]

    def store(self, path: Path, progress: Callable[[int, Row], None] | None = None) -> Folder:
        """The run folder; specification and data are written to it if it is new.

        Raises:
            RunError: If it holds a run with other settings or other data, or one that is beyond ``steps`` already.
        """
        import numpy as np

        from particles.run.files import replacing
        from particles.run.store import Folder, RunError

        spec = self.spec
        assert spec.log_every is not None
        assert spec.snapshot_every is not None
        if (path / "spec.toml").exists():
            self._check_same(path)
        folder = Folder(
            path,
            self.schema,
            log_every=spec.log_every,
            snapshot_every=spec.snapshot_every,
            checkpoint_every=spec.checkpoint_every,
            progress=progress,
        )
        if (reached := folder.reached()) is not None and reached > spec.steps:
            raise RunError(
                f"the run in {path} is at step {reached} already; steps must be at least that, not {spec.steps}"
            )
        if not (path / "data.npz").exists():
            target = self.schema.points(self.target.x)
            holdout = target[:0] if self.holdout is None else self.schema.points(self.holdout.x)
            with replacing(path / "data.npz") as draft, open(draft, "wb") as file:
                np.savez(file, target=target, holdout=holdout)
        with replacing(path / "spec.toml") as draft:
            draft.write_text(spec.dump(self.noted), encoding="utf-8")
        return folder

    def _check_same(self, path: Path) -> None:
        from particles.run.store import RunError

        before, noted = Specification.load(path / "spec.toml")
        roles = {"target": "target", "holdout": "target's held-out rows", "source": "source"}
        for role, text in roles.items():
            if noted.get("data", {}).get(f"{role}_fingerprint") != self.noted["data"].get(f"{role}_fingerprint"):
                raise RunError(
                    f"the data of the {text} are not those that the run in {path} began with; begin a new run"
                )
        for field in dataclasses.fields(Specification):
            then, now = getattr(before, field.name), getattr(self.spec, field.name)
            if field.name not in ("steps", "target", "source") and then != now:
                raise RunError(f"the run in {path} was begun with {field.name} = {then}, not {now}; begin a new run")


def build(spec: Specification) -> Simulation:
    """Makes the objects that a specification names.

    Raises:
        ValueError: If something is unknown, out of range or does not fit, naming it and what would be right.
        FileNotFoundError: If a file is not there.
    """
    import torch

    from particles.data.tables import Schema
    from particles.keys import Key
    from particles.metrics.transport import w2
    from particles.run.observers import AtRest, Distance

    key = Key.of(spec.seed)
    device = _device(spec.device)
    training, holdout_table = _target(spec, key)
    scale = spec.scale or ("none" if training.name in TOYS else "standard")
    log_every = spec.log_every or max(1, spec.steps // 100)
    for name in ("snapshot_every", "metric_every"):
        if (getattr(spec, name) or 0) % log_every:
            raise ValueError(f"{name} must be a multiple of log_every ({log_every}), not {getattr(spec, name)}")
    schema = Schema.fit(training, scale, getattr(torch, spec.dtype))
    target = schema.encode(training, device)
    holdout = None if holdout_table is None else schema.encode(holdout_table, device)
    source, fingerprint = _source(spec, schema, target, key)
    spec = dataclasses.replace(
        spec,
        target=_lasting(spec.target),
        source=_lasting(spec.source),
        particles=len(source) - source.carried,
        scale=scale,
        source_std=_source_std(spec),
        device=str(device),
        log_every=log_every,
        metric_every=spec.metric_every or 5 * log_every,
        snapshot_every=spec.snapshot_every or log_every,
    )
    assert spec.metric_every is not None
    references = {"w2": target} | ({} if holdout is None else {"w2_holdout": holdout})
    observers: list[Observer] = [
        Distance(name, w2, reference, spec.metric_size, key.fold("metrics", name), spec.metric_every)
        for name, reference in references.items()
    ]
    return Simulation(
        spec=spec,
        process=_process(spec, source, target, key),
        observers=observers,
        at_rest=AtRest(spec.stop_energy, spec.patience) if spec.stop_energy else None,
        schema=schema,
        target=target,
        holdout=holdout,
        noted={"data": _data_note(schema, holdout_table, fingerprint), "versions": _versions()},
    )


def _process(spec: Specification, source: Cloud, target: Cloud, key: Key) -> Evolve:
    from particles.flows.gradient import GradientFlow
    from particles.networks.dense import DenseNetwork
    from particles.potentials.neural import NeuralPotential
    from particles.processes import Evolve

    network = DenseNetwork(
        target.dimension,
        spec.network,
        lipschitz=spec.lipschitz if spec.constraint == "spectral" else math.inf,
        activation=spec.activation,
        classes=0 if target.label is None else int(target.label.max()) + 1,
        key=key.fold("network"),
    ).to(device=target.x.device, dtype=target.x.dtype)
    potential = NeuralPotential(
        make(
            "divergence", spec.divergence, DIVERGENCES, **({"alpha": spec.alpha} if spec.divergence == "alpha" else {})
        ),
        network,
        learning_rate=spec.learning_rate,
        momentum=spec.momentum,
        inner_steps=spec.inner_steps,
        tolerance=spec.tolerance,
        batch_size=spec.batch_size,
        chunk_size=spec.chunk_size,
        penalty=spec.penalty if spec.constraint == "penalty" else 0.0,
        lipschitz=spec.lipschitz,
    )
    return Evolve(
        GradientFlow(potential, target),
        make("stepper", spec.stepper, STEPPERS),
        source,
        step_size=spec.step_size,
        decay=spec.decay,
        key=key.fold("run"),
    )


def _device(name: str) -> Any:
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
    path = Path(name).expanduser()
    if path.exists() or path.suffix or len(path.parts) > 1:
        return read_table(path, spec.label, spec.header)
    choose("target", name, (*TOYS, *REAL))  # raises, with the nearest match
    raise AssertionError(name)


def _target(spec: Specification, key: Key) -> tuple[Table, Table | None]:
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


def _source_std(spec: Specification) -> float:
    default = 0.1 if plain_name(spec.source) == "bootstrap" else 1.0
    return default if spec.source_std is None else spec.source_std


def _source(spec: Specification, schema: Schema, target: Cloud, key: Key) -> tuple[Cloud, str | None]:
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
        return lambda count, key: draw(target, count, spec.source_mean, _source_std(spec), key)
    device = target.x.device
    return lambda count, key: schema.encode(load_table(spec, name, max(count, 2), key), device).take(slice(0, count))


def _lasting(name: str) -> str:
    """A path that still means the same file elsewhere; a name as it is."""
    if plain_name(name) in {**TOYS, **REAL, **SOURCES}:
        return plain_name(name)
    return str(Path(name).expanduser().resolve())


def _data_note(schema: Schema, holdout: Table | None, source: str | None) -> dict[str, Any]:
    note: dict[str, Any] = {
        "columns": schema.columns,
        "units": [float(unit) for unit in schema.unit],
        "target_rows": len(schema.table),
        "holdout_rows": 0 if holdout is None else len(holdout),
        "target_fingerprint": schema.table.fingerprint,
    }
    if holdout is not None:
        note["holdout_fingerprint"] = holdout.fingerprint
    if source is not None:
        note["source_fingerprint"] = source
    return note


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("lipschitz-particles", "torch", "numpy", "scikit-learn", "POT"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
