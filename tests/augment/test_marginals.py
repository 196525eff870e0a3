"""The distribution of each coordinate by itself: what maps keep, what they give, and when there are none."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.datasets import load_digits

from particles.augment.estimator import ParticleAugmenter
from particles.augment.marginals import FEW, PLENTY, Marginals
from particles.keys import Key

KEY = Key.of(0)


def normal(n, d, name="points"):
    return KEY.fold(name, n, d).numpy().normal(size=(n, d))


def skewed(n, d, name="rows"):
    """Entries that are all different."""
    return np.exp(normal(n, d, name))


def tied(n, d, name="rows"):
    """Entries with a third of zeros at the lower end, and others that repeat."""
    return np.rint(2 * normal(n, d, name)).clip(-1) + 1


def zero_inflated(n, zeros, among):
    """So many zeros, and other entries that are all different: above them, or on both sides."""
    others = skewed(n - zeros, 1, "others")[:, 0]
    if among == "both sides":
        others = np.where(np.arange(n - zeros) % 2, others, -others)
    return KEY.numpy().permutation(np.r_[np.zeros(zeros), others])[:, None]


def quantiles(x, levels):
    return np.quantile(x, levels, axis=0, method="hazen")


@pytest.mark.parametrize("make", [skewed, tied])
@pytest.mark.parametrize(("m", "n"), [(200, 60), (40, 60), (60, 60), (500, 51)])
def test_maps_are_monotone(make, m, n):
    points = normal(m, 3)
    maps = Marginals.fit(points, make(n, 3))
    x = np.sort(np.concatenate((points, 3 * normal(300, 3, "elsewhere"))), axis=0)
    steps = np.diff(maps(x), axis=0)
    assert (steps >= -1e-12).all()
    if make is skewed:
        assert (steps > 0).all()


@pytest.mark.parametrize(("m", "n"), [(200, 60), (40, 60), (60, 60), (500, 51)])
def test_quantiles_of_the_points_become_those_of_the_rows(m, n):
    points, count = normal(m, 2), min(m, n)
    middles = (np.arange(count) + 0.5) / count
    rows = tied(n, 2)
    maps = Marginals.fit(points, rows)
    np.testing.assert_allclose(maps(quantiles(points, middles)), quantiles(rows, middles), rtol=1e-12, atol=1e-12)
    between = np.arange(1, count) / count
    rows = skewed(n, 2)
    maps = Marginals.fit(points, rows)
    np.testing.assert_allclose(maps(quantiles(points, between)), quantiles(rows, between), rtol=1e-12, atol=1e-12)
    if count == n:  # midway between neighbours
        ordered = np.sort(rows, axis=0)
        np.testing.assert_allclose(quantiles(rows, between), (ordered[1:] + ordered[:-1]) / 2, rtol=1e-12)


@pytest.mark.parametrize("times", [1, 3, 7])
def test_mapped_points_have_the_quantiles_of_tied_rows(times):
    """With an odd multiple of as many points, quantiles are points; with as many, the entries are those of the rows."""
    rows, points = tied(60, 3), normal(60 * times, 3)
    mapped = Marginals.fit(points, rows)(points)
    found = quantiles(mapped, (np.arange(60) + 0.5) / 60)
    np.testing.assert_allclose(found, np.sort(rows, axis=0), rtol=1e-10, atol=1e-10)


def test_mapped_points_have_the_distribution_of_untied_rows():
    """Quantiles of a piecewise linear function of points are off by no more than it rises from one point to the next."""
    rows, points = skewed(80, 2), normal(4_000, 2)
    mapped, levels = Marginals.fit(points, rows)(points), np.arange(1, 80) / 80
    off = np.abs(quantiles(mapped, levels) - quantiles(rows, levels))
    rise = np.diff(np.sort(mapped, axis=0), axis=0)[np.rint(levels * 4_000 - 1).astype(int)]
    assert (off <= rise).all()
    assert np.median(off / quantiles(rows, levels)) < 0.01


@pytest.mark.parametrize("among", ["below", "both sides"])
@pytest.mark.parametrize(("n", "zeros"), [(20, 9), (50, 5), (200, 160), (30, 2)])
def test_an_atom_keeps_its_share(n, zeros, among):
    points = normal(5_000, 1)
    mapped = Marginals.fit(points, zero_inflated(n, zeros, among))(points)
    if among == "below":
        mapped = mapped.clip(0)  # as the range of a column does
    assert abs((mapped == 0).mean() - zeros / n) <= 1 / n + 2 / 5_000  # exactly 0, whatever stands beside it
    assert abs((mapped <= 0).mean() - (zero_inflated(n, zeros, among) <= 0).mean()) <= 1 / n + 2 / 5_000


@pytest.mark.parametrize("m", [61, 120, 200, 1_000])
def test_no_entry_of_rows_without_ties_is_repeated(m):
    rows, points = skewed(60, 4), normal(m, 4)
    mapped = Marginals.fit(points, rows)(points)
    assert not np.isin(mapped, rows).any()
    assert mapped.shape == (m, 4)


@pytest.mark.parametrize("n", [FEW, 20, PLENTY - 1, PLENTY])
def test_untied_columns_of_small_classes_are_left_alone(n):
    """Tied ones beside them are not."""
    rows, points = np.concatenate((skewed(n, 2), tied(n, 1)), 1), normal(150, 3)
    mapped = Marginals.fit(points, rows)(np.concatenate((points, 5 * points)))
    alone = np.allclose(mapped[:, :2], np.concatenate((points, 5 * points))[:, :2], rtol=1e-10, atol=1e-10)
    assert alone == (n < PLENTY)
    share = (mapped[:150, 2] <= 0).mean()
    assert share == pytest.approx((rows[:, 2] == 0).mean(), abs=1 / n + 2 / 150)


def test_too_few_rows_or_points_have_no_maps():
    points = normal(100, 2)
    for different, found in ((FEW - 1, False), (FEW, True)):
        rows = np.repeat(tied(200, 2) + 0.01 * normal(200, 2, "noise"), 1, axis=0)[:different]
        assert (Marginals.fit(points, np.repeat(rows, 10, axis=0)) is not None) == found
    assert Marginals.fit(points[: FEW - 1], skewed(60, 2)) is None
    assert Marginals.fit(points[:FEW], skewed(60, 2)) is not None


def test_missing_entries_do_not_count():
    points, rows = normal(300, 3), skewed(90, 3)
    rows[::3, 0] = np.nan  # 60 are left
    rows[FEW - 1 :, 1] = np.nan  # too few are
    maps = Marginals.fit(points, rows)
    mapped, known = maps(points), rows[~np.isnan(rows[:, 0]), 0]
    assert np.isfinite(mapped).all()
    levels = (np.arange(90) + 0.5) / 90
    knots = np.stack([quantiles(points[:, j], levels) for j in range(3)], 1)
    np.testing.assert_allclose(maps(knots)[:, 0], quantiles(known, levels), rtol=1e-12)
    assert maps.slope[0] == pytest.approx(known.std() / points[:, 0].std(), rel=1e-12)
    np.testing.assert_allclose(mapped[:, 1], points[:, 1], rtol=1e-12, atol=1e-12)
    by_itself = Marginals.fit(points[:, 2:], rows[:, 2:])(points[:, 2:])[:, 0]
    np.testing.assert_allclose(mapped[:, 2], by_itself, rtol=1e-12, atol=1e-12)


def test_the_copula_of_the_points_stays():
    points = normal(300, 4) @ normal(4, 4, "mixing")
    mapped = Marginals.fit(points, skewed(100, 4))(points)
    before, after = spearmanr(points).statistic, spearmanr(mapped).statistic
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12)
    assert np.abs(before - np.eye(4)).max() > 0.3
    assert np.abs(np.corrcoef(mapped.T) - np.corrcoef(points.T)).max() > 0.02  # which linear correlation does not


@pytest.mark.parametrize("make", [skewed, tied])
def test_tails_go_on_with_the_ratio_of_the_deviations(make):
    points, rows = normal(200, 2), 3 * make(70, 2)
    maps = Marginals.fit(points, rows)
    np.testing.assert_allclose(maps.slope, rows.std(0) / points.std(0), rtol=1e-12)
    first, last = maps.points[0], maps.points[-1]
    far = np.stack((first - 7, first, last, last + 5))
    low, at_low, at_high, high = maps(far)
    np.testing.assert_allclose(at_low - low, 7 * rows.std(0) / points.std(0), rtol=1e-12)
    np.testing.assert_allclose(high - at_high, 5 * rows.std(0) / points.std(0), rtol=1e-12)


def test_constant_columns():
    """A constant column of the rows makes its points constant; constant points stay finite, within the rows."""
    rows, points = skewed(60, 3), normal(100, 3)
    rows[:, 0], points[:, 1], rows[:, 2], points[:, 2] = 4.0, -2.0, 4.0, -2.0
    mapped = Marginals.fit(points, rows)(points)
    assert (mapped[:, 0] == 4).all()
    assert len(np.unique(mapped[:, 1])) == 1
    assert rows[:, 1].min() <= mapped[0, 1] <= rows[:, 1].max()
    assert (mapped[:, 2] == 4).all()


def test_pixels_of_new_digits_are_black_as_often_as_in_the_training_rows():
    """Of 200 new rows from 100; a Gaussian by itself has half of its mass below the mean, where most pixels are 0."""
    x, y = load_digits(return_X_y=True)
    x = x[y == 3][:100]
    shares = {}
    for marginals in (True, False):
        augmenter = ParticleAugmenter(300, method="gaussian", marginals=marginals, random_state=0)
        new = augmenter.fit_resample(x)[100:]
        assert new.shape == (200, 64)
        shares[marginals] = (new == 0).mean(0)
    expected = (x == 0).mean(0)
    error = np.sqrt(expected * (1 - expected) / 200)
    assert (np.abs(shares[True] - expected) <= 3 * error + 2 / 100).all()
    missed = np.abs(shares[False] - expected) > 3 * error + 2 / 100
    assert missed.sum() > 10
