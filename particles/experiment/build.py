"""From a specification to objects: process, observers, store."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from particles import shards
from particles.experiment import assemble, demand, inputs, proximal, resources
from particles.experiment.specification import Specification
from particles.machine import check_points
from particles.names import TOYS, plain_name

if TYPE_CHECKING:
    import torch

    from particles.cloud import Cloud
    from particles.data.tables import Schema, Table
    from particles.proximal.training import Train
    from particles.run.folder import Folder
    from particles.run.loop import Observer, Rule
    from particles.run.process import Evolve
    from particles.run.shared import Shared
    from particles.run.store import Row

logger = logging.getLogger("particles")

LOOSE = {
    "target", "source", "steps", "stop_energy", "patience", "backend", "compile", "device", "threads", "chunk_size",
    "log_every", "metric_every", "snapshot_every", "checkpoint_every", "metric_size", "trajectory_particles", "export",
    "record",
}  # fmt: skip
"""The settings of reports and records, of the machine and of the end: a checkpoint is that of the run with any of them."""


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
        rows: The rows of the particles whose way is kept, or ``None`` for all.
        advice: What to think of its step size, if there is something to say.
    """

    spec: Specification
    process: Evolve | Train
    observers: list[Observer]
    at_rest: Rule | None
    schema: Schema
    target: Cloud
    holdout: Cloud | None
    noted: dict[str, Any]
    advice: str | None = None
    rows: torch.Tensor | None = None

    def store(self, path: Path, progress: Callable[[int, Row], None] | None = None) -> Folder | Shared:
        """The run folder; specification and data are written to it if it is new. Of several processes the first one writes.

        Raises:
            RunError: If it holds a run with other settings or other data, or one that is beyond ``steps`` already.
            ValueError: If the run would not fit on its disk.
        """
        from particles.run.folder import Folder
        from particles.run.shared import Shared

        spec = self.spec
        assert spec.log_every is not None
        assert spec.snapshot_every is not None
        shards.once(lambda: self._check_folder(path))
        folder = Folder(
            path,
            self.schema,
            log_every=spec.log_every,
            snapshot_every=spec.snapshot_every,
            checkpoint_every=spec.checkpoint_every,
            progress=progress,
            rows=self.rows,
            export=spec.export,
            settings=self.settings(spec),
        )
        shards.once(lambda: self._begin(folder))
        return folder if shards.world() == 1 else Shared(folder)

    def _check_folder(self, path: Path) -> None:
        self.check_begin(path)
        if (path / "spec.toml").exists():
            self.check_data(path)
            self._check_settings(path)

    def _begin(self, folder: Folder) -> None:
        import numpy as np

        from particles.files import replacing
        from particles.run.store import RunError

        spec, path = self.spec, folder.path
        if (reached := folder.reached()) is not None and reached > spec.steps:
            raise RunError(
                f"the run in {path} is at step {reached} already; steps must be at least that, not {spec.steps}"
            )
        with replacing(path / "spec.toml") as draft:
            draft.write_text(spec.dump(self.noted), encoding="utf-8")
        if not (path / "data.npz").exists():
            target = self.schema.points(self.target.x)
            holdout = target[:0] if self.holdout is None else self.schema.points(self.holdout.x)
            with replacing(path / "data.npz") as draft, open(draft, "wb") as file:
                rows: dict[str, Any] = {} if self.rows is None else {"rows": self.rows.numpy()}
                np.savez(file, target=target, holdout=holdout, **rows, **self._labels())

    def settings(self, spec: Specification) -> dict[str, Any]:
        """What the particles of a run with such a specification depend on: its settings but for those of reports and of the machine, and the data."""
        made = {name: value for name, value in dataclasses.asdict(spec).items() if name not in LOOSE}
        return made | {name: value for name, value in self.noted["data"].items() if name.endswith("_fingerprint")}

    def check_begin(self, path: Path, warn: bool = True, runs: int = 1) -> None:
        """Whether the run, or so many like it, can begin in a folder: before anything is written, or removed to make way.

        Looked at are its first particles, the names in what is written, and the room on the disk, what is in the folder already left
        out of account.

        Raises:
            RunError: If its first particles are not finite, as they are or in units of the data.
            ValueError: If a name cannot be written, or it does not fit on the disk, with the settings that would.
        """
        from particles.run.loop import check_first

        cloud = self.process.source
        check_first(cloud, self.schema.check)
        self._labels()
        for what, text in (("the folder's name", str(path.absolute())), ("the settings", self.spec.dump(self.noted))):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                bad = text[error.start : error.end].encode("utf-8", "backslashreplace").decode()
                raise ValueError(
                    f"{what} cannot be written as UTF-8 ({bad!r} in it); rename the file or folder"
                ) from None
        width = self.schema.points(cloud.x[:1]).itemsize
        own = len(cloud) - cloud.carried
        size = _size(self.target, runs * own, runs * cloud.carried)
        size = dataclasses.replace(size, target=runs * len(self.target), width=width)
        resources.check_disk(self.spec, size, path, warn)

    def check_memory(self, runs: int) -> None:
        """Whether so many runs like this one fit into memory together.

        Raises:
            ValueError: If they do not, with the settings that would.
        """
        cloud = self.process.source
        size = _size(self.target, runs * (len(cloud) - cloud.carried), runs * cloud.carried)
        resources.check_memory(self.spec, dataclasses.replace(size, target=runs * len(self.target)))

    def _labels(self) -> dict[str, Any]:
        """The classes of particles, target and held-out rows by the names that a run has for them, as text."""
        clouds = {"label": self.process.source, "target_label": self.target, "holdout_label": self.holdout}
        levels = self.schema.levels
        return {
            name: levels[cloud.label.cpu().numpy()].astype(str)
            for name, cloud in clouds.items()
            if levels is not None and cloud is not None and cloud.label is not None
        }

    def check_data(self, path: Path) -> None:
        """Whether the run in a folder began with the same data.

        Raises:
            RunError: If it did not.
        """
        from particles.run.store import RunError

        _, noted = Specification.load(path / "spec.toml")
        roles = {"target": "target", "holdout": "target's held-out rows", "source": "source"}
        for role, text in roles.items():
            if noted.get("data", {}).get(f"{role}_fingerprint") != self.noted["data"].get(f"{role}_fingerprint"):
                raise RunError(
                    f"the data of the {text} are not those that the run in {path} began with; begin a new run"
                )

    def _check_settings(self, path: Path) -> None:
        from particles.run.store import RunError

        before, _ = Specification.load(path / "spec.toml")
        for field in dataclasses.fields(Specification):
            then, now = getattr(before, field.name), getattr(self.spec, field.name)
            unsaid = (field.name, then) in (("threads", None), ("backend", "auto"))  # by an earlier version
            if field.name not in ("steps", "target", "source") and then != now and not unsaid:
                raise RunError(f"the run in {path} was begun with {field.name} = {then}, not {now}; begin a new run")


def build(spec: Specification, *, to_run: bool = True) -> Simulation:
    """Makes the objects that a specification names.

    Arguments:
        spec: The specification.
        to_run: Whether memory for a run is looked for; what only reads a run takes less.

    Raises:
        ValueError: If something is unknown, out of range or does not fit, into memory neither, naming it and what would be right.
        FileNotFoundError: If a file is not there.
    """
    import torch

    from particles.data.export import check_export
    from particles.data.tables import Schema
    from particles.keys import Key
    from particles.metrics.distances import w2
    from particles.run.folder import thinned
    from particles.run.observers import AtRest, Distance

    key = Key.of(spec.seed)
    device = inputs.device(spec.device)
    if plain_name(spec.target) in TOYS:
        check_points("target_size", spec.target_size)
    training, holdout_table = inputs.target(spec, key)
    scale = spec.scale or ("none" if training.name in TOYS else "standard")
    generates = spec.flow == "proximal"
    if generates and shards.world() > 1:
        raise ValueError(
            f"flow proximal runs in one process, not in {shards.world()}; start it without torchrun, or choose another flow"
        )
    if generates:
        spec = dataclasses.replace(spec, steps=proximal.steps(spec))
    log_every = spec.log_every or max(1, spec.steps // 100)
    for name in ("snapshot_every", "metric_every"):
        if (getattr(spec, name) or 0) % log_every:
            raise ValueError(f"{name} must be a multiple of log_every ({log_every}), not {getattr(spec, name)}")
    schema = Schema.fit(training, scale, getattr(torch, spec.dtype))
    check_export(spec.export, schema)
    target = schema.encode(training, device)
    holdout = None if holdout_table is None else schema.encode(holdout_table, device)
    expected = inputs.count(spec, target)
    if expected is not None and to_run:  # a law could be asked for any number of particles
        resources.check_memory(dataclasses.replace(spec, device=str(device)), _size(target, expected, spec.carried))
    source, fingerprint = inputs.source(spec, schema, target, key)
    if expected is None and to_run:
        own = len(source) - source.carried
        resources.check_memory(dataclasses.replace(spec, device=str(device)), _size(target, own, source.carried))
    spec = dataclasses.replace(
        spec,
        target=inputs.lasting(spec.target),
        source=inputs.lasting(spec.source),
        particles=len(source) - source.carried,
        scale=scale,
        source_std=inputs.source_std(spec),
        device=str(device),
        threads=spec.threads or torch.get_num_threads(),
        log_every=log_every,
        metric_every=spec.metric_every or 5 * log_every,
        snapshot_every=spec.snapshot_every or log_every,
    )
    spec = proximal.settled(spec, source, target, key) if generates else assemble.settled(spec, target, key)
    spec = dataclasses.replace(spec, backend=_backend(spec, device.type, len(source) * len(target), target.dimension))
    assert spec.metric_every is not None
    process = (proximal if generates else assemble).process(spec, source, target, key)
    if to_run and (sentence := assemble.plainly(spec, process, target)):
        logger.warning(sentence)
    references = {"w2": target} | ({} if holdout is None else {"w2_holdout": holdout})
    observers: list[Observer] = [
        Distance(name, w2, reference, spec.metric_size, key.fold("metrics", name), spec.metric_every)
        for name, reference in references.items()
    ]
    return Simulation(
        spec=spec,
        process=process,
        observers=observers,
        at_rest=AtRest(spec.stop_energy, spec.patience) if spec.stop_energy else None,
        schema=schema,
        target=target,
        holdout=holdout,
        advice=assemble.advice(spec, target, key),
        noted={"data": _data_note(schema, holdout_table, fingerprint), "versions": _versions()},
        rows=thinned(source, spec.trajectory_particles, key.fold("trajectory")),
    )


def _backend(spec: Specification, device: str, pairs: int, dimension: int) -> str:
    """What ``auto`` is here and now, so that a run is repeated by the same sums wherever that is."""
    from particles.pairwise.backend import rule

    if spec.backend != "auto" or spec.flow == "lipschitz":
        return spec.backend
    return "keops" if rule(device)(pairs, dimension) else "tiled"


def _size(target: Cloud, particles: int, carried: int) -> demand.Size:
    largest = 1.0 if target.label is None else float(target.label.bincount().max()) / len(target)
    return demand.Size(particles, carried, len(target), target.dimension, largest)


def _data_note(schema: Schema, holdout: Table | None, source: str | None) -> dict[str, Any]:
    import numpy as np

    note: dict[str, Any] = {
        "columns": schema.columns,
        "units": [float(unit) for unit in schema.unit],
        "constant_at": np.flatnonzero(
            ~schema.varying
        ).tolist(),  # the places and values of the columns that were left out
        "constant": schema.table.values[0, ~schema.varying].tolist(),
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
    for package in ("lipschitz-particles", "torch", "numpy", "scikit-learn", "POT", "geomloss", "pykeops"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
