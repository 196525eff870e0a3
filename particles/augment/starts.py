r"""Where augmentation starts: laws fitted to a few rows, from which particles are drawn.

All of them are one family. A draw is a row, drawn towards the mean, with noise that has the shape of the rows:

.. math:: y = \bar x + \sqrt{1 - h^2}\, (x_i - \bar x) + h\, \xi, \qquad \xi \sim N(0, \Sigma),

with Σ the covariance of Ledoit and Wolf (2004) of n - 1 degrees of freedom. Draws have the mean of the rows and the covariance
(1 - h²) S + h² Σ, with S that of the rows, which divides by n. As trace Σ = n / (n - 1) trace S, the total variance grows with the
bandwidth h from that of the rows to its unbiased estimate: h = 1 is the shrunk Gaussian, smaller ones are smoothed bootstraps
(Silverman, 1986, Section 6.4.1), h = 0 is copying. (Classes that borrow the spread of others have the trace of the pooled rows.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from particles.keys import Key

STARTS = ("gaussian", "kde", "bootstrap", "mixed", "normal")
TINY = 6
"""Classes with fewer distinct rows than this take the covariance of all classes, each about its own mean."""


@dataclass(frozen=True)
class Spread:
    r"""A covariance matrix in the form :math:`F^T F + s^2 I`, without the matrix.

    Arguments:
        factor: The matrix F, with shape (k, d).
        floor: The standard deviation s in all directions.
    """

    factor: np.ndarray
    floor: float

    @staticmethod
    def fit(centred: np.ndarray, degrees: int | None = None) -> Spread:
        """The shrunk covariance of rows with mean 0 (Ledoit & Wolf, 2004; scikit-learn).

        Arguments:
            centred: The rows, with shape (n, d).
            degrees: The number of degrees of freedom that centring left them; n if ``None``.
        """
        from sklearn.covariance import ledoit_wolf_shrinkage

        n, d = centred.shape
        shrinkage = min(max(float(ledoit_wolf_shrinkage(centred, assume_centered=True)), 0.0), 1.0)  # but for rounding
        variance = np.square(centred) / (degrees or n)
        # Of many rows the triangle of d rows with the same FᵀF is enough: a draw takes k numbers.
        root = np.linalg.qr(centred, mode="r") if n > d else centred
        return Spread(root * np.sqrt((1 - shrinkage) / (degrees or n)), float(np.sqrt(shrinkage * variance.sum() / d)))

    def noise(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Normal draws with this covariance and mean 0, with shape (count, d)."""
        k, d = self.factor.shape
        within = generator.standard_normal((count, k)) @ self.factor
        return np.asarray(within + self.floor * generator.standard_normal((count, d)))

    def whiten(self, x: np.ndarray) -> np.ndarray:
        """Coordinates of the rows in which Euclidean distances are those of Mahalanobis.

        Directions in which neither these rows nor those of the factor differ are left out. Without pooling, that is with a factor
        of these n rows alone, at most n - 1 coordinates remain; rows of other classes in the factor add theirs.
        """
        centred = x - x.mean(0)
        _, lengths, axes = np.linalg.svd(np.concatenate((centred, self.factor)), full_matrices=False)
        axes = axes[lengths > 1e-10 * max(lengths[0], 1e-300)]
        inside = centred @ axes.T
        covariance = (self.factor @ axes.T).T @ (self.factor @ axes.T) + self.floor**2 * np.eye(len(axes))
        variances, directions = np.linalg.eigh(covariance)
        return np.asarray(inside @ directions / np.sqrt(np.maximum(variances, 1e-12 * variances.max())))


@dataclass(frozen=True)
class Start:
    """A law that particles are drawn from.

    Arguments:
        rows: The rows that it was fitted to, with shape (n, d).
        spread: The covariance of its noise.
        bandwidth: The share h of the noise, from 0 to 1; without shrinking the factor of its length.
        shrinks: Whether rows are drawn towards their mean, which makes room for the variance of the noise.
    """

    rows: np.ndarray
    spread: Spread
    bandwidth: float
    shrinks: bool = True

    def draw(self, count: int, key: Key) -> np.ndarray:
        """That many draws, with shape (count, d); every row is used equally often, but for one."""
        generator = key.numpy()
        whole, rest = divmod(count, len(self.rows))
        index = np.concatenate(
            [np.tile(np.arange(len(self.rows)), whole), generator.permutation(len(self.rows))[:rest]]
        )
        index = index[generator.permutation(count)]
        mean = self.rows.mean(0)
        pull = np.sqrt(1 - self.bandwidth**2) if self.shrinks else 1.0
        noise = self.spread.noise(count, generator)
        return np.asarray(mean + pull * (self.rows[index] - mean) + self.bandwidth * noise)

    @property
    def wider(self) -> Iterator[Start]:
        """The same law with its bandwidth, and with larger ones: up to the Gaussian, or to twice the noise."""
        top = 1.0 if self.shrinks else 2 * self.bandwidth
        for bandwidth in (*np.arange(self.bandwidth, top, 0.05 if self.shrinks else 0.1), top):
            yield replace(self, bandwidth=float(bandwidth))


@dataclass(frozen=True)
class Mixture:
    """Draws of two laws in equal parts.

    Arguments:
        first: The one.
        second: The other.
    """

    first: Start
    second: Start

    @property
    def rows(self) -> np.ndarray:
        return self.first.rows

    @property
    def bandwidth(self) -> float:
        return self.first.bandwidth

    def draw(self, count: int, key: Key) -> np.ndarray:
        """That many draws, with shape (count, d), in random order."""
        half = count - count // 2
        drawn = [self.first.draw(half, key.fold("first")), self.second.draw(count - half, key.fold("second"))]
        return np.asarray(np.concatenate(drawn)[key.fold("order").numpy().permutation(count)])

    @property
    def wider(self) -> Iterator[Mixture]:
        """The same with a wider first law."""
        return (replace(self, first=law) for law in self.first.wider)


Law = Start | Mixture


def fit_start(name: str, rows: np.ndarray, others: list[np.ndarray] | None = None) -> Law:
    """The law of a name, fitted to the rows of a class.

    ``gaussian`` is the shrunk Gaussian; ``kde`` has the bandwidth of the largest leave-one-out likelihood; ``bootstrap`` adds
    round noise of the length of the median distance to the nearest other row; ``mixed`` is half of the one and half of ``gaussian``,
    near to the rows where these say much and beyond them where they say little; ``normal`` has the mean and the total variance of the
    rows, and no shape.

    Arguments:
        name: One of ``STARTS``.
        rows: The rows of the class in flow units, with shape (n, d).
        others: The rows of the other classes; a class with fewer than ``TINY`` distinct rows takes the covariance of all
            together, each about its own mean.

    Raises:
        ValueError: If the name is unknown, or there is a single row, alone or repeated, and no other class to learn a spread from.
    """
    if name not in STARTS:
        raise ValueError(f"start {name!r} is not one of {', '.join(STARTS)}")
    groups = [rows, *(others or [])] if len(np.unique(rows, axis=0)) < TINY else [rows]
    groups = [group for group in groups if (group != group[:1]).any()]  # a row that repeats has no spread either
    if not groups:
        raise ValueError(
            "one row alone has no spread to learn; at least two different rows are needed, or other classes with two"
        )
    centred = np.concatenate([group - group.mean(0) for group in groups])
    spread = Spread.fit(centred, len(centred) - len(groups))
    d = rows.shape[1]
    if name == "normal":
        deviation = np.sqrt((np.square(spread.factor).sum() + d * spread.floor**2) / d)
        return Start(rows, Spread(np.zeros((1, d)), float(deviation)), 1.0)
    if name in ("bootstrap", "mixed"):
        length = neighbour_distance(rows) or neighbour_distance(centred)  # a single row: as far apart as the others are
        jittered = Start(rows, Spread(np.zeros((1, d)), length / np.sqrt(d)), 1.0, shrinks=False)
        return jittered if name == "bootstrap" else Mixture(jittered, Start(rows, spread, 1.0))
    return Start(rows, spread, 1.0 if name == "gaussian" else best_bandwidth(rows, spread))


def neighbour_distance(rows: np.ndarray) -> float:
    """The median distance from a row to the nearest other one, duplicates left out; 0 for a single distinct row."""
    from scipy.spatial import cKDTree

    distinct = np.unique(rows, axis=0)
    if len(distinct) < 2:
        return 0.0
    return float(np.median(cKDTree(distinct).query(distinct, k=2)[0][:, 1]))


def best_bandwidth(rows: np.ndarray, spread: Spread, least: float = 0.05) -> float:
    """The bandwidth h at which each row is likeliest under the smoothed bootstrap of the others.

    Distinct rows alone count: with duplicates the likelihood has no bound as h goes to 0.

    Arguments:
        rows: The rows, with shape (n, d).
        spread: The covariance of the noise.
        least: The smallest bandwidth that is tried; the largest is 1, the Gaussian.
    """
    from scipy.special import logsumexp

    distinct = np.unique(rows, axis=0)
    if len(distinct) < 3:
        return 1.0
    z = spread.whiten(distinct)
    squares = np.square(z).sum(1)
    products = z @ z.T
    found = []
    bandwidths = np.geomspace(least, 1, 40)
    for h in bandwidths:
        pull = np.sqrt(1 - h**2)
        distances = squares[:, None] + pull**2 * squares - 2 * pull * products  # row i to kernel j
        np.fill_diagonal(distances, np.inf)
        found.append(np.mean(logsumexp(-distances / (2 * h**2), axis=1)) - z.shape[1] * np.log(h))
    return float(bandwidths[int(np.argmax(found))])
