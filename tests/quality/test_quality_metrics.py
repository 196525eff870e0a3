"""Metrics of synthetic rows against closed forms and hand-made sets."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from problems import cloud, normal
from scipy.stats import ks_2samp, norm
from sklearn.metrics import balanced_accuracy_score, r2_score

from particles import Cloud, Key, energy_distance, nearest_ratio
from particles.metrics.coverage import expected_coverage, overlap, variance_ratio
from particles.metrics.memorisation import closer_share, copies, distinct, near_copies
from particles.quality.marginals import correlation_difference, marginal_distances, total_variation
from particles.quality.two_sample import auc_interval, two_sample
from particles.quality.utility import _values, _weights, train_synthetic_test_real


def points(*values):
    return Cloud(torch.tensor(values, dtype=torch.float64).reshape(len(values), -1))


def sample(n, d, *name):
    return Cloud(torch.from_numpy(Key.of(0).fold(*name).numpy().normal(size=(n, d))))


def mean_and_error(values):
    return np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))


# Energy distance


def test_unbiased_energy_against_a_double_loop():
    a, b = normal(7, 3, "a"), normal(5, 3, "b") + 1
    cross = np.mean([float((x - y).norm()) for x in a for y in b])
    own = [np.mean([float((x - y).norm()) for i, x in enumerate(z) for j, y in enumerate(z) if i != j]) for z in (a, b)]
    assert energy_distance(Cloud(a), Cloud(b), unbiased=True) == pytest.approx(2 * cross - sum(own), rel=1e-12)


def test_unbiased_energy_of_equal_laws_has_mean_zero_and_the_other_has_not():
    pairs = [(sample(10, 2, "a", s), sample(15, 2, "b", s)) for s in range(300)]
    mean, error = mean_and_error([energy_distance(a, b, unbiased=True) for a, b in pairs])
    assert abs(mean) < 3.5 * error
    biased, _ = mean_and_error([energy_distance(a, b) for a, b in pairs])
    # The bias is E|x - x'| (1/n + 1/m), where |x - x'| / √2 has the Rayleigh mean √(π/2)
    assert biased == pytest.approx(math.sqrt(math.pi) * (1 / 10 + 1 / 15), abs=5 * error)


def test_unbiased_energy_of_two_gaussians():
    """E|z| of N(m, s²) is known, and z = x - y is normal."""

    def expected(m, s):
        return s * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * s**2)) + m * (1 - 2 * norm.cdf(-m / s))

    exact = 2 * expected(1.5, math.sqrt(1 + 4)) - expected(0, math.sqrt(2)) - expected(0, 2 * math.sqrt(2))
    found = [
        energy_distance(sample(40, 1, "a", s), Cloud(2 * sample(40, 1, "b", s).x + 1.5), unbiased=True)
        for s in range(200)
    ]
    mean, error = mean_and_error(found)
    assert mean == pytest.approx(exact, abs=3.5 * error)
    assert error < 0.03 * exact


def test_unbiased_energy_with_weights():
    """By hand: pairs of different points, weighted."""
    a, b = points(0, 1, 3), points(2, 2.5)
    weight = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    weighted = Cloud(a.x, weight=weight)
    own = (0.2 * 0.3 * 1 + 0.2 * 0.5 * 3 + 0.3 * 0.5 * 2) / (0.2 * 0.3 + 0.2 * 0.5 + 0.3 * 0.5)
    cross = 0.2 * 2.25 + 0.3 * 1.25 + 0.5 * 0.75
    assert energy_distance(weighted, b, unbiased=True) == pytest.approx(2 * cross - own - 0.5, rel=1e-12)
    equal = Cloud(a.x, weight=torch.full((3,), 1 / 3, dtype=torch.float64))
    assert energy_distance(equal, b, unbiased=True) == pytest.approx(energy_distance(a, b, unbiased=True), rel=1e-12)


def test_unbiased_energy_needs_two_points():
    with pytest.raises(ValueError, match="at least 2 points in each cloud, not 1 and 3"):
        energy_distance(points(0), points(0, 1, 2), unbiased=True)


# Precision, recall, density, coverage


def test_overlap_on_a_line():
    """Real points 0, 1, 2 and 10 have balls of radius 1, 1, 1 and 8 (k = 1); those of 0.5, 1.5 and 20: 1, 1 and 18.5."""
    found = overlap(points(0.5, 1.5, 20), points(0, 1, 2, 10), k=1)
    assert found.precision == pytest.approx(2 / 3)
    assert found.density == pytest.approx((2 + 2 + 0) / 3)
    assert found.coverage == pytest.approx(3 / 4)  # nothing between 2 and 18
    assert found.recall == pytest.approx(4 / 4)  # 0, 1, 2 by the near ones, 10 by the ball of 20


def test_overlap_of_copies_and_of_what_is_elsewhere():
    real = cloud(30, 3, "real")
    same = overlap(real, real)
    assert (same.recall, same.precision, same.coverage) == (1, 1, 1)
    assert same.density >= 1
    away = overlap(real.at(real.x + 1000), real)
    assert (away.recall, away.precision, away.density, away.coverage) == (0, 0, 0, 0)
    centre = overlap(real.at(real.x * 1e-3), real)
    assert centre.precision == 1
    assert centre.density > 1
    assert centre.recall == 0


def test_density_and_coverage_of_equal_laws():
    """Whatever the law, density has mean 1, and coverage 1 - Π (N - i) / (M + N - i)."""
    found = [overlap(sample(20, 2, "s", s), sample(12, 2, "r", s), k=3) for s in range(200)]
    mean, error = mean_and_error([one.coverage for one in found])
    assert mean == pytest.approx(1 - (11 * 10 * 9) / (31 * 30 * 29), abs=3.5 * error)
    assert expected_coverage(20, 12, k=3) == pytest.approx(1 - (11 * 10 * 9) / (31 * 30 * 29), rel=1e-12)
    mean, error = mean_and_error([one.density for one in found])
    assert mean == pytest.approx(1, abs=3.5 * error)


def test_overlap_needs_more_than_k_points():
    with pytest.raises(ValueError, match="more than k points in each cloud, not 5 and 9"):
        overlap(cloud(5, 2, "a"), cloud(9, 2, "b"))
    overlap(cloud(6, 2, "a"), cloud(6, 2, "b"))
    with pytest.raises(ValueError, match="dimensions 2 and 3"):
        overlap(cloud(9, 2, "a"), cloud(9, 3, "b"))


# Copying


def test_closer_share():
    training, holdout, key = cloud(100, 3, "t"), cloud(140, 3, "h"), Key.of(0)
    assert closer_share(training, training, holdout, key) > 0.99
    assert closer_share(training, training, training, key) == 0.5  # all ties
    fresh = closer_share(cloud(1000, 3, "fresh"), training, holdout, key)
    assert fresh == pytest.approx(0.5, abs=0.12)  # the sets themselves are random: their cells differ
    assert closer_share(points(0, 1, 5), points(0, 1), points(1, 6), key) == pytest.approx((1 + 0.5 + 0) / 3)


def test_closer_share_looks_at_equally_many():
    """Of 400 training and 20 held-out points of one law, one that is closer is a training point 20 times in 21."""
    shares = [
        closer_share(sample(50, 2, "s", s), sample(400, 2, "t", s), sample(20, 2, "h", s), Key.of(s)) for s in range(40)
    ]
    mean, error = mean_and_error(shares)
    assert mean == pytest.approx(0.5, abs=3.5 * error)
    assert error < 0.05


def test_copies():
    training = cloud(20, 3, "t")
    mixed = torch.cat((training.x[:3], normal(7, 3, "new"), training.x[:1].nextafter(training.x[1:2])))
    assert copies(Cloud(mixed), training) == pytest.approx(3 / 11)
    assert near_copies(Cloud(mixed), training) == pytest.approx(4 / 11)
    assert copies(points(-0.0), points(0.0, 1.0)) == 1


def test_near_copies_by_hand():
    """Training points 1 apart, each of them many times: near is closer than 0.05."""
    training = points(*([0.0] * 9 + [1.0] * 9 + [2.0] * 9))
    assert near_copies(points(0.04, 1.96, 0.06, 0.5), training) == 0.5
    assert near_copies(points(0.04, 1.96, 0.06, 0.5), training, within=0.2) == 0.75
    assert len(distinct(training)) == 3
    assert nearest_ratio(points(0.5), distinct(training)) == 0.5
    with pytest.raises(ValueError, match="2 distinct training points"):
        near_copies(points(1.0), points(3, 3, 3))


# Spread


def test_variance_ratio():
    a = cloud(50, 3, "a")
    assert variance_ratio(a.at(3 * a.x + 7), a) == pytest.approx(9, rel=1e-9)
    b = cloud(20, 3, "b")
    assert variance_ratio(a, b) == pytest.approx(float(a.x.var(0).sum() / b.x.var(0).sum()), rel=1e-12)
    assert variance_ratio(points(1, 1), a.at(a.x[:, :1])) == 0
    assert variance_ratio(points(1, 2), points(3, 3)) == math.inf
    weighted = Cloud(points(0, 1).x, weight=torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert variance_ratio(weighted, points(0, 1)) == pytest.approx(1, rel=1e-12)
    with pytest.raises(ValueError, match="at least 2 points"):
        variance_ratio(a.take(slice(1)), a)


# The two-sample test


def test_auc_interval():
    """Symmetric, inside [0, 1], no point at AUC 1, and for many points the one of Hanley & McNeil."""
    low, high = auc_interval(0.5, 40, 40)
    assert low == pytest.approx(1 - high, abs=1e-9)
    assert auc_interval(0.8, 30, 20)[0] == pytest.approx(1 - auc_interval(0.2, 30, 20)[1], abs=1e-9)
    low, high = auc_interval(1, 20, 20)
    assert high == 1
    # 1 - low = z² low (1 + 19 (1 - low) / (2 - low) + 19 low / (1 + low)) / 400
    assert 1 - low == pytest.approx(
        1.959964**2 * low * (1 + 19 * (1 - low) / (2 - low) + 19 * low / (1 + low)) / 400, rel=1e-6
    )
    n, auc = 100_000, 0.7
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    error = math.sqrt((auc * (1 - auc) + (n - 1) * (q1 - auc**2 + q2 - auc**2)) / n**2)  # Hanley & McNeil
    assert auc_interval(auc, n, n) == pytest.approx((auc - 1.96 * error, auc + 1.96 * error), abs=2e-5)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_auc_interval_holds_the_true_value(shift):
    """Scores N(0, 1) and N(shift, 1) have the AUC Φ(shift / √2)."""
    true, rng, hit = norm.cdf(shift / math.sqrt(2)), Key.of(0).fold("auc").numpy(), []
    for _ in range(400):
        a, b = rng.normal(size=25), rng.normal(size=25) + shift
        low, high = auc_interval(float((a[:, None] < b[None]).mean()), 25, 25)
        hit.append(low <= true <= high)
    assert 0.92 <= np.mean(hit) <= 0.985


def test_two_sample_of_equal_and_of_different_clouds():
    found = [two_sample(sample(40, 3, "a", s), sample(60, 3, "b", s), Key.of(s), trees=20) for s in range(8)]
    assert np.mean([one.auc for one in found]) == pytest.approx(0.5, abs=0.1)
    assert sum(one.low <= 0.5 <= one.high for one in found) >= 6
    assert {one.size for one in found} == {40}
    apart = two_sample(sample(40, 3, "a"), Cloud(sample(40, 3, "b").x + 20), Key.of(0), trees=20)
    assert apart.auc == 1
    assert apart.high == 1
    assert apart.low > 0.9
    with pytest.raises(ValueError, match="at least 10 points in each cloud, not 9 and 30"):
        two_sample(cloud(9, 2, "a"), cloud(30, 2, "b"), Key.of(0))


def test_two_sample_of_copies_is_below_a_half():
    real = cloud(60, 5, "real")
    assert two_sample(real, real, Key.of(0), trees=30).auc < 0.3


# Columns


def test_marginals_against_scipy_and_by_hand():
    rng = Key.of(0).numpy()
    a = pd.DataFrame({"x": rng.normal(size=40), "c": ["u"] * 10 + ["v"] * 30, "n": [1] * 20 + [2] * 20})
    b = pd.DataFrame({"x": rng.normal(size=30) + 1, "c": ["u"] * 15 + ["w"] * 15, "n": [1.0] * 30})
    found = marginal_distances(a, b, categorical=["n"])
    assert found["x"] == pytest.approx(ks_2samp(a["x"], b["x"]).statistic)
    assert found["c"] == pytest.approx((abs(1 / 4 - 1 / 2) + 3 / 4 + 1 / 2) / 2)
    assert found["n"] == pytest.approx(0.5)
    assert marginal_distances(a, a, ["n"]) == {"x": 0, "c": 0, "n": 0}


def test_marginals_of_missing_values_dates_and_booleans():
    a = pd.DataFrame({"x": [1.0, 2.0, np.nan, np.nan], "c": ["u", None, "u", "u"], "b": [True, True, False, False]})
    b = pd.DataFrame({"x": [1.0, 2.0, 1.0, 2.0], "c": ["u"] * 4, "b": [True] * 4})
    for frame, days in ((a, (0, 1, 2, 3)), (b, (2, 3, 4, 5))):
        frame["d"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(list(days), unit="D")
    assert marginal_distances(a, b) == {"x": 0.5, "c": 0.25, "b": 0.5, "d": 0.5}
    with pytest.raises(ValueError, match="no column 'x'"):
        marginal_distances(a, b.drop(columns="x"))
    with pytest.raises(ValueError, match="need rows"):
        marginal_distances(a, b[:0])


def test_total_variation_of_levels_that_are_equal_numbers():
    assert total_variation(pd.Series([1, 2]), pd.Series([1.0, 2.0])) == 0
    assert total_variation(pd.Series([1, 2]), pd.Series(["1", "2"])) == 1


def test_correlation_difference():
    rng = Key.of(0).numpy()
    x, y = rng.normal(size=50), rng.normal(size=50)
    a = pd.DataFrame({"x": x, "y": x, "z": y, "c": 0.1, "n": "text"})
    b = pd.DataFrame({"x": x, "y": -x, "z": y, "c": y, "n": "text"})
    r = np.corrcoef(x, y)[0, 1]
    assert correlation_difference(a, b) == pytest.approx((2 + 0 + abs(2 * r)) / 3, rel=1e-9)
    assert correlation_difference(a, a) == 0
    assert math.isnan(correlation_difference(a[["x", "c"]], b[["x", "c"]]))


# Utility


def blobs(n, name, shift=0.0):
    rng = Key.of(0).fold(name).numpy()
    y = np.arange(n) % 3
    return rng.normal(size=(n, 2)) + 1.5 * np.eye(3)[y][:, :2] + shift, np.array(["a", "b", "c"])[y]


def test_weighted_values_are_those_of_scikit_learn():
    rng = Key.of(0).numpy()
    y, guess = np.array([0] * 5 + [1] * 15), rng.integers(0, 2, 20)
    found = _values((guess != y)[:, None].astype(float), y, _weights(y, False)[None], False)
    assert found[0, 0] == pytest.approx(balanced_accuracy_score(y, guess))
    target, guess = rng.normal(size=20), rng.normal(size=20)
    found = _values(np.square(guess - target)[:, None], target, _weights(target, True)[None], True)
    assert found[0, 0] == pytest.approx(r2_score(target, guess))


def test_utility_of_classes():
    real, holdout = blobs(24, "real"), blobs(150, "holdout")
    scores = train_synthetic_test_real(real, real, holdout, Key.of(0), replicates=200)
    assert [(one.model, one.trained_on) for one in scores[:3]] == [
        ("logistic regression", "real"),
        ("logistic regression", "synthetic"),
        ("logistic regression", "real + synthetic"),
    ]
    assert [one.model for one in scores[::3]] == ["logistic regression", "RBF SVM", "random forest", "MLP"]
    for one in scores[1::3]:  # the synthetic rows are the real ones
        assert (one.gain, one.low, one.high) == (0, 0, 0)
    rng = Key.of(0).fold("shuffled").numpy()
    wrong = train_synthetic_test_real(real, (real[0], rng.permutation(real[1])), holdout, Key.of(0), replicates=200)
    for one in wrong[1::3]:
        assert one.high < 0, one
        assert one.low <= one.gain <= one.high


def test_the_bootstrap_interval_is_that_of_paired_differences():
    """The gain is a mean over classes of mean paired differences, whose error is known."""
    from sklearn.linear_model import LogisticRegression

    real, synthetic, holdout = blobs(12, "real"), blobs(60, "synthetic", 0.5), blobs(300, "holdout")
    one = train_synthetic_test_real(real, synthetic, holdout, Key.of(0), replicates=4000)[1]
    right = [
        LogisticRegression(max_iter=1000).fit(*rows).predict(holdout[0]) == holdout[1] for rows in (real, synthetic)
    ]
    difference = right[1].astype(float) - right[0]
    assert one.gain == pytest.approx(difference.mean())  # equally large classes
    error = math.sqrt(sum(difference[holdout[1] == c].var() / 100 for c in "abc")) / 3
    assert (one.low, one.high) == pytest.approx((one.gain - 1.96 * error, one.gain + 1.96 * error), abs=0.25 * error)


def test_utility_of_numbers():
    def rows(n, name):
        x = Key.of(0).fold(name).numpy().normal(size=(n, 2))
        return x, 100 + 10 * x[:, 0]

    scores = train_synthetic_test_real(
        rows(60, "real"), rows(60, "new"), rows(80, "test"), Key.of(0), continuous=True, replicates=100
    )
    assert [one.model for one in scores[::3]] == ["ridge regression", "SVR", "random forest"]
    assert all(one.value > 0.99 for one in scores[:3])
    assert all(one.value > 0.8 for one in scores)


def test_utility_without_a_second_class():
    real, holdout = blobs(24, "real"), blobs(30, "holdout")
    alone = (real[0][::3], real[1][::3])
    scores = train_synthetic_test_real(real, alone, holdout, Key.of(0), replicates=50)
    assert [one.value is None for one in scores] == [False, True, False] * 4
    with pytest.raises(ValueError, match="real rows of at least 2 classes"):
        train_synthetic_test_real(alone, real, holdout, Key.of(0))
    with pytest.raises(ValueError, match="at least one of each"):
        train_synthetic_test_real(real, (real[0][:0], real[1][:0]), holdout, Key.of(0))
