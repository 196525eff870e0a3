"""New points along a run that was recorded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from particles.cloud import Cloud
from particles.flows.recording import Recorder, Replay, Tape
from particles.run.loop import FAILURES, Diverged, check_points, sentence
from particles.run.process import Evolve, State
from particles.run.store import RunError


def transport(
    process: Evolve,
    recording: Mapping[int, Tape],
    cloud: Cloud,
    stop: int | None = None,
    look: Callable[[State], None] | None = None,
) -> Cloud:
    """Moves new points along a recorded run, to where they would be had they been carried along.

    Where the potential is known at particles alone (``w2`` with the solver ``exact``), points elsewhere follow its extension, as
    riders do: see :class:`ExactKantorovich`. With noise, points draw their own, as riders do, and what they draw depends on how
    many they are.

    Arguments:
        process: What the run repeated, as ``build`` makes it from the run's specification. Its potential is left as it was when the
            recording ends, good for ``phi`` and ``grad`` alone; for more steps, build another one.
        recording: The tapes by step: ``Recording(folder)``, or ``tapes`` of a store in memory.
        cloud: The points, in units of the flow, with labels exactly if the particles have them; none carried.
        stop: The step to go to; the last recorded one if ``None``.
        look: Called with every state, that of step 0 first.

    Returns:
        The points at the end, in their order.

    Raises:
        ValueError: If the points are not of the particles' kind.
        RunError: If the recording has not every step to ``stop``, or is not that of such a process.
        Diverged: If a point gets a coordinate that is not finite.
    """
    kind = process.source
    if cloud.dimension != kind.dimension or (cloud.label is None) != (kind.label is None) or cloud.carried:
        raise ValueError(
            f"the points need dimension {kind.dimension}, labels exactly if the particles have them, and none carried"
        )
    last = max(recording, default=0)
    stop = last if stop is None else stop
    if not 0 <= stop <= last:
        raise RunError(f"step {stop} was not recorded; the recording goes from step 0 to {last}")
    if missing := sorted(set(range(1, stop + 1)) - set(recording)):
        raise RunError(f"the recording of step {missing[0]} is missing; repeat the run")
    flow = process.flow.flow if isinstance(process.flow, Recorder) else process.flow
    replay, replaying = Replay(flow), copy.copy(process)
    replaying.flow, replaying.source = replay, cloud
    state = replaying.init()
    if look:
        look(state)
    while state.k < stop:
        k = state.k + 1
        replay.put(recording[k])
        try:
            state, _ = replaying.step(state)
            replay.check_done()
            check_points(state.cloud)
        except FAILURES as error:
            raise Diverged(sentence(k, error)) from None
        except ValueError as error:
            raise RunError(f"the recording of step {k} does not fit the run ({error}); repeat the run") from None
        if look:
            look(state)
    return state.cloud
