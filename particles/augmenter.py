"""Augmentation as a scikit-learn estimator and imbalanced-learn sampler."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.base import BaseEstimator, OneToOneFeatureMixin
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from particles import names
from particles.augmentation import Augmentation, Recipe
from particles.blockwise import FlowSettings
from particles.keys import Key


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
            of ``y`` answers such a dictionary. Without classes an integer is the number of rows afterwards, and ``"auto"`` doubles them.
        method: ``"gaussian"``, ``"kde"`` or ``"flow"``; ``"auto"`` takes the one nearest (in energy distance) to rows left out.
        start: Where the flow starts: ``"gaussian"`` (Ledoit–Wolf; for classes with fewer than 6 rows with the spread of all),
            ``"kde"`` (smoothed bootstrap with the covariance's shape and the likeliest bandwidth), ``"bootstrap"`` (rows with round noise), ``"normal"``
            (no shape); ``"auto"`` takes the better one of the first two.
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
        conditional: One discriminator with an output for each class, instead of one for each.
        image_shape: Height and width (and channels) of rows that are images: convolutional discriminators.
        categorical: The columns, by name or by position in an array, that hold categories whatever their type.
        scale: ``"standard"``, ``"global"`` (one unit for all columns: images), ``"none"``; ``"auto"`` finds out.
        random_state: An integer, a ``numpy.random.RandomState`` or ``None``.

    Attributes:
        report_: What was made, how, why it stopped there and how near it is to the training rows: a dictionary of plain values. Its
            energies are in units of the flow: standard deviations.
        sampling_strategy_: The number of new rows of each class.
        n_features_in_, feature_names_in_: As everywhere in scikit-learn.
        classes_: The classes, in order; ``None`` without.

    Raises:
        ValueError: On fitting, if an argument is none of its choices, or a column cannot be used; the sentence names it.
    """

    _sampling_type = "over-sampling"
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
        self.sampling_strategy_ = _wanted(self.sampling_strategy, table)
        counts = [max(len(table.frame), 200) if len(table.classes) == 1 else 100] * len(table.classes)
        self._fit(table, counts, record=True)
        return self

    def sample(self, n: int | dict[Any, int] | None = None) -> Any:
        """New rows from the fitted generator, without fitting anything again; every call draws other ones.

        Arguments:
            n: The number of new rows of each class, or a dictionary of classes and numbers; as many as ``sampling_strategy`` asks
                for if ``None``.

        Returns:
            The new rows, or a pair of rows and classes (values) if there were some on fitting; in the types of what was fitted.
        """
        check_is_fitted(self, "_augmentation")
        table, wanted = self._table, self.sampling_strategy_ if n is None else n
        if isinstance(wanted, dict):
            if unknown := [name for name in wanted if name not in table.classes]:
                raise ValueError(f"there is no class {unknown[0]!r}; the classes are {_listed(table.classes)}")
            counts = [_count(wanted.get(name, 0), f"class {name!r}") for name in table.classes]
        else:
            counts = [_count(wanted, "n")] * len(table.classes)
        if not any(counts):
            raise ValueError("there is nothing to sample: ask for at least one row")
        self._samples += 1
        rows, group = self._augmentation.sample(counts, self._key.fold("sample", self._samples))
        X_new, y_new = table.split(rows, group)
        X_new = table.rows_like(X_new, self._container())
        return X_new if table.y is None else (X_new, table.values_like(y_new))

    def fit_resample(self, X: Any, y: Any = None) -> Any:
        """The rows with new ones behind them; the first ones are those of ``X`` and ``y``, in their order.

        New rows of a frame go on counting where its index does; where that is not possible they are called ``synthetic-0`` and so on.

        Arguments:
            X: The rows: a frame, or an array with shape (n, d).
            y: Their classes or values, with shape (n,), or ``None``.

        Returns:
            The pair of rows and classes (values); the rows alone if ``y`` is ``None``.
        """
        table = self._read(X, y)
        self.sampling_strategy_ = _wanted(self.sampling_strategy, table)
        counts = [self.sampling_strategy_.get(name, 0) for name in table.classes]
        if any(counts):
            self._fit(table, counts)
            rows, group = self._augmentation.rows, self._augmentation.group
        else:
            self._key = _key(self.random_state)
            rows, group = table.frame.iloc[:0], np.empty(0, dtype=np.intp)
            self.report_ = {"classes": [], "warnings": ["no class is smaller than was asked for: nothing was made"]}
        X_new, y_new = table.split(rows, group)
        X_all = table.rows_like(X_new, self._container(), behind=True)
        return X_all if table.y is None else (X_all, table.values_like(y_new, behind=True))

    def set_output(self, *, transform: str | None = None) -> ParticleAugmenter:
        """Chooses the container of rows: ``"pandas"``, or ``"default"`` for that of the input (as scikit-learn's ``set_output``)."""
        if transform not in (None, "default", "pandas"):
            raise ValueError(f"transform must be default or pandas, not {transform!r}")
        if transform is not None:
            self._output = transform
        return self

    def _container(self) -> str:
        return getattr(self, "_output", "default")

    def _fit(self, table: _Table, counts: Sequence[int], record: bool = False) -> None:
        self._key, self._table, self._samples = _key(self.random_state), table, 0
        self._augmentation = Augmentation(
            table.frame, table.group, counts, self._recipe(table), self._key, names=table.classes, record=record
        )
        self.report_ = self._augmentation.report

    def _recipe(self, table: _Table) -> Recipe:
        for name in ("lipschitz", "step_size"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, not {value!r}")
        settings = FlowSettings(
            divergence=names.make("divergence", self.divergence, names.DIVERGENCES),
            lipschitz=float(self.lipschitz),
            step_size=float(self.step_size),
            conditional=self.conditional,
            image_shape=None if self.image_shape is None else tuple(self.image_shape),
        )
        return Recipe(
            self.method,
            self.start,
            self.stop,
            self.min_ratio,
            settings,
            self.latent,
            self.scale,
            self.categorical or (),
        )

    def _read(self, X: Any, y: Any) -> _Table:
        table = _Table.of(X, y)
        self._recipe(table)  # bad arguments are refused before anything is done
        self.n_features_in_ = table.given.shape[1]
        if isinstance(table.given, pd.DataFrame) and all(isinstance(name, str) for name in table.given.columns):
            self.feature_names_in_ = np.asarray(table.given.columns, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self.classes_ = None if table.kind != "classes" else np.asarray(table.classes)
        return table

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = tags.input_tags.sparse = True
        return tags


@dataclass
class _Table:
    """Rows and classes as they came, and the frame that they are to the generator.

    Attributes:
        given: The rows as they came.
        y: The classes or values as they came, or ``None``.
        kind: ``classes``, ``values`` or ``none``.
        frame: The rows, with values behind them as one more column.
        group: The number of the class of each row.
        classes: The classes by that number; a single 0 without.
    """

    given: Any
    y: Any
    kind: str
    frame: pd.DataFrame
    group: np.ndarray
    classes: list[Any]

    @staticmethod
    def of(X: Any, y: Any) -> _Table:
        given = X if isinstance(X, pd.DataFrame) or sparse.issparse(X) else np.asarray(X)
        if getattr(given, "ndim", 2) != 2:
            raise ValueError(
                f"Expected 2D array: X needs shape (rows, columns), not {np.shape(given)}. Reshape your data"
            )
        frame = _frame(given)
        if y is None:
            return _Table(given, None, "none", frame, np.zeros(len(frame), dtype=np.intp), [0])
        values = _one_column(y)
        if len(values) != len(frame):
            raise ValueError(f"X has {len(frame)} rows and y has {len(values)} entries; give one entry per row")
        if values.isna().any():
            raise ValueError(
                f"y is missing in row {int(values.isna().to_numpy().argmax())}; drop the row or fill it in"
            )
        if _continuous(values):
            frame = frame.assign(**{_free(frame): values.to_numpy()}) if not frame.columns.empty else frame
            return _Table(given, y, "values", frame, np.zeros(len(frame), dtype=np.intp), [0])
        classes, group = np.unique(values.to_numpy(), return_inverse=True)
        return _Table(given, y, "classes", frame, group, list(classes))

    def split(self, rows: pd.DataFrame, group: np.ndarray) -> tuple[pd.DataFrame, Any]:
        """New rows of the generator, and their classes or values."""
        if self.kind == "values":
            return rows.iloc[:, :-1], rows.iloc[:, -1].to_numpy()
        classes = np.empty(len(self.classes), dtype=object)
        classes[:] = self.classes
        return rows, classes[group] if self.kind == "classes" else None

    def rows_like(self, rows: pd.DataFrame, container: str, behind: bool = False) -> Any:
        """New rows in the container of those that came, alone or behind them."""
        if isinstance(self.given, pd.DataFrame):
            new = rows.set_axis(self.given.columns, axis=1)
            if not behind:
                return new
            return pd.concat((self.given, new.set_axis(_more(self.given.index, len(new))))).astype(
                dict(self.given.dtypes)
            )
        if sparse.issparse(self.given):
            new = sparse.csr_matrix(rows.to_numpy(dtype=self.given.dtype)).asformat(self.given.format)
            found = sparse.vstack((self.given, new), format=self.given.format) if behind else new
            return type(self.given)(found)
        new = rows.to_numpy(dtype=self.given.dtype).reshape(len(rows), self.given.shape[1])
        found = np.concatenate((self.given, new)) if behind else new
        return pd.DataFrame(found) if container == "pandas" else found

    def values_like(self, new: Any, behind: bool = False) -> Any:
        """New classes or values in the container of those that came, alone or behind them."""
        if isinstance(self.y, pd.Series):
            series = pd.Series(np.asarray(new), dtype=self.y.dtype, name=self.y.name)
            if not behind:
                return series
            return pd.concat((self.y, series.set_axis(_more(self.y.index, len(series))))).astype(self.y.dtype)
        if isinstance(self.y, pd.DataFrame):
            frame = pd.DataFrame({self.y.columns[0]: np.asarray(new)}).astype(dict(self.y.dtypes))
            if not behind:
                return frame
            return pd.concat((self.y, frame.set_axis(_more(self.y.index, len(frame)))))
        given = np.asarray(self.y)
        if given.ndim == 2 and given.shape[1] > 1:  # one column per class
            new = (np.asarray(new)[:, None] == np.arange(given.shape[1])).astype(given.dtype)
        new = np.asarray(new).astype(given.dtype).reshape(len(new), *given.shape[1:])
        return np.concatenate((given, new)) if behind else new


def _frame(given: Any) -> pd.DataFrame:
    if isinstance(given, pd.DataFrame):
        return (
            pd.DataFrame({name: _dense(given[name]) for name in given.columns}).reset_index(drop=True)
            if (given.columns.is_unique)
            else given
        )
    array = given.toarray() if sparse.issparse(given) else given
    if array.dtype.kind == "c":
        raise ValueError("Complex data not supported: the columns of X must be real numbers, categories or dates")
    frame = pd.DataFrame(array)
    return frame.infer_objects() if array.dtype == object else frame


def _dense(series: pd.Series) -> pd.Series:
    return series.sparse.to_dense() if isinstance(series.dtype, pd.SparseDtype) else series


def _one_column(y: Any) -> pd.Series:
    """Classes or values as one column; an array with a column of zeros and ones per class as the numbers of the columns."""
    array = np.asarray(y)
    if array.ndim == 2 and array.shape[1] > 1:
        if type_of_target(array) != "multilabel-indicator" or not (array.sum(1) == 1).all():
            raise ValueError(
                "Imbalanced-learn currently supports binary, multiclass and binarized encoded multiclasss targets. "
                "Multilabel and multioutput targets are not supported."
            )
        return pd.Series(array.argmax(1))
    if isinstance(y, pd.DataFrame):
        return y.iloc[:, 0].reset_index(drop=True)
    if isinstance(y, pd.Series):
        return y.reset_index(drop=True)
    return pd.Series(array.ravel())


def _continuous(values: pd.Series) -> bool:
    """Whether these are values, not classes: numbers with fractions, or more than 50 different whole ones."""
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return False
    numbers_ = values.to_numpy(dtype=np.float64)
    return bool((numbers_ != np.rint(numbers_)).any()) or len(np.unique(numbers_)) > 50


def _free(frame: pd.DataFrame) -> str:
    name = "y"
    while name in frame.columns:
        name += "_"
    return name


def _more(index: pd.Index, count: int) -> pd.Index:
    """Names for so many rows behind those of an index."""
    if pd.api.types.is_integer_dtype(index.dtype) and not isinstance(index, pd.MultiIndex):
        first = int(index.max()) + 1 if len(index) else 0
        return pd.RangeIndex(first, first + count, name=index.name)
    return pd.Index([f"synthetic-{i}" for i in range(count)], name=getattr(index, "name", None))


def _key(random_state: Any) -> Key:
    if random_state is None:
        return Key.of(int(np.random.SeedSequence().entropy) % 2**63)
    if isinstance(random_state, np.random.RandomState | np.random.Generator):
        draw = random_state.randint if isinstance(random_state, np.random.RandomState) else random_state.integers
        return Key.of(int(draw(2**31 - 1)))
    if isinstance(random_state, numbers.Integral) and not isinstance(random_state, bool):
        return Key.of(int(random_state))
    raise ValueError(f"random_state must be an integer, a RandomState or None, not {random_state!r}")


def _count(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise ValueError(f"{what} needs a number of rows from 0 up, not {value!r}")
    return int(value)


def _listed(classes: Sequence[Any]) -> str:
    shown = ", ".join(repr(getattr(name, "item", lambda name=name: name)()) for name in classes[:8])
    return shown + (f" and {len(classes) - 8} more" if len(classes) > 8 else "")


def _wanted(strategy: Any, table: _Table) -> dict[Any, int]:
    """The number of new rows of each class."""
    sizes = dict(zip(table.classes, np.bincount(table.group, minlength=len(table.classes)).tolist()))
    if callable(strategy):
        strategy = strategy(table.y)
    if isinstance(strategy, bool) or not isinstance(strategy, str | dict | numbers.Real):
        raise ValueError(
            f"'sampling_strategy' should be a string, a number, a dictionary or a function of y, not {strategy!r}"
        )
    if table.kind != "classes":
        return {0: _without_classes(strategy, len(table.group))}
    if len(sizes) < 2 and not isinstance(strategy, numbers.Integral | dict):
        raise ValueError(
            "The target 'y' needs to have more than 1 class. Got 1 class instead; give a number of rows, or no y"
        )
    largest = max(sizes.values())
    if isinstance(strategy, dict):
        if unknown := [name for name in strategy if name not in sizes]:
            raise ValueError(
                f"The {unknown} target class is/are not present in the data. The classes are {_listed(table.classes)}"
            )
        for name, total in strategy.items():
            if _count(total, f"class {name!r}") < sizes[name]:
                raise ValueError(
                    f"With over-sampling methods, the number of samples in a class should be greater or equal to the original "
                    f"number of samples. Originally, there is {sizes[name]} samples and {total} samples are asked."
                )
        return {name: total - sizes[name] for name, total in strategy.items()}
    if isinstance(strategy, str):
        smallest = min(sizes, key=lambda name: sizes[name])
        biggest = max(sizes, key=lambda name: sizes[name])
        chosen = {
            "auto": [name for name in sizes if name != biggest],
            "not majority": [name for name in sizes if name != biggest],
            "minority": [smallest],
            "not minority": [name for name in sizes if name != smallest],
            "all": list(sizes),
        }
        if strategy not in chosen:
            raise ValueError(
                f"When 'sampling_strategy' is a string, it needs to be one of {sorted(chosen)}. Got {strategy!r} instead."
            )
        return {name: largest - sizes[name] for name in chosen[strategy]}
    if isinstance(strategy, numbers.Integral):
        total = _count(strategy, "sampling_strategy")
        return {name: max(total - size, 0) for name, size in sizes.items()}
    if len(sizes) != 2:
        raise ValueError(
            '"sampling_strategy" can be a float only when the type of target is binary. For multi-class, use a dict.'
        )
    minority = min(sizes, key=lambda name: sizes[name])
    new = int(float(strategy) * largest) - sizes[minority]
    if not 0 < float(strategy) <= 1 or new <= 0:
        raise ValueError(
            f"The specified ratio required to remove samples from the minority class while trying to generate new samples. "
            f"Please increase the ratio: it must be above {sizes[minority] / largest:.3g} and at most 1, not {strategy}"
        )
    return {minority: new}


def _without_classes(strategy: Any, size: int) -> int:
    if strategy == "auto":
        return size
    if isinstance(strategy, numbers.Integral):
        total = _count(strategy, "sampling_strategy")
        if total < size:
            raise ValueError(f"sampling_strategy {total} is less than the {size} rows that are there")
        return total - size
    raise ValueError(f"without classes sampling_strategy is auto or a number of rows, not {strategy!r}")
