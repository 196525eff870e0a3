"""Several runs of one specification, which differ in their seeds alone: side by side in one process, and what they say together.

Repeat i is the run of the seed ``seed + i``, and has a run folder of its own, ``repeat-i``, that is like any other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch

from particles.cloud import Cloud
from particles.experiment.specification import Specification
from particles.files import UNREADABLE, first_line, replacing, sweep
from particles.flows.captured import Captured
from particles.flows.recording import Tape, copied
from particles.flows.together import Together, discord
from particles.keys import Key
from particles.potentials.base import Info
from particles.run.folder import Folder
from particles.run.loop import Observer
from particles.run.process import Evolve, State
from particles.run.store import Row, RunError, Store, writing

SIDE_BY_SIDE = ("euler", "heun", "rk4", "ab2", "ab3", "ab4")
"""The steppers that do to each particle what its own velocities say; others ask what all particles do together."""


def seeds(spec: Specification, count: int) -> list[Specification]:
    """The specifications of the repeats: repeat i has the seed ``seed + i``."""
    return [dataclasses.replace(spec, seed=spec.seed + i) for i in range(count)]


def folder(i: int) -> str:
    """The name of the folder of a repeat."""
    return f"repeat-{i}"


def dissent(specs: Sequence[Specification], processes: Sequence[Any]) -> str | None:
    """Why runs cannot go side by side; ``None`` if they can."""
    spec = specs[0]
    if spec.flow != "lipschitz":
        return f"the flow {spec.flow} trains no discriminator, lipschitz does"
    for name, given in (("carried", spec.carried), ("record", spec.record), ("stop_energy", spec.stop_energy)):
        if given:
            return f"{name} is of one run"
    if spec.compile == "full":
        return "compile full is of one run"
    if spec.stepper not in SIDE_BY_SIDE:
        return f"the stepper {spec.stepper} asks what all particles do together"
    if len({process.source.x.shape for process in processes}) > 1:
        return "their numbers of particles differ"
    return discord([_bare(process.flow) for process in processes])


def _bare(flow: Any) -> Any:
    return flow.flow if isinstance(flow, Captured) else flow


class SideBySide:
    """Runs of one specification as one process: their particles in one cloud, one run's after the other's, and one batched network.

    What is measured has the name of its run behind it: ``divergence of repeat-3``.

    Arguments:
        parts: The runs, for which ``dissent`` is ``None``.
    """

    def __init__(self, parts: Sequence[Evolve]):
        self.parts = list(parts)
        self.flow = Together([_bare(part.flow) for part in parts])
        self.source = Cloud(torch.cat([part.source.x for part in parts]))

    def init(self) -> State:
        return State(0, 0.0, self.source, self.parts[0].stepper.init())

    def step(self, state: State) -> tuple[State, Info]:
        first, count = self.parts[0], len(self.parts)
        dt = first.step_size / (1 + state.k / first.decay)
        key = Key(("together", state.k))  # of which nothing is drawn
        cloud, memory, found = first.stepper.step(self.flow, state.t, dt, state.cloud, state.memory, key)
        gone = (cloud.x - state.cloud.x).view(count, -1, cloud.dimension)
        found |= {"step_size": dt, "max_speed": gone.square().sum(2).amax(1).sqrt() / dt}
        info: Info = {}
        for name, value in found.items():
            each: Any = value.unbind() if isinstance(value, torch.Tensor) else [value] * count
            info |= {f"{name} of {folder(i)}": number for i, number in enumerate(each)}
        return State(state.k + 1, state.t + dt, cloud, memory), info

    def path(self, state: State) -> list[State]:
        """The state itself: the run is the way."""
        return [state]

    def recorded(self) -> Tape | None:
        """``None``: nothing is recorded."""
        return None

    def split(self, state: State) -> list[State]:
        """The states of the runs."""
        count = len(self.parts)
        clouds = state.cloud.x.chunk(count)  # copied, as a file takes along all that a slice is of
        # What a stepper remembers of particles has a row for each; the rest, such as times, is of all of them.
        memories = [m.chunk(count) if m.ndim == 2 else [m] * count for m in state.memory]
        return [
            State(state.k, state.t, part.source.at(x.clone()), tuple(m.clone() for m in own))
            for part, x, *own in zip(self.parts, clouds, *memories)
        ]

    def join(self, states: Sequence[State]) -> State:
        """The state whose parts these are."""
        first = states[0]
        memory = [torch.cat(own) if own[0].ndim == 2 else own[0] for own in zip(*(state.memory for state in states))]
        return State(first.k, first.t, Cloud(torch.cat([state.cloud.x for state in states])), tuple(memory))

    def state_dict(self) -> dict[str, Any]:
        return self.flow.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.flow.load_state_dict(state)

    def observer(self, looks: Sequence[Sequence[Observer]]) -> Observer:
        """What looks at each run with its own observers."""

        def look(state: State) -> Row:
            parts = zip(self.split(state), looks)
            return {
                f"{name} of {folder(i)}": value
                for i, (part, own) in enumerate(parts)
                for observer in own
                for name, value in observer(part).items()
            }

        return look


class _Part:
    """One run of several, for its store: what it saves are copies, not slices, which would take all others along."""

    def __init__(self, part: Evolve):
        self.part = part
        self.init, self.step, self.path = part.init, part.step, part.path
        self.recorded, self.load_state_dict = part.recorded, part.load_state_dict

    def state_dict(self) -> dict[str, Any]:
        return dict(copied(self.part.state_dict()))


class Folders(Store):
    """The folders of runs that go side by side, and one checkpoint of all of them.

    It is replaced at one stroke after those of the runs were: a kill between them leaves runs at different steps, and they are brought
    back to it.

    Arguments:
        path: The folder that the others are in.
        folders: That of each run.
        process: What is repeated.
        progress: Called with the step and the means over the runs after every logged step.
    """

    def __init__(
        self,
        path: Path,
        folders: Sequence[Folder],
        process: SideBySide,
        progress: Callable[[int, Row], None] | None = None,
    ):
        self.path = path
        self.folders = list(folders)
        self.process = process
        self.parts = [_Part(part) for part in process.parts]
        self.progress = progress
        self.rows = []

    @property
    def saved(self) -> int | None:
        """The step of the checkpoint, if one was written or read."""
        return self.folders[-1].saved

    def held(self) -> AbstractContextManager[None]:
        stack = ExitStack()
        for own in self.folders:
            stack.enter_context(own.held())
        return stack  # type: ignore[return-value]

    def logs(self, k: int) -> bool:
        return self.folders[0].logs(k)

    def saves(self, k: int) -> bool:
        return self.folders[0].saves(k)

    def resume(self, process: Any) -> State | None:
        sweep(self.path)
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            saved = torch.load(path, weights_only=True, map_location="cpu")["repeats"]
            for own, one in zip(self.folders, saved, strict=True):
                if (reached := own.reached()) is not None and reached > one["k"] + own.checkpoint_every:
                    raise RunError(
                        f"{own.path} has gone on by itself, to step {reached}; go on with it alone, or begin new runs"
                    )
                if reached != one["k"]:
                    own.put(one)
        except RunError:
            raise
        except UNREADABLE as error:
            raise RunError(f"{path} cannot be read ({first_line(error)}); begin new runs") from None
        states = [own.resume(part) for own, part in zip(self.folders, self.parts)]
        self.process.flow.settle()
        self.rows = [{"step": row["step"], "time": row["time"]} for row in self.folders[0].rows]
        return self.process.join([state for state in states if state is not None])

    def check(self, state: State) -> None:
        for own, part in zip(self.folders, self.process.split(state)):
            own.check(part)

    def log(self, path: list[State], row: Row) -> None:
        state = path[-1]
        each: list[Row] = [{} for _ in self.folders]
        places = {folder(i): i for i in range(len(self.folders))}
        for name, value in row.items():
            plain, _, run = name.rpartition(" of ")
            each[places[run]][plain] = value
        for own, part, mine in zip(self.folders, self.process.split(state), each):
            own.log([part], mine)
        self.rows.append({"step": state.k, "time": state.t})
        if self.progress:
            shared = set.intersection(*(set(mine) for mine in each))
            self.progress(state.k, {name: math.fsum(mine[name] for mine in each) / len(each) for name in shared})

    @writing
    def save(self, state: State, process: Any) -> None:
        states = self.process.split(state)
        for own, part, state_of in zip(self.folders, self.parts, states):
            own.save(state_of, part)
        saved = [Folder.packed(state_of, part) for part, state_of in zip(self.parts, states)]
        with replacing(self.path / "checkpoint.pt") as draft, open(draft, "wb") as file:
            torch.save({"repeats": saved}, file)

    def keep(self, k: int, tape: Tape) -> None:
        raise RunError("runs side by side are not recorded; leave out record")

    def diverged(self, state: State) -> None:
        for own, part in zip(self.folders, self.process.split(state)):
            own.diverged(part)

    def finish(self, path: list[State], process: Any) -> None:
        if self.saved != path[-1].k:
            self.save(path[-1], process)
        for own, part, state_of in zip(self.folders, self.parts, self.process.split(path[-1])):
            own.finish([state_of], part)


def together(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """What several runs say of each number: its ``mean``, its ``deviation`` from run to run, and the ``interval``.

    The interval is the half width of Student's 95 % interval of the mean; its ends are the mean minus and plus it. Numbers that a run has not are left out.
    """
    from scipy.stats import t

    found = {}
    for name in rows[0]:
        values = [row[name] for row in rows if name in row]
        if len(values) == len(rows) and all(isinstance(value, float | int) for value in values):
            mean = math.fsum(values) / len(values)
            deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
            half = float(t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
            found[name] = {"mean": mean, "deviation": deviation, "interval": half}
    return found
