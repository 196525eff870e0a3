"""The classifier two-sample test: whether a classifier can tell two clouds apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from particles.cloud import Cloud
from particles.keys import Key
from particles.metrics.counted import counted

LEAST = 10
"""Points of each cloud, below which the test says nothing."""


@dataclass(frozen=True)
class TwoSample:
    """The outcome of a classifier two-sample test.

    Arguments:
        auc: The area under the classifier's receiver operating characteristic: 0.5 if it cannot tell the clouds apart,
            1 if it always can. Far below 0.5 where the points of one cloud are copies of the other's: the twin in the
            training folds has the other label.
        low: The lower end of its 95 % interval.
        high: The upper end.
        size: The number of points that it was measured on, of each cloud.
    """

    auc: float
    low: float
    high: float
    size: int


@counted
def two_sample(a: Cloud, b: Cloud, key: Key, components: int = 10, folds: int = 3, trees: int = 100) -> TwoSample:
    """The AUC of a random forest that is to tell the points of two clouds apart (Lopez-Paz & Oquab, 2017, with AUC).

    Cross-validated, on as many points of the larger cloud as the smaller one has, in their first principal components,
    which are fitted on the training folds. In more dimensions, and where one cloud only is on a grid, any such test
    finds a difference and saturates. The interval is that of ``auc_interval``; it takes the forest as given.

    Arguments:
        a: One cloud.
        b: The other.
        key: The source of the subsample, the folds and the forest.
        components: The most principal components.
        folds: The number of folds.
        trees: The number of trees.

    Raises:
        ValueError: If a cloud has fewer than 10 points.
    """
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    size = min(len(a), len(b))
    if size < LEAST:
        raise ValueError(f"a two-sample test needs at least {LEAST} points in each cloud, not {len(a)} and {len(b)}")
    clouds = (a.draw(size, key.fold("a")), b.draw(size, key.fold("b")))
    x = torch.cat([cloud.x.detach().cpu().double() for cloud in clouds]).numpy()
    y = np.repeat((0, 1), size)
    classifier = make_pipeline(
        PCA(min(components, x.shape[1], size), random_state=_seed(key.fold("pca"))),
        RandomForestClassifier(trees, random_state=_seed(key.fold("forest"))),
    )
    split = StratifiedKFold(folds, shuffle=True, random_state=_seed(key.fold("folds")))
    score = cross_val_predict(classifier, x, y, cv=split, method="predict_proba")[:, 1]
    auc = float(roc_auc_score(y, score))
    low, high = auc_interval(auc, size, size)
    return TwoSample(auc, low, high, size)


def auc_interval(auc: float, positives: int, negatives: int, level: float = 0.95) -> tuple[float, float]:
    """A score interval for an AUC: the values that it is within z standard errors of (Newcombe, 2006, method 5).

    The standard error is that of Hanley & McNeil (1982) at the value itself, not at the estimate, so that the interval
    of an AUC of 1 is not a point.

    Arguments:
        auc: The estimate, between 0 and 1.
        positives: The number of points of the one kind.
        negatives: That of the other.
        level: The share of intervals that are to hold the true value.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.ppf((1 + level) / 2))
    spare = (positives + negatives) / 2 - 1

    def excess(value: float) -> float:
        spread = 1 + spare * (1 - value) / (2 - value) + spare * value / (1 + value)
        return (auc - value) ** 2 - z**2 * value * (1 - value) * spread / (positives * negatives)

    beside = 1e-12  # 0 and 1 are roots too, of an AUC of 0 or 1
    low = 0.0 if auc <= 0 else float(brentq(excess, 0.0, auc * (1 - beside)))
    high = 1.0 if auc >= 1 else float(brentq(excess, auc + (1 - auc) * beside, 1.0))
    return low, high


def _seed(key: Key) -> int:
    return key.seed % 2**32
