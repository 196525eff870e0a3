"""New rows for the classes of a table: what a generator is, from a frame to a frame."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from particles.augment.block_flow import Flowed, FlowSettings, flow
from particles.augment.latent import Latent, latent
from particles.augment.marginals import Marginals
from particles.augment.selection import LEAST, STEPS, TRIED, Trial, ratio, try_out, wide_enough
from particles.augment.starts import STARTS, Law, fit_start
from particles.data.columns import Columns
from particles.keys import Key
from particles.machine import check_points

logger = logging.getLogger("particles")

METHODS = ("auto", "flow", "gaussian", "kde")
COPYING = ("transport", "w2", "mmd", "kale", "kernel")
FEW = 25
"""The most steps of a class that is too small to leave rows out."""
LONGEST = 10_000
"""The most steps that can be asked for."""
MOST = 2000
"""The most particles of a class that its discriminator sees; more are carried along."""
NOT_PRIVATE = (
    "The new rows are made from the training rows and lie near them: this is no protection of anybody's privacy."
)


@dataclass(frozen=True)
class Recipe:
    """How new rows are made.

    Arguments:
        method: ``gaussian``, ``kde`` or ``flow``; ``auto`` decides between the starts
            and the flow by the energy distance to rows left out (see :func:`~particles.augment.selection.try_out`).
        start: Where the flow starts: one of ``STARTS``; ``auto`` decides between all but ``normal``.
        stop: ``auto`` ends the flow where it is nearest to rows left out, ``ratio`` where the leave-one-out ratio falls below
            ``min_ratio``, a number after so many steps.
        min_ratio: The least leave-one-out ratio: the median distance of a new row to its nearest training row, over that of a
            training row to its nearest other one.
        settings: The flow's.
        latent: Where it takes place: ``none``, ``pca:0.95``, ``ae:16``, ``conv:16``, or an encoder.
        marginals: Whether each coordinate of the new rows of a class gets the distribution that it has in its training rows.
        scale: That of the columns.
        categorical: The columns that are categories whatever their type.

    Raises:
        ValueError: If one of these is none of its choices.
    """

    method: str = "auto"
    start: str = "auto"
    stop: str | int = "auto"
    min_ratio: float = 0.7
    settings: FlowSettings = field(default_factory=FlowSettings)
    latent: Any = None
    marginals: bool = True
    scale: str = "auto"
    categorical: Sequence[Hashable] = ()

    def __post_init__(self) -> None:
        if self.method in COPYING:
            raise ValueError(
                f"method {self.method!r} drives particles onto the training rows themselves, so that its new rows are copies; "
                f"choose one of {', '.join(METHODS)}"
            )
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is not one of {', '.join(METHODS)}")
        if self.start != "auto" and self.start not in STARTS:
            raise ValueError(f"start {self.start!r} is not one of auto, {', '.join(STARTS)}")
        number = isinstance(self.stop, int | np.integer) and not isinstance(self.stop, bool) and self.stop >= 0
        if not (number and int(self.stop) <= LONGEST) and self.stop not in ("auto", "ratio"):
            raise ValueError(f"stop must be auto, ratio or a number of steps from 0 to {LONGEST}, not {self.stop!r}")
        if not 0 <= self.min_ratio <= 1:
            raise ValueError(f"min_ratio must be from 0 to 1, not {self.min_ratio}")

    @property
    def methods(self) -> tuple[str, ...]:
        """What is compared."""
        return ("gaussian", "kde", "flow") if self.method == "auto" else (self.method,)


@dataclass(frozen=True)
class Choice:
    """What was decided for a class.

    Arguments:
        start: Where its particles start.
        name: The name of that start.
        steps: The steps that they take; ``None`` for as many as the ratio allows, up to ``most``.
        most: That bound.
        floor: The least leave-one-out ratio on the way.
        energies: The mean energy distance to rows left out, by start, and of the best flow, in units of the flow; empty if not measured.
        gain: By how many standard errors the flow was nearer than the start.
        reason: Why it stops there.
    """

    start: Law
    name: str
    steps: int | None
    most: int
    floor: float
    energies: dict[str, float]
    gain: float
    reason: str


class Augmentation:
    """New rows like those of a table, class by class.

    Attributes:
        rows: The new rows: a frame with the columns and types of the table.
        group: The class of each of them.
        report: How each class was made and how near its new rows are to the training rows, in plain values.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        group: np.ndarray,
        counts: Sequence[int],
        recipe: Recipe,
        key: Key,
        *,
        names: Sequence[Any] | None = None,
        name: str = "the table",
        record: bool = False,
    ):
        """Fits the generator, and makes so many new rows of each class.

        Arguments:
            frame: The training rows.
            group: The class of each of them: integers from 0 up, none of which is left out.
            counts: The number of new rows of each class.
            recipe: How.
            key: The source of all random numbers.
            names: What the classes are called.
            name: What the table is called.
            record: Whether to keep the discriminators, for ``sample``.

        Raises:
            ValueError: If nothing is asked for and nothing kept, a column cannot be used, no column varies, there is nothing to
                learn a spread from, or so many rows would not fit into memory.
            Diverged: If the flow does.
        """
        if not record and not any(counts):
            raise ValueError("counts are all 0, so there is nothing to make: ask for at least one row of some class")
        self.recipe, self.key = recipe, key
        self.names = list(names) if names is not None else list(range(len(counts)))
        self.columns = Columns.fit(frame, group=group, categorical=recipe.categorical, scale=recipe.scale, name=name)
        if not self.columns.width:
            raise ValueError(f"{name}: every column is constant, so new rows could only be copies")
        self._check_room(counts)
        self.training = self.columns.encode(frame)
        self.seen = _hashes(frame)
        shape = recipe.settings.image_shape
        self.places = None if shape is None else _places(self.columns, shape, name)
        rows = self.training if self.places is None else _image(self.training, self.places, len(self.columns.columns))
        self.latent: Latent | None = latent(recipe.latent, rows, key.fold("latent"), shape)  # type: ignore[arg-type]
        points = rows if self.latent is None else self.latent.target
        self.unit = float(np.sqrt(points.var(0).mean())) if self.latent is not None else 1.0
        self.settings = recipe.settings if self.latent is None else replace(recipe.settings, image_shape=None)
        self.settles = recipe.marginals and self.latent is None
        self.classes = [points[group == c] / self.unit for c in range(len(counts))]
        self.members = [np.flatnonzero(group == c) for c in range(len(counts))]
        self.wanted = [c for c, count in enumerate(counts) if count > 0 or record]
        self.choices = self._choose()
        self.flowed: Flowed | None = None
        self.steps: dict[int, int] = {}
        made = self._decoded(self._flow(counts, record), key.fold("finish"))
        self.rows, self.group = self._finish(made, counts, key.fold("finish"))
        self.report = self._report(counts)

    def _check_room(self, counts: Sequence[int]) -> None:
        # Some eight copies of each row, in one form or another, and a number beside it: measured.
        check_points("the number of new rows", sum(counts), self.columns.width + 1)

    def _choose(self) -> dict[int, Choice]:
        """Where each class starts and how far it goes; classes of about one size decide together."""
        recipe = self.recipe
        choices: dict[int, Choice] = {}
        sizes = {c: len(np.unique(self.classes[c], axis=0)) for c in self.wanted}
        groups: dict[int, list[int]] = defaultdict(list)
        for c in self.wanted:
            groups[int(math.log(sizes[c], 4)) if sizes[c] >= LEAST else -1].append(c)
        measured = not isinstance(recipe.stop, int | np.integer) or recipe.start == "auto"
        for size, members in groups.items():
            trial = None
            if size >= 0 and measured:
                methods = recipe.methods if recipe.stop == "auto" else tuple(m for m in recipe.methods if m != "flow")
                rows = [np.unique(self.classes[c], axis=0) for c in members]
                start = recipe.start
                if not methods:  # a flow that is stopped by something else: its start alone is chosen
                    methods, start = (TRIED, "auto") if start == "auto" else ((start,), start)
                key = self.key.fold("trial", size)
                trial = try_out(rows, methods, start, recipe.min_ratio, self.settings, self.settles, key)
            for c in members:
                choices[c] = self._choice(c, sizes[c], trial)
        return choices

    def _choice(self, c: int, size: int, trial: Trial | None) -> Choice:
        recipe, others = self.recipe, [rows for i, rows in enumerate(self.classes) if i != c]
        name = recipe.method if recipe.method in ("gaussian", "kde") else recipe.start
        if name == "auto":
            name = trial.start if trial is not None else "gaussian"
        try:
            law = fit_start(name, self.classes[c], others)
        except ValueError as error:
            raise ValueError(f"{self._what(c)}: {error}") from None
        if len(self.members[c]) > 1:
            law = wide_enough(law, recipe.min_ratio, lambda x: self._near(c, x), self.key.fold("width", c))
        most = STEPS[-1]
        energies, gain = (trial.energies, trial.gain) if trial is not None else ({}, math.nan)
        if recipe.method in ("gaussian", "kde"):
            return Choice(law, name, 0, 0, 0.0, energies, gain, "the method was asked for")
        if size < 3:
            return Choice(law, name, 0, 0, 0.0, energies, gain, "too few rows for a flow: the start alone")
        if isinstance(recipe.stop, int | np.integer):
            steps = int(recipe.stop)
            return Choice(law, name, steps, steps, 0.0, energies, gain, "so many steps were asked for")
        if size < LEAST:
            floor = max(recipe.min_ratio, 1.0)
            reason = f"too few rows to leave some out: at most {FEW} steps, at a ratio of at least {floor:g}"
            return Choice(law, name, None, FEW, floor, energies, gain, reason)
        if recipe.stop == "ratio":
            reason = f"the leave-one-out ratio stays at {recipe.min_ratio:g} or more"
            return Choice(law, name, None, most, recipe.min_ratio, energies, gain, reason)
        assert trial is not None
        reason = (
            "nearest to rows left out"
            if trial.steps
            else "no step was nearer to rows left out than the start by its error"
        )
        return Choice(law, name, trial.steps, trial.steps, recipe.min_ratio, energies, gain, reason)

    def _what(self, c: int) -> str:
        """What a class is called in sentences."""
        return "the table" if len(self.names) == 1 else f"class {_plain(self.names[c])!r}"

    def _flow(self, counts: Sequence[int], record: bool) -> dict[int, np.ndarray]:
        """The particles of each class at the step where it stops; some more than asked for."""
        key = self.key.fold("particles")
        sizes = {c: min(max(_with_spares(counts[c]), len(self.classes[c]), 100), MOST) for c in self.wanted}
        starts = {c: self.choices[c].start.draw(sizes[c], key.fold(c)) for c in self.wanted}
        moving = [c for c in self.wanted if self.choices[c].most > 0]
        self.steps = dict.fromkeys(self.wanted, 0)
        self.moving = moving
        if not moving:
            return {c: self._extended(c, x, counts[c]) for c, x in starts.items()}
        last = max(self.choices[c].most for c in moving)
        kept = sorted({step for step in STEPS if step <= last} | {last})
        more = any(counts[c] > MOST for c in moving)
        self.flowed = flow(
            [starts[c] for c in moving],
            [self.classes[c] for c in moving],
            kept,
            self.settings,
            self.key.fold("flow"),
            record=record or more,
        )
        found = dict(starts)
        for block, c in enumerate(moving):
            self.steps[c] = self._stop(c, block)
            found[c] = self.flowed.at(self.steps[c], block)
        if more:
            wanted = [max(_with_spares(counts[c]) - len(found[c]), 1) for c in moving]
            extra = self._carried(wanted, key.fold("carried"))
            found |= {c: np.concatenate((found[c], extra[c])) for c in moving}
        return {c: self._extended(c, x, counts[c]) if c not in moving else x for c, x in found.items()}

    def _extended(self, c: int, x: np.ndarray, count: int) -> np.ndarray:
        """As many draws of a class that does not move as are asked for."""
        lacking = _with_spares(count) - len(x)
        return np.concatenate((x, self.choices[c].start.draw(lacking, self.key.fold("more", c)))) if lacking > 0 else x

    def _carried(self, counts: Sequence[int], key: Key) -> dict[int, np.ndarray]:
        """New points of the classes that move, carried along the recorded discriminators."""
        assert self.flowed is not None
        starts = [self.choices[c].start.draw(count, key.fold(c)) for c, count in zip(self.moving, counts)]
        return dict(zip(self.moving, self.flowed.carry(starts, [self.steps[c] for c in self.moving])))

    def _stop(self, c: int, block: int) -> int:
        """The last step that was kept, up to the chosen one, before the ratio falls below its floor."""
        assert self.flowed is not None
        choice, stop = self.choices[c], 0
        for step in self.flowed.steps:
            if step > (choice.most if choice.steps is None else choice.steps):
                break
            if self._near(c, self.flowed.at(step, block)) < choice.floor:
                break
            stop = step
        return stop

    def _decoded(self, points: dict[int, np.ndarray], key: Key) -> dict[int, np.ndarray]:
        """Points of the flow as coordinates of the columns."""
        found = {c: x * self.unit for c, x in points.items()}
        if self.latent is not None:
            found = {c: self.latent.decode(x, key.fold("decode", c)) for c, x in found.items()}
        return found if self.places is None else {c: x[:, self.places] for c, x in found.items()}

    def _near(self, c: int, points: np.ndarray) -> float:
        """The leave-one-out ratio of points of the flow, as the rows that become of them have it."""
        (x,) = self._decoded({c: points}, self.key.fold("near")).values()
        maps = self._maps(c, x)
        x = x if maps is None else self._mapped(x, maps)
        whole = np.zeros((len(x), len(self.columns.columns)), dtype=bool)
        rows = self.columns.decode(x, self.key, missing=whole)
        return ratio(self.columns.encode(rows), self.training[self.members[c]])

    def _maps(self, c: int, x: np.ndarray) -> Marginals | None:
        """What gives each coordinate of a class its distribution in the training rows."""
        return Marginals.fit(x, self.columns.reference[self.members[c]]) if self.recipe.marginals else None

    def _finish(self, made: dict[int, np.ndarray], counts: Sequence[int], key: Key) -> tuple[pd.DataFrame, np.ndarray]:
        """Coordinates as rows of the table, copies of training rows passed over where there are others."""
        points = {c: x if (maps := self._maps(c, x)) is None else self._mapped(x, maps) for c, x in made.items()}
        group = np.concatenate([np.full(len(x), c) for c, x in points.items()])
        frame = self.columns.decode(np.concatenate(list(points.values())), key.fold("columns"), group)
        copied = np.isin(_hashes(frame), self.seen)
        chosen = []
        for c in points:
            (own,) = np.nonzero(group == c)
            own = own[key.fold("order", c).numpy().permutation(len(own))]
            chosen.append(own[np.argsort(copied[own], kind="stable")][: counts[c]])
        index = np.concatenate(chosen).astype(np.intp)
        return frame.iloc[index].reset_index(drop=True), group[index]

    def _mapped(self, x: np.ndarray, maps: Marginals) -> np.ndarray:
        """Coordinates with their distributions; those of categories keep a trace of what they were, which decides ties."""
        categories = [column.kind == "categorical" for column in self.columns.columns for _ in column.coordinates]
        return np.asarray(maps(x) + np.where(categories, 1e-3, 0.0) * x)

    def sample(self, counts: Sequence[int], key: Key) -> tuple[pd.DataFrame, np.ndarray]:
        """More new rows: fresh draws of the starts, carried along the recorded discriminators; nothing is fitted again.

        Arguments:
            counts: The number of new rows of each class.
            key: The source of the draws.

        Raises:
            ValueError: If so many rows would not fit into memory.
        """
        self._check_room(counts)
        least = {c: max(len(self.classes[c]), 100) for c in self.wanted}  # enough to know their distributions by
        lots = {c: max(_with_spares(counts[c]), least[c]) if counts[c] else 1 for c in self.wanted}
        points = {c: self.choices[c].start.draw(lots[c], key.fold(c)) for c in self.wanted if c not in self.moving}
        if self.moving and any(counts[c] for c in self.moving):
            points |= self._carried([lots[c] for c in self.moving], key)
        made = self._decoded({c: points[c] for c in sorted(points)}, key.fold("finish"))
        return self._finish(made, counts, key.fold("finish"))

    def _report(self, counts: Sequence[int]) -> dict[str, Any]:
        new = self.columns.encode(self.rows) if len(self.rows) else np.empty((0, self.columns.width))
        copied = np.isin(_hashes(self.rows), self.seen)
        warnings: list[str] = []
        classes = []
        for c in self.wanted:
            choice, own, rows = self.choices[c], self.group == c, self.training[self.members[c]]
            stopped = self.steps[c] < (choice.most if choice.steps is None else choice.steps)
            reason = choice.reason
            if stopped and choice.steps is not None:
                reason = f"a further step takes the leave-one-out ratio below {choice.floor:g}"
            near = ratio(new[own], rows) if own.any() and len(rows) > 1 else math.nan
            classes.append(
                {
                    "class": _plain(self.names[c]),
                    "rows": len(rows),
                    "made": int(own.sum()),
                    "method": "flow" if self.steps[c] else choice.name,
                    "start": choice.name,
                    "bandwidth": round(choice.start.bandwidth, 4),
                    "steps": self.steps[c],
                    "energy_holdout": {name: float(value) for name, value in choice.energies.items()},
                    "gain": None if math.isnan(choice.gain) else float(choice.gain),
                    "nearest_ratio": None if math.isnan(near) else near,
                    "copies": int(copied[own].sum()),
                    "reason": reason,
                }
            )
            what = self._what(c)
            distinct = len(np.unique(rows, axis=0))
            if counts[c] and distinct < LEAST:
                different = f"{distinct} different row{'s' * (distinct != 1)}"
                warnings.append(
                    f"{what} has {different}: too few to be augmented honestly; what new rows have beyond them comes "
                    f"from a normal law{' with the spread of the other classes' if len(self.names) > 1 else ''}"
                )
            if copied[own].any():
                warnings.append(
                    f"{what}: {int(copied[own].sum())} of {int(own.sum())} new rows are equal to training rows; "
                    f"its columns have too few different values for others"
                )
            if counts[c] and near < min(self.recipe.min_ratio, 1):
                warnings.append(
                    f"{what}: new rows are nearer to training rows than these are to each other (ratio {near:.2f})"
                )
        report: dict[str, Any] = {
            "classes": classes,
            "scale": self.columns.scale,
            "columns": {str(name): kind for name, kind in self.columns.kinds.items()},
            "latent": None,
            "warnings": warnings,
            "privacy": NOT_PRIVATE,
        }
        if self.latent is not None:
            report["latent"] = {
                "dimension": self.latent.dimension,
                "lipschitz": float(self.latent.lipschitz),
                "certified": bool(getattr(self.latent, "certified", True)),
                "reconstruction": float(self.latent.reconstruction),
            }
        return report


def _places(columns: Columns, shape: tuple[int, ...], name: str) -> np.ndarray:
    """The pixel of each coordinate: columns that do not vary have none."""
    if len(columns.columns) != math.prod(shape):
        raise ValueError(
            f"{name} has {len(columns.columns)} columns, but images of the shape {tuple(shape)} have {math.prod(shape)}"
        )
    if other := [column.name for column in columns.columns if len(column.coordinates) > 1]:
        raise ValueError(f"{name}: column {other[0]!r} holds categories, not the brightness of a pixel")
    return np.array([column.position for column in columns.columns for _ in column.coordinates])


def _image(x: np.ndarray, places: np.ndarray, pixels: int) -> np.ndarray:
    """Rows of coordinates as flat images, 0 where a pixel does not vary."""
    image = np.zeros((len(x), pixels))
    image[:, places] = x
    return image


def _with_spares(count: int) -> int:
    """Some more rows than are asked for, to pass over copies."""
    return count + max(count // 10, 10) if count else 0


def _hashes(frame: pd.DataFrame) -> np.ndarray:
    """A number for each row, the same for equal rows."""
    return pd.util.hash_pandas_object(frame, index=False).to_numpy() if len(frame) else np.zeros(0, dtype=np.uint64)


def _plain(value: Any) -> Any:
    """A class as JSON has it."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
