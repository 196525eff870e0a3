"""Data sets and splits: what every method trains on, what it is judged on, and the units that distances are in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_moons, make_swiss_roll
from sklearn.decomposition import PCA

from particles.keys import Key

PER_CLASS = 200
"""Rows per class after augmentation."""
LEAST_TEST = 15
"""Rows per class that are kept for testing, however many are asked for training."""
MOST_TEST = 100
IMAGES = ("digits", "mnist")
"""Their columns share one standard deviation: that of an almost constant pixel would make it enormous."""


@dataclass(frozen=True)
class Split:
    """The rows of one cell and seed, in their original units.

    Arguments:
        x: The training rows, with shape (n, d): all that a method may see.
        y: Their classes.
        pool: More real rows, the ceiling of what augmentation could give.
        pool_y: Their classes.
        test: The rows to be judged on.
        test_y: Their classes.
        centre: The means of the training columns.
        unit: Their standard deviations, or the one of all pixels; 1 where a column is constant.
    """

    x: np.ndarray
    y: np.ndarray
    pool: np.ndarray
    pool_y: np.ndarray
    test: np.ndarray
    test_y: np.ndarray
    centre: np.ndarray
    unit: np.ndarray

    def scale(self, x: np.ndarray) -> np.ndarray:
        """Rows in units of the training rows."""
        return (np.asarray(x, dtype=float) - self.centre) / self.unit

    def restore(self, x: np.ndarray) -> np.ndarray:
        """Scaled rows in their original units."""
        return x * self.unit + self.centre


def split(x: np.ndarray, y: np.ndarray, train: np.ndarray, pool: np.ndarray, test: np.ndarray, image: bool) -> Split:
    rows = np.asarray(x[train], dtype=float)
    unit = np.full(x.shape[1], (rows - rows.mean(0)).std()) if image else rows.std(0)
    unit = np.where(unit > 0, unit, 1.0)
    return Split(x[train], y[train], x[pool], y[pool], x[test], y[test], rows.mean(0), unit)


@lru_cache(maxsize=4)
def load(name: str, mnist: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows and classes of a data set."""
    if name == "mnist":
        assert mnist is not None
        with np.load(mnist) as file:
            return file["x"], file["y"].astype(int)
    return {"digits": load_digits, "breast": load_breast_cancer, "wine": load_wine}[name](return_X_y=True)


def scarce(name: str, n: int, seed: int, mnist: Path | None = None, permuted: bool = False) -> Split:
    """``n`` rows of each class, fewer if the smallest class would keep less than 15 for testing (wine: 33 for 50).

    Half of what is left, at most what 200 rows need, is the pool; up to 100 of the others are for testing. The training
    rows of a larger ``n`` hold those of a smaller one.

    Arguments:
        permuted: Whether classes are dealt anew to all rows first: nothing is left to learn.
    """
    x, y = load(name, mnist)
    key = Key.of(seed).fold("augmentation", name)
    if permuted:
        y = key.fold("labels").numpy().permutation(y)
    n = min(n, np.bincount(y).min() - LEAST_TEST)
    train, pool, test = [], [], []
    for c in np.unique(y):
        rows = key.fold("split", int(c)).numpy().permutation(np.flatnonzero(y == c))
        rest = rows[n:]
        more = min(len(rest) // 2, PER_CLASS - n, len(rest) - LEAST_TEST)
        train.append(rows[:n])
        pool.append(rest[:more])
        test.append(rest[more:][:MOST_TEST])
    return split(x, y, *map(np.concatenate, (train, pool, test)), image=name in IMAGES)


def imbalanced(digit: int, seed: int, few: int = 15, many: int = 300) -> Split:
    """One digit (class 1) against the others (class 0), 15 : 300; the pool is of the digit alone."""
    x, y = load("digits", None)
    y = (y == digit).astype(int)
    key = Key.of(seed).fold("augmentation", "imbalance", digit)
    ones = key.fold("digit").numpy().permutation(np.flatnonzero(y == 1))
    others = key.fold("others").numpy().permutation(np.flatnonzero(y == 0))
    half = few + (len(ones) - few) // 2
    train = np.concatenate((ones[:few], others[:many]))
    return split(x, y, train, ones[few:half], np.concatenate((ones[half:], others[many:])), image=True)


def cloud(name: str, seed: int, mnist: Path | None = None, fresh: int = 1000) -> Split:
    """One class alone, without a pool: breast benign (150 rows), a handwritten 3 (300), two moons (100), the swiss roll (200).

    ``mnist 3 pca`` is that digit in the 15 principal components of its training rows, ``mnist 3`` in all its pixels.
    """
    key = Key.of(seed).fold("augmentation", "cloud", name.removesuffix(" pca"))
    random_state = key.seed % 2**32
    if name in ("moons", "swiss roll"):
        n = CLOUDS[name]
        if name == "moons":
            x = make_moons(n + fresh, noise=0.05, random_state=random_state)[0]
        else:
            x = make_swiss_roll(n + fresh, random_state=random_state)[0]
    else:
        rows, y = load("breast", None) if name == "breast benign" else load("mnist", mnist)
        x = key.numpy().permutation(rows[y == (1 if name == "breast benign" else 3)])
    n, image = CLOUDS[name], name == "mnist 3"
    if name == "mnist 3 pca":
        x = x.astype(float)
        x = PCA(15, svd_solver="full").fit(x[:n]).transform(x)
    every = np.arange(min(len(x), n + fresh))
    return split(x, np.zeros(len(x), dtype=int), every[:n], every[:0], every[n:], image)


CLOUDS = {"breast benign": 150, "mnist 3 pca": 300, "mnist 3": 300, "moons": 100, "swiss roll": 200}
"""Rows of the clouds to train on."""


def swiss_sheet(n: int = 100_000) -> np.ndarray:
    """The swiss roll itself, as many points of it, without noise."""
    return make_swiss_roll(n, random_state=Key.of(0).fold("sheet").seed % 2**32)[0]


def classifier_space(cell: Split, *sets: np.ndarray) -> list[np.ndarray]:
    """Scaled rows as classifiers see them: with hundreds of pixels, in 50 principal components of the real training rows."""
    if cell.x.shape[1] <= 100:
        return list(sets)
    components = PCA(50, svd_solver="full").fit(cell.scale(cell.x)).components_
    return [x @ components.T for x in sets]  # their mean is 0 already


def one_class(cell: Split, c: int) -> Split:
    """The rows of one class, in the units of all of them."""
    train, pool, test = cell.y == c, cell.pool_y == c, cell.test_y == c
    return replace(
        cell, x=cell.x[train], y=cell.y[train], pool=cell.pool[pool], pool_y=cell.pool_y[pool],
        test=cell.test[test], test_y=cell.test_y[test],
    )  # fmt: skip
