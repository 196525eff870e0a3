"""From the names in a specification to a process: which potential is fitted, and how its particles move."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from particles.experiment.specification import Specification
from particles.names import DIVERGENCES, FLOWS, KERNELS, STEPPERS, find, make

if TYPE_CHECKING:
    from particles.cloud import Cloud
    from particles.divergences import Divergence
    from particles.flows.base import Flow
    from particles.kernels import Kernel
    from particles.keys import Key
    from particles.networks.dense import DenseNetwork
    from particles.potentials.base import Potential
    from particles.run.process import Evolve
    from particles.steppers.base import Stepper

STEP_SIZES = {"lipschitz": 0.5, "transport": 0.5, "w2": 0.1, "kale": 0.3, "kernel": 0.5}
BLUR = {"transport": 0.03, "w2": 0.05}
"""The default blur, in units of the target's radius, its root mean square distance from its mean."""


def settled(spec: Specification, target: Cloud, key: Key) -> Specification:
    """The specification with the flow's own defaults found out."""
    from particles.pairwise.sums import check_epsilon

    size = radius_of(target)
    spec = dataclasses.replace(
        spec,
        activation=spec.activation or "relu",
        learning_rate=1e-3 if spec.learning_rate is None else spec.learning_rate,
    )
    solver = ("exact" if spec.solver is None else spec.solver) if spec.flow == "w2" else spec.solver
    epsilon, radius, bandwidth = spec.epsilon, spec.radius, spec.bandwidth
    if epsilon is None and spec.flow == "transport":
        epsilon = BLUR["transport"] * size * spec.lipschitz
    if epsilon is None and spec.flow == "w2" and solver != "exact":
        epsilon = (BLUR["w2"] * size) ** 2
    if epsilon is not None:
        check_epsilon(epsilon, target.x.dtype)
    step_size = _step_size(spec, target, key)
    kernels = {"mmd": "riesz", "kale": "gaussian", "kernel": "gaussian"}
    chosen = spec.kernel or kernels.get(spec.flow)
    if bandwidth is None and spec.flow in kernels and chosen != "riesz":
        bandwidth = _median_distance(target, key.fold("bandwidth"))
    if spec.flow == "kale" and spec.step_size is None and bandwidth is not None:
        step_size = min(STEP_SIZES["kale"], bandwidth**2 / 2)  # beyond, particles are thrown out of the kernel's sight
    if step_size is None:  # of mmd: the time in which its field moves particles by its own length
        step_size = size ** (2 - spec.exponent) if bandwidth is None or chosen == "riesz" else bandwidth**2 / 2
    if radius is None and spec.flow == "transport":
        radius = 0.0 if spec.stepper == "proximal" else step_size * spec.lipschitz
    return dataclasses.replace(
        spec, step_size=step_size, solver=solver, epsilon=epsilon, radius=radius, kernel=chosen, bandwidth=bandwidth
    )


def _step_size(spec: Specification, target: Cloud, key: Key) -> float | None:
    """The step size that is asked for, or the flow's own, if it has one."""
    from particles.steppers.base import cfl

    if spec.step_size != "auto":
        return STEP_SIZES.get(spec.flow) if spec.step_size is None else float(spec.step_size)
    if not spec.bounded:
        missing = "constraint none leaves out" if spec.flow == "lipschitz" else f"the flow {spec.flow} has not"
        raise ValueError(f"step_size auto needs a bound on the speed, which {missing}; give a number")
    return cfl(target, spec.lipschitz, key=key.fold("cfl"))


def advice(spec: Specification, target: Cloud, key: Key) -> str | None:
    """What to think of explicit steps that are longer, to the last, than target points are apart; ``None`` if there is nothing to say."""
    from particles.steppers.base import cfl

    implicit = spec.stepper == "proximal" or (spec.flow == "transport" and bool(spec.radius))
    if implicit or not spec.bounded or spec.flow == "proximal":
        return None
    assert isinstance(spec.step_size, float)
    last = spec.step_size / (1 + max(spec.steps - 1, 0) / spec.decay)
    try:
        best = cfl(target, spec.lipschitz, key=key.fold("cfl"))
    except ValueError:  # all target points are at one place
        return None
    if last <= best * (1 + 1e-6):
        return None
    return (
        f"a step may be {last * spec.lipschitz:.3g} long (step_size · L, also the last one), and target points are "
        f"{best * spec.lipschitz:.3g} apart: particles may rattle about them; step_size auto is {best:.3g}, a decay makes steps "
        f"smaller, the stepper proximal damps them"
    )


def process(spec: Specification, source: Cloud, target: Cloud, key: Key) -> Evolve:
    """What a run repeats, by a settled specification."""
    from particles.flows.recording import Recorder
    from particles.run.process import Evolve

    assert isinstance(spec.step_size, float)
    if spec.minibatch is not None and spec.minibatch > (own := len(source) - source.carried):
        raise ValueError(f"minibatch must be at most the number of particles, {own}, not {spec.minibatch}")
    flow = _flow(spec, target, key)
    return Evolve(
        Recorder(flow) if spec.record else flow,
        _stepper(spec),
        source,
        step_size=spec.step_size,
        decay=spec.decay,
        key=key.fold("run"),
    )


def _stepper(spec: Specification) -> Stepper:
    settings: dict[str, Any] = {}
    if spec.stepper == "proximal":
        settings = {"mode": spec.mode, "max_inner": spec.max_inner, "tolerance": spec.accuracy}
    if spec.stepper == "adaptive":
        settings = {"tolerance": spec.accuracy}
    return make("stepper", spec.stepper, STEPPERS, **settings)  # type: ignore[no-any-return]


def _flow(spec: Specification, target: Cloud, key: Key) -> Flow:
    from particles.flows.captured import Captured, obstacle
    from particles.flows.gradient import GradientFlow
    from particles.flows.persistent import PersistentBatch, PersistentPotential

    potential = find("flow", spec.flow, FLOWS)(spec, target, key)
    flow: Any = GradientFlow(potential, target, noise=spec.noise, noise_halving=spec.noise_halving)
    if spec.persistent == "minibatch":
        assert spec.minibatch is not None
        return PersistentBatch(flow, spec.minibatch, spec.persistency)
    if spec.persistency > 1:
        return PersistentPotential(flow, spec.persistency)
    return Captured(flow, fused=spec.compile == "full") if _captures(spec, target) and not obstacle(flow) else flow


def _captures(spec: Specification, target: Cloud) -> bool:
    return spec.compile == "full" or (spec.compile == "auto" and target.x.is_cuda)


def plainly(spec: Specification, process: Any, target: Cloud) -> str | None:
    """Why steps run plainly although ``compile`` asks for more, as a sentence; ``None`` if they do not, or nobody asked."""
    from particles.flows.captured import Captured, obstacle
    from particles.flows.recording import Recorder

    trains = spec.flow == "lipschitz"
    if not _captures(spec, target) or (spec.compile == "auto" and not trains):
        return None
    flow = process.flow.flow if isinstance(process.flow, Recorder) else process.flow
    if isinstance(flow, Captured):
        return None
    reason = obstacle(flow) if trains else f"the flow {spec.flow} is not compiled, lipschitz is"
    return f"compile {spec.compile}: {reason}; the steps run plainly"


# One function per flow: its potential


def lipschitz(spec: Specification, target: Cloud, key: Key, decay: float = math.inf) -> Potential:
    from particles.potentials.neural import NeuralPotential

    return NeuralPotential(
        divergence(spec),
        _network(spec, target, key.fold("network"), spec.lipschitz if spec.constraint == "spectral" else math.inf),
        learning_rate=1e-3 if spec.learning_rate is None else spec.learning_rate,
        decay=decay,
        momentum=spec.momentum,
        inner_steps=spec.inner_steps,
        tolerance=spec.tolerance,
        batch_size=spec.batch_size,
        chunk_size=spec.chunk_size,
        penalty=spec.penalty if spec.constraint == "penalty" else 0.0,
        lipschitz=spec.lipschitz,
    )


def transport(spec: Specification, target: Cloud, key: Key) -> Potential:
    from particles.potentials.transport import TransportPotential

    assert spec.radius is not None
    radius = spec.radius
    return _per_class(
        target,
        lambda: TransportPotential(
            divergence(spec),
            spec.lipschitz,
            radius=radius,
            epsilon=spec.epsilon,
            epsilon_start=max(spec.epsilon_start, spec.epsilon or 0.0),
            halving=spec.halving,
            debias=spec.debias,
            backend=spec.backend,
        ),
    )


def w2(spec: Specification, target: Cloud, key: Key) -> Potential:
    from particles.potentials.kantorovich import ExactKantorovich, NeuralKantorovich, SinkhornKantorovich

    if spec.solver == "exact":
        return _per_class(target, ExactKantorovich)
    assert spec.epsilon is not None
    epsilon = spec.epsilon
    if spec.solver == "sinkhorn":
        return _per_class(target, lambda: SinkhornKantorovich(epsilon, backend=spec.backend))
    psi, phi = (_network(spec, target, key.fold("network", side), math.inf, least=1) for side in ("psi", "phi"))
    return NeuralKantorovich(
        psi,
        phi,
        epsilon=epsilon,
        learning_rate=1e-3 if spec.learning_rate is None else spec.learning_rate,
        momentum=spec.momentum,
        inner_steps=spec.inner_steps,
        batch_size=spec.batch_size or 256,
        chunk_size=spec.chunk_size,
    )


def mmd(spec: Specification, target: Cloud, key: Key) -> Potential:
    from particles.potentials import kernel

    return _per_class(target, lambda: kernel.mmd(_kernel(spec), backend=spec.backend))


def kale(spec: Specification, target: Cloud, key: Key) -> Potential:
    from particles.potentials import kernel

    return _per_class(target, lambda: kernel.kale(_kernel(spec), spec.regularisation, backend=spec.backend))


def kernel(spec: Specification, target: Cloud, key: Key) -> Potential:
    from particles.potentials.kernel import KernelPotential

    return _per_class(
        target,
        lambda: KernelPotential(divergence(spec), _kernel(spec), lipschitz=spec.lipschitz, backend=spec.backend),
    )


def divergence(spec: Specification) -> Divergence:
    settings = {"order": spec.order} if spec.divergence == "alpha" else {}
    return make("divergence", spec.divergence, DIVERGENCES, **settings)  # type: ignore[no-any-return]


def _kernel(spec: Specification) -> Kernel:
    assert spec.kernel is not None
    settings = {"exponent": spec.exponent} if spec.kernel == "riesz" else {"bandwidth": spec.bandwidth}
    return make("kernel", spec.kernel, KERNELS, **settings)  # type: ignore[no-any-return]


def _network(spec: Specification, target: Cloud, key: Key, bound: float, least: int = 0) -> DenseNetwork:
    from particles.networks.dense import DenseNetwork

    network = DenseNetwork(
        target.dimension,
        spec.network,
        lipschitz=bound,
        activation=spec.activation or "relu",
        classes=max(least, classes(target)),
        key=key,
    )
    return network.to(device=target.x.device, dtype=target.x.dtype)


def _per_class(target: Cloud, make_one: Callable[[], Potential]) -> Potential:
    from particles.potentials.per_class import PerClass

    return make_one() if target.label is None else PerClass(make_one, classes(target))


def radius_of(target: Cloud) -> float:
    """The root mean square distance of the target from its mean, a length; 1 if it is all at one place."""
    from particles.cloud import mean_square

    return float(mean_square(target, target)) ** 0.5 / 2**0.5 or 1.0


def classes(target: Cloud) -> int:
    return 0 if target.label is None else int(target.label.max()) + 1


def _median_distance(target: Cloud, key: Key) -> float:
    """The median distance between different target points, on a thousand of them at most; 1 if they are all one."""
    import torch

    distances = torch.pdist(target.draw(1000, key).x.double())
    apart = distances[distances > 0]  # points at one place are one point of more weight
    return float(apart.median()) if len(apart) else 1.0
