"""A run brought back from its folder: the objects that it was made of, as it left them, and no file touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from particles.experiment import inputs
from particles.experiment.build import Simulation, build
from particles.experiment.specification import Specification

if TYPE_CHECKING:
    import torch

    from particles.flows.base import Flow
    from particles.run.process import State

CHUNK = 4096
"""The most points at which a potential is asked for at once; it bounds memory."""


def rebuilt(path: Path, spec: Specification | None = None) -> Simulation:
    """The objects of the run in a folder, as they were before its first step.

    Arguments:
        path: The run folder.
        spec: Its specification, with a change that leaves the data alone; by default as it is in the folder, on the CPU where there
            is no such device as the run's.

    Raises:
        ValueError: If it is no run folder, or its data are not those that it began with.
        FileNotFoundError: If a file of its data is not there any more.
    """
    simulation = build(_here(path) if spec is None else spec, to_run=False)
    simulation.check_data(path)
    return simulation


def restore(simulation: Simulation, path: Path) -> State:
    """The last saved state of the run in a folder; the process, potential included, is brought back to it.

    Raises:
        ValueError: If there is none yet, or it does not fit, or it was made with other settings than the folder's.
    """
    from particles.run.folder import Folder

    settings = simulation.settings(_here(path))
    state = Folder(path, simulation.schema, settings=settings).restore(simulation.process)
    if state is None:
        raise ValueError(f"{path} has no checkpoint yet; let the run go on first (simulate --resume {path})")
    return state


def _here(path: Path) -> Specification:
    """The specification in a run folder, with the CPU in place of a device that is not there."""
    if not (path / "spec.toml").is_file():
        raise ValueError(f"{path} is not a run folder: it has no spec.toml")
    spec, _ = Specification.load(path / "spec.toml")
    try:
        inputs.device(spec.device)
    except ValueError:
        return dataclasses.replace(spec, device="cpu")
    return spec


@dataclass(frozen=True)
class Landscape:
    """The potential of a run at one time.

    Attributes:
        step: The step that it was the last one to be fitted for, the first step for 0; of the flow ``proximal``, which is known at
            all times, ``None``.
        time: The time, for flows that are known at all times.
        velocity: From slopes, with shape (n, d), to velocities, both in flow units.
    """

    simulation: Simulation
    flow: Flow
    step: int | None
    time: float
    velocity: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, points: np.ndarray, label: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values with shape (n,), slopes and velocities with shape (n, d), these two in flow units, in double precision.

        Arguments:
            points: Places, with shape (n, d), in the units of the target.
            label: The class whose potential is asked for, as text; ``None`` where there are none.
        """
        import torch

        from particles.cloud import Cloud

        schema, device = self.simulation.schema, self.simulation.target.x.device
        parts = []
        for rows in np.array_split(points, max(1, -(-len(points) // CHUNK))):
            x = torch.as_tensor((rows - schema.shift) / schema.unit, dtype=schema.dtype, device=device)
            classes = None if label is None else torch.full((len(x),), self._class(label), device=device)
            value, slope = self.flow.landscape(self.time, Cloud(x, classes))
            found = (value, slope, self.velocity(slope))
            parts.append([tensor.detach().cpu().double().numpy() for tensor in found])
        values, slopes, velocities = (np.concatenate(arrays) for arrays in zip(*parts))
        return values, slopes, velocities

    def _class(self, label: str) -> int:
        levels = self.simulation.schema.levels
        assert levels is not None
        return int(np.flatnonzero(levels.astype(str) == label)[0])


def landscape(path: Path, step: int | None = None, time: float | None = None) -> Landscape:
    """The potential of a run, from its checkpoint or, of a recorded run, from what it kept of a step.

    That of a step is the one that was last fitted on the way to it, so it drove the particles there; that of step 0 is the first one, fitted
    to the source.

    Arguments:
        path: The run folder.
        step: The step; by default that of the checkpoint. Not looked at for the flow ``proximal``.
        time: The time of a flow that is known at all times (``proximal``); by default its end.

    Raises:
        ValueError: If the run has no potential, or did not keep that of the step.
        FileNotFoundError: If a file of its data is not there any more.
    """
    from particles.proximal.flow import Generative

    simulation = rebuilt(path)
    flow, spec = simulation.process.flow, simulation.spec
    if spec.flow == "proximal" and spec.solver == "plan":
        raise ValueError(
            f"{path} is a plan, which knows its particles alone and no potential; repeat the run with --solver transport or network"
        )
    reached = restore(simulation, path).k
    if reached == 0:
        raise ValueError(f"{path} is at step 0, and no potential has been fitted yet; let the run go on first")
    if isinstance(flow, Generative):
        return Landscape(simulation, flow, None, flow.horizon if time is None else time, flow.cost.velocity)
    step = reached if step is None else step
    if step != reached:
        if not spec.record:
            raise ValueError(
                f"{path} kept the potential of its last step alone, {reached}, not that of step {step}; leave out the time, or "
                f"repeat the run with --record"
            )
        _recall(simulation, path, step)
    return Landscape(simulation, flow, step, 0.0, lambda slope: -slope)


def _recall(simulation: Simulation, path: Path, step: int) -> None:
    """Makes the potential what it was on the way to a step: the last one of its tape, or of an earlier one if it stayed as it was."""
    from particles.flows.recording import recall
    from particles.run.recording import Recording

    recording = Recording(path)
    for k in range(step, 0, -1) if step else (1,):
        if not recording.path(k).exists():
            raise ValueError(f"{path} has no recording of step {k}; repeat the run with --record")
        found = [record for record in recording[k]["potentials"] if record is not None]
        if found:
            recall(simulation.process.flow, found[-1 if step else 0], simulation.target.x.device)
            return
    raise ValueError(f"{path} recorded no potential up to step {step}; repeat the run with --record")
