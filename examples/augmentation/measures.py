"""What rows are worth: to classifiers, and beside rows that were held out."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from protocol import Split, classifier_space
from sklearn.base import ClassifierMixin, clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, TunedThresholdClassifierCV
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from particles.cloud import Cloud
from particles.keys import Key
from particles.metrics.coverage import overlap, variance_ratio
from particles.metrics.distances import w2
from particles.metrics.energy import energy_distance
from particles.metrics.memorisation import closer_share, copies, near_copies, nearest_ratio
from particles.quality.two_sample import two_sample

TUNED = {
    "lr": {"C": [0.01, 0.1, 1, 10, 100]},
    "svm": {"C": [0.1, 1, 10, 100], "gamma": [0.001, 0.003, 0.01, 0.03, 0.1]},
}


def classifiers(key: Key) -> dict[str, ClassifierMixin]:
    state = key.seed % 2**32
    return {
        "lr": LogisticRegression(C=1.0, max_iter=1000),
        "svm": SVC(C=1.0),
        "rf": RandomForestClassifier(100, random_state=state),
        "mlp": MLPClassifier((64, 64), random_state=state),
    }


def fit(model: ClassifierMixin, x: np.ndarray, y: np.ndarray) -> ClassifierMixin:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 epochs are what the MLP is given
        return model.fit(x, y)


def accuracies(cell: Split, new: np.ndarray, new_y: np.ndarray, key: Key, tuned: bool = False) -> dict[str, float]:
    """Balanced accuracies on the test rows of classifiers that were trained on the training rows and the new ones.

    Arguments:
        tuned: Whether settings are chosen by cross-validation, in the only classifiers that have ``TUNED`` ones.
    """
    x, new, test = classifier_space(cell, cell.scale(cell.x), new, cell.scale(cell.test))
    x, y = np.concatenate((x, new)), np.concatenate((cell.y, new_y))
    models = classifiers(key)
    if tuned:
        folds = StratifiedKFold(5, shuffle=True, random_state=key.fold("folds").seed % 2**32)
        models = {
            name: GridSearchCV(models[name], grid, cv=folds, scoring="balanced_accuracy")
            for name, grid in TUNED.items()
        }
    return {
        f"accuracy_{name}": float(balanced_accuracy_score(cell.test_y, fit(model, x, y).predict(test)))
        for name, model in models.items()
    }


def detection(cell: Split, new: np.ndarray, new_y: np.ndarray, key: Key, treatment: str) -> dict[str, float]:
    """F1, average precision and balanced accuracy for class 1, test rows weighted to the share it has in training.

    Arguments:
        treatment: ``class_weight``, ``none_threshold``, or anything else for neither.
    """
    share = cell.y.mean()
    weight = np.where(cell.test_y == 1, share / cell.test_y.mean(), (1 - share) / (1 - cell.test_y.mean()))
    test = cell.scale(cell.test)
    x, y = np.concatenate((cell.scale(cell.x), new)), np.concatenate((cell.y, new_y))
    found = {}
    for name, model in classifiers(key).items():
        if name == "mlp":
            continue
        if treatment == "class_weight":
            model = clone(model).set_params(class_weight="balanced")
        if treatment == "none_threshold":
            folds = StratifiedKFold(5, shuffle=True, random_state=key.fold("folds").seed % 2**32)
            model = TunedThresholdClassifierCV(model, scoring="f1", cv=folds)
        fit(model, x, y)
        said = model.predict(test)
        score = model.decision_function(test) if name != "rf" else model.predict_proba(test)[:, 1]
        found |= {
            f"f1_{name}": float(f1_score(cell.test_y, said, sample_weight=weight, zero_division=0)),
            f"ap_{name}": float(average_precision_score(cell.test_y, score, sample_weight=weight)),
            f"accuracy_{name}": float(balanced_accuracy_score(cell.test_y, said)),
        }
    return found


def quality(new: np.ndarray, training: np.ndarray, held: np.ndarray, key: Key, slow: bool = False) -> dict[str, float]:
    """Scaled new rows of one class beside its training rows and held-out ones.

    Arguments:
        slow: Whether a random forest is to tell new rows from held-out ones, too.
    """
    a, train, real = (Cloud(torch.as_tensor(np.asarray(x, dtype=float))) for x in (new, training, held))
    size = min(len(a), len(real))
    common = overlap(a, real)
    found = {
        "energy": energy_distance(a, real, unbiased=True),
        "energy_v": energy_distance(a.draw(size, key.fold("a")), real.draw(size, key.fold("real"))),
        "w2": w2(a, real),
        "variance_ratio": variance_ratio(a, real),
        "recall": common.recall,
        "precision": common.precision,
        "density": common.density,
        "coverage": common.coverage,
        "nearest_ratio": nearest_ratio(a, train, real),
        "closer_share": closer_share(a, train, real, key.fold("closer")),
        "copies": copies(a, train),
        "near_copies": near_copies(a, train),
    }
    if slow:
        found["c2st"] = two_sample(a, real, key.fold("c2st")).auc
    return found
