"""Columns of every kind as coordinates, and back with type, range, grid, levels, atoms and gaps."""

import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import skew, yeojohnson
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.impute import KNNImputer
from sklearn.preprocessing import StandardScaler

from particles.data.columns import Columns
from particles.data.kinds import CLASSES, is_continuous
from particles.data.skew import Bend
from particles.data.support import Grid, Support
from particles.data.tables import read_frame, read_table
from particles.keys import Key

KEY = Key.of(5)
DOUBLE = np.dtype(np.float64)


def rng(seed=0):
    return np.random.default_rng(seed)


def normal(n=60, seed=0):
    return rng(seed).normal(size=n)


def fit(**columns):
    """Columns of a frame that always holds a varying column ``z`` beside those given."""
    size = len(next(iter(columns.values())))
    return Columns.fit(pd.DataFrame({"z": normal(size, 99), **columns}, index=None))


def new(columns, size=400, spread=3.0, seed=1, key=KEY):
    """New rows decoded from coordinates that scatter far beyond the training rows."""
    return columns.decode(spread * rng(seed).normal(size=(size, columns.width)), key)


def round_trip(frame, **settings):
    columns = Columns.fit(frame, **settings)
    x = columns.encode(frame)
    assert x.shape == (len(frame), columns.width)
    assert x.dtype == DOUBLE
    assert np.isfinite(x).all()
    return columns, columns.decode(x, KEY, missing=frame.isna().to_numpy())


def assert_same(found, wanted):
    """Equal in everything but the last bits of dense floating-point numbers."""
    pd.testing.assert_index_equal(found.columns, wanted.columns)
    assert found.dtypes.tolist() == wanted.dtypes.tolist()
    assert (found.isna().to_numpy() == wanted.isna().to_numpy()).all()
    for at in range(wanted.shape[1]):
        got, want = found.iloc[:, at], wanted.iloc[:, at].reset_index(drop=True)
        if want.dtype.kind == "f":
            scope = np.abs(want.to_numpy(float, na_value=0)).max()
            np.testing.assert_allclose(
                got.to_numpy(float, na_value=np.nan), want.to_numpy(float, na_value=np.nan), rtol=0, atol=1e-9 * scope
            )
        else:
            pd.testing.assert_series_equal(got, want, check_names=False)


def refusal(frame, **settings):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Columns.fit(pd.DataFrame(frame), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Grids


@pytest.mark.parametrize(
    ("points", "step"),
    [
        ([0.1, 0.2, 0.4, 0.7], 0.1),
        ([1.05, 1.13, 7.0], 0.01),
        ([0.25, 0.5, 1.25, 2.0, 3.75], 0.25),
        ([i / 16 for i in (0, 1, 5, 9, 12, 16)], 1 / 16),
        ([0.125, 1.125, 3.125, 6.125, 7.125, 8.125, 9.125, 11.125, 12.125], 1.0),
        ([-3.0, 0.0, 6.0, 9.0, 15.0, 33.0, 39.0], 3.0),
        ([i / 255 for i in (3, 4, 7, 100, 255)], 1 / 255),
        ([i / 127.5 - 1 for i in (3, 4, 7, 100, 255)], 1 / 127.5),
        (np.arange(10) * 0.1, 0.1),
        ([i * np.pi for i in (4, 6, 9, 13, 20)], np.pi),
        ([1e6 + i / 3 for i in (0, 1, 5, 7, 30)], 1 / 3),
        ([7e-9, 8e-9, 12e-9], 1e-9),
    ],
)
def test_steps(points, step):
    points = np.asarray(points)
    grid = Grid.of(points, DOUBLE)
    assert grid.step / grid.over == pytest.approx(step, rel=1e-9)
    assert np.array_equal(grid.nearest(points), points)
    between = points[:-1] + 0.3 * step
    np.testing.assert_allclose(grid.nearest(between), points[:-1], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [2, 5, 40])
def test_random_numbers_have_no_grid(dtype, size):
    found = [
        Grid.of(np.unique(rng(seed).normal(size=size).astype(dtype).astype(float)), np.dtype(dtype))
        for seed in range(200)
    ]
    assert sum(grid is not None for grid in found) <= 2


def test_single_precision_grid():
    points = np.float32([0.1, 0.2, 0.7]).astype(float)
    grid = Grid.of(points, np.dtype(np.float32))
    assert (grid.step, grid.over) == (1, 10)
    assert np.array_equal(grid.nearest(points).astype(np.float32), np.float32([0.1, 0.2, 0.7]))


def test_few_differences_are_no_evidence_of_a_long_step():
    """23, 57 and 91 are 34 apart, as any three numbers may be; eight even numbers in a row are no accident."""
    assert Grid.of(np.array([23.0, 57.0, 91.0])).step == 1
    assert Grid.of(np.array([2.0, 4, 8, 10, 14, 20, 22, 26])).step == 1
    assert Grid.of(np.array([2.0, 4, 8, 10, 14, 20, 22, 26, 28])).step == 2


def test_new_decimals_are_those_that_are_written():
    columns = fit(a=np.round(normal(), 1))
    assert columns.kinds["a"] == "grid"
    found = new(columns)["a"]
    assert all(value == round(value, 1) for value in found)
    assert found.nunique() > 20


# Supports


def test_atom_and_void():
    values = np.concatenate([np.zeros(30), 5 + rng(0).exponential(size=30)])
    support = Support.of(values, None)
    least = np.sort(values[30:])[0]
    assert support.atoms.tolist() == [0]
    assert support.voids.tolist() == [[0, least]]
    x = np.array([-1, 0, 0.49 * least, 0.51 * least, least + 0.01, 1e9])
    assert support.nearest(x).tolist() == [0, 0, 0, least, least + 0.01, values.max()]


@pytest.mark.parametrize(("count", "is_atom"), [(4, False), (5, True)])
def test_what_makes_an_atom(count, is_atom):
    values = np.concatenate([np.full(count, 2.5), normal(40)])
    assert (Support.of(values, None).atoms.tolist() == [2.5]) is is_atom


def test_an_atom_holds_five_percent():
    assert len(Support.of(np.concatenate([np.zeros(5), normal(96)]), None).atoms) == 0


def test_a_column_of_repeated_values_takes_no_others():
    values = np.repeat([1.0, 2, 4, 8], [5, 9, 6, 20])
    support = Support.of(values, Grid.of(np.unique(values)))
    assert set(support.nearest(rng().uniform(-3, 12, 300))) == {1, 2, 4, 8}
    free = Support.of(values[1:], Grid.of(np.unique(values)))  # 1 only four times
    assert set(free.nearest(rng().uniform(-3, 12, 300))) > {1, 2, 3, 4, 8}


@given(st.lists(st.integers(-40, 40).map(lambda i: i / 4), min_size=1, max_size=60), st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_nearest_is_idempotent_and_keeps_training_values(values, seed):
    values = np.array(values)
    support = Support.of(values, Grid.of(np.unique(values), DOUBLE))
    assert np.array_equal(support.nearest(values), values)
    there = support.nearest(rng(seed).uniform(-12, 12, 50))
    assert np.array_equal(support.nearest(there), there)
    assert values.min() <= there.min() <= there.max() <= values.max()


# Kinds, in and out


def kinds_frame():
    n = 48
    r = rng(3)
    zero = np.where(r.random(n) < 0.5, 0, 3 + r.exponential(size=n))
    days = pd.Timestamp("2024-02-25") + pd.to_timedelta(r.integers(0, 40, n), "D")
    seconds = pd.Timestamp("2024-02-25 10:00:01") + pd.to_timedelta(r.integers(0, 10**6, n), "s")
    integers = r.integers(-9, 9, n)
    return pd.DataFrame(
        {
            "float": r.normal(size=n),
            "single": r.normal(size=n).astype(np.float32),
            "half": r.normal(size=n).astype(np.float16),
            "int8": integers.astype(np.int8),
            "uint64": r.integers(0, 2**40, n).astype(np.uint64),
            "Int64": pd.array(np.where(integers > 5, pd.NA, integers * 3), dtype="Int64"),
            "Float32": pd.array(r.normal(size=n).astype(np.float32), dtype="Float32"),
            "gap": np.where(r.random(n) < 0.2, np.nan, r.normal(size=n)),
            "tenths": np.round(r.normal(size=n), 1),
            "zero": zero,
            "skewed": np.exp(1.5 * r.normal(size=n)),
            "bool": r.random(n) < 0.4,
            "boolean": pd.array(np.where(integers > 6, pd.NA, integers > 0), dtype="boolean"),
            "text": r.choice(["red", "green", "blue"], n),
            "string": pd.array(r.choice(["u", "v", None], n), dtype="string"),
            "object": pd.Series(r.choice(["u", "v", None], n), dtype=object),
            "mixed": pd.Series([("a", 1)[i] for i in r.integers(0, 2, n)], dtype=object),
            "numbers": pd.Series([int(i) for i in integers], dtype=object),
            "size": pd.Categorical(r.choice(["S", "L"], n), categories=["S", "M", "L"], ordered=True),
            "day": days,
            "time": np.where(integers > 6, np.datetime64("NaT"), seconds.to_numpy()),
            "zone": days.tz_localize("Europe/Berlin"),
            "utc": seconds.tz_localize("UTC").as_unit("ns"),
            "iso": days.strftime("%Y-%m-%d"),
            "isotime": seconds.strftime("%Y-%m-%dT%H:%M:%S"),
            "date": pd.Series([day.date() for day in days], dtype=object),
            "seven": 7,
            "same": "same",
            "twin": r.normal(size=n),
            "nothing": np.nan,
            ("a", 1): integers,
            8: r.normal(size=n),
        }
    ).assign(twin=lambda frame: frame["float"])


KINDS = {
    "float": "numeric",
    "single": "numeric",
    "half": "numeric",
    "int8": "integer",
    "uint64": "integer",
    "Int64": "integer",
    "Float32": "numeric",
    "gap": "numeric",
    "tenths": "grid",
    "zero": "zero-inflated",
    "skewed": "numeric",
    "bool": "boolean",
    "boolean": "boolean",
    "text": "categorical",
    "string": "categorical",
    "object": "categorical",
    "mixed": "categorical",
    "numbers": "integer",
    "size": "categorical",
    "day": "date",
    "time": "date",
    "zone": "date",
    "utc": "date",
    "iso": "date",
    "isotime": "date",
    "date": "date",
    "seven": "constant",
    "same": "constant",
    "twin": "duplicate",
    "nothing": "missing",
    ("a", 1): "integer",
    8: "numeric",
}


@pytest.mark.parametrize("scale", ["auto", "standard", "global", "none"])
def test_every_kind_comes_back(scale):
    frame = kinds_frame()
    columns, back = round_trip(frame, scale=scale)
    assert columns.kinds == KINDS
    assert columns.scale == ("standard" if scale == "auto" else scale)
    assert_same(back, frame)


def test_new_rows_stay_within_what_was_seen():
    frame = kinds_frame()
    found = new(Columns.fit(frame), 1000)
    assert found.dtypes.tolist() == frame.dtypes.tolist()
    assert found.index.tolist() == list(range(1000))
    for name, kind in KINDS.items():
        got, seen = found[name], frame[name]
        assert not got.isna().any() or seen.isna().any()
        if kind in ("categorical", "boolean"):
            assert set(got.dropna()) == set(seen.dropna()), name
        elif kind == "missing":
            assert got.isna().all()
        elif kind == "constant":
            assert set(got) == set(seen)
        else:
            assert (got.dropna().min(), got.dropna().max()) == (seen.dropna().min(), seen.dropna().max()), name
    assert found["twin"].equals(found["float"])
    assert (found["day"] == found["day"].dt.normalize()).all()
    assert (found["zone"] == found["zone"].dt.normalize()).all()
    assert (found["tenths"] == found["tenths"].round(1)).all()
    assert all(datetime.date.fromisoformat(day) for day in found["iso"])
    assert all(isinstance(day, datetime.date) for day in found["date"])
    assert all(type(number) is int for number in found["numbers"])


def test_a_frame_with_other_column_labels_and_index():
    frame = pd.DataFrame(
        rng().normal(size=(9, 2)),
        columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)], names=["l", "m"]),
        index=range(5, 14),
    )
    _, back = round_trip(frame)
    pd.testing.assert_index_equal(back.columns, frame.columns)
    np.testing.assert_allclose(back.to_numpy(), frame.to_numpy(), rtol=1e-12)


def test_integers_round_and_do_not_truncate():
    columns = Columns.fit(pd.DataFrame({"k": [0, 1, 5, 9]}), scale="none")
    found = columns.decode(np.array([[0.94], [4.4], [4.6], [-0.6], [12.0]]), KEY)["k"]
    assert found.tolist() == [1, 4, 5, 0, 9]
    assert found.dtype == np.int64


def test_categories_are_half_a_squared_unit_and_the_greatest_wins():
    frame = pd.DataFrame({"colour": ["red", "blue", "red", "green"]})
    columns = Columns.fit(frame)
    assert columns.names == ["colour=blue", "colour=green", "colour=red"]
    x = columns.encode(frame)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-15)
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.testing.assert_allclose(distance, np.not_equal.outer(frame["colour"].values, frame["colour"].values) * 1.0)
    raw = np.array([[0.2, 0.3, 0.25], [-1, -2, -3]])
    plain = Columns.fit(frame, scale="none")
    assert plain.decode(raw, KEY)["colour"].tolist() == ["green", "blue"]


@pytest.mark.parametrize(
    "values", [[3, 1, 1, 2] * 3, [True, False] * 6, [0.5, 0.25] * 6, pd.date_range("2024", periods=12)]
)
def test_declared_categories(values):
    frame = pd.DataFrame({"code": values})
    columns, back = round_trip(frame, categorical=["code"])
    assert columns.kinds == {"code": "categorical"}
    assert columns.width == frame["code"].nunique()
    pd.testing.assert_frame_equal(back, frame)


def test_ordered_levels_stay_and_unused_ones_are_not_drawn():
    frame = pd.DataFrame({"size": pd.Categorical(["S", "L", "S"], categories=["S", "M", "L"], ordered=True)})
    columns, back = round_trip(frame)
    assert columns.names == ["size=S", "size=L"]
    assert back["size"].dtype == frame["size"].dtype
    assert set(new(columns)["size"]) == {"S", "L"}


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["2024-02-28", "2024-02-29"], "date"),
        (["2024-02-28 10:00", "2024-02-29 11:30"], "date"),
        (["2024-02-28T10:00:00Z", "2024-02-29T11:30:00Z"], "date"),
        (["2024-02-30", "2024-02-29"], "categorical"),
        (["2024-2-28", "2024-02-29"], "categorical"),
        (["2024-02-28", "2024-02-29 10:00"], "categorical"),
        (["28.02.2024", "29.02.2024"], "categorical"),
        (["20240228", "20240229"], "categorical"),
    ],
)
def test_iso_dates_are_read_strictly(texts, kind):
    columns, back = round_trip(pd.DataFrame({"when": texts}))
    assert columns.kinds == {"when": kind}
    assert back["when"].tolist() == texts


def test_dates_between_are_on_the_grid_of_the_training_dates():
    weekly = pd.date_range("2024-01-01", periods=12, freq="7D")
    found = new(fit(when=weekly.delete(4)))["when"]
    assert set(found) == set(weekly)
    minutes = pd.date_range("2024-01-01 00:07", periods=200, freq="13min")
    found = new(fit(when=minutes[rng().permutation(200)[:40]]))["when"]
    assert found.isin(minutes).all()


# Scales


def test_standard_is_that_of_scikit_learn():
    x = rng(2).normal(size=(40, 3)) * [1e-7, 1, 1e200] + [3, 4, 5]
    np.testing.assert_allclose(
        Columns.fit(pd.DataFrame(x)).encode(pd.DataFrame(x))[:, :2], StandardScaler().fit_transform(x[:, :2]), rtol=1e-6
    )
    np.testing.assert_allclose(Columns.fit(pd.DataFrame(x)).encode(pd.DataFrame(x)).std(0), 1)


def test_nearly_constant_columns_do_not_blow_up():
    """One row in a thousand is 0.0316 deviations of all: 31.6 units without the floor of a tenth of the range."""
    frame = pd.DataFrame({"k": [0] * 999 + [1], "f": 5 + 1e-9 * (np.arange(1000) == 3), "z": normal(1000)})
    x = Columns.fit(frame).encode(frame)
    np.testing.assert_allclose(x[:, :2].max(0) - x[:, :2].min(0), 10, rtol=1e-6)
    noise = Columns.fit(pd.DataFrame({"c": [0.3, 0.1 + 0.2, 0.3], "z": [1.5, 2.5, 4.5]}))
    assert noise.kinds["c"] == "constant"
    assert noise.names == ["z"]


def test_global_keeps_proportions():
    frame = pd.DataFrame({"a": normal(50), "b": 7 * normal(50, 1), "flag": normal(50, 2) > 0})
    columns = Columns.fit(frame, scale="global")
    x = columns.encode(frame)
    unit = np.sqrt((frame["a"].var(ddof=0) + frame["b"].var(ddof=0)) / 2)
    np.testing.assert_allclose(x[:, :2] * unit, frame[["a", "b"]] - frame[["a", "b"]].mean(), rtol=1e-9, atol=1e-12)
    assert np.ptp(x[:, 2]) == pytest.approx(1)


def test_none_leaves_numbers_alone():
    frame = pd.DataFrame({"a": normal(50), "k": np.arange(50)})
    assert np.array_equal(Columns.fit(frame, scale="none").encode(frame), frame.to_numpy(float))


@pytest.mark.parametrize("rows", [20, 60, 300])
def test_pixels_are_recognised(rows):
    x = load_digits().data[:rows]
    for frame in (pd.DataFrame(x), pd.DataFrame(x.astype(np.uint8)), pd.DataFrame(x / 16), pd.DataFrame(x / 15 - 0.3)):
        assert Columns.fit(frame).scale == "global"
    big = np.where(x > 0, np.rint(x * 15.9375), 0)
    found = Columns.fit(pd.DataFrame(big / 255, dtype=np.float32))
    assert found.scale == "global"
    step = np.rint(new(found).to_numpy().astype(float) * 255) / 255
    assert np.array_equal(step.astype(np.float32), new(found).to_numpy())


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine, load_iris])
@pytest.mark.parametrize("rows", [20, None])
def test_measurements_are_no_pixels(load, rows):
    frame = load(as_frame=True).data.sample(rows or 100, random_state=0)
    assert Columns.fit(frame).scale == "standard"
    assert Columns.fit(pd.DataFrame(rng().uniform(size=(100, 20)))).scale == "standard"


def pixels(columns, bright, top):
    """Whole numbers up to ``top`` in the first ``bright`` columns and up to ``top // 2`` in the others."""
    x = rng().integers(0, top // 2, (50, columns), endpoint=True)
    x[0, :bright] = top
    x[0, bright:] = top // 2
    x[1] = 0
    return pd.DataFrame(x)


@pytest.mark.parametrize(
    ("columns", "bright", "top", "scale"),
    [
        (18, 6, 255, "global"),
        (18, 5, 255, "standard"),
        (16, 16, 255, "global"),
        (15, 15, 255, "standard"),
        (16, 16, 65_535, "global"),
        (16, 16, 65_536, "standard"),
    ],
)
def test_what_makes_pixels(columns, bright, top, scale):
    assert Columns.fit(pixels(columns, bright, top)).scale == scale


@pytest.mark.parametrize("load", [load_digits, load_breast_cancer, load_wine, load_iris])
def test_real_tables_come_back_to_the_last_bit(load):
    frame = load(as_frame=True).frame
    columns, back = round_trip(frame)
    pd.testing.assert_frame_equal(back, frame, check_exact=True)
    if load is load_digits:
        assert [name for name, kind in columns.kinds.items() if kind == "constant"] == [
            "pixel_0_0",
            "pixel_4_0",
            "pixel_4_7",
        ]
        found = new(columns, 100)
        assert (found.max() <= frame.max()).all()
        assert np.array_equal(found, np.rint(found))


# Skew


def test_bend_is_the_transform_of_yeo_and_johnson():
    x = np.exp(2 * normal(300))[:, None]
    bend = Bend.fit(x, np.array([True]), np.zeros(1))
    size = np.median(x)
    np.testing.assert_allclose(bend.forward(x)[:, 0], yeojohnson(x[:, 0] / size, bend.power[0]), rtol=1e-12)
    np.testing.assert_allclose(bend.backward(bend.forward(x)), x, rtol=1e-12)
    assert abs(skew(bend.forward(x)[:, 0])) < skew(x[:, 0]) / 2
    left = {power: abs(skew(yeojohnson(x[:, 0] / size, power))) for power in (0.5, 0.0, -0.5, -1.0)}
    assert bend.power[0] == min(left, key=left.get)


@pytest.mark.parametrize(
    "values",
    [
        normal(200),
        -np.exp(normal(200)),
        1 - np.exp(normal(200)),
        np.arange(1.0, 13) ** 4.2,
        np.repeat(np.arange(9.0), 2 ** np.arange(9)[::-1]),
        np.concatenate([100 + rng().uniform(size=90), 200 + rng().uniform(size=10)]),
        rng().uniform(size=200) ** -10,
    ],
    ids=["symmetric", "negative", "both signs", "few rows", "few values", "two heaps", "too wide to come back"],
)
def test_what_is_not_bent(values):
    """The skewness of the last four exceeds 1."""
    columns = fit(a=values)
    assert len(columns.bend.which) == 0
    assert_same(columns.decode(columns.encode(fit_frame(values)), KEY), fit_frame(values))


def fit_frame(values):
    return pd.DataFrame({"z": normal(len(values), 99), "a": values})


def test_skewed_integers_come_back_and_transform_can_be_turned_off():
    frame = pd.DataFrame({"income": np.rint(np.exp(9 + 1.5 * normal(200))).astype(np.int64)})
    columns, back = round_trip(frame)
    assert columns.bend.which.tolist() == [0]
    pd.testing.assert_frame_equal(back, frame)
    plain = Columns.fit(frame, transform=False)
    assert len(plain.bend.which) == 0
    np.testing.assert_allclose(plain.encode(frame), StandardScaler().fit_transform(frame), rtol=1e-9)
    outside = columns.encode(pd.DataFrame({"income": [-5, 0, 10**9]}))
    assert np.isfinite(outside).all()
    assert (np.diff(outside[:, 0]) > 0).all()


# Missing values


def test_missing_values_are_filled_in_as_scikit_learn_does():
    frame = pd.DataFrame(rng().normal(size=(30, 4))).mask(rng(1).random((30, 4)) < 0.2)
    columns = Columns.fit(frame)
    raw = (frame - frame.mean()) / frame.std(ddof=0)
    np.testing.assert_allclose(columns.encode(frame), KNNImputer().fit_transform(raw), rtol=1e-9, atol=1e-12)
    held_out = pd.DataFrame([[np.nan, 0.5, np.nan, 1]])
    wanted = KNNImputer().fit(raw).transform(((held_out - frame.mean()) / frame.std(ddof=0)).to_numpy())
    np.testing.assert_allclose(columns.encode(held_out), wanted, rtol=1e-9)


def test_patterns_are_those_of_rows_of_the_same_class():
    """Class 0 misses a and b together or nothing, class 1 always c, class 2 nothing."""
    n = 60
    group = np.arange(n) % 3
    frame = pd.DataFrame(rng().normal(size=(n, 3)), columns=list("abc"))
    frame.loc[(group == 0) & (np.arange(n) < 15), ["a", "b"]] = np.nan
    frame.loc[group == 1, "c"] = np.nan
    columns = Columns.fit(frame, group=group)
    asked = np.repeat([0, 1, 2], 2000)
    missing = columns.decode(np.zeros((6000, 3)), KEY, asked).isna().to_numpy()
    assert (missing[:2000, 0] == missing[:2000, 1]).all()
    assert not missing[:2000, 2].any()
    assert missing[:2000, 0].mean() == pytest.approx(5 / 20, abs=4 * np.sqrt(0.25 * 0.75 / 2000))
    assert (missing[2000:4000] == [False, False, True]).all()
    assert not missing[4000:].any()
    everyone = columns.decode(np.zeros((6000, 3)), KEY).isna().to_numpy()
    assert everyone[:, 2].mean() == pytest.approx(1 / 3, abs=4 * np.sqrt(2 / 9 / 6000))


def test_the_same_key_draws_the_same_patterns():
    frame = kinds_frame()
    columns = Columns.fit(frame)
    pd.testing.assert_frame_equal(new(columns), new(columns))
    assert not (new(columns, key=Key.of(6)).isna().to_numpy() == new(columns).isna().to_numpy()).all()


def test_missing_entries_are_written_as_they_were():
    frame = pd.DataFrame({"o": ["u", None, "v"], "f": [1.5, np.nan, 2.25], "k": pd.array([1, pd.NA, 4], dtype="Int64")})
    frame["o"] = pd.Series(["u", None, "v"], dtype=object)
    frame["one"] = pd.Series([None, "x", "x"], dtype=object)
    _, back = round_trip(frame)
    assert back["o"].tolist() == ["u", None, "v"]
    assert back["one"].tolist() == [None, "x", "x"]
    assert back["k"].tolist() == [1, pd.NA, 4]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_dates_around_the_end_of_summer_time(unit, zone):
    when = pd.Series(pd.date_range("2024-10-26 23:30", periods=8, freq="30min", tz=zone)).dt.as_unit(unit)
    frame = pd.DataFrame({"when": when, "gap": when.mask(np.arange(8) == 3), "level": when.mask(np.arange(8) == 2)})
    columns, back = round_trip(frame, categorical=["level"])
    assert list(columns.kinds.values()) == ["date", "date", "categorical"]
    pd.testing.assert_frame_equal(back, frame)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", ["standard", "global", "none"])
@pytest.mark.parametrize(
    "values", [[1e-310, 2e-310, 5e-310], [1.3e-200, 2.77e-200, 1e200], [1e300, -1e300, 3.3e299], [-0.0, 1.5, 2.5]]
)
def test_extreme_numbers(values, scale):
    frame = pd.DataFrame({"a": values})
    _, back = round_trip(frame, scale=scale)
    np.testing.assert_allclose(back["a"], values, rtol=1e-9, atol=1e-9 * np.ptp(np.asarray(values) / 2))


# Degenerate tables


def test_duplicates_and_constants_take_no_part():
    frame = pd.DataFrame(
        {"a": normal(), "b": "x", "c": normal(), "d": ["u", "v"] * 30, "e": ["u", "v"] * 30, "f": ["v", "u"] * 30}
    )
    columns, back = round_trip(frame)
    assert columns.names == ["a", "d=u", "d=v", "f=u", "f=v"]
    assert [columns.kinds[name] for name in "bce"] == ["constant", "duplicate", "duplicate"]
    assert_same(back, frame)
    found = new(columns)
    assert (found["c"] == found["a"]).all()
    assert (found["e"] == found["d"]).all()


def test_columns_that_are_equal_but_for_type_or_form_are_no_duplicates():
    day = pd.date_range("2024", periods=9)
    frame = pd.DataFrame(
        {
            "k": range(9),
            "f": np.arange(9.0),
            "day": day,
            "later": day + pd.Timedelta("1D"),
            "iso": day.strftime("%Y-%m-%d"),
        }
    )
    columns, back = round_trip(frame)
    assert "duplicate" not in columns.kinds.values()
    assert_same(back, frame)


def test_duplicated_rows_change_nothing_but_weights():
    frame = pd.DataFrame({"a": normal(10), "k": np.arange(10)})
    columns, back = round_trip(pd.concat([frame] * 3, ignore_index=True))
    assert columns.kinds == {"a": "numeric", "k": "integer"}
    assert_same(back, pd.concat([frame] * 3, ignore_index=True))
    assert len(set(new(columns)["a"])) > 100  # no snapping to the ten values


@pytest.mark.parametrize("rows", [1, 4])
def test_a_table_without_variation_has_no_coordinates(rows):
    frame = pd.DataFrame({"a": [1.5] * rows, "b": ["x"] * rows, "c": [None] * rows})
    columns, back = round_trip(frame)
    assert columns.width == 0
    pd.testing.assert_frame_equal(back, frame)
    assert len(columns.decode(np.empty((7, 0)), KEY)) == 7


def test_no_rows_in_and_out():
    frame = kinds_frame()
    columns = Columns.fit(frame)
    found = columns.decode(columns.encode(frame.iloc[:0]), KEY)
    assert len(found) == 0
    assert found.dtypes.tolist() == frame.dtypes.tolist()


# Any table


def some_column(n):
    def listed(entries):
        return st.lists(entries, min_size=n, max_size=n)

    return st.one_of(
        listed(st.floats(-1e6, 1e6)).map(lambda x: pd.Series(x, dtype=float)),
        listed(st.floats(0, 1e9, width=32)).map(lambda x: pd.Series(x, dtype=np.float32)),
        listed(st.integers(-(2**49), 2**49)).map(lambda x: pd.Series(x, dtype=np.int64)),
        listed(st.integers(0, 255)).map(lambda x: pd.Series(x, dtype=np.uint8)),
        listed(st.one_of(st.none(), st.integers(-5, 5))).map(lambda x: pd.Series(x, dtype="Int64")),
        listed(st.one_of(st.just(np.nan), st.integers(-50, 50).map(lambda i: i / 20))).map(
            lambda x: pd.Series(x, dtype=float)
        ),
        listed(st.booleans()).map(lambda x: pd.Series(x, dtype=bool)),
        listed(st.sampled_from(["u", "v", "w", None])).map(lambda x: pd.Series(x, dtype=object)),
        listed(st.sampled_from(["u", "v", "w"])).map(lambda x: pd.Series(x, dtype="category")),
        listed(st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1))).map(
            lambda x: pd.Series(x, dtype="datetime64[ns]").dt.floor("min")
        ),
        listed(st.dates()).map(lambda x: pd.Series([day.isoformat() for day in x], dtype=object)),
    )


@st.composite
def frames(draw):
    n = draw(st.integers(1, 12))
    return pd.DataFrame(dict(enumerate(draw(st.lists(some_column(n), min_size=1, max_size=5)))))


@given(frames(), st.sampled_from(["auto", "global", "none"]))
@settings(deadline=None, max_examples=60)
def test_any_table_comes_back(frame, scale):
    columns, back = round_trip(frame, scale=scale)
    assert_same(back, frame)
    assert len(columns.names) == columns.width
    if columns.scale == "standard" and columns.width:
        assert np.ptp(columns.reference, axis=0).max(where=~np.isnan(columns.reference).any(0), initial=0) < 10.001
    found = new(columns, 30)
    assert found.dtypes.tolist() == frame.dtypes.tolist()
    again = columns.decode(columns.encode(found), KEY, missing=found.isna().to_numpy())
    assert_same(again, found)


# Bad input


@pytest.mark.parametrize(
    ("frame", "settings", "says"),
    [
        ({"a": [1.0, np.inf]}, {}, ["the table, column 'a', row 1", "inf is not finite"]),
        (
            {"a": pd.Series([1.0, -np.inf], index=["u", "v"])},
            {"name": "data.csv"},
            ["data.csv, column 'a', row 'v'", "-inf"],
        ),
        ({"a": [1, 2**53 + 1 << 1]}, {}, ["'a', row 1", "beyond 2^53"]),
        ({"a": pd.Series([1, 2**60, None], dtype="Int64")}, {}, ["'a', row 1", "beyond 2^53"]),
        ({"a": pd.Series([1, 2**60], dtype=object)}, {}, ["'a', row 1", "beyond 2^53"]),
        ({"a": [1e308, -1e308]}, {}, ["column 'a'", "too large"]),
        (
            {"id": [f"user {i}" for i in range(21)]},
            {},
            ["'id'", "21 different texts in 21 rows", "drop", "categorical"],
        ),
        ({"a": [1 + 2j, 3]}, {}, ["'a'", "complex"]),
        ({"a": pd.to_timedelta([1, 2], "s")}, {}, ["'a'", "timedelta"]),
        ({"a": pd.arrays.SparseArray([0.0, 1])}, {}, ["'a'", "Sparse", "dense"]),
        ({"a": [[1], [2]]}, {}, ["'a'", "single values"]),
        ({"a": [1, 2]}, {"scale": "big"}, ["'big'", "auto, standard"]),
        ({"a": [1, 2]}, {"categorical": ["b"]}, ["'b'", "declared"]),
        ({"a": [1, 2]}, {"categorical": "a"}, ["list"]),
        ({"a": [1, 2]}, {"group": np.zeros(3)}, ["(2,)", "(3,)"]),
        ({"a": []}, {}, ["0 rows"]),
        (pd.DataFrame(index=range(3)), {}, ["0 columns"]),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, ["'a'", "more than once"]),
    ],
)
def test_refusals_of_fit(frame, settings, says):
    message = refusal(frame, **settings)
    for part in says:
        assert part in message


def test_twenty_levels_and_declared_identifiers_are_welcome():
    assert Columns.fit(pd.DataFrame({"id": [f"user {i}" for i in range(20)]})).width == 20
    assert Columns.fit(pd.DataFrame({"id": [f"user {i}" for i in range(30)]}), categorical=["id"]).width == 30
    assert Columns.fit(pd.DataFrame({"id": [f"user {i % 21}" for i in range(42)]})).width == 21


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": "purple"}, ["'text', row 0", "'purple'", "training"]),
        ({"int8": "word"}, ["'int8', row 0", "'word' is not a number"]),
        ({"float": np.inf}, ["'float', row 0", "inf"]),
        ({"float": 1e308}, ["'float'", "outside"]),
        ({"iso": "28.02.2024"}, ["'iso', row 0", "%Y-%m-%d"]),
        ({"day": 5}, ["'day'", "dates"]),
        ({"day": pd.Timestamp("2024-01-01", tz="UTC")}, ["'day'", "without a time zone"]),
        ({"other": 1}, ["no column 'other'"]),
        ({"bool": "red"}, ["'bool', row 0", "'red'"]),
    ],
)
def test_refusals_of_encode(change, says):
    frame = kinds_frame()
    columns = Columns.fit(frame)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        columns.encode(frame.iloc[:3].assign(**change))
    for part in says:
        assert part in str(caught.value)


def test_columns_in_another_order_and_too_few():
    frame = kinds_frame()
    columns = Columns.fit(frame)
    assert np.array_equal(columns.encode(frame[frame.columns[::-1]]), columns.encode(frame))
    with pytest.raises(ValueError, match="'float'"):
        columns.encode(frame.drop(columns="float"))


@pytest.mark.parametrize(
    ("values", "settings", "says"),
    [
        (np.zeros((3, 3)), {}, r"\(rows, 2\), not \(3, 3\)"),
        (np.array([[0, 0], [np.nan, 0]]), {}, "not finite in row 1"),
        (np.zeros((3, 2)), {"group": np.zeros(2)}, r"\(3,\)"),
        (np.zeros((3, 2)), {"group": np.full(3, 9)}, "class 9"),
        (np.zeros((3, 2)), {"missing": np.zeros((3, 1))}, r"\(3, 2\)"),
    ],
)
def test_refusals_of_decode(values, settings, says):
    columns = Columns.fit(pd.DataFrame({"a": normal(9), "b": normal(9, 1)}), group=np.arange(9) % 3)
    with pytest.raises(ValueError, match=says):
        columns.decode(values, KEY, **settings)


def test_a_group_asked_for_but_never_given():
    with pytest.raises(ValueError, match="without group"):
        Columns.fit(pd.DataFrame({"a": normal(9)})).decode(np.zeros((1, 1)), KEY, np.zeros(1))


# Files


def test_a_csv_with_every_kind_of_column(tmp_path):
    frame = kinds_frame().drop(columns=["mixed", "zone", "utc", "nothing", ("a", 1)])
    frame.to_csv(tmp_path / "in.csv", index=False)
    given, header = read_frame(tmp_path / "in.csv")
    assert header
    columns, back = round_trip(given)
    copies = dict.fromkeys(("iso", "date", "numbers"), "duplicate")  # once they are text
    decimals = dict.fromkeys(("single", "half", "Float32"), "grid")  # written with few digits
    wanted = KINDS | copies | decimals
    assert columns.kinds == {str(name): wanted[name] for name in frame.columns}
    assert_same(back, given)
    back.to_csv(tmp_path / "out.csv", index=False)
    again, _ = read_frame(tmp_path / "out.csv")
    assert_same(again, given)
    made = new(columns)
    made.to_csv(tmp_path / "new.csv", index=False)
    read, _ = read_frame(tmp_path / "new.csv")
    assert read.dtypes.tolist() == given.dtypes.tolist()
    assert set(read["text"]) == {"red", "green", "blue"}
    assert read["day"].equals(made["day"])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_read_frame_takes_text_dates_and_gaps(tmp_path, separator):
    rows = [["a", "b", "c"], ["x", "2024-01-05", "1"], ["y", "", "2.5"], ["", "2024-02-01", ""]]
    path = tmp_path / "data.csv"
    path.write_text("\ufeff" + "".join(separator.join(row) + "\r\n" for row in rows), encoding="utf-8")
    frame, header = read_frame(path)
    assert header
    assert list(frame.columns) == ["a", "b", "c"]
    assert frame.isna().to_numpy().tolist() == [[False] * 3, [False, True, False], [True, False, True]]
    assert frame["c"].tolist()[:2] == [1, 2.5]
    headless, header = read_frame(path, False)
    assert not header
    assert list(headless.columns) == ["x0", "x1", "x2"]
    assert len(headless) == 4


def test_read_frame_of_arrays(tmp_path):
    x = np.array([[1.5, np.nan], [3, 4]])
    np.savez(tmp_path / "data.npz", x=x, y=np.array(["u", "v"]))
    frame, header = read_frame(tmp_path / "data.npz", label="y")
    assert header
    assert frame.columns.tolist() == ["x0", "x1", "y"]
    assert frame["y"].tolist() == ["u", "v"]
    assert np.array_equal(frame[["x0", "x1"]], x, equal_nan=True)
    assert read_frame(tmp_path / "data.npz")[0].columns.tolist() == ["x0", "x1"]
    np.save(tmp_path / "data.npy", x.astype(np.float32))
    assert read_frame(tmp_path / "data.npy")[0].dtypes.tolist() == [np.float32] * 2


def test_read_frame_of_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    frame = kinds_frame().drop(columns=["mixed", "half", ("a", 1), 8])
    frame.to_parquet(tmp_path / "data.parquet")
    found, header = read_frame(tmp_path / "data.parquet")
    assert header
    columns, back = round_trip(found)
    assert {name: kind for name, kind in columns.kinds.items() if KINDS[name] != kind} == {}
    assert_same(back, found)


def test_read_frame_refuses_as_read_table_does(tmp_path):
    (tmp_path / "data.csv").write_text("a,b\n1,2\n3,4\n")
    for read in (read_frame, read_table):
        with pytest.raises(ValueError, match=r"no column 'c' for the labels; it has 'a', 'b'"):
            read(tmp_path / "data.csv", label="c")
        with pytest.raises(FileNotFoundError, match="no such file"):
            read(tmp_path / "nothing.csv")


# Labels


@pytest.mark.parametrize(
    ("entries", "continuous"),
    [
        ([0.5, 1.0, 2.0], True),
        ([0.0, 1.0, 1e300], False),  # whole, if large
        (list(range(20)), False),
        (list(range(21)), True),  # more than 20, and more than half of the entries
        (list(range(21)) * 2, False),  # half of them, not more
        ([*list(range(21)) * 2][:-1], True),
        (list(range(CLASSES)) * 3, False),
        (list(range(CLASSES + 1)) * 3, True),
        ([True, False, True], False),
        (["1.5", "2.5"], False),
        (pd.array([1, 2, None], dtype="Int64"), False),
        ([1.0, np.nan, 2.0], False),
        ([1.5, np.nan], True),
        (pd.Categorical([1.5, 2.5]), False),
    ],
)
def test_which_labels_are_values(entries, continuous):
    assert is_continuous(pd.Series(entries)) is continuous


def test_codes_with_leading_zeros_stay_as_they_are_written(tmp_path):
    (tmp_path / "a.csv").write_text("zip,share,n\n00123,10.05,1\n12345,0.5,0\n,00.25,2\n")
    frame, _ = read_frame(tmp_path / "a.csv")
    assert frame["zip"].tolist()[:2] == ["00123", "12345"]
    assert frame["zip"].isna().tolist() == [False, False, True]
    assert frame["share"].tolist() == [10.05, 0.5, 0.25]
    assert frame["n"].tolist() == [1, 0, 2]
    (tmp_path / "b.csv").write_text("zip,share,n\n12345,1,2\n")
    other, _ = read_frame(tmp_path / "b.csv", text=["zip"])
    assert other["zip"].tolist() == ["12345"]
    assert read_table(tmp_path / "b.csv", least=1).values.tolist() == [[12345, 1, 2]]


def test_integers_beyond_64_bits_are_refused():
    frame = pd.DataFrame({"a": pd.Series([2**64 + i for i in range(5)], dtype=object), "b": range(5)})
    with pytest.raises(ValueError, match=r"column 'a'.*18446744073709551616 is beyond 2\^53"):
        Columns.fit(frame)
