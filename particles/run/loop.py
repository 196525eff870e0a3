"""The one loop."""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import torch

from particles import shards
from particles.cloud import Cloud
from particles.machine import keep_freed_memory
from particles.potentials.base import Info
from particles.run.process import Process, State
from particles.run.store import Memory, Row, RunError, Store

logger = logging.getLogger("particles")

Observer = Callable[[State], dict[str, float]]
"""Reads a state at logged steps and answers named numbers; it draws from its own key, and changes nothing."""

Rule = Callable[[list[Row]], bool]
"""Reads the logged rows and says whether the run has come to rest."""


CURES = (
    "a smaller step_size or lipschitz, the divergence alpha, a larger epsilon or bandwidth, where there is one, or the dtype float64 "
    "may help"
)
SAVED = "; the last good particles are saved"
FAILURES = (ArithmeticError, torch.linalg.LinAlgError)
"""What a step raises whose numbers have gone astray."""


class Diverged(FloatingPointError):
    """A step gave a number that is not finite. The last good state is saved."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop. The step under way was finished, and its state saved.

    Attributes:
        signal: The number of the signal that asked.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


def simulate(
    process: Process,
    stop: int,
    store: Store | None = None,
    observers: Sequence[Observer] = (),
    at_rest: Rule | None = None,
) -> State:
    """Takes a process to step ``stop``, from wherever its store left off.

    Measurements stay on their device until a step is logged, or every step where the device is the host or the run is
    recorded; then they are fetched at once and checked.

    Arguments:
        process: What is repeated.
        stop: The number of the last step.
        store: Where states and rows go; in memory if ``None``.
        observers: What looks at the state of every logged step.
        at_rest: Ends the run early when it says so of the rows logged so far.

    Returns:
        The last state, as the process shows it.

    Raises:
        Locked: If another process is writing to the store.
        RunError: If the store cannot be gone on with, or is beyond ``stop`` already.
        Diverged: If a measured number or a particle is not finite, or a fit fails, with the step in which it arose.
        Interrupted: After SIGINT or SIGTERM.
        Unwritable: If the store cannot be written, as the disk is full; go on from its last checkpoint when there is room.
    """
    keep_freed_memory()
    store = Memory() if store is None else store
    with store.held():
        return _simulate(process, stop, store, observers, at_rest)


def _simulate(process: Process, stop: int, store: Store, observers: Sequence[Observer], at_rest: Rule | None) -> State:
    state = store.resume(process)  # potentials reloaded, later rows dropped; or None
    if state is None:
        state = process.init()
        path = process.path(state)
        check_first(path[-1].cloud, lambda _: store.check(path[-1]))
        store.log(path, _look(observers, path[-1]))
        store.save(state.gathered(), process)
    if state.k > stop:
        raise RunError(f"the run is at step {state.k} already; steps must be at least that, not {stop}")
    good, pending = state, []
    begun: State | None = state
    shown: State | None = None
    regular = [row for row in store.rows if store.logs(int(row["step"]))]  # without one of where it once ended

    with _interruptible() as asked:
        while state.k < stop and not (at_rest and at_rest(regular)):
            k = state.k + 1
            try:
                state, info = process.step(state)
                pending.append((k, info))
                tape = process.recorded()
                number = shards.highest(asked[0] if asked else 0)
                leaving = number > 0  # a signal that comes while this step is written ends the next one
                last = k == stop or leaving
                logged = last or store.logs(k)
                fetched = logged or tape is not None or state.cloud.x.device.type == "cpu"
                if fetched:
                    row = _checked(pending)
                if logged:
                    path = process.path(state)
                    check_points(path[-1].cloud)
                    store.check(path[-1])
            except FAILURES as error:
                store.diverged(_last_good(process, good, shown))
                raise Diverged(sentence(k, error) + SAVED) from None
            if fetched:
                good, pending = state, []
            if tape is not None:
                store.keep(k, tape)
            if logged:
                if begun is not None:
                    _warn_if_still(begun, state, row)
                begun, shown = None, None if path[-1] is state else path[-1]
                store.log(path, row | _look(observers, path[-1]))
                del path  # it would keep these particles beside all that follow
                if store.logs(state.k):
                    regular.append(store.rows[-1])
            if last or store.saves(state.k):
                store.save(state.gathered(), process)
            if leaving or (asked and state.k == stop and shards.world() == 1):
                raise Interrupted(f"stopped after step {state.k}", number or asked[0])

    path = process.path(state)
    store.finish(path, process)
    return path[-1]


def sentence(k: int, error: BaseException) -> str:
    """What is wrong with step k, and what may help."""
    what = str(error).strip().partition("\n")[0].rstrip(".")
    if isinstance(error, Diverged):
        return what
    if isinstance(error, FloatingPointError):  # of this package, with a cure in it
        return f"step {k}: {what}"
    return f"step {k}: its equations have no solution ({what}); {CURES}"


def check_points(cloud: Cloud) -> None:
    """Raises FloatingPointError unless all points of a cloud are finite, carried ones too."""
    if bad := cloud.spoilt:
        raise FloatingPointError(f"{bad} of {len(cloud)} points are not finite; {CURES}")


def check_first(cloud: Cloud, *checks: Callable[..., None]) -> None:
    """Raises RunError unless a run can begin with a cloud: it is finite, and passes the checks of its points."""
    try:
        check_points(cloud)
        for check in checks:
            check(cloud.x)
    except FloatingPointError as error:
        raise RunError(f"the run cannot begin: {error}") from None


def _last_good(process: Process, good: State, shown: State | None) -> State:
    """The particles of the last good state; those of the last row, where the way to these is not finite on all of its length."""
    state = process.path(good)[-1]
    return state if shown is None or bool(torch.isfinite(state.cloud.x).all()) else shown


def _warn_if_still(begun: State, state: State, row: Row) -> None:
    """Says so if all steps to the first row were lost in rounding."""
    pulled = row.get("max_gradient", 0) > 0 and "step_size" in row
    if pulled and torch.equal(begun.cloud.x, state.cloud.x):
        logger.warning(
            "step %d: no particle moves, as what they go in a step is lost in the rounding of their coordinates: scale the target "
            "(standard or global), or choose a larger step_size or the dtype float64",
            state.k,
        )


def _look(observers: Sequence[Observer], state: State) -> Row:
    return {name: value for observer in observers for name, value in observer(state).items()}


def _checked(pending: list[tuple[int, Info]]) -> Row:
    """The numbers of the last of some steps, fetched in one transfer together with those of the others."""
    names = [(k, name) for k, info in pending for name in info]
    values = [value for _, info in pending for value in info.values()]
    device = next((v.device for v in values if isinstance(v, torch.Tensor)), torch.device("cpu"))
    if device.type == "cpu":
        numbers = [float(v) for v in values]
    else:
        numbers = torch.stack([torch.as_tensor(v, dtype=torch.float64, device=device) for v in values]).tolist()
    for (k, name), number in zip(names, numbers):
        if not math.isfinite(number):
            raise Diverged(f"step {k} is not finite: {name} is {number}; {CURES}")
    return {name: number for (k, name), number in zip(names, numbers) if k == pending[-1][0]}


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """SIGINT and SIGTERM only leave their number in the list; a second one acts at once.

    Of several processes, a terminal and ``torchrun`` both tell each one: there the third acts.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if len(asked) > (shards.world() > 1):
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
