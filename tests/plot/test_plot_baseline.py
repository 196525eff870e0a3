"""A few pictures as they were when somebody looked at them.

After a change that is meant, look at the new ones and keep them: ``PARTICLES_BASELINE=1 pytest tests/test_plot_baseline.py``.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib.testing.compare import compare_images

from particles import plot

pytestmark = pytest.mark.slow

BASELINE = Path(__file__).parents[1] / "baseline"
TOLERANCE = 3.0
"""Root mean square difference, of 255: other versions of fonts stay below, a dot more does not in pictures as small as these."""


def flow():
    """Forty particles on their way to a ring, and the ring."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ring = np.stack((3 * np.cos(angle), 3 * np.sin(angle)), 1)
    start = rng.normal(size=(40, 2)) * 0.4
    share = np.linspace(0, 1, 12)[:, None, None] ** 1.5
    return (1 - share) * start + share * (ring + 0.1), ring


def bowl(points):
    return 0.5 * np.square(np.linalg.norm(points, axis=1) - 3)


def stripes():
    """Images of 5 × 5 pixels with one dark line each."""
    lines = np.zeros((1, 10, 25))
    for i in range(10):
        lines[0, i].reshape(5, 5)[i % 5 if i < 5 else slice(None), slice(None) if i < 5 else i % 5] = 1
    return lines


def drawn(name):
    way, ring = flow()
    return {
        "trajectories": lambda: plot.trajectories(way, ring),
        "space": lambda: plot.trajectories(
            np.concatenate((way, way[..., :1] * way[..., 1:]), 2), np.c_[ring, ring[:, 0] * ring[:, 1]]
        ),
        "snapshots": lambda: plot.snapshots(way, ring, times=[0, 5, 11]),
        "density": lambda: plot.density(way, ring),
        "potential": lambda: plot.potential(way, ring, phi=bowl, grid=30),
        "transport": lambda: plot.transport(way, ring),
        "tails": lambda: plot.tails(way, ring),
        "images": lambda: plot.images(stripes(), stripes()[0] * 0.9, shape=(5, 5), count=10),
    }[name]()


@pytest.mark.parametrize(
    "name", ["trajectories", "space", "snapshots", "density", "potential", "transport", "tails", "images"]
)
def test_pictures_are_as_they_were(tmp_path, name):
    path = (BASELINE if "PARTICLES_BASELINE" in os.environ else tmp_path) / f"{name}.png"
    drawn(name).savefig(path, dpi=50)
    assert compare_images(str(BASELINE / f"{name}.png"), str(path), TOLERANCE) is None


def test_a_changed_picture_is_noticed(tmp_path):
    way, ring = flow()
    way[-1, 0] += 1
    plot.trajectories(way, ring).savefig(tmp_path / "trajectories.png", dpi=50)
    assert "did not match" in compare_images(
        str(BASELINE / "trajectories.png"), str(tmp_path / "trajectories.png"), TOLERANCE
    )
