"""From the names in a specification to a W1 ⊕ W2 proximal flow: learnt, by Hopf and Lax, or by the plan."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import TYPE_CHECKING, Any

from particles.experiment import assemble
from particles.experiment.specification import Specification

if TYPE_CHECKING:
    from particles.cloud import Cloud
    from particles.keys import Key
    from particles.proximal.flow import Generative, RunningCost
    from particles.proximal.training import Train
    from particles.run.process import Evolve

logger = logging.getLogger(__name__)

SLACK = 10.0
"""By default α is so small that particles may go this many times as far as the root mean square way to the target."""
LEAST_POWER = 1.4
RUNAWAY = 1e3
"""The slope of a discriminator, in units of L (or of 1, where there is no L), above which a run ends."""
BLUR = 0.05
"""The default blur of the solver ``transport``, in units of the target's radius."""


def steps(spec: Specification) -> int:
    """The number of steps of a run: of the training, or of the flow where nothing is trained."""
    return spec.steps if spec.solver in (None, "network") else spec.time_steps


def settled(spec: Specification, source: Cloud, target: Cloud, key: Key) -> Specification:
    """The specification with this flow's own defaults found out."""
    from particles.pairwise.sums import check_epsilon

    size = assemble.radius_of(target)
    spec = dataclasses.replace(
        spec,
        activation=spec.activation or "groupsort",
        learning_rate=2e-3 if spec.learning_rate is None else spec.learning_rate,
    )
    solver = spec.solver or "network"
    needed = _needed(source, target, key)
    if not 1e-10 < spec.horizon / needed < 1e10:
        raise ValueError(
            f"horizon {spec.horizon:g} is no usable time for a way of {needed:.3g}; choose one nearer to 1"
        )
    bound = spec.lipschitz if math.isfinite(spec.lipschitz) else 1.0
    alpha = spec.alpha
    if alpha is None:
        alpha = bound * (spec.horizon / (SLACK * needed)) ** (spec.power - 1)
    if abs(math.log(bound / alpha)) > 60 * (spec.power - 1):
        raise ValueError(
            f"alpha {alpha:.3g} is no usable weight: the top speed (L/α)^(1/(p−1)) has to be between 1e-26 and 1e26, with "
            f"lipschitz {bound:g} and power {spec.power:g}"
        )
    if solver == "network" and spec.stages > max(spec.steps, 1):
        raise ValueError(f"stages must be at most the number of steps, {spec.steps}, not {spec.stages}")
    epsilon = spec.epsilon
    if epsilon is None and solver == "transport":
        epsilon = alpha * (BLUR * size) ** spec.power / spec.horizon ** (spec.power - 1)
    if epsilon is not None:
        check_epsilon(epsilon, target.x.dtype)
    known = dataclasses.replace(spec, solver=solver, alpha=alpha, epsilon=epsilon)
    if known.bounded and (reach := cost(known).reach(spec.lipschitz, spec.horizon) * spec.stages) < needed:
        logger.warning(
            "no particle can go further than T (L/α)^(1/(p−1)) = %.3g, but the target is %.3g away (root mean square): "
            "a larger lipschitz or horizon or a smaller alpha would let particles arrive",
            reach,
            needed,
        )
    if solver == "network":
        decay = spec.decay if math.isfinite(spec.decay) else max(1.0, spec.steps / spec.stages / 4)
        stage_steps = spec.stage_steps
        if spec.stages > 1 and stage_steps is None:  # kept, so that a run that goes on has the same stages
            stage_steps = max(1, math.ceil(spec.steps / spec.stages))
        return dataclasses.replace(known, decay=decay, batch_size=spec.batch_size or 512, stage_steps=stage_steps)
    return known


def _needed(source: Cloud, target: Cloud, key: Key) -> float:
    """W2 from the source to the target, on some points of each; 1 if there is no way to go."""
    from particles.metrics.distances import w2

    clouds = source.active.draw(500, key.fold("needed", "p")), target.draw(500, key.fold("needed", "q"))
    return w2(*clouds) or 1.0


def cost(spec: Specification) -> RunningCost:
    from particles.proximal.flow import RunningCost

    assert spec.alpha is not None
    return RunningCost(spec.alpha, spec.power)


def process(spec: Specification, source: Cloud, target: Cloud, key: Key) -> Train | Evolve:
    """What a run of the W1 ⊕ W2 proximal flow repeats, by a settled specification."""
    from particles.run.process import Evolve
    from particles.steppers.euler import Euler

    if spec.solver == "network":
        if spec.power < LEAST_POWER:
            raise ValueError(
                f"power must be at least {LEAST_POWER} for the solver network, not {spec.power}: nearer to 1 training does not "
                f"begin to move; choose the solver transport"
            )
        return _training(spec, source, target, key)
    trained = ("stages", "stage_steps", "noise", "hj", "terminal")
    usual = {field.name: field.default for field in dataclasses.fields(Specification)}
    if strange := [name for name in trained if getattr(spec, name) != usual[name]]:
        raise ValueError(
            f"{strange[0]} is for the solver network, which is trained, not for {spec.solver}; leave it out"
        )
    if not spec.kinetic:
        raise ValueError(f"no-kinetic is for the solver network, which is trained, not for {spec.solver}; leave it out")
    if spec.constraint == "none":
        raise ValueError(f"constraint none is for the solver network, which is trained, not for {spec.solver}")
    if target.label is not None and spec.solver == "transport":
        raise ValueError("the solver transport knows no classes; choose the solver network or plan, or drop the label")
    if source.carried and spec.solver == "plan":
        raise ValueError(
            "carried must be 0 for the solver plan, which knows its own particles alone; transport knows others"
        )
    return Evolve(
        _exact(spec, target, key), Euler(), source, step_size=spec.horizon / spec.time_steps, key=key.fold("run")
    )


def _exact(spec: Specification, target: Cloud, key: Key) -> Generative:
    from particles.potentials.transport import TransportPotential
    from particles.proximal.hopf_lax import HopfLaxFlow, PlannedFlow

    divergence, price = assemble.divergence(spec), cost(spec)
    if spec.solver == "plan":
        return PlannedFlow(divergence, target, price, spec.lipschitz, spec.horizon, key.fold("plan"))
    potential = TransportPotential(
        divergence,
        spec.lipschitz,
        radius=price.reach(spec.lipschitz, spec.horizon),
        power=spec.power,
        epsilon=spec.epsilon,
        debias=False,
        tolerance=1e-2,
        max_iterations=1000,
        backend=spec.backend,
    )
    return HopfLaxFlow(potential, target, price, spec.lipschitz, spec.horizon)


def _training(spec: Specification, source: Cloud, target: Cloud, key: Key) -> Train:
    from particles.proximal.flow import ProximalFlow
    from particles.proximal.training import Train

    networks = [_network(spec, target, key.fold("flow", stage)) for stage in range(spec.stages)]
    return Train(
        ProximalFlow(networks, cost(spec), spec.noise),
        assemble.lipschitz(dataclasses.replace(spec, batch_size=None), target, key, decay=spec.decay),
        source,
        target,
        time_steps=spec.time_steps,
        batch_size=spec.batch_size or 512,
        learning_rate=2e-3 if spec.learning_rate is None else spec.learning_rate,
        decay=spec.decay,
        kinetic=spec.kinetic,
        hj=spec.hj,
        terminal=spec.terminal,
        max_slope=RUNAWAY * (spec.lipschitz if math.isfinite(spec.lipschitz) else 1.0),
        stage_steps=spec.stage_steps,
        key=key.fold("run"),
    )


def _network(spec: Specification, target: Cloud, key: Key) -> Any:
    from particles.proximal.network import TimedNetwork

    assert spec.alpha is not None
    size = float(target.x.double().square().sum(1).mean()) ** 0.5 or 1.0
    network = TimedNetwork(
        target.dimension,
        spec.network,
        horizon=spec.horizon,
        size=size,
        scale=spec.alpha * size**spec.power / spec.horizon ** (spec.power - 1),
        power=spec.power,
        classes=assemble.classes(target),
        key=key,
    )
    return network.to(device=target.x.device, dtype=target.x.dtype)
