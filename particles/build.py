"""From names to objects: the only place that knows strings.

The tables hold dotted names, not classes, so that a command line can list them without importing torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from particles.cloud import Cloud
    from particles.data.tables import Schema, Table
    from particles.keys import Key
    from particles.processes import Evolve
    from particles.run.loop import Observer, Rule
    from particles.run.store import Folder, Row

DIVERGENCES = {
    "kl": "divergences.KL",
    "reverse-kl": "divergences.ReverseKL",
    "jensen-shannon": "divergences.JensenShannon",
    "alpha": "divergences.Alpha",
    "w1": "divergences.W1",
}
STEPPERS = {
    "euler": "steppers.euler.Euler",
    "heun": "steppers.runge_kutta.heun",
}
TOYS = {
    "moons": "data.toy.moons",
    "circles": "data.toy.circles",
    "pinwheel": "data.toy.pinwheel",
    "8-gaussians": "data.toy.eight_gaussians",
    "4-gaussians": "data.toy.four_gaussians",
    "swiss-roll": "data.toy.swiss_roll",
    "swiss-roll-2d": "data.toy.swiss_roll_2d",
    "checkerboard": "data.toy.checkerboard",
    "spirals": "data.toy.spirals",
    "student-t": "data.toy.student_t",
    "s-curve": "data.toy.s_curve",
    "sierpinski-carpet": "data.toy.sierpinski_carpet",
}
REAL = {
    "digits": "data.real.digits",
    "breast-cancer": "data.real.breast_cancer",
    "wine": "data.real.wine",
    "iris": "data.real.iris",
}
SOURCES = {
    "gaussian": "data.sources.gaussian",
    "uniform": "data.sources.uniform",
    "bootstrap": "data.sources.bootstrap",
}
ACTIVATIONS = ("relu", "leaky-relu", "softplus", "groupsort")
CONSTRAINTS = ("spectral", "penalty", "none")
SCALES = ("standard", "global", "none")
DTYPES = ("float32", "float64")


def choose(what: str, name: str, names: Mapping[str, Any] | tuple[str, ...]) -> str:
    """The name itself, if it is one of ``names`` (``_`` and capitals are forgiven).

    Raises:
        ValueError: Otherwise, with the nearest match.
    """
    plain = _plain(name)
    if plain in names:
        return plain
    near = difflib.get_close_matches(plain, list(names), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}"
    raise ValueError(f"unknown {what} {name!r}; {hint}")


def find(what: str, name: str, table: Mapping[str, str]) -> Callable[..., Any]:
    """What a row of a table stands for.

    Raises:
        ValueError: If there is no such row, with the nearest match.
    """
    module, _, attribute = table[choose(what, name, table)].rpartition(".")
    return getattr(importlib.import_module(f"particles.{module}"), attribute)  # type: ignore[no-any-return]


def make(what: str, name: str, table: Mapping[str, str], **settings: Any) -> Any:
    """What a row of a table makes of some settings.

    Raises:
        ValueError: If there is no such row, or it has no such setting.
    """
    maker = find(what, name, table)
    known = inspect.signature(maker).parameters
    for setting in settings.keys() - known.keys():
        near = difflib.get_close_matches(setting, list(known), n=1, cutoff=0.5)
        raise ValueError(f"{what} {name} has no setting {setting!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return maker(**settings)


@dataclass(frozen=True)
class Specification:
    """Everything needed to repeat a run; the command line's options, one by one. ``None`` is for what is found out.

    Attributes:
        target: A file, or the name of a toy law or real data set.
        source: A file, one of those names, or ``gaussian``, ``uniform``, ``bootstrap``.
        particles: The number of particles; by default as many as target rows, or all rows of a source file.
        carried: The number of further particles that ride along and influence nothing.
        target_size: The number of points drawn from a toy law.
        holdout: The part of the target's rows that the flow never sees; 1 and above: the number of rows.
        label: The column of classes in files, ``target`` in real data sets.
        header: Whether the first line of a CSV names the columns; found out by default.
        scale: ``standard``, ``global`` or ``none``; by default none for toys, else standard.
        source_mean: Where the source is, in units of the flow.
        source_std: How wide it is, in units of the flow; for ``bootstrap`` the jitter.
        divergence: The f-divergence.
        alpha: The order of the alpha divergence.
        lipschitz: The bound L on the discriminator's slope, in 1 / units of the flow.
        constraint: How it is kept: ``spectral`` norms, gradient ``penalty``, or ``none``.
        penalty: The weight of the gradient penalty.
        network: The widths of the hidden layers.
        activation: The activation.
        learning_rate: The step of Adam.
        momentum: Its memory of earlier gradients, from 0 to 1.
        inner_steps: The number of ascent steps per fit.
        tolerance: The gain below which a fit ends, if it is not to be of ``inner_steps`` alone.
        batch_size: The number of points per ascent step and cloud; all by default.
        chunk_size: The number of points evaluated at once.
        stepper: The time integrator.
        step_size: The first step, in units of time.
        decay: The number of steps after which the step size is halved.
        steps: The number of steps.
        stop_energy: The kinetic energy below which the run is at rest; 0 for never.
        patience: For how many logged rows.
        seed: The source of all randomness.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: The floating-point type.
        log_every: The number of steps from row to row of the series; by default a hundredth of ``steps``.
        metric_every: The number of steps from one measurement of W2 to the next; by default five times ``log_every``.
        snapshot_every: The number of steps from snapshot to snapshot; by default ``log_every``.
        checkpoint_every: The number of steps from checkpoint to checkpoint.
        metric_size: The most points that W2 is measured on while a run goes on.
    """

    target: str
    source: str = "gaussian"
    particles: int | None = None
    carried: int = 0
    target_size: int = 1000
    holdout: float = 0.2
    label: str | None = None
    header: bool | None = None
    scale: str | None = None
    source_mean: float = 0.0
    source_std: float | None = None
    divergence: str = "kl"
    alpha: float = 2.0
    lipschitz: float = 1.0
    constraint: str = "spectral"
    penalty: float = 10.0
    network: tuple[int, ...] = (64, 64, 64)
    activation: str = "relu"
    learning_rate: float = 1e-3
    momentum: float = 0.0
    inner_steps: int = 5
    tolerance: float | None = None
    batch_size: int | None = None
    chunk_size: int = 65536
    stepper: str = "euler"
    step_size: float = 0.5
    decay: float = math.inf
    steps: int = 500
    stop_energy: float = 0.0
    patience: int = 10
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    log_every: int | None = None
    metric_every: int | None = None
    snapshot_every: int | None = None
    checkpoint_every: int = 100
    metric_size: int = 500

    def __post_init__(self) -> None:
        least = {
            "particles": 2, "carried": 0, "target_size": 2, "steps": 0, "log_every": 1, "snapshot_every": 1, "metric_every": 1,
            "checkpoint_every": 1, "metric_size": 2, "seed": 0, "holdout": 0, "stop_energy": 0, "patience": 1,
            "penalty": 0,
        }  # fmt: skip
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and not value >= bound:
                raise ValueError(f"{name} must be at least {bound}, not {value}")
        if self.source_std is not None and not 0 <= self.source_std < math.inf:
            raise ValueError(f"source_std must not be negative, not {self.source_std}")
        for name in ("step_size", "learning_rate", "source_mean", "alpha", "penalty", "stop_energy", "holdout"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, not {getattr(self, name)}")
        choices: list[tuple[str, Mapping[str, Any] | tuple[str, ...]]] = [
            ("divergence", DIVERGENCES),
            ("stepper", STEPPERS),
            ("constraint", CONSTRAINTS),
            ("activation", ACTIVATIONS),
            ("dtype", DTYPES),
        ]
        for name, names in choices:
            object.__setattr__(self, name, choose(name, getattr(self, name), names))
        if self.scale is not None:
            object.__setattr__(self, "scale", choose("scale", self.scale, SCALES))
        object.__setattr__(self, "network", tuple(self.network))
        if not self.network or min(self.network) < 1:
            raise ValueError(f"network needs positive widths, not {','.join(map(str, self.network))}")

    @staticmethod
    def load(path: Path) -> tuple[Specification, dict[str, Any]]:
        """The specification in a ``spec.toml``, and what was noted with it.

        Raises:
            ValueError: If it has a setting that there is not.
        """
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as TOML: {error}") from None
        known = {field.name: str(field.type) for field in dataclasses.fields(Specification)}
        noted = {name: found.pop(name) for name in list(found) if isinstance(found[name], dict)}
        if strange := found.keys() - known.keys():
            raise ValueError(f"{path} has the setting {min(strange)!r}, which this version does not know")
        if "target" not in found:
            raise ValueError(f"{path} names no target")
        for name, value in found.items():
            if not _fits(value, known[name]):
                raise ValueError(f"{path}: {name} = {value!r} is not of the type {known[name]}")
        try:
            return Specification(**found), noted
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def dump(self, noted: dict[str, Any]) -> str:
        """The contents of a ``spec.toml``."""
        import tomli_w

        known = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return tomli_w.dumps(known | noted)


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


def _fits(value: object, annotation: str) -> bool:
    """Whether a value from a TOML file is of a field's type."""
    if annotation.startswith("tuple"):
        return isinstance(value, list) and all(_fits(entry, "int") for entry in value)
    kinds = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}[annotation.split(" ")[0]]
    return isinstance(value, kinds) and isinstance(value, bool) == (kinds == (bool,))


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

    plain = _plain(name)
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
    default = 0.1 if _plain(spec.source) == "bootstrap" else 1.0
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

    name = _plain(spec.source)
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
    name = _plain(spec.source)
    if name in SOURCES:
        draw = find("source", name, SOURCES)
        return lambda count, key: draw(target, count, spec.source_mean, _source_std(spec), key)
    device = target.x.device
    return lambda count, key: schema.encode(load_table(spec, name, max(count, 2), key), device).take(slice(0, count))


def _plain(name: str) -> str:
    """A name as the tables have it."""
    return name.strip().lower().replace("_", "-")


def _lasting(name: str) -> str:
    """A path that still means the same file elsewhere; a name as it is."""
    if _plain(name) in {**TOYS, **REAL, **SOURCES}:
        return _plain(name)
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
