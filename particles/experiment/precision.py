"""How far single precision is from double: one velocity of a run, computed in both."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from particles.experiment import assemble
from particles.experiment.specification import Specification

if TYPE_CHECKING:
    from particles.experiment.build import Simulation
    from particles.run.process import State


def check_comparable(spec: Specification) -> None:
    """Raises ValueError if a run has no velocity that could be computed in both precisions, from the same random numbers."""
    if spec.flow == "proximal":
        raise ValueError("--check-precision is for flows that fit a potential at every step, not for the flow proximal")
    if spec.dtype != "float32":
        raise ValueError(f"--check-precision compares float32 with float64, but dtype = {spec.dtype}; leave it out")
    if spec.noise or (spec.flow == "lipschitz" and spec.constraint == "penalty"):
        what = f"noise = {spec.noise:g}" if spec.noise else "constraint penalty"
        raise ValueError(
            f"--check-precision needs the same random numbers in both precisions; {what} has not: leave one out"
        )


def rounding(simulation: Simulation, state: State) -> dict[str, float]:
    """The next velocity of a run in float32 beside float64, each fitted anew from the potential as it is.

    Two other flows are built for it, so that neither the run nor its potential changes; in double precision the step takes about two and
    a half times the run's memory.

    Arguments:
        simulation: The run, whose process is where ``state`` left it.
        state: Its last state.

    Returns:
        ``velocity``: the root mean square difference of the velocities over the root mean square velocity; ``largest``: the largest
        difference of a particle's velocity, in flow units over time; ``divergence``: the difference of the divergences over their
        size. A ratio to nothing is 0 where both are, else left out.

    Raises:
        ValueError: If there is no such velocity.
    """
    import torch

    from particles.cloud import squares
    from particles.keys import Key

    check_comparable(simulation.spec)
    spec = dataclasses.replace(simulation.spec, record=False, compile="none")
    found = []
    for dtype in ("float32", "float64"):
        kind = getattr(torch, dtype)
        source, target, cloud = (
            dataclasses.replace(c, x=c.x.to(kind), weight=None if c.weight is None else c.weight.to(kind))
            for c in (simulation.process.source, simulation.target, state.cloud)
        )
        process = assemble.process(dataclasses.replace(spec, dtype=dtype), source, target, Key.of(spec.seed))
        process.load_state_dict(_copy(simulation.process.state_dict(), double=dtype == "float64"))
        velocity, info = process.flow.velocity(state.t, cloud, process.key.fold(state.k))
        found.append((velocity.double(), float(info["divergence"])))
    (single, value), (double, exact) = found
    apart, size = squares(single, double), squares(double)
    ratios = {
        "velocity": (float(apart.mean()) ** 0.5, float(size.mean()) ** 0.5),
        "divergence": (abs(value - exact), abs(exact)),
    }
    answer = {name: a / b if b else 0.0 for name, (a, b) in ratios.items() if b or not a}
    return answer | {"largest": float(apart.max()) ** 0.5}


def _copy(value: Any, double: bool) -> Any:
    """A copy of a state, in double precision if asked for; what is so anyway, as some dual potentials are, stays so."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().to(torch.float64 if double and value.is_floating_point() else value.dtype, copy=True)
    if isinstance(value, dict):
        return {name: _copy(part, double) for name, part in value.items()}
    return type(value)(_copy(part, double) for part in value) if isinstance(value, (list, tuple)) else value
