"""The paths of particles, as arrays of snapshots."""

from __future__ import annotations

import numpy as np


def path_length(trajectory: np.ndarray) -> float:
    """The mean length of the particles' paths, a length: that of the broken lines through their snapshots.

    Arguments:
        trajectory: The snapshots, with shape :math:`(T, M, d)`. What happens between them is not seen.
    """
    return float(np.linalg.norm(np.diff(trajectory, axis=0), axis=2).sum(0).mean())


def straightness(trajectory: np.ndarray) -> float:
    """The paths' mean length over the particles' mean displacement: 1 for straight paths, larger for others; NaN if nothing moved.

    Arguments:
        trajectory: The snapshots, with shape :math:`(T, M, d)`.
    """
    displacement = float(np.linalg.norm(trajectory[-1] - trajectory[0], axis=1).mean())
    return path_length(trajectory) / displacement if displacement else float("nan")
