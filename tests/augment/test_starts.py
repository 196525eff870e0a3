"""The laws that particles start from: their covariance, their bandwidth, and what they make of very few rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist
from sklearn.covariance import LedoitWolf

from particles.augment.starts import STARTS, TINY, Mixture, Spread, Start, best_bandwidth, fit_start, neighbour_distance
from particles.keys import Key

KEY = Key.of(0)


def sample(n, d, name="rows"):
    """Correlated rows of unequal scales, with a mean."""
    generator = KEY.fold(name, n, d).numpy()
    mixing = generator.normal(size=(d, d)) * np.geomspace(1, 3, d)
    return generator.normal(size=(n, d)) @ mixing / np.sqrt(d) + np.arange(d)


def covariance(spread):
    return spread.factor.T @ spread.factor + spread.floor**2 * np.eye(spread.factor.shape[1])


def expected_covariance(start):
    """Of draws that use every row equally often: that of the pulled rows, and that of the noise; of a mixture the mean."""
    if isinstance(start, Mixture):  # its parts have one mean
        return (expected_covariance(start.first) + expected_covariance(start.second)) / 2
    pull = 1 - start.bandwidth**2 if start.shrinks else 1
    return pull * np.cov(start.rows.T, bias=True) + start.bandwidth**2 * covariance(start.spread)


def assert_moments(draws, mean, cov):
    """Within five standard errors: those of normal draws, which are the largest of the mixtures here."""
    n, scale = len(draws), np.sqrt(np.diag(cov))
    assert np.abs((draws.mean(0) - mean) / scale).max() < 5 / np.sqrt(n)
    error = (np.cov(draws.T, bias=True) - cov) / np.outer(scale, scale)
    assert np.abs(error).max() < 5 * np.sqrt(2 / n)


@pytest.mark.parametrize(("n", "d"), [(5, 3), (40, 4), (200, 2), (8, 30), (2, 5), (12, 1)])
def test_spread_is_that_of_ledoit_and_wolf(n, d):
    x = sample(n, d)
    centred = x - x.mean(0)
    theirs = LedoitWolf().fit(x).covariance_
    np.testing.assert_allclose(covariance(Spread.fit(centred)), theirs, rtol=1e-10, atol=1e-12)
    unbiased = covariance(Spread.fit(centred, n - 1))
    np.testing.assert_allclose(unbiased, theirs * n / (n - 1), rtol=1e-10, atol=1e-12)
    assert np.trace(unbiased) == pytest.approx(x.var(0, ddof=1).sum())  # shrinking leaves the trace alone


@pytest.mark.parametrize("n", [6, 50])
def test_noise_has_the_covariance(n):
    """Fed with the unit vectors in the place of normal draws it answers the root whose square is the covariance."""

    class Units:
        def __init__(self, total):
            self.total, self.used = total, 0

        def standard_normal(self, shape):
            columns = np.eye(self.total)[:, self.used : self.used + shape[1]]
            self.used += shape[1]
            return columns

    x = sample(n, 9)
    spread = Spread.fit(x - x.mean(0))
    root = spread.noise(n + 9, Units(n + 9))
    np.testing.assert_allclose(root.T @ root, covariance(spread), rtol=1e-12, atol=1e-12)
    assert_moments(spread.noise(40_000, KEY.numpy()), np.zeros(9), covariance(spread))


def test_whitened_distances_are_those_of_mahalanobis():
    x = sample(60, 5)
    spread = Spread.fit(x - x.mean(0), 59)
    z = spread.whiten(x)
    assert z.shape == (60, 5)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-12)
    inverse = np.linalg.inv(covariance(spread))
    np.testing.assert_allclose(cdist(z, z), cdist(x, x, "mahalanobis", VI=inverse), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(7, 30), (3, 784)])
def test_whitened_distances_with_fewer_rows_than_columns(n, d):
    """Rows differ in n - 1 directions only; there the distances are those of the full inverse."""
    x = sample(n, d)
    spread = Spread.fit(x - x.mean(0), n - 1)
    z = spread.whiten(x)
    assert z.shape == (n, n - 1)
    apart = x[:, None] - x[None]
    exact = np.einsum(
        "ijd,ijd->ij", apart, np.linalg.solve(covariance(spread), apart.reshape(-1, d).T).T.reshape(apart.shape)
    )
    np.testing.assert_allclose(cdist(z, z, "sqeuclidean"), exact, rtol=1e-7, atol=1e-7)


def test_pooled_rows_add_their_directions():
    own, other = sample(4, 30), sample(20, 30, "other")
    spread = Spread.fit(np.concatenate((own - own.mean(0), other - other.mean(0))), 22)
    z = spread.whiten(own)
    assert z.shape == (4, 3 + 19)
    inverse = np.linalg.inv(covariance(spread))
    np.testing.assert_allclose(cdist(z, z), cdist(own, own, "mahalanobis", VI=inverse), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("bandwidth", [0.0, 0.3, 0.8, 1.0])
def test_moments_of_draws_are_those_of_total_covariance(bandwidth):
    x = sample(40, 3)
    start = Start(x, Spread.fit(x - x.mean(0)), bandwidth)
    draws = start.draw(40_000, KEY)
    assert_moments(draws, x.mean(0), expected_covariance(start))
    # The noise has the trace of the rows, so that the total variance does not depend on the bandwidth.
    assert np.trace(expected_covariance(start)) == pytest.approx(x.var(0).sum())
    assert draws.var(0).sum() == pytest.approx(x.var(0).sum(), rel=0.03)


@pytest.mark.parametrize("name", STARTS)
def test_moments_of_fitted_starts(name):
    x = sample(30, 3)
    start = fit_start(name, x)
    assert_moments(start.draw(60_000, KEY), x.mean(0), expected_covariance(start))
    if name in ("gaussian", "kde", "normal"):  # from the variance of the rows, at h = 0, to its unbiased estimate
        h, total = start.bandwidth, x.var(0).sum()
        assert np.trace(expected_covariance(start)) == pytest.approx(total * (1 - h**2 + h**2 * 30 / 29))


def test_what_each_start_is():
    x = sample(50, 4)
    theirs = LedoitWolf().fit(x).covariance_ * 50 / 49
    gaussian, kde, bootstrap, normal = (fit_start(name, x) for name in ("gaussian", "kde", "bootstrap", "normal"))
    assert gaussian.bandwidth == normal.bandwidth == 1
    assert 0 < kde.bandwidth < 1
    np.testing.assert_allclose(covariance(gaussian.spread), theirs, rtol=1e-10)
    np.testing.assert_allclose(covariance(kde.spread), theirs, rtol=1e-10)
    np.testing.assert_allclose(covariance(normal.spread), np.eye(4) * x.var(0, ddof=1).mean(), rtol=1e-10, atol=1e-12)
    apart = cdist(x, x)
    np.fill_diagonal(apart, np.inf)
    length = np.median(apart.min(1))
    assert neighbour_distance(x) == pytest.approx(length)
    # Noise on a row, without a pull to the mean, whose squared length is that of the median distance in the mean.
    assert not bootstrap.shrinks
    np.testing.assert_allclose(covariance(bootstrap.spread), np.eye(4) * length**2 / 4, rtol=1e-10, atol=1e-12)
    mixed = fit_start("mixed", x)  # half of the bootstrap, half of the Gaussian
    assert isinstance(mixed, Mixture)
    for part, whole in ((mixed.first, bootstrap), (mixed.second, gaussian)):
        assert (part.bandwidth, part.shrinks) == (whole.bandwidth, whole.shrinks)
        np.testing.assert_array_equal(part.rows, x)
        np.testing.assert_array_equal(covariance(part.spread), covariance(whole.spread))
    np.testing.assert_array_equal(mixed.rows, x)


@pytest.mark.parametrize("count", [0, 1, 2, 41, 400])
def test_a_mixture_has_equal_parts_in_random_order(count):
    """With parts that lie apart it can be seen where a draw came from."""
    tight = Spread(np.zeros((1, 2)), 1e-3)
    draws = Mixture(Start(np.zeros((3, 2)), tight, 1.0), Start(np.full((3, 2), 9.0), tight, 1.0)).draw(count, KEY)
    assert draws.shape == (count, 2)
    second = draws[:, 0] > 4
    assert second.sum() == count // 2
    np.testing.assert_allclose(draws, np.where(second, 9.0, 0.0)[:, None] * np.ones(2), atol=0.01)
    if count == 400:  # the number of runs of a random order, within five standard errors
        runs = 1 + (second[1:] != second[:-1]).sum()
        assert abs(runs - 201) < 5 * np.sqrt(200 * 199 / 399)


def test_parts_of_a_mixture_share_no_noise():
    """The same law twice: as many different draws, uncorrelated."""
    part = Start(np.zeros((1, 1)), Spread(np.zeros((1, 1)), 1.0), 1.0)
    draws = Mixture(part, part).draw(2_000, KEY)
    assert len(np.unique(draws)) == 2_000


@given(n=st.integers(1, 30), count=st.integers(0, 100), seed=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_bandwidth_0_is_balanced_copying(n, count, seed):
    x = np.arange(3.0 * n).reshape(n, 3)
    draws = Start(x, Spread(np.ones((2, 3)), 1.0), 0.0).draw(count, Key.of(seed))
    assert draws.shape == (count, 3)
    np.testing.assert_allclose(draws, draws.round(), atol=1e-9)
    assert set(draws.round()[:, 0]) <= set(x[:, 0])
    used = np.array([(draws.round()[:, 0] == row[0]).sum() for row in x])
    assert set(used) <= {count // n, -(-count // n)}


def test_rows_are_used_equally_often_at_any_bandwidth():
    """With far-apart rows and little noise it can be seen which row a draw came from."""
    x = 1e3 * np.arange(7.0)[:, None] * np.ones(2)
    draws = Start(x, Spread(np.zeros((1, 2)), 1.0), 0.1).draw(7 * 11 + 3, KEY)
    pulled = x.mean(0) + np.sqrt(0.99) * (x - x.mean(0))
    used = np.bincount(cdist(draws, pulled).argmin(1), minlength=7)
    assert sorted(used) == [11] * 4 + [12] * 3
    noise = draws - pulled[cdist(draws, pulled).argmin(1)]
    assert noise.std() == pytest.approx(0.1, rel=0.25)  # 160 numbers: five standard errors are 0.28


def test_bandwidth_1_is_normal_wherever_the_rows_are():
    """Draws know the rows by mean and covariance alone."""
    x = sample(20, 3)
    start = fit_start("gaussian", x)
    mirrored = Start(2 * x.mean(0) - x, start.spread, 1.0)
    np.testing.assert_allclose(start.draw(50, KEY), mirrored.draw(50, KEY), rtol=1e-12, atol=1e-10)
    z = np.linalg.solve(np.linalg.cholesky(covariance(start.spread)), (start.draw(20_000, KEY) - x.mean(0)).T)
    # Moments of the normal law, with their standard errors sqrt(15 / n) and sqrt(96 / n).
    assert np.abs((z**3).mean(1)).max() < 5 * np.sqrt(15 / 20_000)
    assert np.abs((z**4).mean(1) - 3).max() < 5 * np.sqrt(96 / 20_000)


def likelihood(x, cov, h):
    """The mean log density of a row under the smoothed bootstrap of all others, one pair after the other."""
    mean, inverse, found = x.mean(0), np.linalg.inv(h**2 * cov), []
    constant = np.sqrt(np.linalg.det(2 * np.pi * h**2 * cov))
    for i in range(len(x)):
        density = 0.0
        for j in range(len(x)):
            if i != j:
                off = x[i] - mean - np.sqrt(1 - h**2) * (x[j] - mean)
                density += np.exp(-off @ inverse @ off / 2) / constant / (len(x) - 1)
        found.append(np.log(density))
    return np.mean(found)


def two_clusters(n):
    side = np.where(np.arange(n) % 2, 3.0, -3.0)
    return KEY.fold("clusters", n).numpy().normal(size=(n, 2)) * 0.5 + side[:, None]


@pytest.mark.parametrize(("x", "least", "most"), [(two_clusters(20), 0.05, 0.4), (sample(12, 2), 0.1, 1.0)])
def test_bandwidth_is_that_of_the_largest_leave_one_out_likelihood(x, least, most):
    spread = fit_start("kde", x).spread
    tried = np.geomspace(0.05, 1, 40)
    best = tried[np.argmax([likelihood(x, covariance(spread), h) for h in tried])]
    assert best_bandwidth(x, spread) == pytest.approx(best, rel=1e-12)
    assert least < best <= most


def test_likelihood_with_fewer_rows_than_columns_is_that_within_their_span():
    """Appended columns that do not vary, turned with all others, change nothing but where the span lies."""
    x = two_clusters(12)
    spread = Spread.fit(x - x.mean(0), 11)
    turn = np.linalg.qr(KEY.fold("turn").numpy().normal(size=(40, 40)))[0]
    embedded = np.concatenate((x, np.zeros((12, 38))), 1) @ turn
    within = Spread(np.concatenate((spread.factor, np.zeros((len(spread.factor), 38))), 1) @ turn, spread.floor)
    assert best_bandwidth(embedded, within) == best_bandwidth(x, spread)
    np.testing.assert_allclose(pdist(within.whiten(embedded)), pdist(spread.whiten(x)), rtol=1e-9)


def test_a_draw_takes_no_more_numbers_than_there_are_columns():
    """Of however many rows: their number is no matter of memory."""
    assert Spread.fit(sample(500, 3)).factor.shape == (3, 3)
    assert Spread.fit(sample(3, 500)).factor.shape == (3, 500)


def test_duplicates_do_not_shrink_the_bandwidth():
    x = sample(24, 2)
    spread = fit_start("kde", x).spread
    assert best_bandwidth(np.repeat(x, 3, 0), spread) == best_bandwidth(x, spread)
    assert neighbour_distance(np.repeat(x, 3, 0)) == neighbour_distance(x) > 0
    assert fit_start("kde", np.repeat(x, 2, 0)).bandwidth >= 0.8 * fit_start("kde", x).bandwidth
    # Two distinct rows say nothing about a bandwidth, however often they are repeated.
    assert best_bandwidth(np.repeat(x[:2], 5, 0), spread) == 1


def test_tiny_classes_take_the_covariance_of_all_about_their_own_means():
    own, first, second = sample(TINY - 1, 4), sample(20, 4, "first") + 100, sample(30, 4, "second") - 70
    pooled = np.concatenate([group - group.mean(0) for group in (own, first, second)])
    theirs = LedoitWolf(assume_centered=True).fit(pooled).covariance_ * len(pooled) / (len(pooled) - 3)
    start = fit_start("gaussian", own, [first, second])
    np.testing.assert_allclose(covariance(start.spread), theirs, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(start.rows, own)
    assert_moments(start.draw(20_000, KEY), own.mean(0), theirs)
    # One row more, and a class stands for itself; repeated rows do not make it larger.
    enough = sample(TINY, 4)
    alone = LedoitWolf().fit(enough).covariance_ * TINY / (TINY - 1)
    np.testing.assert_allclose(covariance(fit_start("gaussian", enough, [first]).spread), alone, rtol=1e-10)
    assert not np.allclose(covariance(fit_start("gaussian", np.repeat(own, 2, 0), [first]).spread), alone)


def test_a_single_row_takes_its_spread_from_others():
    others = [sample(20, 3, "other"), sample(1, 3, "single")]
    theirs = LedoitWolf().fit(others[0]).covariance_ * 20 / 19
    for row in (np.full((1, 3), 50.0), np.full((4, 3), 50.0)):  # a row that repeats is a single one
        for name in ("gaussian", "kde"):
            start = fit_start(name, row, others)
            assert start.bandwidth == 1
            np.testing.assert_allclose(covariance(start.spread), theirs, rtol=1e-10, atol=1e-12)
            assert_moments(start.draw(20_000, KEY), row[0], theirs)
        round_noise = fit_start("normal", row, others)
        np.testing.assert_allclose(covariance(round_noise.spread), np.eye(3) * np.trace(theirs) / 3, rtol=1e-10)
        jitter = fit_start("bootstrap", row, others)
        np.testing.assert_allclose(
            covariance(jitter.spread), np.eye(3) * neighbour_distance(others[0]) ** 2 / 3, rtol=1e-9
        )
        mixed = fit_start("mixed", row, others)
        expected = (covariance(jitter.spread) + theirs) / 2
        assert_moments(mixed.draw(20_000, KEY), row[0], expected)


@pytest.mark.parametrize("name", STARTS)
def test_one_row_alone_is_refused(name):
    for rows, others in [((1, 3), None), ((5, 3), []), ((1, 3), [np.ones((1, 3)), np.ones((6, 3))])]:
        with pytest.raises(ValueError, match="at least two different rows"):
            fit_start(name, np.zeros(rows), others)


def test_unknown_start_is_refused():
    with pytest.raises(ValueError, match="start 'smote' is not one of gaussian, kde, bootstrap, mixed, normal"):
        fit_start("smote", sample(9, 2))


@pytest.mark.parametrize("name", STARTS)
def test_ten_images(name):
    """Few rows in many dimensions: noise reaches all of them, and no matrix of d by d is needed."""
    x = sample(10, 784)
    start = fit_start(name, x)
    for part in (start.first, start.second) if isinstance(start, Mixture) else (start,):
        assert part.spread.factor.shape in ((10, 784), (1, 784))
    draws = start.draw(2_000, KEY)
    assert np.isfinite(draws).all()
    assert np.linalg.matrix_rank(draws[:800] - draws[:800].mean(0)) == 784
    # Each of 784 directions counts: the total variance of 2,000 draws is known within a percent or so.
    assert draws.var(0).sum() == pytest.approx(np.trace(expected_covariance(start)), rel=0.05)


@pytest.mark.parametrize("name", STARTS)
def test_the_key_decides_the_draws(name):
    start = fit_start(name, sample(12, 3))
    np.testing.assert_array_equal(start.draw(30, KEY), fit_start(name, sample(12, 3)).draw(30, Key.of(0)))
    assert not (start.draw(30, KEY) == start.draw(30, KEY.fold("other"))).any()


@pytest.mark.parametrize("bandwidth", [0.05, 0.4, 0.97, 1.0])
@pytest.mark.parametrize("shrinks", [True, False])
def test_wider_laws_go_up_to_the_gaussian_or_to_twice_the_noise(bandwidth, shrinks):
    start = Start(sample(9, 2), Spread(np.eye(2), 0.0), bandwidth, shrinks)
    laws = list(start.wider)
    found = np.array([law.bandwidth for law in laws])
    assert found[0] == bandwidth  # the law itself comes first
    assert found[-1] == (1.0 if shrinks else 2 * bandwidth)
    assert (np.diff(found) >= 0).all()  # never narrower, and in small steps
    assert (np.diff(found) <= (0.05 if shrinks else 0.1) + 1e-12).all()
    for law in laws:
        assert law.rows is start.rows
        assert law.spread is start.spread
        assert law.shrinks == shrinks


def test_a_wider_mixture_has_a_wider_first_part():
    mixed = fit_start("mixed", sample(9, 2))
    laws = list(mixed.wider)
    assert [law.bandwidth for law in laws] == [law.bandwidth for law in mixed.first.wider]
    assert [law.first.bandwidth for law in laws] == [law.bandwidth for law in laws]
    assert laws[-1].bandwidth == 2 * mixed.bandwidth == 2
    assert all(law.second is mixed.second for law in laws)
