"""Augmentation as a scikit-learn estimator and imbalanced-learn sampler."""

from __future__ import annotations

import numbers
import secrets
import signal
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn import get_config
from sklearn.base import BaseEstimator, OneToOneFeatureMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import InputTags, Tags

from particles import names
from particles.augment.block_flow import FlowSettings
from particles.augment.containers import Given
from particles.augment.generator import NOT_PRIVATE, Augmentation, Recipe
from particles.augment.strategies import TOTALS, row_count, some_classes, wanted_rows
from particles.keys import Key
from particles.run.loop import Diverged, Interrupted


class ParticleAugmenter(OneToOneFeatureMixin, BaseEstimator):
    """New rows that look like the population of a small sample, and are no copies of it.

    Particles start from a law fitted to the rows of a class (a shrunk Gaussian, a smoothed bootstrap) and flow towards them along
    Lipschitz-regularised discriminators (arXiv 2210.17230), for as many steps as bring them nearer to rows that were left out,
    and no further: more steps only copy. Where the flow does not help it is not used, and ``report_`` says so. With 50 rows or fewer per
    class no method is known to gain much accuracy in a classifier; what is made are different rows at a measured distance to
    the training rows. None of this protects anybody's privacy.

    It takes numbers, text, categories, dates, truth values and missing values, and answers the same columns, types,
    ranges, grids and levels. Use it in ``imblearn.pipeline.Pipeline``, so that test folds are never augmented.

    Arguments:
        sampling_strategy: How many rows a class has afterwards. ``"auto"`` (the same as ``"not majority"``), ``"minority"``,
            ``"not minority"`` and ``"all"`` bring these classes to the size of the largest one; a number with a point is the ratio of two
            classes afterwards; an integer is the number of rows of each class; a dictionary gives that number class by class; a function
            of ``y`` answers such a dictionary. A class that has as many rows already gets none. Without classes an integer is the number
            of rows afterwards, and ``"auto"`` doubles them.
        method: ``"gaussian"``, ``"kde"`` or ``"flow"``; ``"auto"`` decides between starts and the flow
            by the energy distance to rows left out.
        start: Where the flow starts: ``"gaussian"`` (Ledoit–Wolf; for classes with fewer than 6 different rows with the spread of
            all), ``"kde"`` (smoothed bootstrap with the covariance's shape and the likeliest bandwidth), ``"bootstrap"`` (rows with round
            noise), ``"mixed"`` (half of it and half of ``"gaussian"``), ``"normal"`` (no shape); ``"auto"`` takes the one of the first
            four that is nearest to rows left out; below 50 rows ``"mixed"``, unless another is clearly nearer.
        stop: ``"auto"`` ends the flow at the step that is nearest to rows left out; ``"ratio"`` where the leave-one-out ratio falls
            below ``min_ratio``; a number after so many steps.
        min_ratio: The least leave-one-out ratio on the way: the median distance of a new row to the nearest training row of its class, over
            that of a training row to its nearest other one.
        divergence: ``"kl"``, ``"reverse-kl"``, ``"jensen-shannon"``, ``"alpha"`` or ``"w1"``.
        lipschitz: The bound L on the discriminators' slope, in units of 1 / standard deviation.
        step_size: The first step of the flow; no row moves further than ``step_size · lipschitz`` in it.
        latent: Where the flow takes place: ``"pca:0.95"``, ``"pca:20"``, ``"ae:16"``, ``"conv:16"`` (with ``image_shape``), a pair of
            functions that encode and decode scaled rows, or an object with ``transform`` and ``inverse_transform``; ``None`` for the columns
            themselves.
        marginals: Whether each column of the new rows of a class gets the distribution that it has in its training rows, by a
            monotone map (classes with fewer than 8 different rows are left as they are).
        conditional: One discriminator with an output for each class, instead of one for each.
        image_shape: Height and width (and channels) of rows that are images: convolutional discriminators.
        categorical: The columns that hold categories whatever their type: names of a frame's columns, positions in an array, or one truth
            value for each column.
        scale: ``"standard"``, ``"global"`` (one unit for all columns: images), ``"none"``; ``"auto"`` finds out.
        random_state: An integer, a ``numpy.random.RandomState`` (or ``Generator``), or ``None`` for rows that differ each time. The same integer
            gives the same rows; no global generator is touched.

    ``y`` holds classes: text, truth values, whole numbers, or a column of zeros and ones for each class. Numbers with
    fractions, more than 50 different whole numbers, and more than 20 that are more than half of the rows, are taken for values
    unless ``sampling_strategy`` is a dictionary: rows and values are then made together, and what is said of data without classes holds.

    Attributes:
        report_: What was made, how, why it stopped there and how near it is to the training rows: a dictionary of plain values. Its
            energies are in units of the flow: standard deviations. Its warnings are raised as ``UserWarning`` as well.
        sampling_strategy_: The number of new rows of each class.
        n_features_in_, feature_names_in_: As everywhere in scikit-learn.
        classes_: The classes, in order; ``None`` without.

    Raises:
        ValueError: On fitting, if an argument is none of its choices, or a column cannot be used; the sentence names it.
        RuntimeError: On fitting, if particles get coordinates that are not finite.
    """

    _sampling_type = "over-sampling"  # imbalanced-learn's words for what this is
    _estimator_type = "sampler"

    def __init__(
        self,
        sampling_strategy: str | float | int | dict[Any, int] | Callable[[Any], dict[Any, int]] = "auto",
        *,
        method: str = "auto",
        start: str = "auto",
        stop: str | int = "auto",
        min_ratio: float = 0.7,
        divergence: str = "kl",
        lipschitz: float = 1.0,
        step_size: float = 0.5,
        latent: Any = None,
        marginals: bool = True,
        conditional: bool = False,
        image_shape: tuple[int, ...] | None = None,
        categorical: Sequence[Hashable] | None = None,
        scale: str = "auto",
        random_state: Any = None,
    ):
        self.sampling_strategy = sampling_strategy
        self.method = method
        self.start = start
        self.stop = stop
        self.min_ratio = min_ratio
        self.divergence = divergence
        self.lipschitz = lipschitz
        self.step_size = step_size
        self.latent = latent
        self.marginals = marginals
        self.conditional = conditional
        self.image_shape = image_shape
        self.categorical = categorical
        self.scale = scale
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> ParticleAugmenter:
        """Fits the generator and keeps its discriminators, so that ``sample`` can make any number of new rows.

        Arguments:
            X: The rows: a frame, or an array with shape (n, d).
            y: Their classes or values, with shape (n,), or ``None``.
        """
        table = self._read(X, y)
        counts = [max(len(table.frame), 200) if len(table.classes) == 1 else 100] * len(table.classes)
        self._augmentation = self._augment(table, counts, record=True)
        self._table, self._samples = table, 0
        return self

    def sample(self, n: int | dict[Any, int] | None = None) -> Any:
        """New rows from the fitted generator, without fitting anything again; every call draws other ones.

        Arguments:
            n: The number of new rows of each class, or a dictionary of classes and numbers; as many as ``sampling_strategy`` asks
                for if ``None``.

        Returns:
            The new rows, or a pair of rows and classes (values) if there were some on fitting; in the types of what was fitted.

        Raises:
            NotFittedError: Before ``fit``; after ``fit_resample``, which keeps no discriminators, too.
        """
        if not hasattr(self, "_augmentation"):
            raise NotFittedError("sample needs a generator: call fit first (fit_resample keeps none)")
        table, wanted = self._table, self.sampling_strategy_ if n is None else n
        if isinstance(wanted, dict):
            if unknown := [name for name in wanted if name not in table.classes]:
                raise ValueError(f"there is no class {unknown[0]!r}; the classes are {some_classes(table.classes)}")
            counts = [row_count(wanted.get(name, 0), f"class {name!r}") for name in table.classes]
        else:
            counts = [row_count(wanted, "n")] * len(table.classes)
        if not any(counts):
            raise ValueError("there is nothing to sample: ask for at least one row")
        self._samples += 1
        with _as_in_a_library():
            rows, group = self._augmentation.sample(counts, self._key.fold("sample", self._samples))
        X_new, y_new = table.split(rows, group)
        X_new = table.rows_like(X_new, self._container())
        return X_new if table.y is None else (X_new, table.values_like(y_new))

    def fit_resample(self, X: Any, y: Any = None) -> Any:
        """The rows with new ones behind them; the first ones are those of ``X`` and ``y``, in their order.

        New rows of a frame go on counting where its index does; where it does not count they are called ``synthetic-0`` and so on
        (in the first level of several, the others being empty).

        Arguments:
            X: The rows: a frame, or an array with shape (n, d).
            y: Their classes or values, with shape (n,), or ``None``.

        Returns:
            The pair of rows and classes (values); the rows alone if ``y`` is ``None``.
        """
        table = self._read(X, y)
        if table.kind == "classes" and len(table.classes) < 2 and not isinstance(self.sampling_strategy, TOTALS):
            raise ValueError(
                "The target 'y' needs to have more than 1 class. Got 1 class instead; give a number of rows, or no y"
            )
        counts = [self.sampling_strategy_.get(name, 0) for name in table.classes]
        if any(counts):
            made = self._augment(table, counts)
            rows, group = made.rows, made.group
        else:
            rows, group = table.frame.iloc[:0], np.empty(0, dtype=np.intp)
            self._tell(_nothing_made())
        X_new, y_new = table.split(rows, group)
        X_all = table.rows_like(X_new, self._container(), behind=True)
        return X_all if table.y is None else (X_all, table.values_like(y_new, behind=True))

    def set_output(self, *, transform: str | None = None) -> ParticleAugmenter:
        """Chooses the container of rows: ``"pandas"``, or ``"default"`` for that of the input (as scikit-learn's ``set_output``)."""
        if transform not in (None, "default", "pandas"):
            raise ValueError(f"transform must be default or pandas, not {transform!r}")
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}  # the name that scikit-learn's clone copies
        return self

    def _container(self) -> str:
        chosen = getattr(self, "_sklearn_output_config", {}).get("transform")
        return str(chosen if chosen is not None else get_config()["transform_output"])

    def _augment(self, table: Given, counts: Sequence[int], record: bool = False) -> Augmentation:
        recipe = self._recipe(table)
        with _as_in_a_library():
            made = Augmentation(
                table.frame, table.group, counts, recipe, self._key, names=table.classes, name="X", record=record
            )
        self._tell(made.report)
        return made

    def _tell(self, report: dict[str, Any]) -> None:
        self.report_ = report
        for sentence in report["warnings"]:
            warnings.warn(sentence, UserWarning, stacklevel=4)

    def _recipe(self, table: Given) -> Recipe:
        for name in ("lipschitz", "step_size", "min_ratio"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise ValueError(f"{name} must be a number, not {value!r}")
            if name != "min_ratio" and not 0 < float(value) < float("inf"):
                raise ValueError(f"{name} must be a positive number, not {value!r}")
        if not isinstance(self.divergence, str):
            raise ValueError(f"divergence must be a name, not {self.divergence!r}")
        for name in ("conditional", "marginals"):
            if not isinstance(value := getattr(self, name), bool | np.bool_):
                raise ValueError(f"{name} must be True or False, not {value!r}")
        settings = FlowSettings(
            divergence=names.make("divergence", self.divergence, names.DIVERGENCES),
            lipschitz=float(self.lipschitz),
            step_size=float(self.step_size),
            conditional=bool(self.conditional),
            image_shape=_image_shape(self.image_shape),
        )
        categorical = _columns(self.categorical, table.given)
        return Recipe(
            method=self.method,
            start=self.start,
            stop=self.stop,
            min_ratio=self.min_ratio,
            settings=settings,
            latent=self.latent,
            marginals=bool(self.marginals),
            scale=self.scale,
            categorical=categorical,
        )

    def _read(self, X: Any, y: Any) -> Given:
        """Rows and classes, and how many new ones there shall be; what does not fit is refused before anything is fitted."""
        table = Given.of(X, y, classes=isinstance(self.sampling_strategy, dict))
        self._recipe(table)
        if self.image_shape is not None and table.kind == "values":
            raise ValueError(
                "image_shape is for rows of pixels alone, but y holds values, which become one more column"
            )
        self.sampling_strategy_ = wanted_rows(self.sampling_strategy, table)
        for name in ("_augmentation", "_table", "feature_names_in_"):  # of an earlier fit
            if hasattr(self, name):
                delattr(self, name)
        self._key = _key(self.random_state)
        self.n_features_in_ = table.given.shape[1]
        if isinstance(table.given, pd.DataFrame) and all(isinstance(name, str) for name in table.given.columns):
            self.feature_names_in_ = np.asarray(table.given.columns, dtype=object)
        self.classes_ = None if table.kind != "classes" else np.asarray(table.classes)
        return table

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        return _SamplerTags(
            estimator_type="sampler",
            target_tags=tags.target_tags,
            input_tags=_SamplerInputTags(sparse=True, string=True, allow_nan=True),
        )


@dataclass(slots=True)
class _SamplerInputTags(InputTags):
    """What scikit-learn's tags say of the input, and what imbalanced-learn reads beyond that."""

    dataframe: bool = True


@dataclass(slots=True)
class _NoIndices:
    sample_indices: bool = False


@dataclass(slots=True)
class _SamplerTags(Tags):
    """scikit-learn's tags, and those that make an estimator a sampler to imbalanced-learn."""

    sampler_tags: _NoIndices = field(default_factory=_NoIndices)


@contextmanager
def _as_in_a_library() -> Iterator[None]:
    """Signals act as ever, and a flow that diverges is an error of one sentence."""
    try:
        yield
    except Interrupted as interrupted:
        signal.raise_signal(interrupted.signal)  # the handlers of the caller are back
        raise KeyboardInterrupt from None
    except Diverged as diverged:
        raise RuntimeError(
            f"the particles of the flow went to infinity ({str(diverged).split(';')[0]}); "
            f"a smaller step_size or lipschitz, or another divergence, may help"
        ) from None


def _columns(categorical: Any, given: Any) -> Sequence[Hashable]:
    """The names of columns that are categories."""
    if categorical is None or isinstance(categorical, str):
        return categorical or ()
    chosen = list(categorical)
    if not chosen or not all(isinstance(name, bool | np.bool_) for name in chosen):
        return chosen
    if len(chosen) != given.shape[1]:
        raise ValueError(f"categorical has {len(chosen)} truth values, but X has {given.shape[1]} columns")
    columns = given.columns if isinstance(given, pd.DataFrame) else range(given.shape[1])
    return [name for name, holds in zip(columns, chosen) if holds]


def _image_shape(shape: Any) -> tuple[int, ...] | None:
    if shape is None:
        return None
    sizes = tuple(shape) if isinstance(shape, list | tuple) else ()
    if len(sizes) not in (2, 3) or not all(isinstance(size, int | np.integer) and size > 0 for size in sizes):
        raise ValueError(f"image_shape must be (height, width) or (height, width, channels), not {shape!r}")
    return tuple(int(size) for size in sizes)


def _key(random_state: Any) -> Key:
    if random_state is None:
        return Key.of(secrets.randbits(63))
    if isinstance(random_state, np.random.RandomState):
        return Key.of(int(random_state.randint(2**31 - 1)))
    if isinstance(random_state, np.random.Generator):
        return Key.of(int(random_state.integers(2**63)))
    if isinstance(random_state, numbers.Integral) and not isinstance(random_state, bool):
        return Key.of(int(random_state))
    raise ValueError(f"random_state must be an integer, a RandomState or None, not {random_state!r}")


def _nothing_made() -> dict[str, Any]:
    """The report where no class lacks rows."""
    sentence = "no class has fewer rows than were asked for: nothing was made"
    return {
        "classes": [],
        "scale": None,
        "columns": {},
        "latent": None,
        "warnings": [sentence],
        "privacy": NOT_PRIVATE,
    }
