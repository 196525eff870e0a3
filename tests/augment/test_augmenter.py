"""The augmenter as a user meets it: what it answers, keeps and refuses, and the pitfalls of small-sample augmentation."""

import io
import pickle
import random
import signal
from collections import Counter
from typing import ClassVar

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from imblearn.over_sampling import RandomOverSampler
from imblearn.pipeline import make_pipeline
from scipy import sparse, stats
from sklearn.base import BaseEstimator, ClassifierMixin, clone, config_context
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from particles.augment.estimator import ParticleAugmenter
from particles.augment.selection import TRIED
from particles.cloud import Cloud
from particles.metrics.energy import energy_distance
from particles.potentials.stacked import StackedPotential

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

N, MINORITY = 40, 10
Y = np.repeat([0, 1], [N - MINORITY, MINORITY])
X = np.random.default_rng(0).normal(size=(N, 3)) + 2 * Y[:, None]


def cheap(**settings):
    """The shortest way to new rows."""
    return ParticleAugmenter(**{"method": "gaussian", "random_state": 0, **settings})


def moved(**settings):
    """A flow of a few steps."""
    return ParticleAugmenter(**{"method": "flow", "start": "gaussian", "stop": 10, "random_state": 0, **settings})


def refusal(call, error=ValueError):
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(a, b):
    """Equal bits."""
    pd.testing.assert_frame_equal(pd.DataFrame(a), pd.DataFrame(b), check_exact=True)


def rows_of(array):
    return {tuple(row) for row in np.asarray(array).tolist()}


@pytest.fixture(scope="module")
def fitted():
    return moved().fit(X, Y)


# Which rows, and how many


@pytest.mark.parametrize(
    "strategy",
    ["auto", "minority", "not minority", "not majority", "all", 0.8, {0: 33, 2: 25}, {1: 18}, lambda y: {1: 19, 0: 31}],
    ids=lambda strategy: "function" if callable(strategy) else str(strategy),
)
@pytest.mark.parametrize("labels", [np.array([0, 1, 2]), np.array(["u", "v", "w"])], ids=["numbers", "text"])
def test_as_many_rows_as_imbalanced_learn(strategy, labels):
    """Random oversampling of imbalanced-learn, with the same strategy, is the independent count."""
    code = np.repeat([0, 1, 2], [30, 18, 12]) if strategy != 0.8 else Y
    x, y = np.random.default_rng(1).normal(size=(len(code), 2)), labels[code]
    if isinstance(strategy, dict):
        strategy = {labels[name]: count for name, count in strategy.items()}
    if callable(strategy) and labels.dtype.kind == "U":
        pytest.skip("the function answers numbers")
    sampler = RandomOverSampler(sampling_strategy=strategy, random_state=0)
    _, expected = sampler.fit_resample(x, y)
    augmenter = cheap(sampling_strategy=strategy)
    x_all, y_all = augmenter.fit_resample(x, y)
    assert Counter(y_all) == Counter(expected)
    assert {k: v for k, v in augmenter.sampling_strategy_.items() if v} == {
        k: v for k, v in sampler.sampling_strategy_.items() if v
    }
    assert np.array_equal(x_all[: len(x)], x)
    assert np.array_equal(y_all[: len(y)], y)
    assert list(augmenter.classes_) == sorted(set(y))


def test_an_integer_is_the_size_of_every_class_and_takes_no_row_away():
    _, y_all = cheap(sampling_strategy=25).fit_resample(X, Y)
    assert Counter(y_all) == {0: 30, 1: 25}


@pytest.mark.parametrize("strategy", [5, {0: 30}, {}], ids=str)
def test_where_nothing_is_to_be_made_it_says_so(strategy):
    augmenter = cheap(sampling_strategy=strategy)
    with pytest.warns(UserWarning, match="nothing was made"):
        x_all, y_all = augmenter.fit_resample(X, Y)
    assert np.array_equal(x_all, X)
    assert np.array_equal(y_all, Y)
    assert augmenter.report_["warnings"] == ["no class has fewer rows than were asked for: nothing was made"]
    assert "call fit first" in refusal(lambda: augmenter.sample(3), NotFittedError)


def test_without_classes_rows_alone_come_and_go():
    doubled = cheap().fit_resample(X)
    assert doubled.shape == (2 * N, 3)
    assert np.array_equal(doubled[:N], X)
    assert cheap(sampling_strategy=50).fit_resample(X).shape == (50, 3)
    assert cheap().fit(X).sample(7).shape == (7, 3)


def test_one_class_can_grow_to_a_number_of_rows():
    one = np.full(N, "a")
    x_all, y_all = cheap(sampling_strategy=60).fit_resample(X, one)
    assert x_all.shape == (60, 3)
    assert set(y_all) == {"a"}
    assert len(cheap().fit(X, one).sample(5)[0]) == 5
    assert "more than 1 class" in refusal(lambda: cheap().fit_resample(X, one))


def test_values_are_made_together_with_their_rows():
    """y = x0 + 2 x1 + noise: the regression on new pairs is that of the law, so y is no noise of its own."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 2))
    y = pd.Series(x @ [1.0, 2.0] + 0.1 * rng.normal(size=200), name="price")
    x_all, y_all = cheap(sampling_strategy=1000).fit_resample(x, y)
    assert np.array_equal(x_all[:200], x)
    assert y_all[:200].equals(y)
    assert y_all.name == "price"
    new_x, new_y = x_all[200:], y_all[200:].to_numpy()
    # Shrinkage and the marginals take a little of it: 0.96 and 1.93 in the mean of 24 seeds, with a deviation of 0.03.
    assert np.linalg.lstsq(new_x, new_y, rcond=None)[0] == pytest.approx([0.96, 1.93], abs=0.1)
    assert y.min() <= new_y.min()
    assert new_y.max() <= y.max()


@pytest.mark.parametrize(
    ("y", "values"),
    [
        (np.arange(150) % 50, False),
        (np.arange(120) % 51, True),
        (np.arange(40) % 21, True),
        (np.arange(42) % 21, False),
        (np.arange(60) / 2, True),
        ((np.arange(60) % 3).astype(float), False),
    ],
)
def test_what_is_a_class_and_what_a_value(y, values):
    x = np.random.default_rng(0).normal(size=(len(y), 2))
    assert (cheap().fit(x, y).classes_ is None) is values


# What comes in comes out


INDICES = {
    "counting": (pd.RangeIndex(N), [N, N + 1]),
    "counting by two": (pd.RangeIndex(5, 5 + 2 * N, 2, name="id"), [2 * N + 4, 2 * N + 5]),
    "shuffled": (pd.Index(np.random.default_rng(0).permutation(N)), [N, N + 1]),
    "negative": (pd.Index(-7 - np.arange(N)), [0, 1]),
    "text": (pd.Index([f"r{i}" for i in range(N)], name="key"), ["synthetic-0", "synthetic-1"]),
    "augmented before": (pd.Index([f"synthetic-{i}" for i in range(N)]), [f"synthetic-{N}", f"synthetic-{N + 1}"]),
    "dates": (pd.date_range("2024-01-01", periods=N, name="day"), ["synthetic-0", "synthetic-1"]),
    "levels": (
        pd.MultiIndex.from_product([range(N // 2), ["u", "v"]], names=["i", "k"]),
        [(N // 2, ""), (N // 2 + 1, "")],
    ),
    "too large to count on": (pd.Index(np.arange(N) + (2**63 - N)), ["synthetic-0", "synthetic-1"]),
}


@pytest.mark.parametrize("name", INDICES)
def test_rows_keep_their_index_and_new_ones_go_on(name):
    index, first = INDICES[name]
    frame = pd.DataFrame(X, columns=["a", "b", "c"], index=index)
    y = pd.Series(np.array(["no", "yes"])[Y], index=index, name="class")
    x_all, y_all = cheap().fit_resample(frame, y)
    assert list(x_all.index[:N]) == list(index)
    assert x_all.index.names == index.names
    assert list(x_all.index[N : N + 2]) == first
    assert x_all.index.is_unique
    assert x_all.index.equals(y_all.index)
    assert np.array_equal(x_all.to_numpy()[:N], X)
    assert list(x_all) == ["a", "b", "c"]
    assert y_all.name == "class"
    assert y_all.dtype == y.dtype
    assert list(y_all[:N]) == list(y)


WAYS = {
    "integers": (Y.astype(np.int8), lambda y: y),
    "text": (np.array(["no", "yes"])[Y], lambda y: y == "yes"),
    "truth values": (Y == 1, lambda y: y),
    "a column": (Y[:, None], lambda y: y[:, 0]),
    "a column per class": (np.eye(2, dtype=np.int32)[Y], lambda y: y[:, 1]),
    "a frame per class": (pd.DataFrame(np.eye(2)[Y], columns=["u", "v"]), lambda y: y["v"]),
    "a frame": (pd.DataFrame({"t": Y}), lambda y: y["t"]),
    "a nullable series": (pd.Series(Y, dtype="Int64", name="t"), lambda y: y),
    "categories": (pd.Series(pd.Categorical.from_codes(Y, ["n", "p", "spare"])), lambda y: y == "p"),
    "dates": (pd.Series(pd.to_datetime(["2024-01-01", "2025-01-01"])[Y]), lambda y: y.dt.year == 2025),
    "a list": (Y.tolist(), np.asarray),
}


@pytest.mark.parametrize("way", WAYS)
def test_classes_come_back_as_they_came(way):
    y, positive = WAYS[way]
    _, y_all = cheap().fit_resample(X, y)
    assert type(y_all) is type(y)
    assert np.array_equal(np.asarray(positive(y_all), dtype=int)[:N], Y)
    assert np.array_equal(np.asarray(positive(y_all), dtype=int)[N:], np.ones(20))
    if isinstance(y, pd.DataFrame):
        assert (y_all.dtypes == y.dtypes).all()
    elif not isinstance(y, list):
        assert y_all.dtype == y.dtype
        assert np.shape(y_all) == (60, *np.shape(y)[1:])


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "coo_array", "lil_matrix"])
def test_sparse_rows_stay_sparse_in_their_format(kind):
    thin = np.where(X > 0.5, X, 0)
    x_all, _ = cheap().fit_resample(getattr(sparse, kind)(thin), Y)
    assert type(x_all) is getattr(sparse, kind)
    dense, _ = cheap().fit_resample(thin, Y)
    same(x_all.toarray(), dense)
    assert (dense[N:] == 0).any()  # the zeros are atoms, not just small numbers


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint8", "int64", "datetime64[D]", "longdouble"])
def test_arrays_keep_their_type(dtype):
    x = (20 * np.abs(X)).astype(np.int64).astype(dtype)
    x_all, _ = cheap().fit_resample(x, Y)
    assert x_all.dtype == x.dtype
    assert np.array_equal(x_all[:N], x)
    assert (x_all[N:] >= x.min(0)).all()
    assert (x_all[N:] <= x.max(0)).all()


def test_lists_and_object_arrays_hold_numbers_beside_text():
    colours = np.random.default_rng(0).choice(["red", "blue"], N)
    rows = [[float(a), int(10 * b), str(c)] for a, b, c in zip(X[:, 0], X[:, 1], colours)]
    x_all, y_all = cheap().fit_resample(rows, Y.tolist())
    assert isinstance(x_all, list)
    assert isinstance(y_all, list)
    assert x_all[:N] == rows
    assert {tuple(type(entry) for entry in row) for row in x_all} == {(float, int, str)}
    array, _ = cheap().fit_resample(np.array(rows, dtype=object), Y)
    assert array.dtype == object
    assert array.tolist() == x_all
    assert {row[2] for row in x_all[N:]} == {"red", "blue"}


def test_output_can_be_a_frame_whatever_came():
    augmenter = cheap().set_output(transform="pandas")
    x_all, _ = augmenter.fit_resample(X, Y)
    assert isinstance(x_all, pd.DataFrame)
    assert list(x_all) == list(augmenter.get_feature_names_out())
    same(x_all.to_numpy(), cheap().fit_resample(X, Y)[0])
    assert isinstance(clone(augmenter).fit_resample(X, Y)[0], pd.DataFrame)
    assert isinstance(augmenter.fit_resample(sparse.csr_matrix(X), Y)[0], pd.DataFrame)
    assert isinstance(augmenter.set_output(transform="default").fit_resample(X, Y)[0], np.ndarray)
    with config_context(transform_output="pandas"):
        assert isinstance(cheap().fit(X, Y).sample(2)[0], pd.DataFrame)
    assert "polars" in refusal(lambda: augmenter.set_output(transform="polars"))


def test_names_of_columns_of_any_kind_are_kept():
    for columns in (["a", 1, 2.5], pd.MultiIndex.from_product([["a"], [1, 2, 3]], names=["p", "q"]), range(3)):
        frame = pd.DataFrame(X, columns=columns)
        for y in (Y, X[:, 0] + X[:, 1]):
            assert cheap().fit_resample(frame, y)[0].columns.equals(frame.columns)
    clash = pd.DataFrame(X, columns=["y", "y_", "c"])
    x_all, y_all = cheap().fit_resample(clash, pd.Series(X[:, 0], name="y"))
    assert list(x_all) == ["y", "y_", "c"]
    assert y_all.name == "y"


# Sampling afterwards


def test_sample_fits_nothing(monkeypatch, fitted):
    def forbidden(*arguments, **settings):
        raise AssertionError("a discriminator was fitted")

    augmenter = pickle.loads(pickle.dumps(fitted))
    monkeypatch.setattr(StackedPotential, "fit", forbidden)
    with pytest.raises(AssertionError, match="a discriminator was fitted"):
        moved().fit(X, Y)
    x, y = augmenter.sample({1: 30})
    assert x.shape == (30, 3)
    assert (y == 1).all()
    x, y = augmenter.sample(4)
    assert Counter(y) == {0: 4, 1: 4}
    assert Counter(augmenter.sample()[1]) == {1: 20}  # what the strategy asks for


def test_sampling_from_the_particles_start_gives_the_particles(fitted):
    """New rows ride along the recorded discriminators, so where they start decides where they end."""
    flowed = fitted._augmentation.flowed
    carried = flowed.carry(flowed.points[0], [10, 10])
    for block in (0, 1):
        assert np.abs(flowed.at(10, block) - flowed.at(0, block)).max() > 0.1
        assert carried[block] == pytest.approx(flowed.at(10, block), abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"conditional": True},
        {"divergence": "alpha"},
        {"divergence": "w1"},
        {"latent": "pca:2"},
        {"latent": PCA(2)},
        {"image_shape": (1, 3)},
        {"stop": "ratio"},
    ],
    ids=str,
)
def test_every_kind_of_flow_can_be_ridden(settings):
    augmenter = moved(**{"stop": 5, **settings}).fit(X, Y)
    flowed, steps = augmenter._augmentation.flowed, augmenter._augmentation.steps
    carried = flowed.carry(flowed.points[0], [steps[0], steps[1]])
    for block in (0, 1):
        assert carried[block] == pytest.approx(flowed.at(steps[block], block), abs=1e-5)
    assert augmenter.sample({0: 3, 1: 4})[0].shape == (7, 3)
    if isinstance(settings.get("latent"), PCA):
        assert not hasattr(settings["latent"], "components_")  # an argument is left as it is


def test_every_sample_is_another_and_a_copy_goes_on_alike(fitted):
    stored = io.BytesIO()
    joblib.dump(fitted, stored)
    stored.seek(0)
    pickled, dumped = pickle.loads(pickle.dumps(fitted)), joblib.load(stored)
    first, second = pickled.sample(5)[0], pickled.sample(5)[0]
    assert not rows_of(first) & rows_of(second)
    same(dumped.sample(5)[0], first)
    same(dumped.sample(5)[0], second)
    same(fitted.sample(5)[0], first)


def test_sample_refuses_what_it_cannot_make(fitted):
    assert "call fit first" in refusal(lambda: cheap().sample(3), NotFittedError)
    resampled = cheap()
    resampled.fit_resample(X, Y)
    assert "fit_resample keeps none" in refusal(lambda: resampled.sample(3), NotFittedError)
    assert "no class 7; the classes are 0, 1" in refusal(lambda: fitted.sample({7: 3}))
    for wrong in (-1, 2.5, True, {0: -1}):
        assert "needs a number of rows from 0 up" in refusal(lambda wrong=wrong: fitted.sample(wrong))
    for none in (0, {}, {1: 0}):
        assert "nothing to sample" in refusal(lambda none=none: fitted.sample(none))
    for many in (10**13, 10**400):
        assert "the number of new rows " in refusal(lambda many=many: fitted.sample(many))


# Randomness


def test_seeds():
    rows = {seed: moved(random_state=seed).fit_resample(X, Y)[0] for seed in (0, 1)}
    same(moved().fit_resample(X, Y)[0], rows[0])
    assert not rows_of(rows[0][N:]) & rows_of(rows[1][N:])
    state = np.random.RandomState(3)
    first, second = (cheap(random_state=state).fit_resample(X, Y)[0] for _ in range(2))
    assert not np.array_equal(first, second)
    same(cheap(random_state=np.random.RandomState(3)).fit_resample(X, Y)[0], first)
    one, other = (cheap(random_state=None).fit_resample(X, Y)[0] for _ in range(2))
    assert not np.array_equal(one, other)


def test_global_generators_are_left_alone():
    states = random.getstate, lambda: np.random.get_state()[1].tolist(), lambda: torch.get_rng_state().tolist()  # noqa: NPY002
    before = [state() for state in states]
    for seed, start in ((0, "auto"), (None, "kde")):
        moved(random_state=seed, start=start, stop=2, latent="pca:2").fit(X, Y).sample(3)
    assert [state() for state in states] == before


def test_input_is_not_changed():
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(d=pd.Categorical(np.array(["u", "v"])[Y]))
    x, y = frame.copy(deep=True), pd.Series(Y)
    x_all, y_all = cheap().fit_resample(x, y)
    x_all.iloc[:, 0], y_all[:] = 7, 7
    pd.testing.assert_frame_equal(x, frame)
    assert y.equals(pd.Series(Y))


# Errors


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": "transport"}, "copies"),
        ({"method": "w2"}, "copies"),
        ({"method": "mmd"}, "copies"),
        ({"method": "kale"}, "copies"),
        ({"method": "magic"}, "not one of auto, flow, gaussian, kde"),
        ({"start": "magic"}, "not one of auto, gaussian, kde, bootstrap, mixed, normal"),
        ({"stop": -1}, "stop must be auto, ratio or a number of steps"),
        ({"stop": True}, "stop must be auto, ratio or a number of steps"),
        ({"min_ratio": 2}, "min_ratio must be from 0 to 1"),
        ({"min_ratio": "much"}, "min_ratio must be a number"),
        ({"divergence": "magic"}, "unknown divergence 'magic'"),
        ({"divergence": 3}, "divergence must be a name"),
        ({"lipschitz": 0}, "lipschitz must be a positive number"),
        ({"step_size": float("inf")}, "step_size must be a positive number"),
        ({"conditional": "a"}, "conditional must be True or False"),
        ({"latent": "magic"}, "latent 'magic'"),
        ({"image_shape": 5}, "image_shape must be (height, width)"),
        ({"image_shape": (2, 2)}, "X has 3 columns"),
        ({"categorical": ["z"]}, "no column 'z'"),
        ({"categorical": [True]}, "1 truth values, but X has 3 columns"),
        ({"scale": "magic"}, "not one of auto, standard, global, none"),
        ({"random_state": 1.5}, "random_state must be an integer"),
        ({"sampling_strategy": "majority"}, "needs to be one of"),
        ({"sampling_strategy": [1]}, "'sampling_strategy' should be"),
        ({"sampling_strategy": {7: 40}}, "The [7] target class is/are not present in the data"),
        ({"sampling_strategy": {1: 4}}, "greater or equal to the original number"),
        ({"sampling_strategy": {1: -4}}, "a number of rows from 0 up"),
        ({"sampling_strategy": 0.1}, "it must be above 0.333"),
    ],
    ids=str,
)
def test_arguments_are_refused_in_a_sentence(settings, says):
    augmenter = cheap(**settings)
    assert says in refusal(lambda: augmenter.fit_resample(X, Y))
    assert says in refusal(lambda: clone(augmenter).fit(X, Y))
    assert not hasattr(augmenter, "report_")


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (X[:1], None, "one row has no spread"),
        (X[:0], None, "0 sample(s)"),
        (X[:, :0], Y, "0 feature(s)"),
        (X[0], None, "Expected 2D array"),
        (X + 1j, Y, "Complex data not supported"),
        (np.zeros((N, 3)), Y, "every column is constant"),
        (np.c_[Y, Y], Y, "no spread"),  # within no class two rows differ
        (X, Y[:-1], "X has 40 rows and y has 39 entries"),
        (X, np.where(Y, np.nan, 0), "y is missing (NaN) in row 30"),
        (X, np.c_[Y, Y], "Multilabel and multioutput targets are not supported"),
        (X, np.array([1, "a"], dtype=object)[Y], "y mixes types"),
        (np.where(X[7, 1] == X, np.inf, X), Y, "column 1, row 7: inf is not finite"),
        (pd.DataFrame(X, columns=["a", "a", "b"]), Y, "'a' occurs more than once"),
        (pd.DataFrame({"t": pd.to_timedelta(np.arange(N), unit="h")}), Y, "column 't'"),
    ],
)
def test_data_are_refused_in_a_sentence(x, y, says):
    assert says in refusal(lambda: cheap().fit_resample(x, y))


def test_images_and_values_do_not_mix():
    assert "image_shape" in refusal(lambda: moved(image_shape=(1, 3)).fit(X, X[:, 0] * 1.5))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_their_handlers(monkeypatch, number):
    """A run of the command line ends a signal by saving; in a library the caller's handler decides."""
    ascent = StackedPotential.fit
    heard = []

    def raising(*arguments, **settings):
        signal.raise_signal(number)
        return ascent(*arguments, **settings)

    monkeypatch.setattr(StackedPotential, "fit", raising)
    before = signal.getsignal(number)
    if number == signal.SIGTERM:
        signal.signal(number, lambda *_: heard.append(number))
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            moved().fit(X, Y)
    finally:
        signal.signal(number, before)
    assert caught.type is KeyboardInterrupt
    assert heard == [number] * (number == signal.SIGTERM)


def test_a_flow_that_diverges_is_an_error_of_one_sentence():
    says = refusal(lambda: moved(step_size=1e38, lipschitz=1e3, stop=5).fit(X, Y), RuntimeError)
    assert "went to infinity" in says
    assert "smaller step_size or lipschitz" in says


def test_parameters_are_those_of_the_signature():
    augmenter = ParticleAugmenter({1: 15}, method="kde", min_ratio=0.5, categorical=["a"])
    copied = clone(augmenter)
    assert copied.get_params() == augmenter.get_params()
    assert copied.set_params(stop=3).stop == 3
    assert augmenter.stop == "auto"


# The pitfalls of small-sample augmentation


class Remembering(ClassifierMixin, BaseEstimator):
    """A nearest neighbour that keeps what it was fitted on and asked about."""

    seen: ClassVar[list] = []

    def fit(self, x, y):
        self.x_, self.y_, self.classes_ = x, y, np.unique(y)
        return self

    def predict(self, x):
        Remembering.seen.append((self.x_, self.y_, x))
        return self.y_[np.square(x[:, None] - self.x_[None]).sum(2).argmin(1)]


def test_leakage_test_folds_hold_observed_rows_alone():
    """Pitfall 1: inside a pipeline the training part of a fold is augmented, the test part never."""
    Remembering.seen.clear()
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    cross_val_score(make_pipeline(cheap(), Remembering()), X, Y, cv=folds, error_score="raise")
    observed = rows_of(X)
    assert len(Remembering.seen) == 5
    for fitted_on, classes, asked in Remembering.seen:
        assert Counter(classes) == {0: 24, 1: 24}
        assert len(rows_of(fitted_on) - observed) == 16
        assert rows_of(asked) <= observed - rows_of(fitted_on)
    assert set().union(*(rows_of(asked) for _, _, asked in Remembering.seen)) == observed


def test_leakage_permuted_labels_score_chance_in_a_pipeline_alone():
    """Pitfall 1 and the negative control: nothing is to be learnt, yet rows made before the split score well above chance."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 20))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    honest, leaking = [], []
    for seed in range(3):
        y = rng.permutation(np.repeat([0, 1], [60, 20]))
        augmenter = moved(start="bootstrap", stop=0, random_state=seed)  # around the rows themselves
        score = {"scoring": "roc_auc", "cv": folds, "error_score": "raise"}
        honest += list(cross_val_score(make_pipeline(augmenter, KNeighborsClassifier()), x, y, **score))
        leaking += list(cross_val_score(KNeighborsClassifier(), *augmenter.fit_resample(x, y), **score))
    # the AUC of 4 against 12 rows has the standard deviation 0.17 under the null, over 15 folds 0.05
    assert np.mean(honest) == pytest.approx(0.5, abs=0.15)
    assert np.mean(leaking) > 0.65


@pytest.fixture(scope="module")
def digits():
    """15 eights among 150 other digits, and rows that nobody saw."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    eights, others = (rng.permutation(np.flatnonzero((y == 8) == chosen)) for chosen in (True, False))
    train, test = np.r_[eights[:15], others[:150]], np.r_[eights[15:], others[150:900]]
    return x[train], y[train] == 8, x[test], y[test] == 8


def test_shortcuts_by_artefact(digits):
    """Pitfall 2: new digits lie on the grid and keep constant pixels, so that no tree tells them apart by their noise."""
    x, y, x_test, y_test = digits
    x_all, y_all = cheap(method="kde").fit_resample(x, y)
    new = x_all[len(x) :]
    assert len(new) == 135
    assert np.isin(new, np.arange(17)).all()
    assert (new >= x.min(0)).all()
    assert (new <= x.max(0)).all()
    constant = x.min(0) == x.max(0)
    assert constant.sum() > 3
    noisy = np.r_[x, new + np.random.default_rng(0).normal(0, 0.3, new.shape)]
    alone, found, lost = (
        f1_score(y_test, RandomForestClassifier(50, random_state=0).fit(*data).predict(x_test))
        for data in ((x, y), (x_all, y_all), (noisy, y_all))
    )
    assert found > alone + 0.2
    assert found > lost + 0.15


def test_components_keep_the_variance_that_they_leave_out():
    """Pitfall 3: three components of 20 rows in 100 round dimensions hold a fifth of the variance; new rows have all of it."""
    x = np.random.default_rng(0).normal(size=(20, 100))
    new = cheap(sampling_strategy=420, latent="pca:3").fit_resample(x)[20:]
    assert new.var(0).sum() / 100 == pytest.approx(1, abs=0.2)
    u = np.linalg.svd(x - x.mean(0), full_matrices=False)[1] ** 2
    assert u[:3].sum() / u.sum() < 0.3


def test_columns_that_hardly_vary():
    """Pitfall 5: a constant column stays what it is, one with a single different entry stays within its range."""
    nearly = np.where(np.arange(N) == 3, 1.0, 0.0)
    x_all, _ = cheap().fit_resample(np.c_[X, np.full(N, 1.1), nearly, 1e-9 * X[:, 0]], Y)
    assert (x_all[:, 3] == 1.1).all()
    assert np.isin(x_all[:, 4], (0, 1)).all()
    assert x_all[N:, 5].std() / x_all[N:, 0].std() == pytest.approx(1e-9, rel=0.5)


def test_duplicated_rows():
    """Pitfall 6: rows that are there five times leave the bandwidth what it was, and the ratio defined."""
    augmenters = [cheap(method="kde", sampling_strategy=400) for _ in range(2)]
    _once, often = (a.fit_resample(x) for a, x in zip(augmenters, (X, np.repeat(X, 5, axis=0))))
    kde, kde_often = (a.report_["classes"][0] for a in augmenters)
    assert kde_often["bandwidth"] == pytest.approx(kde["bandwidth"], abs=0.1)
    assert kde_often["nearest_ratio"] == pytest.approx(kde["nearest_ratio"], rel=0.25)
    assert len(rows_of(often[200:])) == 200
    assert not rows_of(often[200:]) & rows_of(X)


def test_a_class_of_equal_rows_is_not_repeated():
    """Pitfall 6: SMOTE repeats them; here the spread is that of the other class."""
    x = np.where(Y[:, None] == 1, 0.5, X)
    with pytest.warns(UserWarning, match="class 1 has 1 different row: too few to be augmented honestly"):
        x_all, _ = cheap().fit_resample(x, Y)
    assert len(rows_of(x_all[N:])) == 20
    assert x_all[N:].mean(0) == pytest.approx(np.full(3, 0.5), abs=1)


def test_whole_numbers_are_rounded_and_not_cut():
    """Pitfall 7: the mean of 4,000 new counts is that of the training counts; cutting would take half a count away."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"count": rng.binomial(100, 0.5, 200), "flag": rng.random(200) < 0.5, "a": rng.normal(size=200)}
    )
    x_all = cheap(sampling_strategy=4200).fit_resample(frame)
    new = x_all[200:]
    assert (x_all.dtypes == frame.dtypes).all()
    assert new["count"].mean() == pytest.approx(frame["count"].mean(), abs=0.25)
    assert set(np.unique(new["count"])) <= set(range(frame["count"].min(), frame["count"].max() + 1))
    assert new["flag"].mean() == pytest.approx(frame["flag"].mean(), abs=0.15)


def test_few_whole_numbers_are_rounded_to_the_nearest():
    """Pitfall 7: 0 to 6 lie evenly about 3, and so does all that is drawn from them; cutting would give a mean of 2.5."""
    x = np.arange(7)[:, None]
    new = cheap(sampling_strategy=4007).fit_resample(x)[7:]
    assert new.dtype == x.dtype
    assert set(np.unique(new)) == set(range(7))
    assert new.mean() == pytest.approx(3, abs=0.12)  # four standard errors


@pytest.fixture(scope="module")
def mixed():
    """Every kind of column, with gaps that depend on the class."""
    rng = np.random.default_rng(4)
    n = 120
    y = np.repeat(["no", "yes"], [90, 30])
    gap = np.where(y == "yes", rng.random(n) < 0.5, rng.random(n) < 0.1)
    frame = pd.DataFrame(
        {
            "size": np.where(gap, np.nan, rng.normal(size=n)),
            "count": pd.array(rng.poisson(5, n), dtype="Int32"),
            "price": rng.choice([0.99, 1.49, 2.99, 4.99], n).astype("float32"),
            "rain": np.where(rng.random(n) < 0.6, 0, rng.exponential(size=n)),
            "colour": pd.Categorical(rng.choice(["red", "blue"], n), ["blue", "red", "unused"]),
            "text": np.where(rng.random(n) < 0.3, None, rng.choice(["a", "b", "c"], n)),
            "code": rng.choice([1, 5, 9], n),
            "flag": rng.random(n) < 0.3,
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 365, n), unit="D"),
            "never": np.where(y == "yes", np.nan, rng.normal(size=n)),
            "fixed": "same",
        },
        index=[f"row {i}" for i in range(n)],
    )
    augmenter = moved(sampling_strategy=400, categorical=["code"], stop=5)
    return frame, y, *augmenter.fit_resample(frame, y)


def test_tables_of_mixed_columns_come_back_like_themselves(mixed):
    frame, _y, x_all, y_all = mixed
    pd.testing.assert_frame_equal(x_all.iloc[: len(frame)], frame)
    assert (x_all.dtypes == frame.dtypes).all()
    assert Counter(y_all) == {"no": 400, "yes": 400}
    new = x_all.iloc[len(frame) :]
    for name in ("size", "count", "price", "rain", "day"):
        assert new[name].min() >= frame[name].min()
        assert new[name].max() <= frame[name].max()
    assert (new["day"] == new["day"].dt.normalize()).all()
    assert set(new["flag"]) == {True, False}
    assert set(new["fixed"]) == {"same"}
    assert 0.3 < (new["rain"] == 0).mean() < 0.8


def test_levels(mixed):
    """Pitfall 8: text, categories and declared codes are levels, and only the levels that were there."""
    frame, _, x_all, _ = mixed
    new = x_all.iloc[len(frame) :]
    for name in ("colour", "text", "code"):
        assert set(new[name].dropna()) == set(frame[name].dropna())
        share, expected = (part[name].value_counts(normalize=True) for part in (new, frame))
        assert (share - expected).abs().max() < 0.2
    one = cheap(categorical=["code"]).fit_resample(frame[["code"]].assign(z=np.arange(120.0)), frame["flag"])[0]
    assert set(one["code"]) == {1, 5, 9}


def test_missing_entries(mixed):
    """Pitfall 9: new rows of a class miss an entry with the share of its training rows, within binomial bounds."""
    frame, y, x_all, y_all = mixed
    new, classes = x_all.iloc[len(frame) :], y_all[len(frame) :]
    for name in frame:
        for label in ("no", "yes"):
            share = frame.loc[y == label, name].isna().mean()
            found = int(new.loc[classes == label, name].isna().sum())
            low, high = stats.binom.interval(1 - 1e-5, int((classes == label).sum()), share)
            assert low <= found <= high, (name, label, share, found)
    assert new.loc[classes == "yes", "never"].isna().all()


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_tiny_classes(rows):
    """Pitfall 10: as many rows as asked for, none of them copies, and a warning that says what they are."""
    x, y = X[: 30 + rows], Y[: 30 + rows]
    augmenter = ParticleAugmenter(random_state=0)
    with pytest.warns(UserWarning, match=f"class 1 has {rows} different row"):
        x_all, y_all = augmenter.fit_resample(x, y)
    new = x_all[len(x) :]
    assert Counter(y_all) == {0: 30, 1: 30}
    assert np.isfinite(new).all()
    assert len(rows_of(new)) == 30 - rows
    assert not rows_of(new) & rows_of(x)
    (report,) = augmenter.report_["classes"]
    assert (report["rows"], report["made"], report["copies"]) == (rows, 30 - rows, 0)
    # where they are: at most four standard errors of either mean from the rows' mean
    assert np.abs(new.mean(0) - x[30:].mean(0)).max() < 4 * x.std() * (1 / np.sqrt(rows) + 1 / np.sqrt(30 - rows))


def test_every_class_may_be_tiny():
    x_all, y_all = ParticleAugmenter(6, random_state=0).fit_resample(X[:6], ["a", "a", "b", "b", "c", "c"])
    assert Counter(y_all) == {"a": 6, "b": 6, "c": 6}
    assert len(rows_of(x_all)) == 18


# What it reaches


@pytest.fixture(scope="module")
def benign():
    x, y = load_breast_cancer(return_X_y=True)
    x = x[y == 1][np.random.default_rng(1).permutation(357)]
    return x[:150], x[150:], ParticleAugmenter(357, random_state=1).fit(x[:150])


def test_auto_takes_the_best_start_and_a_flow_only_if_it_is_clearly_nearer(benign):
    """n = 150 skewed columns: the best start is no Gaussian; the flow is nearer to rows left out by less than its error."""
    (report,) = benign[2].report_["classes"]
    energies = report["energy_holdout"]
    assert set(energies) == {*TRIED, "flow"}
    assert report["start"] == min(TRIED, key=energies.get) == "kde"  # of many rows the best one, whatever it is
    assert energies["flow"] < energies["kde"]
    assert (report["method"], report["steps"], report["gain"]) == ("kde", 0, 0)
    assert report["copies"] == 0
    assert report["nearest_ratio"] >= 0.6
    assert "privacy" in benign[2].report_


def test_new_rows_are_like_rows_that_nobody_saw(benign):
    """Unseen rows are near in energy distance to new ones, and nearer than to a law without correlations; the variance is theirs."""
    train, unseen, augmenter = benign
    new = augmenter.sample(1000)
    assert new.shape == (1000, 30)
    assert not rows_of(new) & rows_of(train)
    centre, unit = train.mean(0), train.std(0)

    def energy(x):
        return energy_distance(*(Cloud(torch.as_tensor((part - centre) / unit)) for part in (x, unseen)), unbiased=True)

    shuffled = np.random.default_rng(0).permuted(np.repeat(train, 7, axis=0), axis=0)
    assert energy(new) < 0.4 * energy(shuffled)
    assert 0.8 < (new / unit).var(0).sum() / (unseen / unit).var(0).sum() < 1.25
    # each column by itself: the mean of 1,000 rows has a standard error of 0.03
    assert np.abs((new.mean(0) - centre) / unit).max() < 0.12


def test_any_number_of_rows_can_be_had_at_once(fitted):
    """More than the discriminators saw are carried along them; more than there are particles are made by fit_resample too."""
    assert Counter(fitted.sample({0: 3, 1: 5000})[1]) == {0: 3, 1: 5000}
    x_all, _ = moved(sampling_strategy=3000, stop=2).fit_resample(X, Y)
    assert len(x_all) == 6000
