"""What looks at a run while it goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable

from particles.cloud import Cloud
from particles.keys import Key
from particles.run.process import State
from particles.run.store import Row

logger = logging.getLogger("particles")

Metric = Callable[[Cloud, Cloud], float]


class Distance:
    """A distance of the particles to a reference cloud, on subsamples: the reference's is drawn once.

    One that cannot be found is left out of its row, with a warning.

    Arguments:
        name: What the number is called in the series.
        metric: The distance.
        reference: The other cloud.
        size: The most points of either cloud that are looked at.
        key: The source of the subsamples.
        every: The number of steps from look to look.
    """

    def __init__(self, name: str, metric: Metric, reference: Cloud, size: int, key: Key, every: int = 1):
        self.name = name
        self.metric = metric
        self.reference = reference.draw(size, key.fold("reference"))
        self.size = size
        self.key = key
        self.every = every

    def __call__(self, state: State) -> Row:
        if state.k % self.every:
            return {}
        try:
            found = self.metric(state.cloud.active.draw(self.size, self.key.fold(state.k)), self.reference)
        except FloatingPointError as error:  # who looks ends no run
            logger.warning("step %d has no %s: %s", state.k, self.name, error)
            return {}
        return {self.name: found}


class AtRest:
    """Says that a run has come to rest: the kinetic energy of so many logged steps in a row was below a bound.

    It reads the logged rows alone, so a resumed run decides as an uninterrupted one would. A discriminator that has
    not learnt anything yet moves nothing either: choose a patience that outlasts the start.

    Arguments:
        kinetic_energy: The bound, in units of length² / time².
        patience: The number of logged rows.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(self, kinetic_energy: float, patience: int = 10):
        if not kinetic_energy > 0 or patience < 1:
            raise ValueError(
                f"a bound above 0 and a patience of at least 1 are needed, not {kinetic_energy} and {patience}"
            )
        self.kinetic_energy = kinetic_energy
        self.patience = patience

    def __call__(self, rows: list[Row]) -> bool:
        recent = rows[
            max(1, len(rows) - self.patience) :
        ]  # the first row is that of step 0, before anything was measured
        return len(recent) == self.patience and all(row["kinetic_energy"] < self.kinetic_energy for row in recent)
