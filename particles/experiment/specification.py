"""A specification: everything needed to repeat a run, in plain values."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from particles.names import (
    ACTIVATIONS,
    BACKENDS,
    COMPILE,
    CONSTRAINTS,
    DIVERGENCES,
    DTYPES,
    EXPORTS,
    FLOWS,
    KERNELS,
    MODES,
    PERSISTENT,
    SCALES,
    SOLVERS,
    STEPPERS,
    choose,
)

KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple[int, ...]": "a list of whole numbers",
}
"""What the types of settings are called."""


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
        flow: What particles descend: ``lipschitz`` (a trained discriminator), ``transport`` (the same divergence, solved without a
            network), ``w2`` (the W2 loss), ``mmd``, ``kale``, ``kernel`` (an f-divergence with a discriminator in a kernel's space), or
            ``proximal`` (the W1 ⊕ W2 generative flow: one large W2-penalised step of the divergence).
        solver: That of ``w2``: ``exact`` (the default), ``sinkhorn`` or ``neural``; or of ``proximal``: ``network`` (the default, trained),
            ``transport`` (its exact dual, for any point) or ``plan`` (the exact plan, for the particles alone).
        divergence: The f-divergence, of ``lipschitz``, ``transport`` and ``kernel``.
        order: The order of the alpha divergence.
        lipschitz: The bound L on the discriminator's slope, in 1 / units of the flow.
        constraint: How it is kept: ``spectral`` norms, gradient ``penalty``, or ``none``.
        penalty: The weight of the gradient penalty.
        network: The widths of the hidden layers.
        activation: The activation; by default ``relu``, of ``proximal`` ``groupsort``.
        learning_rate: The step of Adam; by default 0.001, of ``proximal`` 0.002.
        momentum: Its memory of earlier gradients, from 0 to 1.
        inner_steps: The number of ascent steps per fit.
        tolerance: The gain below which a fit ends, if it is not to be of ``inner_steps`` alone.
        batch_size: The number of points per ascent step and cloud; all by default.
        chunk_size: The number of points evaluated at once.
        epsilon: The entropic regularisation: of ``transport`` in units of the divergence (by default L times 0.03 of the
            target's root mean square radius), of ``w2`` in length² (the square of 0.05 of that radius).
        epsilon_start: The first one of ``transport``; ``inf`` for that of the whole problem's scale, 0 for ``epsilon``.
        halving: The number of fits after which it is halved, until it is ``epsilon``.
        debias: Whether the blur of ``epsilon`` is subtracted from a ``transport`` potential.
        radius: The distance below which the cost of ``transport`` is quadratic; by default ``step_size`` · L, so that particles
            come to rest; 0 for the distance itself.
        kernel: The kernel of ``mmd`` (by default ``riesz``), ``kale`` and ``kernel`` (``gaussian``).
        bandwidth: Its length; by default the median distance between target points.
        exponent: The exponent of the kernel ``riesz``; 1 is the energy distance.
        regularisation: The λ of ``kale``.
        noise: The first level of the noise at which gradients are taken, a length.
        noise_halving: The time after which it is halved, and so on.
        alpha: The weight α of the kinetic energy of ``proximal``; by default so small that particles may go ten times as far as they have to.
        horizon: The time T that its flow takes; per stage.
        power: The exponent p of the speed in its energy.
        time_steps: The number of Euler steps that it takes; per stage.
        kinetic: Whether the kinetic energy is in its objective: the W2 proximal.
        hj: The weight of its Hamilton–Jacobi residual.
        terminal: The weight of its terminal residual.
        stages: The number of its flows in a row, trained one after the other.
        stage_steps: The number of training steps of each; by default ``steps`` / ``stages``.
        persistent: What is kept for ``persistency`` steps: the ``potential``, or the ``minibatch``.
        persistency: For how many.
        minibatch: The number of particles in a persistent minibatch.
        backend: What sums over all pairs: ``auto``, ``tiled`` or ``keops``. A run settles once what ``auto`` is, see ``choice``.
        compile: Whether a trained discriminator's step is launched at once: ``auto`` (on a GPU as one CUDA graph, on the CPU not),
            ``none``, or ``full`` (``torch.compile`` too, on the CPU as well).
        stepper: The time integrator.
        mode: How the stepper ``proximal`` finds its end: ``implicit``, ``semi-implicit`` (potential frozen) or ``explicit`` (Euler).
        max_inner: The most inner steps that it takes.
        accuracy: Where the steppers ``proximal`` (residual, a part of the first speed) and ``adaptive`` (error per substep, a length) stop.
        step_size: The first step, in units of time, or ``auto``: the target's nearest-neighbour distance over L; by default 0.5 for ``lipschitz``, ``transport`` and ``kernel``, 0.1 for ``w2``, 0.3 for
            ``kale`` (half the squared bandwidth if that is less), and for ``mmd`` the target's root mean square radius (``riesz``) or half the squared bandwidth.
        decay: The number of steps after which the step size is halved.
        steps: The number of steps.
        stop_energy: The kinetic energy below which the run is at rest; 0 for never.
        patience: For how many logged rows.
        seed: The source of all randomness.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: The floating-point type.
        threads: The number of CPU threads, on which the last digits of large sums depend; by default as many as torch takes.
        log_every: The number of steps from row to row of the series; by default a hundredth of ``steps``.
        metric_every: The number of steps from one measurement of W2 to the next; by default five times ``log_every``.
        snapshot_every: The number of steps from snapshot to snapshot; by default ``log_every``.
        checkpoint_every: The number of steps from checkpoint to checkpoint.
        metric_size: The most points that W2 is measured on while a run goes on.
        record: Whether the potentials are kept, so that new points can be transported later.
        trajectory_particles: The most particles whose way is kept; by default all.
        export: The kind of file that the end is written to: ``csv``, ``npy`` or ``parquet``.
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
    flow: str = "lipschitz"
    solver: str | None = None
    divergence: str = "kl"
    order: float = 2.0
    lipschitz: float = 1.0
    constraint: str = "spectral"
    penalty: float = 10.0
    network: tuple[int, ...] = (64, 64, 64)
    activation: str | None = None
    learning_rate: float | None = None
    momentum: float = 0.0
    inner_steps: int = 5
    tolerance: float | None = None
    batch_size: int | None = None
    chunk_size: int = 65536
    epsilon: float | None = None
    epsilon_start: float = math.inf
    halving: float = 30.0
    debias: bool = True
    radius: float | None = None
    kernel: str | None = None
    bandwidth: float | None = None
    exponent: float = 1.0
    regularisation: float = 0.1
    noise: float = 0.0
    noise_halving: float = math.inf
    alpha: float | None = None
    horizon: float = 1.0
    power: float = 2.0
    time_steps: int = 5
    kinetic: bool = True
    hj: float = 0.0
    terminal: float = 0.0
    stages: int = 1
    stage_steps: int | None = None
    persistent: str = "potential"
    persistency: int = 1
    minibatch: int | None = None
    backend: str = "auto"
    compile: str = "auto"
    stepper: str = "euler"
    mode: str = "implicit"
    max_inner: int = 20
    accuracy: float = 1e-3
    step_size: float | str | None = None
    decay: float = math.inf
    steps: int = 500
    stop_energy: float = 0.0
    patience: int = 10
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    log_every: int | None = None
    metric_every: int | None = None
    snapshot_every: int | None = None
    checkpoint_every: int = 100
    metric_size: int = 500
    record: bool = False
    trajectory_particles: int | None = None
    export: str = "csv"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(field.name, getattr(self, field.name), str(field.type)))
        least = {
            "particles": 2, "carried": 0, "target_size": 2, "steps": 0, "log_every": 1, "snapshot_every": 1, "metric_every": 1,
            "checkpoint_every": 1, "metric_size": 2, "seed": 0, "threads": 1, "holdout": 0, "stop_energy": 0, "patience": 1,
            "penalty": 0, "persistency": 1, "minibatch": 2, "noise": 0, "epsilon_start": 0, "radius": 0,
            "trajectory_particles": 2, "time_steps": 1, "stage_steps": 1, "hj": 0, "terminal": 0, "stages": 1, "max_inner": 1,
        }  # fmt: skip
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and not value >= bound:
                raise ValueError(f"{name} must be at least {bound}, not {value}")
        if 1 < self.holdout < math.inf and self.holdout != round(self.holdout):
            raise ValueError(
                f"holdout must be a part of the rows below 1, or a whole number of them, not {self.holdout:g}"
            )
        if self.source_std is not None and not 0 <= self.source_std < math.inf:
            raise ValueError(f"source_std must not be negative, not {self.source_std}")
        finite = (
            "learning_rate", "source_mean", "order", "penalty", "stop_energy", "holdout", "noise", "radius", "exponent",
            "alpha", "horizon", "power", "hj", "terminal", "accuracy",
        )  # fmt: skip
        for name in finite:
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be finite, not {value}")
        choices: list[tuple[str, Mapping[str, Any] | tuple[str, ...]]] = [
            ("flow", FLOWS),
            ("divergence", DIVERGENCES),
            ("persistent", PERSISTENT),
            ("backend", BACKENDS),
            ("compile", COMPILE),
            ("stepper", STEPPERS),
            ("constraint", CONSTRAINTS),
            ("mode", MODES),
            ("dtype", DTYPES),
            ("export", EXPORTS),
        ]
        for name, names in choices:
            object.__setattr__(self, name, choose(name, getattr(self, name), names))
        optional: list[tuple[str, Mapping[str, Any] | tuple[str, ...]]] = [
            ("scale", SCALES),
            ("kernel", KERNELS),
            ("activation", ACTIVATIONS),
            ("solver", SOLVERS.get(self.flow, sum(SOLVERS.values(), ()))),
        ]
        for name, names in optional:
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, choose(name, given, names))
        if self.solver is not None and self.flow not in SOLVERS:
            owner = next(flow for flow, solvers in SOLVERS.items() if self.solver in solvers)
            raise ValueError(f"solver {self.solver} is one of the flow {owner}, not of {self.flow}; leave it out")
        self._check_step_size()
        positive = (
            "lipschitz", "epsilon", "bandwidth", "halving", "regularisation", "noise_halving", "alpha", "horizon", "decay",
        )  # fmt: skip
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        for name in ("epsilon", "bandwidth", "halving", "regularisation"):
            value = getattr(self, name)
            if value is not None and math.isinf(value):
                raise ValueError(f"{name} must be finite, not {value}")
        if not 0 < self.exponent < 2:
            raise ValueError(f"exponent must be between 0 and 2, not {self.exponent}")
        if not 1 < self.power <= 10:
            raise ValueError(f"power must be above 1 and at most 10, not {self.power}")
        if not 0 <= self.accuracy < 1:
            raise ValueError(f"accuracy must be at least 0 and below 1, not {self.accuracy}")
        if self.stepper == "adaptive" and self.accuracy == 0:
            raise ValueError("accuracy must be positive for the stepper adaptive, not 0.0")
        if self.flow == "proximal" and self.batch_size is not None and self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, not {self.batch_size}")
        exact = self.flow == "proximal" and self.solver in ("transport", "plan")
        if math.isinf(self.lipschitz) and (self.flow in ("transport", "kernel") or exact):
            raise ValueError(f"lipschitz must be finite for the flow {self.flow}, not {self.lipschitz}")
        if (self.persistent == "minibatch") != (self.minibatch is not None):
            raise ValueError(
                "minibatch, the number of particles, and persistent minibatch belong together; give both or none"
            )
        if self.stepper == "proximal" and (self.noise or self.persistency > 1 or self.minibatch is not None):
            raise ValueError(
                "the stepper proximal needs a flow that is the slope of one potential: no noise, persistency or minibatch"
            )
        if self.flow == "proximal" and (self.stepper != "euler" or self.step_size is not None):
            given = f"stepper {self.stepper}" if self.stepper != "euler" else "step_size"
            raise ValueError(
                f"{given} is not for the flow proximal, which takes time_steps Euler steps to its horizon; leave it out"
            )
        if not self.network or min(self.network) < 1:
            raise ValueError(f"network needs positive widths, not {','.join(map(str, self.network))}")

    def _check_step_size(self) -> None:
        if isinstance(self.step_size, str):
            object.__setattr__(self, "step_size", choose("step_size", self.step_size, ("auto",)))
        elif self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be positive, not {self.step_size}")
        elif self.step_size is not None and not math.isfinite(self.step_size):
            raise ValueError(f"step_size must be finite, not {self.step_size}")

    @property
    def bounded(self) -> bool:
        """Whether the discriminator's slope is bounded, by ``lipschitz``."""
        trained = self.flow == "lipschitz" or (self.flow == "proximal" and self.solver in (None, "network"))
        there = self.constraint != "none" if trained else self.flow in ("transport", "kernel", "proximal")
        return there and math.isfinite(self.lipschitz)

    @staticmethod
    def load(path: Path) -> tuple[Specification, dict[str, Any]]:
        """The specification in a ``spec.toml``, and what was noted with it.

        Raises:
            ValueError: If it has a setting that there is not.
        """
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read as TOML: {error}") from None
        known = {field.name: str(field.type) for field in dataclasses.fields(Specification)}
        noted = {name: found.pop(name) for name in list(found) if isinstance(found[name], dict) and name not in known}
        if strange := found.keys() - known.keys():
            raise ValueError(f"{path} has the setting {min(strange)!r}, which this version does not know")
        if "target" not in found:
            raise ValueError(f"{path} names no target")
        try:
            return Specification(**found), noted
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def dump(self, noted: dict[str, Any]) -> str:
        """The contents of a ``spec.toml``."""
        import tomli_w

        known = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return tomli_w.dumps(known | noted)


def _plain(name: str, value: Any, annotation: str) -> Any:
    """A value of a field's type, as plain Python has it: NumPy's numbers and lists are taken, too.

    Raises:
        ValueError: If it is of another type, or an integer that no file and no tensor can hold.
    """
    kinds = annotation.split(" | ")
    if value is None and "None" in kinds:
        return None
    if isinstance(value, bool):
        if "bool" in kinds:
            return value
    elif isinstance(value, str):
        if "str" in kinds:
            return str(value)
    elif isinstance(value, list | tuple):
        if annotation.startswith("tuple"):
            return tuple(_plain(name, entry, "int") for entry in value)
    elif isinstance(value, Integral) and abs(int(value)) >= 1 << 63:
        raise ValueError(f"{name} must be below 2^63, not {_shown(value)}")
    elif isinstance(value, Integral) and "int" in kinds:
        return int(value)
    elif isinstance(value, Real) and "float" in kinds:
        return float(value)
    wanted = " or ".join(KINDS[kind] for kind in kinds if kind != "None")
    raise ValueError(f"{name} must be {wanted}, not {_shown(value)}")


def _shown(value: object) -> str:
    try:
        text = repr(value).replace("\n", " ")
    except ValueError:  # an integer of too many digits
        text = f"one of {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}…"
