"""What a run will take of memory and of the disk, before it takes it.

Estimates are sums of a few terms, each with the option that makes it smaller; their factors were measured (``tests/benchmarks/demand.py``).
They are good to a factor of two.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from particles.experiment.specification import Specification
from particles.steppers.bundle import ROWS

LIBRARIES = 100 << 20
"""What a process takes besides: libraries that are imported on the way, the figure."""
ROW = 1200
"""The bytes of a logged row in memory."""
LINE = 250
"""The bytes of a logged row on the disk, with its line in ``trajectory.csv``."""
EXACT_PAIR = 41
"""The bytes per pair of points of the network simplex, its costs and its plan."""
PLAN_PAIR = 45
"""The same of a plan that is searched for, and the best one so far."""
SINKHORN_PAIR = 36
"""The bytes per pair of geomloss' annealing on matrices of costs, in float32: between 19 and 46, by how many of them the allocator scatters."""
KERNEL_PAIR = {"mmd": 24, "kale": 40, "kernel": 56}
"""The bytes per pair of target points of a kernel's matrix, and of Newton's method with it."""
CLOSING = 2000
"""The most points of a cloud that the closing table measures distances on."""
NUMBER = {"float32": 4, "float64": 8}
"""The bytes of a number."""
STAGES = {"heun": 6, "rk4": 8, "ab2": 6, "ab3": 7, "ab4": 8, "adaptive": 8}
"""The clouds that a stepper holds at once, where they are more than four."""


@dataclass(frozen=True)
class Size:
    """How large a problem is.

    Attributes:
        particles: The number of particles that are not carried.
        carried: The number of those that are.
        target: The number of target points.
        dimension: That of the points.
        share: The part of all points that is in the largest class.
        width: The bytes of a number in ``trajectory.npy``.
    """

    particles: int
    carried: int
    target: int
    dimension: int
    share: float = 1.0
    width: int = 4

    @property
    def all(self) -> int:
        return self.particles + self.carried


@dataclass(frozen=True)
class Part:
    """Something that takes room: what it is, in bytes, and the settings that make it smaller."""

    what: str
    size: float
    cures: tuple[str, ...] = ()
    host: bool = False


def memory(spec: Specification, size: Size) -> list[Part]:
    """What the run that a settled specification names takes at its peak, besides the libraries and tables that are in memory by then.

    Parts on the host are so whatever the device is; the others are where the points are.
    """
    number = NUMBER[spec.dtype]
    log_every = spec.log_every or max(1, spec.steps // 100)
    held = (2 if lean(spec) else 5) + spec.device.startswith("cuda")
    clouds = (held * size.all + 2 * size.target) * size.dimension * number + 60 * (size.all + size.target)
    lasting = [
        Part("libraries", LIBRARIES, host=True),
        Part("particles and target", clouds, ("particles", "target_size")),
        Part("the logged rows", ROW * spec.steps / log_every, ("log_every",), host=True),
    ]
    if spec.record:
        lasting.append(Part("the record of a potential", 3 * tape(spec, size), ("particles",), host=True))
    shown = min(size.all, spec.trajectory_particles or size.all)
    looks = min(spec.metric_size, size.particles) * min(spec.metric_size, size.target)
    end = min(CLOSING, size.particles) * min(CLOSING, size.target)
    moments = [
        _fit(spec, size),
        _field(spec, size),
        [Part("the measurement of W2 on the way", EXACT_PAIR * looks, ("metric_size",), host=True)],
        [Part("the closing table", EXACT_PAIR * end, host=True)],
        [
            Part(
                "rows in the target's units",
                shown * size.dimension * size.width,
                ("trajectory_particles", "particles"),
                host=True,
            )
        ],
    ]
    return lasting + max(moments, key=total)


def lean(spec: Specification) -> bool:
    """Whether the run holds no more than four clouds of particles at once: the source, the particles, their velocities and where they go."""
    return spec.flow == "lipschitz" and spec.stepper == "euler" and spec.minibatch is None


def _fit(spec: Specification, size: Size) -> list[Part]:
    """What the fit of a potential takes."""
    number = NUMBER[spec.dtype]
    m, n = (max(1, round(count * size.share)) for count in (size.particles, size.target))  # of the largest class
    points = Part(
        "sums over pairs of points", 6 * (m + n) * size.dimension * number + 80 * (m + n), ("particles", "target_size")
    )
    solver, gpu = spec.solver, spec.device.startswith("cuda")
    if spec.flow == "lipschitz":
        batch = sum(min(spec.batch_size or count, count) for count in (size.particles, size.target))
        return [
            _network(
                "the discriminator on a batch",
                spec,
                batch,
                size.dimension,
                ("batch_size",),
                spec.constraint == "penalty",
            )
        ]
    if spec.flow == "w2" and solver == "neural":
        batch = min(spec.batch_size or 256, size.particles, size.target)
        cost = Part("the pairs of a batch", 6 * batch**2 * number, ("batch_size",))
        return [cost, _network("two networks on a batch", spec, 4 * batch, size.dimension, ("batch_size",))]
    if spec.flow == "w2" and solver in (None, "exact"):
        what = f"the matrix of costs of {m} particles and {n} target points"
        return [Part(what, EXACT_PAIR * m * n, ("solver", "particles", "target_size"), host=True)]
    if spec.flow == "w2" and m * n <= 5000**2:
        what = f"geomloss' costs of {m} particles and {n} target points"
        return [points, Part(what, SINKHORN_PAIR * m * n * number / 4, ("particles", "target_size"))]
    if spec.flow in ("kale", "kernel", "mmd"):
        from particles.potentials.kernel import EXACT

        what = f"the kernel's matrix of {n} target points"
        return [
            points,
            Part(what, KERNEL_PAIR[spec.flow] * n**2 if n <= EXACT else 0, ("target_size",)),
            _pairs(m, n, 2 * number, gpu),
        ]
    if spec.flow == "proximal" and solver == "plan":
        what = f"the plan between {m} particles and {n} target points"
        return [Part(what, PLAN_PAIR * m * n, ("solver", "particles", "target_size"), host=True)]
    if spec.flow == "proximal" and solver in (None, "network"):
        batch = min(spec.batch_size or 512, max(size.particles, size.target))
        way = _network(
            "the way of a batch", spec, 3 * batch * (spec.time_steps + 2), size.dimension, ("batch_size", "time_steps")
        )
        return [way]
    return [points, _pairs(m, n, number, gpu)]


def _pairs(m: int, n: int, number: int, gpu: bool) -> Part:
    from particles.pairwise.sums import KEPT
    from particles.pairwise.tiled import PAIRS

    kept = max((pairs for pairs in (m * n, m * m, n * n) if pairs <= KEPT), default=0)
    return Part("pairs of points", number * (4 * PAIRS["cuda" if gpu else "cpu"] + 2.5 * kept))


def _field(spec: Specification, size: Size) -> list[Part]:
    """What the velocities of all points take, and the stepper."""
    number = NUMBER[spec.dtype]
    cloud = size.all * size.dimension * number
    kept = Part("the stepper's clouds", (2 if lean(spec) else STAGES.get(spec.stepper, 4)) * cloud, ("particles",))
    if spec.stepper == "proximal" and spec.mode == "semi-implicit":
        planes = 3 * spec.max_inner * cloud + 48 * min(size.all, ROWS) * spec.max_inner * (
            spec.max_inner + size.dimension / 3
        )
        kept = Part("the planes of the stepper proximal", planes, ("max_inner", "particles"))
    if spec.flow == "lipschitz" or (spec.flow == "w2" and spec.solver == "neural"):
        at_once = min(spec.chunk_size, size.all)
        return [kept, _network("the discriminator at the particles", spec, at_once, size.dimension, ("chunk_size",))]
    if spec.flow == "proximal" and spec.solver in (None, "network"):
        path = spec.stages * spec.time_steps + 1
        ways = Part(
            "the way of all particles",
            path * size.all * size.dimension * (number + 8),
            ("time_steps", "stages", "particles"),
        )
        return [
            ways,
            _network("the flow's network at the particles", spec, 2 * size.all, size.dimension, ("particles",)),
        ]
    return [
        kept,
        Part("the nearest target points", 3 * 8 * min(1024, size.all) * size.target if spec.flow == "w2" else 0),
    ]


def _network(
    what: str, spec: Specification, points: int, dimension: int, cures: tuple[str, ...], twice: bool = False
) -> Part:
    """What a network takes at some points: what it keeps of each layer, and what is on the way back."""
    widths = sum(spec.network) * (1 if spec.activation in (None, "relu", "leaky-relu") else 2.5) + 2 * max(spec.network)
    per_point = (widths + dimension) * NUMBER[spec.dtype] * (7 if twice else 1)
    return Part(
        what, points * per_point + 80 * sum(a * b for a, b in zip((dimension, *spec.network), spec.network)), cures
    )


def tape(spec: Specification, size: Size) -> float:
    """The bytes of a step's record: what its potential was."""
    number = NUMBER[spec.dtype]
    if spec.flow == "lipschitz" or spec.solver == "neural":
        widths = (size.dimension, *spec.network, 1)
        return 2000 + number * sum(a * b + 2 * b for a, b in itertools.pairwise(widths)) * 1.1
    duals = 8 * (size.particles + size.target)
    if spec.flow == "w2" and spec.solver in (None, "exact"):
        duals += 8 * size.particles * size.dimension
    return 3000 + duals + size.particles * size.dimension * number


def disk(spec: Specification, size: Size) -> list[Part]:
    """What the run folder takes when the run has ended."""
    number = NUMBER[spec.dtype]
    log_every = spec.log_every or max(1, spec.steps // 100)
    learnt = spec.flow == "proximal" and spec.solver in (None, "network")
    snapshots = spec.stages * spec.time_steps + 1 if learnt else spec.steps // (spec.snapshot_every or log_every) + 2
    cloud = size.all * size.dimension
    shown = min(size.all, spec.trajectory_particles or size.all) * size.dimension
    trajectory = snapshots * shown * size.width * (2 if learnt else 1)  # a new way is written beside the old one
    cures = ("time_steps",) if learnt else ("snapshot_every", "trajectory_particles")
    record = spec.steps * FITS.get(spec.stepper, 1) * tape(spec, size) if spec.record and not learnt else 0.0
    written = 12 * cloud if spec.export == "csv" else size.width * cloud
    rows = (2 * cloud + 2 * size.target * size.dimension) * size.width + written + 4 * cloud * number
    return [
        Part("snapshots", trajectory, (*cures, "particles")),
        Part("the potentials of record", record, ("record", "particles")),
        Part("the logged rows", LINE * spec.steps / log_every, ("log_every",)),
        Part("data, checkpoint and the last particles", rows + 2 * tape(spec, size), ("particles",)),
    ]


FITS = {"heun": 2, "rk4": 4, "adaptive": 4, "proximal": 4}
"""The fits in a step, where there are several; of the last two about as many."""


def total(parts: Sequence[Part]) -> float:
    return sum(part.size for part in parts)
