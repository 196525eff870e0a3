"""A flow that writes down which way it went, and one that goes that way again with other points.

Points that ride along a run need three things of it: the potential at every velocity, the numbers by which its stepper decided
what to do, and the run's own settings. The first two are a *tape*; with it new points go where they would have gone had
they been carried along.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.flows.base import Around, Flow
from particles.keys import Key
from particles.potentials.base import Info

Tape = dict[str, list[Any]]
"""One step: under ``potentials`` a record for every velocity, on the host, or ``None`` where it is the one before; under
``numbers`` those that steered."""


class Recorder(Around):
    """A flow that does what another one does, and keeps a tape of it.

    Arguments:
        flow: The other flow.
    """

    def __init__(self, flow: Flow):
        self.flow = flow
        self.last = copied(flow.record())
        self.tape: Tape = {"potentials": [], "numbers": []}

    def take(self) -> Tape:
        """The tape of everything since it was last taken."""
        tape, self.tape = self.tape, {"potentials": [], "numbers": []}
        return tape

    def velocity(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        velocity, info = self.flow.velocity(t, cloud, key)
        record = copied(self.flow.record())
        self.tape["potentials"].append(None if _same(record, self.last) else record)
        self.last = record
        return velocity, info

    def recall(self, record: dict[str, Any]) -> None:
        super().recall(record)
        self.last = copied(record)

    def steer(self, number: Tensor | float) -> float:
        decided = self.flow.steer(number)
        self.tape["numbers"].append(decided)
        return decided

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.last = copied(self.flow.record())
        self.take()


class Replay(Around):
    """A flow along which points go as riders of a recorded one, step by step from its beginning.

    Its clouds have no carried points: all of them are riders. Nothing is measured: their divergence is not a number.

    Arguments:
        flow: The flow that was recorded, or one built like it; its potential becomes what it was at each velocity.
        tape: That of the next step; to be replaced by the next one after it.

    Raises:
        ValueError: From its methods, if the tape is not that of such a flow and stepper.
    """

    def __init__(self, flow: Flow, tape: Tape | None = None):
        self.flow = flow
        self.put(tape or {"potentials": [], "numbers": []})

    def put(self, tape: Tape) -> None:
        """Begins another tape."""
        self.potentials, self.numbers = list(tape["potentials"]), list(tape["numbers"])

    def check_done(self) -> None:
        """Raises unless the step asked for everything on its tape."""
        if self.potentials or self.numbers:
            raise ValueError("the recorded step has more in it than its stepper asks for")

    def velocity(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        if not self.potentials:
            raise ValueError("the recorded step has fewer velocities than its stepper asks for")
        if (record := self.potentials.pop(0)) is not None:
            recall(self.flow, record, cloud.x.device)
        return self.flow.ride(t, cloud, key), {"divergence": math.nan}

    def field(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        return self.flow.ride(t, cloud, key), {}

    def steer(self, number: Tensor | float) -> float:
        if not self.numbers:
            raise ValueError("the recorded step has fewer decisions than its stepper asks for")
        return float(self.numbers.pop(0))


def recall(flow: Flow, record: dict[str, Any], device: torch.device) -> None:
    """Makes the potential of a flow what it was, by a record of a tape.

    Raises:
        ValueError: If it is not that of such a flow.
    """
    try:
        flow.recall(_mapped(record, lambda tensor: tensor.to(device)))
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"the recorded potential is not of this flow ({str(error).partition(chr(10))[0]})") from None


def copied(record: Any) -> Any:
    """The same nested containers with copies of all tensors, on the host."""
    return _mapped(record, lambda tensor: tensor.detach().to("cpu", copy=True))


def _mapped(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested containers with every tensor changed."""
    if isinstance(record, Tensor):
        return change(record)
    if isinstance(record, dict):
        return {name: _mapped(value, change) for name, value in record.items()}
    return [_mapped(value, change) for value in record] if isinstance(record, list) else record


def _same(a: Any, b: Any) -> bool:
    """Whether two records hold the same bits."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)
