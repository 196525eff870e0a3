"""Named toy laws to draw from, with shape (n, d)."""

from __future__ import annotations

import numpy as np
from sklearn import datasets

from particles.keys import Key


def _seed(key: Key) -> int:
    return key.seed % 2**32


def moons(n: int, key: Key) -> np.ndarray:
    """Two interleaved half circles of radius 1, noise 0.05."""
    return np.asarray(datasets.make_moons(n, noise=0.05, random_state=_seed(key))[0])


def circles(n: int, key: Key) -> np.ndarray:
    """Two concentric circles of radius 1 and 0.5, noise 0.05."""
    return np.asarray(datasets.make_circles(n, noise=0.05, factor=0.5, random_state=_seed(key))[0])


def pinwheel(n: int, key: Key) -> np.ndarray:
    """Five bent arms reaching out to radius 3 or so."""
    random = key.numpy()
    arm = random.integers(5, size=n)
    radial, tangential = 1 + 0.3 * random.standard_normal(n), 0.1 * random.standard_normal(n)
    angle = 2 * np.pi * arm / 5 + 0.25 * np.exp(radial)
    cos, sin = np.cos(angle), np.sin(angle)
    return 2 * np.stack((radial * cos - tangential * sin, radial * sin + tangential * cos), 1)


def eight_gaussians(n: int, key: Key) -> np.ndarray:
    """Eight Gaussians of standard deviation 0.2 on a circle of radius 4."""
    random = key.numpy()
    angle = np.pi / 4 * random.integers(8, size=n)
    return 4 * np.stack((np.cos(angle), np.sin(angle)), 1) + 0.2 * random.standard_normal((n, 2))


def four_gaussians(n: int, key: Key) -> np.ndarray:
    """Four Gaussians of standard deviation 0.5 at {0, 4}² (arXiv 2210.17230, its mixture example)."""
    random = key.numpy()
    return 4.0 * random.integers(2, size=(n, 2)) + 0.5 * random.standard_normal((n, 2))


def swiss_roll(n: int, key: Key) -> np.ndarray:
    """The rolled-up sheet in three dimensions, of length 21 and radius up to 14."""
    return np.asarray(datasets.make_swiss_roll(n, random_state=_seed(key))[0])


def swiss_roll_2d(n: int, key: Key) -> np.ndarray:
    """The spiral cross-section of the swiss roll, scaled to radius 4 or so, noise 0.1."""
    sheet, _ = datasets.make_swiss_roll(n, noise=0.35, random_state=_seed(key))
    return np.asarray(sheet[:, [0, 2]] / 3.5)


def checkerboard(n: int, key: Key) -> np.ndarray:
    """The eight dark squares of side 2 of a four by four board."""
    random = key.numpy()
    column, pair = random.integers(4, size=n), random.integers(2, size=n)
    corner = np.stack((column, 2 * pair + column % 2), 1)
    return 2 * (corner + random.random((n, 2))) - 4


def spirals(n: int, key: Key) -> np.ndarray:
    """Two spiral arms reaching out to radius 4 or so, noise 0.1."""
    random = key.numpy()
    turn = 3 * np.pi * np.sqrt(random.random(n))
    side = 2 * random.integers(2, size=n) - 1
    arms = np.stack((turn * np.cos(turn), turn * np.sin(turn)), 1) * side[:, None] * 0.4
    return arms + 0.1 * random.standard_normal((n, 2))


def student_t(n: int, key: Key, df: float = 3.0) -> np.ndarray:
    """The bivariate Student law with ``df`` degrees of freedom: heavy tails."""
    random = key.numpy()
    return random.standard_normal((n, 2)) / np.sqrt(random.chisquare(df, size=(n, 1)) / df)


def s_curve(n: int, key: Key) -> np.ndarray:
    """The sheet bent into an S in three dimensions, of height 4."""
    return np.asarray(datasets.make_s_curve(n, random_state=_seed(key))[0])


def sierpinski_carpet(n: int, key: Key, level: int = 4, side: float = 10.0) -> np.ndarray:
    """Uniform points in the cells that a carpet of this level keeps; for level 4 there are 4096 of them."""
    random = key.numpy()
    ring = np.array([(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)])
    cell = np.zeros((n, 2))
    cell += np.sum([ring[random.integers(8, size=n)] * 3**depth for depth in range(level)], axis=0)
    carpet: np.ndarray = side * ((cell + random.random((n, 2))) / 3**level - 0.5)
    return carpet
