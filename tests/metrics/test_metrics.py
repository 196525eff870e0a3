"""Metrics against closed forms."""

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import cloud, normal
from scipy.stats import wasserstein_distance

from particles import Cloud, Key, energy_distance, nearest_ratio, sinkhorn, summarise, w2
from particles.metrics import memorisation


def test_w2_of_a_translation_is_its_length():
    c = cloud(50, 3, "c")
    moved = c.at(c.x + torch.tensor([2.0, -1.0, 2.0], dtype=c.x.dtype))
    assert w2(c, moved) == pytest.approx(3, rel=1e-12)
    assert w2(c, c) == pytest.approx(0, abs=1e-7)


def test_w2_in_one_dimension_is_sorting():
    x, y = normal(40, 1, "x"), 3 * normal(40, 1, "y") + 1
    exact = float((x.sort(0).values - y.sort(0).values).square().mean().sqrt())
    assert w2(Cloud(x), Cloud(y)) == pytest.approx(exact, rel=1e-12)


def test_w2_of_weights_and_unequal_sizes():
    """A Dirac at 0 against masses at distances 1 and 3: W2² = Σ w r²."""
    a = Cloud(torch.zeros(1, 2))
    b = Cloud(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), weight=torch.tensor([0.25, 0.75]))
    assert w2(a, b) == pytest.approx(math.sqrt(0.25 + 0.75 * 9), rel=1e-6)


def test_w2_far_from_the_origin():
    """Squared distances by differences of squares would lose everything at an offset of 1e8."""
    c = cloud(20, 2, "c")
    assert w2(c.at(c.x + 1e8), c.at(c.x + 1e8 + 1)) == pytest.approx(math.sqrt(2), rel=1e-6)


def test_sinkhorn_tends_to_half_the_squared_w2():
    a, b = cloud(40, 2, "a"), Cloud(normal(40, 2, "b") + 2)
    assert sinkhorn(a, b, blur=0.01) == pytest.approx(w2(a, b) ** 2 / 2, rel=0.01)
    assert sinkhorn(a, a) == pytest.approx(0, abs=1e-6)
    moved = a.at(a.x + 3)
    assert sinkhorn(a, moved, blur=0.5) == pytest.approx(9, rel=1e-3)  # debiased: exact for translations, any blur


def test_energy_distance():
    x, y = normal(30, 1, "x"), normal(50, 1, "y") + 1
    # In one dimension it is twice the squared L² distance of the distribution functions (Székely & Rizzo)
    points = torch.cat((x, y)).sort(0).values[:, 0]
    cdf = [(z[:, 0][None] <= points[:-1, None]).double().mean(1) for z in (x, y)]
    exact = 2 * float(((cdf[0] - cdf[1]).square() * points.diff()).sum())
    assert energy_distance(Cloud(x), Cloud(y)) == pytest.approx(exact, rel=1e-10)
    assert energy_distance(Cloud(x), Cloud(x)) == pytest.approx(0, abs=1e-12)
    dirac = [Cloud(torch.tensor([[value]])) for value in (0.0, 5.0)]
    assert energy_distance(*dirac) == pytest.approx(10)


@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 10), seed=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_distances_scale_and_bound_each_other(shift, scale, seed):
    x, y = (torch.from_numpy(Key.of(seed).fold(name).numpy().normal(size=(15, 1))) for name in "xy")
    a, b = Cloud(x), Cloud(y + shift)
    assert w2(a.at(scale * a.x), b.at(scale * b.x)) == pytest.approx(scale * w2(a, b), rel=1e-9)
    w1 = wasserstein_distance(a.x[:, 0], b.x[:, 0])
    assert w1 <= w2(a, b) * (1 + 1e-9)
    assert energy_distance(a, b) <= 2 * w1 * (1 + 1e-9)


def test_nearest_neighbours_in_many_columns_are_those_of_a_tree(monkeypatch):
    """Far from the origin, with copies and points that repeat; in several parts."""
    y = normal(400, 30, "y") + 1e3
    y[50:60] = y[:10]
    a, b = Cloud(torch.cat((y[:20], y[30:90] + 1e-3))), Cloud(y)
    products = memorisation._neighbours(a, b, 2, pairs=400 * 7)
    monkeypatch.setattr(memorisation, "TREE", 99)
    torch.testing.assert_close(products, memorisation._neighbours(a, b, 2), rtol=1e-12, atol=0)
    assert products[:20, 0].eq(0).all()
    assert products[:10].eq(0).all()


def test_nearest_ratio():
    training, holdout = cloud(300, 2, "t"), cloud(300, 2, "h")
    assert nearest_ratio(training, training, holdout) == 0
    assert nearest_ratio(holdout, training, holdout) == 1
    assert nearest_ratio(training.at(training.x + 1e-3), training, holdout) < 0.05
    assert nearest_ratio(cloud(300, 2, "fresh"), training, holdout) == pytest.approx(1, abs=0.25)
    grid = Cloud(torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)))  # each one at distance 1 from the next
    assert nearest_ratio(grid.at(grid.x + 0.25), grid) == pytest.approx(0.25 * math.sqrt(2))


def test_summary_of_a_copy_and_of_fresh_data():
    training, holdout = cloud(200, 2, "t"), cloud(100, 2, "h")
    copy = summarise(training, training, holdout, Key.of(0))
    assert copy["w2_target"] == pytest.approx(0, abs=1e-7)
    assert copy["w2_holdout"] == copy["w2_floor"]
    assert copy["nearest_ratio"] == 0
    assert set(summarise(training, training, None, Key.of(0))) == {"w2_target", "energy_target", "nearest_ratio"}


def test_dimensions_must_agree():
    for metric in (w2, sinkhorn):
        with pytest.raises(ValueError, match="dimensions 2 and 3"):
            metric(cloud(3, 2, "a"), cloud(3, 3, "b"))


def test_nothing_is_written_to_standard_output(tmp_path):
    """KeOps, which POT and geomloss import, would write to it."""
    code = "import torch, particles as p; c = p.Cloud(torch.eye(3)); p.w2(c, c); p.sinkhorn(c, c)"
    environment = {name: value for name, value in os.environ.items() if "KEOPS" not in name}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == ""


def test_no_ratio_where_most_rows_have_a_copy():
    rounded = Cloud(cloud(300, 1, "r").x.round())
    assert nearest_ratio(cloud(50, 1, "p"), rounded) == math.inf
    assert "nearest_ratio" not in summarise(cloud(50, 1, "p"), rounded, None, Key.of(0))
    assert nearest_ratio(rounded, rounded) == 1


def test_copies_are_seen_in_large_data_too():
    """Distances are measured on subsamples; the ratio looks at every row that could have been copied."""
    training, holdout = cloud(5000, 5, "t"), cloud(500, 5, "h")
    found = summarise(training, training, holdout, Key.of(0), size=300)
    assert found["nearest_ratio"] == 0
    assert found["w2_target"] > 0.3
