r"""Latent coordinates: encoders and decoders between rows and fewer numbers, in which a flow can run.

A decoder alone gives back only what its coordinates hold, so that new rows vary too little: on 3 components of digits, a
twentieth of the variance. All decoders here add what is missing back as noise of the size that rows have which the encoder
was not fitted on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from particles.keys import Key

Map = Callable[[np.ndarray], Any]

_FOLDS = 10


class Latent(ABC):
    r"""Coordinates of rows, and the way back.

    Attributes:
        columns: The number d of columns of a row.
        dimension: The number k of coordinates.
        target: The coordinates of the training rows, with shape :math:`(n, k)`, as a flow should see them.
        lipschitz: A bound on :math:`\|D(z) - D(z')\| / \|z - z'\|` of the decoder D (with one key, so that noise cancels),
            in units of a column per unit of a coordinate.
        certified: Whether that bound holds everywhere; it is an estimate otherwise.
        reconstruction: The root mean square of what ``reconstruct`` misses, over training rows and columns, in the unit of the columns.
    """

    columns: int
    dimension: int
    target: np.ndarray
    lipschitz: float
    certified: bool = True
    reconstruction: float

    def encode(self, x: np.ndarray) -> np.ndarray:
        """The coordinates, float64 with shape :math:`(n, k)`, of rows with shape :math:`(n, d)`.

        Raises:
            ValueError: If rows have another number of columns, or a value is not finite.
        """
        return self._encode(_rows(x, self.columns, "rows to encode", "columns"))

    def reconstruct(self, z: np.ndarray) -> np.ndarray:
        """The rows, float64 with shape :math:`(n, d)`, of coordinates with shape :math:`(n, k)`, without noise.

        Raises:
            ValueError: If there is another number of coordinates, or one is not finite.
        """
        return self._reconstruct(_rows(z, self.dimension, "points to decode", "coordinates"))

    def decode(self, z: np.ndarray, key: Key) -> np.ndarray:
        """The same rows, each with noise in the place of what the coordinates leave out."""
        rows = self.reconstruct(z)
        return np.asarray(rows + self._noise(len(rows), key))

    @abstractmethod
    def _encode(self, x: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _reconstruct(self, z: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _noise(self, count: int, key: Key) -> np.ndarray: ...


@dataclass(frozen=True)
class Residual:
    """The law of what coordinates leave out: normal, with a shrunk covariance (Ledoit & Wolf, 2004).

    Columns are brought to one scale first, and the shrinkage is towards no correlation, so that each column keeps its own
    variance and a constant one stays constant. No d × d matrix is made.

    Arguments:
        rows: Residuals divided by ``spread``, with shape (m, d).
        spread: The root mean square residual of each column, with shape (d,).
        shrinkage: The share of the uncorrelated part, from 0 to 1.
    """

    rows: np.ndarray
    spread: np.ndarray
    shrinkage: float

    @staticmethod
    def fit(residuals: np.ndarray, total: float | None = None) -> Residual:
        """The law of some residuals.

        Arguments:
            residuals: With shape (m, d).
            total: The expected squared length of a residual; that of these if ``None``.
        """
        from sklearn.covariance import ledoit_wolf_shrinkage

        spread = np.sqrt(np.square(residuals).mean(0))
        rows = np.divide(residuals, spread, out=np.zeros_like(residuals), where=spread > 0)
        moving = rows[:, spread > 0]
        shrinkage = float(ledoit_wolf_shrinkage(moving, assume_centered=True)) if moving.size else 1.0
        shrinkage = min(max(shrinkage, 0.0), 1.0)  # but for rounding
        if total is not None and spread.any():
            spread = spread * math.sqrt(total / np.square(spread).sum())
        return Residual(rows, spread, shrinkage)

    def draw(self, count: int, key: Key) -> np.ndarray:
        """New residuals, with shape (count, d)."""
        generator = key.numpy()
        mixed = generator.standard_normal((count, len(self.rows))) @ self.rows / math.sqrt(len(self.rows))
        free = generator.standard_normal((count, len(self.spread)))
        noise = math.sqrt(1 - self.shrinkage) * mixed + math.sqrt(self.shrinkage) * free
        return np.asarray(noise * self.spread)

    def within(self, directions: np.ndarray) -> float:
        """The variance along orthonormal directions, with shape (k, d), together."""
        scaled = directions * self.spread
        mixed = np.square(scaled @ self.rows.T).sum() / len(self.rows)
        return float((1 - self.shrinkage) * mixed + self.shrinkage * np.square(scaled).sum())


@dataclass(frozen=True, eq=False)
class PCALatent(Latent):
    r"""Principal components.

    With fewer rows than columns the components of the training rows vary much more on these rows than on others. So each
    fold of the rows is looked at in components of the others: how much it varies along the j-th one, and how much it has
    outside of them (Bartz, arXiv 1611.00798). ``target`` holds training coordinates shrunk to the former, and noise, orthogonal
    to the components, has the size of the latter: rows decoded from points spread like ``target`` vary as new rows do, and so do
    decoded new rows. ``encode`` shrinks nothing.

    Arguments:
        mean: The mean row, with shape (d,).
        components: Orthonormal rows, with shape (k, d).
        variance: The variance of the training rows along each component, with shape (k,).
        held_out_variance: That of rows which components were not fitted on, cross-fitted, with shape (k,).
        target: The coordinates of the training rows with the latter variances, with shape (n, k).
        reconstruction: The root mean square residual of the training rows, in the unit of the columns.
        residual: The law of the noise, before it is made orthogonal to the components and brought to its size.
        gain: What brings it to its size.
    """

    mean: np.ndarray
    components: np.ndarray
    variance: np.ndarray
    held_out_variance: np.ndarray
    target: np.ndarray
    reconstruction: float
    residual: Residual
    gain: float

    @staticmethod
    def fit(x: np.ndarray, components: int | float, key: Key) -> PCALatent:
        """Principal components of training rows.

        Arguments:
            x: Rows with shape (n, d), n > 1, on the scale that matters: columns are not brought to one scale here.
            components: Their number, an integer; or the share of the variance that they hold, above 0 up to 1.
            key: The source of the folds.

        Raises:
            ValueError: If rows are not finite or all the same, there are not as many components, or without some of the rows
                nothing varies.
        """
        from sklearn.decomposition import PCA

        x = training_rows(x)
        pca = PCA(svd_solver="full").fit(x)
        present = pca.explained_variance_ > 1e-12 * pca.explained_variance_[0]
        kept = _kept(pca.explained_variance_[present], components, x.shape)
        directions, variance = pca.components_[:kept], pca.explained_variance_[:kept]
        z = (x - pca.mean_) @ directions.T
        held_out, residuals = _cross_fit(x, kept, key)
        if not held_out.any():
            raise ValueError(
                f"{len(x)} rows are too few to learn principal components from: without one of them nothing varies"
            )
        law = Residual.fit(residuals)
        outside = float(np.square(law.spread).sum()) - law.within(directions)
        room = kept < x.shape[1] and outside > 1e-9 * float(variance.sum())
        gain = math.sqrt(float(np.square(residuals).sum(1).mean()) / outside) if room else 0.0
        missed = x - pca.mean_ - z @ directions
        return PCALatent(
            pca.mean_,
            directions,
            variance,
            held_out,
            z * np.sqrt(held_out / variance),
            float(np.sqrt(np.square(missed).mean())),
            law,
            gain,
        )

    columns = property(lambda self: self.components.shape[1])  # type: ignore[assignment]
    dimension = property(lambda self: len(self.components))  # type: ignore[assignment]
    lipschitz = 1.0  # orthonormal rows keep lengths

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return np.asarray((x - self.mean) @ self.components.T)

    def _reconstruct(self, z: np.ndarray) -> np.ndarray:
        return np.asarray(z @ self.components + self.mean)

    def _noise(self, count: int, key: Key) -> np.ndarray:
        noise = self.gain * self.residual.draw(count, key)
        return np.asarray(noise - (noise @ self.components.T) @ self.components)


def _kept(variance: np.ndarray, components: int | float, shape: tuple[int, ...]) -> int:
    """How many components a number or a share asks for."""
    if isinstance(components, (int, np.integer)) and not isinstance(components, bool):
        if not 1 <= components <= len(variance):
            raise ValueError(
                f"{components} principal components are asked for, but {shape[0]} rows with {shape[1]} columns have "
                f"{len(variance)}; ask for 1 to {len(variance)}, or for a share of the variance, as in 0.95"
            )
        return int(components)
    if not 0 < components <= 1:
        raise ValueError(f"the share of the variance must be above 0 and at most 1, not {components}")
    shares = np.cumsum(variance) / variance.sum()
    return min(int((shares < components * (1 - 1e-12)).sum()) + 1, len(variance))


def _cross_fit(x: np.ndarray, kept: int, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """The variances of rows along components of other rows, with shape (k,), and what lies outside of those, (n, d)."""
    from sklearn.decomposition import PCA
    from sklearn.isotonic import IsotonicRegression

    n, d = x.shape
    squares, residuals = np.zeros((n, kept)), np.zeros((n, d))
    order = key.fold("folds").numpy().permutation(n)
    for fold in np.array_split(order, min(n, _FOLDS)):
        others = np.delete(x, fold, axis=0)
        found = min(kept, len(others) - 1, d) if (others != others[:1]).any() else 0
        pca = PCA(found, svd_solver="covariance_eigh" if len(others) > d else "full").fit(others) if found else None
        directions = np.zeros((0, d)) if pca is None else pca.components_
        # A row differs from the mean of m others by more than from the true one, by 1 + 1/m in square.
        away = (x[fold] - others.mean(0)) / math.sqrt(1 + 1 / len(others))
        z = away @ directions.T
        squares[fold, : len(directions)] = z**2
        residuals[fold] = away - z @ directions
    variance = squares.mean(0)
    falling = IsotonicRegression(increasing=False).fit_transform(np.arange(kept), variance)
    return np.asarray(falling, dtype=np.float64), residuals


@dataclass(frozen=True, eq=False)
class UserLatent(Latent):
    """A user's own encoder and decoder.

    Arguments:
        encoder: Rows (n, d) to coordinates (n, k).
        decoder: Coordinates to rows.
        columns: The number of columns.
        dimension: The number of coordinates.
        target: The coordinates of the training rows, with shape (n, k).
        lipschitz: The largest ratio of distances between decoded training rows and between their coordinates: an estimate
            from below.
        reconstruction: The root mean square residual of the training rows, in the unit of the columns.
        residual: The law of the noise; ``None`` for none.
    """

    encoder: Map
    decoder: Map
    columns: int
    dimension: int
    target: np.ndarray
    lipschitz: float
    reconstruction: float
    residual: Residual | None

    certified = False

    @staticmethod
    def fit(x: np.ndarray, encode: Map, decode: Map, residual: bool = True) -> UserLatent:
        """Looks at what an encoder and a decoder make of training rows.

        Arguments:
            x: Rows with shape (n, d), n > 1.
            encode: A function of an array of rows, of any number of them, that answers an array of coordinates.
            decode: The way back.
            residual: Whether noise of the size that rows differ from their reconstruction is added to decoded ones; not
                wanted if the decoder adds its own. It is too small if the encoder was fitted on the same few rows.

        Raises:
            ValueError: If an answer has the wrong shape or is not finite.
        """
        x = training_rows(x)
        z = _rows(encode(x), None, "what the encoder answers", "coordinates", len(x))
        back = _rows(decode(z), x.shape[1], "what the decoder answers", "columns", len(x))
        missed = x - back
        law = Residual.fit(missed) if residual else None
        error = float(np.sqrt(np.square(missed).mean()))
        return UserLatent(encode, decode, x.shape[1], z.shape[1], z, _largest_ratio(z, back), error, law)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return _rows(self.encoder(x), self.dimension, "what the encoder answers", "coordinates", len(x))

    def _reconstruct(self, z: np.ndarray) -> np.ndarray:
        return _rows(self.decoder(z), self.columns, "what the decoder answers", "columns", len(z))

    def _noise(self, count: int, key: Key) -> np.ndarray:
        return np.zeros((count, self.columns)) if self.residual is None else self.residual.draw(count, key)


def _largest_ratio(z: np.ndarray, x: np.ndarray, most: int = 500) -> float:
    """The largest ratio of distances between rows of ``x`` and of ``z``; of the first ones, where there are many."""
    from scipy.spatial.distance import pdist

    before, after = pdist(z[:most]), pdist(x[:most])
    apart = before > 1e-12 * max(float(before.max()), 1e-300)
    return float((after[apart] / before[apart]).max()) if apart.any() else 0.0


def latent(
    spec: Any, x: np.ndarray, key: Key, shape: tuple[int, int] | tuple[int, int, int] | None = None
) -> Latent | None:
    """Latent coordinates by their name, or a user's own, fitted on training rows.

    Arguments:
        spec: ``"none"``; ``"pca:20"``, that many principal components; ``"pca:0.95"``, as many as hold that share of the
            variance; ``"ae:16"``, a fully connected autoencoder with that many coordinates; ``"conv:16"``, a convolutional one.
            Or a :class:`Latent`, which is answered as it is; a pair of functions that encode and decode; or an object with
            methods ``encode`` and ``decode``, or ``transform`` and ``inverse_transform``, as scikit-learn's have: a copy of
            such an estimator is fitted if it has not been.
        x: The training rows, with shape (n, d).
        key: The source of randomness.
        shape: Height, width and channels of the images that rows are, for ``conv``.

    Returns:
        The coordinates; ``None`` for none.

    Raises:
        ValueError: If ``spec`` is none of these, or does not suit the rows.
    """
    if spec is None:
        return None
    if not isinstance(spec, str):
        return _own(spec, x)
    kind, _, size = spec.partition(":")
    if spec == "none":
        return None
    if kind == "pca":
        return PCALatent.fit(x, _number(spec, size, share=True), key.fold("pca"))
    if kind == "ae":
        from particles.augment.autoencoder import AutoencoderLatent

        return AutoencoderLatent.fit(x, int(_number(spec, size)), key.fold("ae"))
    if kind == "conv":
        from particles.augment.autoencoder import ConvAutoencoderLatent

        dimension = int(_number(spec, size))
        if shape is None:
            raise ValueError(f"latent {spec!r} needs the shape of the images, as in (28, 28)")
        return ConvAutoencoderLatent.fit(x, shape, dimension, key.fold("conv"))
    raise ValueError(f"latent {spec!r} is not one of none, pca:0.95, pca:20, ae:16, conv:16, or an encoder and decoder")


def _number(spec: str, size: str, share: bool = False) -> int | float:
    """The number behind the colon: an integer, or a share of 1 if it has a point."""
    wanted = (
        "a number of coordinates, or a share of the variance, as in pca:0.95" if share else "a number of coordinates"
    )
    try:
        number = int(size) if size.isdecimal() else float(size) if share else 0
    except ValueError:
        number = 0
    if not number > 0 or (isinstance(number, float) and number > 1):
        raise ValueError(f"latent {spec!r}: behind the colon goes {wanted}, not {size!r}")
    return number


def _own(spec: Any, x: np.ndarray) -> Latent:
    """A user's own encoder and decoder."""
    if isinstance(spec, Latent):
        if spec.columns != np.shape(x)[1]:
            raise ValueError(f"latent: it was fitted on {spec.columns} columns, but the rows have {np.shape(x)[1]}")
        return spec
    if isinstance(spec, tuple) and len(spec) == 2 and all(callable(part) for part in spec):
        return UserLatent.fit(x, *spec)
    for names in (("encode", "decode"), ("transform", "inverse_transform")):
        if all(callable(getattr(spec, name, None)) for name in names):
            spec = _fitted(spec, x)
            return UserLatent.fit(x, *(getattr(spec, name) for name in names))
    raise ValueError(
        f"latent: a {type(spec).__name__} has neither encode and decode nor transform and inverse_transform; "
        f"give an object that has, or a pair of functions"
    )


def _fitted(spec: Any, x: np.ndarray) -> Any:
    """A copy of an estimator of scikit-learn's, fitted, if it has not been; anything else as it is."""
    from sklearn.base import BaseEstimator, clone
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(spec, BaseEstimator):
        return spec
    try:
        check_is_fitted(spec)
    except NotFittedError:
        return clone(spec).fit(training_rows(x))
    return spec


def training_rows(x: np.ndarray) -> np.ndarray:
    """Rows to fit on, as float64.

    Raises:
        ValueError: If they are not two or more finite rows that differ.
    """
    x = _rows(x, None, "training rows", "columns")
    if len(x) < 2 or (x == x[0]).all():
        raise ValueError(f"latent coordinates need two training rows that differ, not {len(x)} equal ones")
    return x


def _rows(given: Any, width: int | None, what: str, names: str, count: int | None = None) -> np.ndarray:
    """An array of float64 with the right shape and finite values."""
    x: np.ndarray = np.asarray(given, dtype=np.float64)
    if x.ndim != 2 or width not in (None, x.shape[1]) or count not in (None, len(x)) or x.shape[1] == 0:
        wanted = f"({count or 'n'}, {width or 'k'})"
        raise ValueError(f"{what} must have shape {wanted}, one row each with its {names}, not {x.shape}")
    if not (finite := np.isfinite(x)).all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(f"{what} must be finite, but row {row}, number {column} is {x[row, column]}")
    return x
