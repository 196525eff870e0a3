"""The other methods: what is commonly used, and the controls that every table needs.

Generators take the scaled rows of one class, with shape (n, d), and return ``m`` new ones. ``NAMES`` says what each method
of the study is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.mixture import GaussianMixture

from particles.keys import Key

Generator = Callable[[np.ndarray, int, Key], np.ndarray]

NAMES = {
    "none": "the training rows alone",
    "none_tuned": "the same, C of LR and C and γ of the SVM by cross-validation",
    "none_threshold": "the same, the threshold by cross-validation",
    "class_weight": "the same, classes weighted equally",
    "oracle": "more real rows: the ceiling",
    "ros": "copies of random training rows",
    "ros_bal": "copies of training rows, each equally often",
    "smote": "SMOTE, 5 neighbours",
    "adasyn": "ADASYN, 5 neighbours",
    "gaussian": "a Gaussian per class, covariance by Ledoit and Wolf",
    "kde": "smoothed bootstrap, covariance of the class times a leave-one-out bandwidth",
    "kde_bal": "the same, each training row used equally often",
    "jitter_nn": "copies with noise of half the distance to the nearest other row",
    "gmm": "a Gaussian mixture, components by BIC",
    "smote_grid": "SMOTE, clipped to the range and rounded to the grid of the training columns",
    "gaussian_grid": "the Gaussian, likewise",
    "kde_grid": "the smoothed bootstrap, likewise",
    "ours": "ParticleAugmenter with its defaults",
    "ours_flow": 'ParticleAugmenter(method="flow")',
    "start": "where its particles start: the flow after 0 steps",
}


def balanced(n: int, m: int, key: Key) -> np.ndarray:
    """``m`` row numbers, each of ``n`` rows equally often, up to one."""
    random = key.numpy()
    return np.concatenate([random.permutation(n) for _ in range(-(-m // n))])[:m]


def copies(x: np.ndarray, m: int, key: Key) -> np.ndarray:
    return x[key.numpy().integers(len(x), size=m)]


def balanced_copies(x: np.ndarray, m: int, key: Key) -> np.ndarray:
    return x[balanced(len(x), m, key)]


def interpolation(x: np.ndarray, m: int, key: Key, neighbours: int = 5) -> np.ndarray:
    """SMOTE (arXiv 1106.1813) of a single class, which imbalanced-learn does not take."""
    random = key.numpy()
    _, near = cKDTree(x).query(x, k=min(neighbours, len(x) - 1) + 1)
    i, k = random.integers(len(x), size=m), random.integers(1, near.shape[1], size=m)
    return x[i] + random.random((m, 1)) * (x[near[i, k]] - x[i])


@dataclass(frozen=True)
class Shrunk:
    """A mean and the covariance of Ledoit and Wolf (2004), ``spread.T @ spread + rest² I``: no d × d matrix is needed.

    Arguments:
        mean: Of the rows, with shape (d,).
        spread: The centred rows, scaled, with shape (n, d).
        rest: The standard deviation that every direction has besides.
    """

    mean: np.ndarray
    spread: np.ndarray
    rest: float

    @staticmethod
    def fit(x: np.ndarray) -> Shrunk:
        mean, shrinkage = x.mean(0), ledoit_wolf_shrinkage(x)
        spread = np.sqrt((1 - shrinkage) / len(x)) * (x - mean)
        return Shrunk(mean, spread, float(np.sqrt(shrinkage * x.var(0).mean())))

    def noise(self, m: int, random: np.random.Generator) -> np.ndarray:
        """Draws of mean 0."""
        n, d = self.spread.shape
        return random.standard_normal((m, n)) @ self.spread + self.rest * random.standard_normal((m, d))

    def whiten(self, x: np.ndarray) -> np.ndarray:
        """Rows that it was fitted on, in coordinates in which the covariance is 1, without those that are always 0."""
        _, values, directions = np.linalg.svd(self.spread, full_matrices=False)
        scale = np.hypot(values, self.rest)
        kept = scale > 1e-6 * scale.max()
        return (x - self.mean) @ directions[kept].T / scale[kept]


def gaussian(x: np.ndarray, m: int, key: Key) -> np.ndarray:
    fit = Shrunk.fit(x)
    return fit.mean + fit.noise(m, key.numpy())


def smoothed_bootstrap(x: np.ndarray, m: int, key: Key, evenly: bool = False) -> np.ndarray:
    """Rows moved towards their mean plus noise of the class' shape, so that the variance stays what it was.

    A kernel is N(mean + a (x_i - mean), (a h)² Σ) with Σ by Ledoit and Wolf and a² = 1 / (1 + h²) (Silverman, 1986,
    section 6.4); h maximises the likelihood of each row under N(x_j, h² Σ) of the others, duplicates left out. With
    the likelihood under the kernels themselves h is a third larger: energy distances are the same for 20 rows, and
    larger for 150 and more.
    """
    fit = Shrunk.fit(x)
    h = bandwidth(fit.whiten(np.unique(x, axis=0)), x.shape[1] if fit.rest else np.linalg.matrix_rank(fit.spread))
    index = balanced(len(x), m, key.fold("rows")) if evenly else key.fold("rows").numpy().integers(len(x), size=m)
    noise = fit.noise(m, key.fold("noise").numpy())
    return fit.mean + (x[index] - fit.mean + h * noise) / np.sqrt(1 + h**2)


def bandwidth(z: np.ndarray, dimension: int) -> float:
    """The h of largest leave-one-out likelihood of whitened rows, between 0.02 and 2."""
    squares = cdist(z, z, "sqeuclidean")
    np.fill_diagonal(squares, np.inf)

    def likelihood(h: float) -> float:
        return float(logsumexp(-squares / (2 * h**2), axis=1).mean() - dimension * np.log(h))

    return float(max(np.geomspace(0.02, 2, 40), key=likelihood)) if len(z) > 1 else 1.0


def evenly_smoothed(x: np.ndarray, m: int, key: Key) -> np.ndarray:
    return smoothed_bootstrap(x, m, key, evenly=True)


def jitter(x: np.ndarray, m: int, key: Key) -> np.ndarray:
    distance, _ = cKDTree(x).query(x, k=2)
    index = key.fold("rows").numpy().integers(len(x), size=m)
    noise = key.fold("noise").numpy().standard_normal((m, x.shape[1])) / np.sqrt(x.shape[1])
    return x[index] + 0.5 * distance[index, 1:] * noise


def mixture(x: np.ndarray, m: int, key: Key) -> np.ndarray:
    """Up to eight components, with full covariances where there are more rows than columns."""
    state = key.seed % 2**32
    fits = [
        GaussianMixture(k, covariance_type=kind, reg_covar=1e-3, random_state=state).fit(x)
        for kind in (("full", "diag") if len(x) > x.shape[1] else ("diag",))
        for k in (1, 2, 3, 5, 8)
        if 3 * k <= len(x)
    ]
    return min(fits, key=lambda fit: fit.bic(x)).sample(m)[0]


GENERATORS: dict[str, Generator] = {
    "ros": copies,
    "ros_bal": balanced_copies,
    "smote": interpolation,
    "gaussian": gaussian,
    "kde": smoothed_bootstrap,
    "kde_bal": evenly_smoothed,
    "jitter_nn": jitter,
    "gmm": mixture,
}
"""Of a single class."""


def oversample(name: str, x: np.ndarray, y: np.ndarray, total: int, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """New scaled rows and their classes, up to ``total`` rows in every class.

    Raises:
        ValueError: If the method refuses the table.
    """
    name = name.removesuffix("_grid")
    wanted = {int(c): total - int((y == c).sum()) for c in np.unique(y)}
    wanted = {c: m for c, m in wanted.items() if m > 0}
    if name in ("smote", "adasyn"):
        return interpolated(name, x, y, dict.fromkeys(wanted, total), key)
    parts = [GENERATORS[name](x[y == c], m, key.fold(c)) for c, m in wanted.items()]
    return np.concatenate(parts), np.repeat(list(wanted), list(wanted.values()))


def interpolated(
    name: str, x: np.ndarray, y: np.ndarray, totals: dict[int, int], key: Key
) -> tuple[np.ndarray, np.ndarray]:
    from imblearn.over_sampling import ADASYN, SMOTE

    k, state = min(5, np.bincount(y)[np.unique(y)].min() - 1), key.seed % 2**32
    sampler = (
        SMOTE(sampling_strategy=totals, k_neighbors=k, random_state=state)
        if name == "smote"
        else ADASYN(sampling_strategy=totals, n_neighbors=k, random_state=state)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, labels = sampler.fit_resample(x, y)
    return found[len(x) :], labels[len(x) :]


def to_grid(new: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Rows clipped to the range of the training columns, and rounded where these hold integers only; original units."""
    new = new.clip(training.min(0), training.max(0))
    return np.where((training == np.rint(training)).all(0), np.rint(new), new)
