"""What synthetic rows are worth to a model: trained on them, tested on real rows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from particles.keys import Key

TRAINED_ON = ("real", "synthetic", "real + synthetic")


@dataclass(frozen=True)
class Score:
    """How well one model does on held-out rows.

    Arguments:
        model: The model.
        trained_on: ``real``, ``synthetic``, or ``real + synthetic``.
        value: Balanced accuracy or R²; ``None`` where the training rows are of fewer than 2 classes.
        gain: The value minus that of the same model trained on the real rows; ``None`` for that one itself.
        low: The lower end of the gain's 95 % interval.
        high: The upper end.
    """

    model: str
    trained_on: str
    value: float | None
    gain: float | None = None
    low: float | None = None
    high: float | None = None


def train_synthetic_test_real(
    real: tuple[np.ndarray, np.ndarray],
    synthetic: tuple[np.ndarray, np.ndarray],
    holdout: tuple[np.ndarray, np.ndarray],
    key: Key,
    *,
    continuous: bool = False,
    replicates: int = 1000,
) -> list[Score]:
    """Models trained on real rows, on synthetic ones and on both, and tested on held-out real ones (Esteban et al., 2017).

    Classes: balanced accuracy of logistic regression, an SVM with a Gaussian kernel, a random forest of 100 trees and a
    network with two hidden layers of 64. Continuous targets: R² of ridge regression, support vector regression and a
    random forest. All with scikit-learn's default settings. The interval is a paired percentile bootstrap over the
    held-out rows, within their classes: it knows nothing of other training rows or other synthetic ones, which
    differences between methods need (repeat with other splits). A gain in balanced accuracy may be one of the
    threshold alone, which class weights or a tuned threshold have too.

    Arguments:
        real: Features, shape (n, d), on the scale that the models are to see, and targets, shape (n,).
        synthetic: The same of the synthetic rows.
        holdout: The same of the held-out rows. Balanced accuracy is the mean over the classes there.
        key: The source of the models' randomness and of the bootstrap.
        continuous: Whether the targets are numbers, not classes.
        replicates: The number of bootstrap replicates.

    Raises:
        ValueError: If the real rows are of fewer than 2 classes, there are no rows of a kind, or R² has no variance.
    """
    sets = {
        "real": real,
        "synthetic": synthetic,
        "real + synthetic": (np.concatenate((real[0], synthetic[0])), np.concatenate((real[1], synthetic[1]))),
    }
    if min(len(rows[0]) for rows in (real, synthetic, holdout)) == 0:
        raise ValueError("training and testing need real, synthetic and held-out rows, at least one of each")
    if not continuous and len(np.unique(real[1])) < 2:
        raise ValueError("a classifier needs real rows of at least 2 classes")
    if continuous and len(np.unique(holdout[1])) < 2:
        raise ValueError("R² needs held-out rows with at least 2 different targets")
    losses, usable = {}, [name for name in TRAINED_ON if continuous or len(np.unique(sets[name][1])) > 1]
    models = _regressors if continuous else _classifiers
    names = list(models(key))
    for name in names:
        for trained_on in usable:
            x, y = sets[trained_on]
            model = models(key)[name]
            before = np.random.get_state()  # noqa: NPY002
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that a network could be trained for longer
                    model.fit(x, y)
            finally:
                np.random.set_state(before)  # noqa: NPY002 - from which some that use no random numbers draw a seed
            missed = model.predict(holdout[0]) - holdout[1] if continuous else model.predict(holdout[0]) != holdout[1]
            losses[name, trained_on] = np.square(missed.astype(np.float64))
    loss = np.stack(list(losses.values()), 1)
    weight = _weights(holdout[1], continuous)
    value = dict(zip(losses, _values(loss, holdout[1], weight[None], continuous)[0]))
    draws = _values(loss, holdout[1], _resampled(holdout[1], continuous, replicates, key), continuous)
    drawn = dict(zip(losses, draws.T))
    return [_score(name, trained_on, value, drawn) for name in names for trained_on in TRAINED_ON]


def _score(model: str, trained_on: str, value: dict[Any, float], drawn: dict[Any, np.ndarray]) -> Score:
    mine, base = (model, trained_on), (model, "real")
    if mine not in value:
        return Score(model, trained_on, None)
    if mine == base:
        return Score(model, trained_on, float(value[mine]))
    low, high = np.nanquantile(drawn[mine] - drawn[base], (0.025, 0.975))
    return Score(model, trained_on, float(value[mine]), float(value[mine] - value[base]), float(low), float(high))


def _weights(target: np.ndarray, continuous: bool) -> np.ndarray:
    """The weight of each held-out row, with sum 1: equal, or for classes such that all classes weigh the same."""
    if continuous:
        return np.full(len(target), 1 / len(target))
    _, place, count = np.unique(target, return_inverse=True, return_counts=True)
    return np.asarray(1 / (len(count) * count[place]))


def _resampled(target: np.ndarray, continuous: bool, replicates: int, key: Key) -> np.ndarray:
    """The weights of the held-out rows in each bootstrap replicate, drawn within classes; shape (replicates, n)."""
    rng = key.fold("bootstrap").numpy()
    groups = np.zeros(len(target), dtype=int) if continuous else np.unique(target, return_inverse=True)[1]
    counts = np.empty((replicates, len(target)))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        counts[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), replicates)
    return np.asarray(counts * _weights(target, continuous))


def _values(loss: np.ndarray, target: np.ndarray, weights: np.ndarray, continuous: bool) -> np.ndarray:
    """Balanced accuracy, or R², with the rows so weighted: losses (n, models), weights (draws, n) -> (draws, models)."""
    if not continuous:
        return np.asarray(1 - weights @ loss)
    y = target.astype(np.float64)
    variance = weights @ y**2 - (weights @ y) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):  # a replicate of one row alone
        return np.asarray(1 - (weights @ loss) / np.where(variance > 0, variance, np.nan)[:, None])


def _classifiers(key: Key) -> dict[str, Any]:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC

    return {
        "logistic regression": LogisticRegression(max_iter=1000),
        "RBF SVM": SVC(),
        "random forest": RandomForestClassifier(100, random_state=_seed(key.fold("forest"))),
        "MLP": MLPClassifier((64, 64), max_iter=200, random_state=_seed(key.fold("network"))),
    }


def _regressors(key: Key) -> dict[str, Any]:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    return {
        "ridge regression": Ridge(),
        "SVR": TransformedTargetRegressor(SVR(), transformer=StandardScaler()),
        "random forest": RandomForestRegressor(100, random_state=_seed(key.fold("forest"))),
    }


def _seed(key: Key) -> int:
    return key.seed % 2**32
