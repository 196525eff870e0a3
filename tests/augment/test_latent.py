"""Latent coordinates: variance, bounds and names."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import StandardScaler

from particles import Key
from particles.augment.autoencoder import AutoencoderLatent, ConvAutoencoderLatent
from particles.augment.latent import Latent, PCALatent, Residual, UserLatent, latent

KEY = Key.of(0)


def slow_decay(n, seed, p=200, power=1.0):
    """Normal rows whose variances fall like 1/j along directions that are not the axes."""
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((p, p)))[0]
    scale = np.arange(1, p + 1) ** (-power / 2)
    return (np.random.default_rng([seed, 7]).standard_normal((n, p)) * scale) @ turn


def gaussian_like(z, n, seed):
    return np.random.default_rng([seed, 8]).multivariate_normal(z.mean(0), np.atleast_2d(np.cov(z.T)), n)


def total(x):
    return x.var(0, ddof=1).sum()


def curve(n, seed, d=10):
    rng = np.random.default_rng([seed, 9])
    t = rng.uniform(-1, 1, n)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((d, 4)))[0]
    return np.stack([t, t**2, np.sin(4 * t) / 2, np.cos(3 * t)], 1) @ turn.T + 0.02 * rng.standard_normal((n, d))


def blobs(n, seed):
    """8 × 8 images of one round spot somewhere."""
    rng = np.random.default_rng([seed, 10])
    place = rng.uniform(2, 5, (n, 2, 1, 1))
    y, x = np.mgrid[:8, :8]
    return np.exp(-((y - place[:, 0]) ** 2 + (x - place[:, 1]) ** 2) / 3).reshape(n, 64)


def missed(fitted, x):
    return np.sqrt(np.square(x - fitted.reconstruct(fitted.encode(x))).mean())


@pytest.fixture(scope="module")
def bent():
    return AutoencoderLatent.fit(curve(200, 0), 1, KEY)


@pytest.fixture(scope="module")
def image():
    return ConvAutoencoderLatent.fit(blobs(100, 0), (8, 8), 2, KEY, steps=120)


def test_all_components_are_the_identity():
    x, fresh = slow_decay(60, 0, p=12), slow_decay(9, 1, p=12)
    for components in (12, 1.0):
        fitted = PCALatent.fit(x, components, KEY)
        assert np.abs(fitted.decode(fitted.encode(fresh), KEY) - fresh).max() < 1e-8
        assert fitted.reconstruction < 1e-10


def test_pca_is_that_of_scikit_learn():
    x, fresh = slow_decay(30, 0), slow_decay(5, 1)
    fitted, reference = PCALatent.fit(x, 6, KEY), PCA(6, svd_solver="full").fit(x)
    np.testing.assert_allclose(fitted.encode(fresh), reference.transform(fresh), atol=1e-10)
    np.testing.assert_allclose(
        fitted.reconstruct(fitted.encode(fresh)), reference.inverse_transform(reference.transform(fresh))
    )
    residual = x - reference.inverse_transform(reference.transform(x))
    assert fitted.reconstruction == pytest.approx(np.sqrt(np.square(residual).mean()))
    for share in (0.3, 0.8, 0.95):
        assert PCALatent.fit(x, share, KEY).dimension == PCA(share, svd_solver="full").fit(x).n_components_


@pytest.mark.parametrize("n", [20, 40])
@pytest.mark.parametrize("components", [5, 0.5])
def test_decoded_rows_vary_as_new_rows_do(n, components):
    """A Gaussian fitted in latent space and decoded; without the noise most of the variance is lost."""
    ratios = []
    for seed in range(4):
        x, held_out = slow_decay(n, seed), slow_decay(2000, 100 + seed)
        fitted = PCALatent.fit(x, components, KEY)
        made = gaussian_like(fitted.target, 1000, seed)
        answers = (fitted.decode(made, KEY), fitted.reconstruct(made), fitted.decode(fitted.encode(held_out), KEY))
        ratios.append([total(a) / total(held_out) for a in answers])
    whole, bare, again = np.mean(ratios, 0)
    assert 0.8 <= whole <= 1.2
    assert bare < 0.6
    assert 0.9 <= again <= 1.1


def test_target_varies_along_the_components_as_new_rows_do():
    """Training rows vary there more than twice as much as new rows with n << p; cross-fitted variances do not."""
    ratios = []
    for seed in range(6):
        x, held_out = slow_decay(30, seed, power=0.5), slow_decay(2000, 100 + seed, power=0.5)
        fitted = PCALatent.fit(x, 8, KEY)
        ratios.append([total(z) / total(fitted.encode(held_out)) for z in (fitted.target, fitted.encode(x))])
    target, raw = np.mean(ratios, 0)
    assert target == pytest.approx(1, abs=0.2)
    assert raw > 3


def test_cross_fitted_variances_add_up():
    """Leave-one-out differences from the mean, brought to size, have exactly the unbiased variance in total."""
    x = slow_decay(9, 0, p=30)
    fitted = PCALatent.fit(x, 3, KEY)
    outside = np.square(fitted.gain * fitted.residual.spread).sum()
    outside -= fitted.gain**2 * fitted.residual.within(fitted.components)
    assert fitted.held_out_variance.sum() + outside == pytest.approx(total(x))
    assert (np.diff(fitted.held_out_variance) <= 1e-12).all()


def test_noise_is_orthogonal_to_the_components_and_of_its_size():
    fitted = PCALatent.fit(slow_decay(25, 0), 4, KEY)
    z = np.zeros((4000, 4))
    noise = fitted.decode(z, KEY) - fitted.reconstruct(z)
    assert np.abs(noise @ fitted.components.T).max() < 1e-12
    law = fitted.residual
    expected = fitted.gain**2 * (np.square(law.spread).sum() - law.within(fitted.components))
    assert np.square(noise).sum(1).mean() == pytest.approx(expected, rel=0.02)
    assert np.abs(noise.mean(0)).max() < 5 * np.sqrt(expected / 200 / 4000) * 3


def test_many_columns_and_few_rows():
    """784 columns, 20 rows and as many components as there are: the noise is what is left, on columns that vary alone."""
    x = slow_decay(20, 0, p=784)
    x[:, :100] = 3.0
    fitted = PCALatent.fit(x, 19, KEY)
    rows = fitted.decode(gaussian_like(fitted.target, 300, 0), KEY)
    assert np.abs(rows[:, :100] - 3).max() < 1e-9
    fresh = slow_decay(1000, 5, p=784)[:, 100:]
    assert 0.8 <= total(rows[:, 100:]) / total(fresh) <= 1.2


def test_residuals_have_their_own_variances_and_a_shrunk_correlation():
    rows = slow_decay(50, 0, p=6, power=2.0) * np.array([1, 2, 3, 4, 5, 0])
    law = Residual.fit(rows, total=7.0)
    drawn = law.draw(40000, KEY)
    expected = np.square(rows).mean(0) * 7 / np.square(rows).mean(0).sum()
    np.testing.assert_allclose(np.square(drawn).mean(0), expected, rtol=0.04, atol=1e-15)
    correlation = np.corrcoef(rows[:, :5].T)
    sizes = np.sqrt(np.square(rows).mean(0))
    uncentred = (rows.T @ rows / 50 / np.outer(sizes, sizes + (sizes == 0)).clip(1e-300))[:5, :5]
    assert np.abs(correlation).max() > 0.1
    wanted = (1 - law.shrinkage) * uncentred + law.shrinkage * np.eye(5)
    np.testing.assert_allclose(np.corrcoef(drawn[:, :5].T), wanted, atol=0.03)
    direction = np.eye(6)[:2]
    assert law.within(direction) == pytest.approx(expected[:2].sum())


@given(seed=st.integers(0, 10**6), size=st.floats(1e-3, 1e2), near=st.booleans())
@settings(max_examples=60, deadline=None)
def test_decoders_keep_their_bound(bent, image, seed, size, near):
    rng = np.random.default_rng(seed)
    for fitted in (bent, image):
        a = size * rng.standard_normal((20, fitted.dimension))
        b = a + 1e-3 * rng.standard_normal(a.shape) if near else a[::-1]
        before, after = (
            np.linalg.norm(u - v, axis=1) for u, v in ((a, b), (fitted.decode(a, KEY), fitted.decode(b, KEY)))
        )
        assert (after <= fitted.lipschitz * before + 1e-9).all()
        assert fitted.certified


def test_bounds_are_no_larger_than_asked_for_and_not_idle(bent, image):
    for fitted in (bent, image):
        assert 1 < fitted.lipschitz <= 3 * (1 + 1e-4)
        assert fitted.steps > 0
    z = np.linspace(bent.target.min(0), bent.target.max(0), 400)
    slopes = np.linalg.norm(np.diff(bent.reconstruct(z), axis=0), axis=1) / np.diff(z, axis=0)[:, 0]
    assert slopes.max() > 0.3 * bent.lipschitz


def test_pca_keeps_lengths():
    fitted = PCALatent.fit(slow_decay(25, 0), 4, KEY)
    a, b = np.random.default_rng(0).standard_normal((2, 30, 4))
    ratio = np.linalg.norm(fitted.decode(a, KEY) - fitted.decode(b, KEY), axis=1) / np.linalg.norm(a - b, axis=1)
    np.testing.assert_allclose(ratio, fitted.lipschitz, rtol=1e-9)
    assert fitted.lipschitz == 1


def test_an_autoencoder_follows_a_curve_that_a_line_cannot(bent):
    x, held_out = curve(200, 0), curve(500, 1)
    line = PCALatent.fit(x, 1, KEY)
    assert bent.reconstruction == pytest.approx(missed(bent, x))
    assert bent.reconstruction < 0.5 * line.reconstruction
    assert missed(bent, held_out) < 0.5 * missed(line, held_out)
    assert 0.85 <= total(bent.decode(bent.encode(held_out), KEY)) / total(held_out) <= 1.15


def test_a_convolutional_autoencoder_follows_a_spot(image):
    x, held_out = blobs(100, 0), blobs(300, 1)
    plane = PCALatent.fit(x, 2, KEY)
    assert missed(image, held_out) < 0.8 * missed(plane, held_out)
    assert 0.85 <= total(image.decode(image.encode(held_out), KEY)) / total(held_out) <= 1.15


def test_an_autoencoder_of_noise_stays_at_principal_components():
    """Nothing is bent: what a network could add fits noise, and the validation part says so."""
    x = np.random.default_rng(0).standard_normal((100, 20))
    fitted = AutoencoderLatent.fit(x, 3, KEY)
    assert fitted.steps == 0
    assert fitted.lipschitz < 1.1
    few = AutoencoderLatent.fit(x[:6], 3, KEY)
    directions = PCA(3).fit(x[:6])
    assert few.steps == 0
    np.testing.assert_allclose(
        few.reconstruct(few.encode(x[:6])), directions.inverse_transform(directions.transform(x[:6])), atol=0.1
    )


def test_units_of_the_columns_pass_through():
    """Rows a thousand times as large: coordinates, residuals and noise too, and the same bound."""
    x = curve(60, 0)
    options = {"steps": 30, "key": KEY}
    small, large = (AutoencoderLatent.fit(s * x, 2, **options) for s in (1.0, 1024.0))
    assert large.reconstruction == pytest.approx(1024 * small.reconstruction, rel=1e-3)
    np.testing.assert_allclose(large.target, 1024 * small.target, rtol=1e-2, atol=1.0)
    assert large.lipschitz == pytest.approx(small.lipschitz, rel=1e-2)


FITS = {
    "pca": lambda x, key: PCALatent.fit(x, 3, key),
    "ae": lambda x, key: AutoencoderLatent.fit(x, 2, key, steps=20),
    "conv": lambda x, key: ConvAutoencoderLatent.fit(x, (8, 8), 2, key, steps=20),
}


@pytest.mark.parametrize("kind", list(FITS))
def test_same_seed_same_bits(kind):
    x = blobs(40, 0)
    first, again, other = (FITS[kind](x, Key.of(s)) for s in (0, 0, 1))
    z = first.encode(x)
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    rows = first.decode(z, KEY)
    assert np.array_equal(z, again.encode(x))
    assert np.array_equal(rows, again.decode(z, KEY))
    assert not np.array_equal(rows, first.decode(z, Key.of(1)))
    assert not np.array_equal(rows, other.decode(z, KEY))
    FITS[kind](x, KEY)
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002


def test_a_users_own_maps():
    x = slow_decay(30, 0, p=5)
    stretch = np.array([3.0, 1, 1, 1, 0.5])
    pair = latent((lambda x: x / stretch, lambda z: z * stretch), x, KEY)
    assert isinstance(pair, UserLatent)
    assert (pair.columns, pair.dimension, pair.certified) == (5, 5, False)
    assert 1 < pair.lipschitz <= 3
    np.testing.assert_allclose(pair.decode(pair.encode(x), KEY), x, atol=1e-12)
    half = latent((lambda x: x[:, :2], lambda z: np.pad(z, ((0, 0), (0, 3)))), x, KEY)
    assert half.lipschitz == pytest.approx(1)
    assert half.reconstruction == pytest.approx(np.sqrt(np.square(x[:, 2:]).sum() / x.size))
    noise = half.decode(np.zeros((5000, 2)), KEY)
    np.testing.assert_allclose(np.square(noise).mean(0)[2:], np.square(x).mean(0)[2:], rtol=0.15)
    assert not noise[:, :2].any()
    quiet = UserLatent.fit(x, lambda x: x[:, :2], lambda z: np.pad(z, ((0, 0), (0, 3))), residual=False)
    assert not quiet.decode(np.zeros((3, 2)), KEY).any()


def test_estimators_of_scikit_learn_are_taken_fitted_or_not():
    x, more = slow_decay(30, 0, p=5), slow_decay(50, 1, p=5)
    ready = StandardScaler().fit(more)
    np.testing.assert_allclose(latent(ready, x, KEY).encode(x), ready.transform(x))
    fresh = PCA(2)
    fitted = latent(fresh, x, KEY)
    np.testing.assert_allclose(np.abs(fitted.target), np.abs(PCALatent.fit(x, 2, KEY).encode(x)))
    with pytest.raises(NotFittedError):
        fresh.transform(x)
    assert latent(fitted, x, KEY) is fitted


def test_none():
    assert latent("none", slow_decay(5, 0), KEY) is None
    assert latent(None, slow_decay(5, 0), KEY) is None


def test_names_give_what_they_say():
    x = blobs(9, 0)  # too few to train on
    assert latent("pca:4", x, KEY).dimension == 4
    assert latent("pca:1", x, KEY).dimension == 1
    assert latent("pca:0.9", x, KEY).dimension == PCA(0.9, svd_solver="full").fit(x).n_components_
    assert isinstance(latent("ae:3", x, KEY), AutoencoderLatent)
    folded = latent("conv:3", x, KEY, (4, 8, 2))
    assert isinstance(folded, ConvAutoencoderLatent)
    assert all(isinstance(part, Latent) for part in (folded, latent("pca:1.0", x, KEY)))
    assert folded.target.shape == (9, 3)
    assert math.isfinite(folded.lipschitz)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("umap:3", "'umap:3' is not one of none, pca:0.95"),
        ("pca", "'pca': behind the colon goes a number of coordinates, or a share"),
        ("pca:-2", "not '-2'"),
        ("pca:1.5", "not '1.5'"),
        ("pca:nan", "not 'nan'"),
        ("ae:0", "not '0'"),
        ("ae:0.5", "goes a number of coordinates, not '0.5'"),
        ("pca:40", "40 principal components are asked for, but 20 rows with 64 columns have 19"),
        ("ae:40", "40 coordinates are asked for, but 20 rows, 4 of them for validation, with 64 columns allow 1 to 15"),
        ("conv:2", r"needs the shape of the images, as in \(28, 28\)"),
        (3, "a int has neither encode and decode nor transform"),
        ((lambda x: x[1:], lambda z: z), r"what the encoder answers must have shape \(20, k\)"),
        ((lambda x: x, lambda z: z[:, :3]), r"what the decoder answers must have shape \(20, 64\).*not \(20, 3\)"),
        ((lambda x: x / 0, lambda z: z), "what the encoder answers must be finite, but row 0, number 0 is"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_bad_names(spec, message):
    with pytest.raises(ValueError, match=message):
        latent(spec, blobs(20, 0), KEY)


def test_bad_rows():
    x = blobs(20, 0)
    with pytest.raises(ValueError, match=r"images of shape \(28, 28\) have 784 values, but a row has 64"):
        latent("conv:2", x, KEY, (28, 28))
    with pytest.raises(ValueError, match="two training rows that differ, not 20 equal ones"):
        latent("pca:1", np.ones((20, 3)), KEY)
    fitted = latent("pca:2", x, KEY)
    with pytest.raises(ValueError, match="2 rows are too few to learn principal components from"):
        PCALatent.fit(np.eye(2), 1, KEY)
    with pytest.raises(ValueError, match=r"rows to encode must have shape \(n, 64\)"):
        fitted.encode(x[:, :9])
    with pytest.raises(ValueError, match=r"points to decode must have shape \(n, 2\)"):
        fitted.decode(x, KEY)
    x[3, 5] = np.nan
    with pytest.raises(ValueError, match="rows to encode must be finite, but row 3, number 5 is nan"):
        fitted.encode(x)
    with pytest.raises(ValueError, match="it was fitted on 64 columns, but the rows have 5"):
        latent(fitted, x[:, :5], KEY)
    with pytest.raises(ValueError, match=r"above 1 and finite, not 0\.5"):
        AutoencoderLatent.fit(blobs(20, 0), 2, KEY, lipschitz=0.5)
    with pytest.raises(ValueError, match="'sine' is not one of tanh, relu"):
        AutoencoderLatent.fit(blobs(20, 0), 2, KEY, activation="sine")
