"""What users hand over: clouds, frames and arrays that are refused in a sentence, and those that are taken and stay what they were."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from particles.cli import main

import particles as pt
from particles.quality.evaluate import evaluate

X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.double)
A, B = pt.Cloud(X), pt.Cloud(X[:6] * 2)
HEIGHTS = pd.DataFrame(np.random.default_rng(0).normal([170.0, 70.0], 5.0, (20, 2)), columns=["height", "weight"])
MEASURES = {
    "w2": pt.w2,
    "sinkhorn": pt.sinkhorn,
    "energy": pt.energy_distance,
    "ratio": pt.nearest_ratio,
    "summary": lambda a, b: pt.summarise(a, b, None, pt.Key.of(0)),
}


def flow(target, potential=None):
    return pt.GradientFlow(pt.mmd(pt.Gaussian(1.0)) if potential is None else potential, target)


def cloud(**changes):
    return pt.Cloud(**{"x": X, **changes})


# Clouds


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"weight": torch.ones(8).double()}, "the weights of the (source|target) must be positive and sum to one"),
        ({"weight": torch.tensor([-0.5, 1.5] + [0.0] * 6).double()}, "not be from -0.5 and sum to 1;"),
        ({"weight": torch.tensor([0.5, 0.5] + [0.0] * 6).double()}, "not be from 0 and sum to 1; leave out points without mass"),
        ({"weight": torch.full((8,), 1 / 8)}, "must be torch.float64 as its points are, not torch.float32"),
        ({"weight": torch.full((8,), math.nan).double()}, "must be positive and sum to one"),
        ({"x": X.clone().index_fill_(0, torch.tensor([1, 4]), math.nan)}, "2 of the 8 points of the (source|target) are not finite"),
        ({"x": X[:, :0]}, "the points of the (source|target) have no coordinates"),
        ({"label": torch.zeros(8)}, "the labels of the (source|target) must be integers from 0 up"),
        ({"label": torch.full((8,), -1)}, "the labels of the (source|target) must be integers from 0 up"),
    ],
)  # fmt: skip
def test_numbers_of_clouds(bad, says):
    with pytest.raises(ValueError, match=says):
        flow(cloud(**bad))
    with pytest.raises(ValueError, match=says):
        pt.Evolve(flow(B), pt.Euler(), cloud(**bad), step_size=0.1)


@pytest.mark.parametrize("name", MEASURES)
def test_measures_take_probability_measures_of_one_dimension(name):
    with pytest.raises(ValueError, match="the weights of the cloud must be positive and sum to one"):
        MEASURES[name](cloud(weight=torch.ones(8).double()), B)
    with pytest.raises(ValueError, match="the clouds have dimensions 2 and 1; they must be the same"):
        MEASURES[name](A, pt.Cloud(X[:, :1]))


@pytest.mark.parametrize("name", MEASURES)
def test_carried_points_count_in_no_measure(name):
    assert MEASURES[name](cloud(carried=2), B) == MEASURES[name](pt.Cloud(X[:6]), B)
    weight = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.15, 0.1]).double()
    weighted = cloud(weight=weight, carried=2)
    assert MEASURES[name](weighted, B) == MEASURES[name](pt.Cloud(X[:6], weight=weight), B)
    assert torch.equal(weighted.mass, weight)
    torch.testing.assert_close(cloud(carried=2).mass, torch.full((6,), 1 / 6).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_clouds_are_in_single_or_double_precision(dtype):
    with pytest.raises(ValueError, match=r"points of shape \(n, d\) in float32 or float64, not torch"):
        pt.Cloud(torch.ones(3, 2, dtype=dtype))
    with pytest.raises(ValueError, match="its points as a tensor"):
        pt.Cloud(np.ones((3, 2)))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (pt.Cloud(X[:, :1]), "the same dimension, not 1 and 2"),
        (pt.Cloud(X.float()), "the same dtype, not torch.float32 and torch.float64"),
        (cloud(label=torch.zeros(8, dtype=torch.long)), "the same classes, not True and False"),
    ],
)
@pytest.mark.parametrize("around", [lambda flow: flow, lambda flow: pt.PersistentPotential(flow, 2)])
def test_source_and_target_are_of_one_kind(source, says, around):
    with pytest.raises(ValueError, match=f"source and target must have {says}"):
        pt.Evolve(around(flow(B)), pt.Euler(), source, step_size=0.1)


def test_no_graph_grows_along_a_run():
    source, target = pt.Cloud(X.clone().requires_grad_()), pt.Cloud(B.x.clone().requires_grad_())
    end = pt.simulate(pt.Evolve(flow(target), pt.heun(), source, step_size=0.1), 5)
    assert not end.cloud.x.requires_grad
    plain = pt.simulate(pt.Evolve(flow(B), pt.heun(), A, step_size=0.1), 5)
    assert torch.equal(end.cloud.x, plain.cloud.x)


def test_settings_of_runs():
    with pytest.raises(ValueError, match=r"key must be a Key, such as Key.of\(0\), not 0"):
        pt.Evolve(flow(B), pt.Euler(), A, step_size=0.1, key=0)
    for every in (0, -1, 1.5):
        with pytest.raises(ValueError, match="log_every must be a whole number from 1 up"):
            pt.Memory(every)


def test_sinkhorn_of_clouds_at_one_point():
    same = pt.Cloud(torch.ones(4, 2)), pt.Cloud(torch.ones(3, 2))
    assert pt.sinkhorn(*same) == pt.w2(*same) == 0
    for blur in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="blur must be a positive length"):
            pt.sinkhorn(A, B, blur)


# Tables


def fitted(X, y=None, **settings):
    return pt.ParticleAugmenter(**{"random_state": 0, "method": "gaussian", **settings}).fit(X, y)


def test_new_rows_are_those_of_the_frame_as_it_was():
    expected = fitted(HEIGHTS.copy()).sample(30)
    frame = HEIGHTS.copy()
    sampler = fitted(frame)
    frame.columns = ["weight", "height"]
    frame["prediction"] = 1
    frame["weight"] = frame["weight"].astype(int)
    pd.testing.assert_frame_equal(sampler.sample(30), expected)
    classes = pd.Series([0, 1] * 10, name="sex")
    sampler = fitted(HEIGHTS, classes)
    classes.name = "renamed"
    assert sampler.sample(5)[1].name == "sex"


def test_integers_that_double_precision_has_not():
    frame = HEIGHTS.assign(id=2**53 + 1)
    for large in (
        frame,
        frame.astype({"id": "Int64"}),
        frame.assign(id=[-(2**53) - 1] + [5] * 19),
        frame.astype({"id": "uint64"}),
    ):
        with pytest.raises(ValueError, match="is beyond 2\\^53 and would lose digits"):
            fitted(large)
    assert (fitted(frame.assign(id=2**53)).sample(3)["id"] == 2**53).all()


def test_numbers_with_fractions_are_values_whatever_holds_them():
    values = np.random.default_rng(1).normal(size=20)
    for y in (values, pd.Series(values, dtype=object), pd.Series(values, dtype=object).to_numpy()):
        x, new = pt.ParticleAugmenter(random_state=0, method="gaussian").fit_resample(HEIGHTS, y)
        assert len(x) == len(new) == 40


@pytest.mark.parametrize("copies", [1, 2, 7, 10])
@pytest.mark.parametrize("start", ["gaussian", "kde", "mixed", "normal"])
def test_two_rows_however_often(copies, start):
    """The shrinkage of Ledoit and Wolf may be less than 0 by rounding."""
    frame = pd.DataFrame({"t": ["a", "b"] * copies, "v": [1.5, 2.5] * copies})
    x = pt.ParticleAugmenter(30, random_state=0, start=start, stop=0).fit_resample(frame)
    assert len(x) == 30
    assert x["v"].between(1.5, 2.5).all()
    assert set(x["t"]) <= {"a", "b"}


def test_an_index_with_a_gap():
    frame = HEIGHTS.set_index(pd.Index([*range(19), pd.NA], dtype="Int64", name="id"))
    x = pt.ParticleAugmenter(random_state=0, method="gaussian").fit_resample(frame)
    assert len(x) == 40
    pd.testing.assert_frame_equal(x.iloc[:20].reset_index(drop=True), HEIGHTS)
    assert x.index.is_unique


def test_no_measure_touches_the_global_generator():
    rows = HEIGHTS.assign(y=["u", "v"] * 10, z=range(20))
    for label in ("y", "height"):
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        evaluate(rows, rows, rows, label=label, key=pt.Key.of(0))
        assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"marginals": "False"}, "marginals must be True or False, not 'False'"),
        ({"marginals": None}, "marginals must be True or False, not None"),
        ({"sampling_strategy": math.inf}, "the ratio: it must be above"),
        ({"sampling_strategy": math.nan}, "the ratio: it must be above"),
    ],
)
def test_settings_of_augmentation(settings, says):
    with pytest.raises(ValueError, match=says):
        pt.ParticleAugmenter(**settings).fit_resample(HEIGHTS, [0] * 8 + [1] * 12)


@pytest.mark.parametrize("dtype", ["f2", ">f4", ">f8", "g", ">i4"])
def test_arrays_of_any_type_of_number(tmp_path, monkeypatch, dtype):
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    rows = np.c_[draws.integers(0, 3, 24), draws.normal(size=24) * 9].astype(dtype)
    x = pt.ParticleAugmenter(40, random_state=0, method="kde", categorical=[0]).fit_resample(rows)
    assert x.dtype == rows.dtype.newbyteorder("=")
    assert np.array_equal(x[:24], rows)
    assert set(x[:, 0]) <= {0, 1, 2}
    np.save("rows.npy", rows)
    np.savez(
        "classes.npz",
        x=rows,
        y=(np.arange(24) % 3 == 0).astype(dtype),
        t=np.array([b"a", b"b"])[(np.arange(24) < 9) * 1],
    )
    for words in (
        ["rows.npy", "--categorical", "x0"],
        ["classes.npz", "--label", "y"],
        ["classes.npz", "--label", "t"],
    ):
        found = CliRunner().invoke(main, ["augment", *words, "-o", "out.csv", "--method", "kde", "--overwrite", "-q"])
        assert found.exit_code == 0, (found.output, found.exception)
    assert set(pd.read_csv("out.csv")["t"]) == {"a", "b"}
