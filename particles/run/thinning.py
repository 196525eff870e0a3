"""Which particles' ways are kept where there are too many for all."""

from __future__ import annotations

import torch

from particles.cloud import Cloud
from particles.keys import Key


def thinned(cloud: Cloud, most: int | None, key: Key) -> torch.Tensor | None:
    """The rows of at most ``most`` particles, ascending, or ``None`` for all; the same share of each class and of the carried ones.

    Every group has one particle at least, as far as there are as many as groups.
    """
    if most is None or most >= len(cloud):
        return None
    group = torch.zeros(len(cloud), dtype=torch.long) if cloud.label is None else cloud.label.cpu().clone()
    if cloud.carried:
        group[-cloud.carried :] += int(group.max()) + 1
    counts = group.bincount()
    shares = _dealt(counts, most)
    chosen = []
    for g in counts.nonzero()[:, 0].tolist():
        members = (group == g).nonzero()[:, 0]
        chosen.append(members[key.fold(g).choice(len(members), int(shares[g]))])
    return torch.cat(chosen).sort().values


def _dealt(counts: torch.Tensor, most: int) -> torch.Tensor:
    """``most`` dealt out to groups in the proportion of their counts (largest remainders), none left out that can be helped."""
    wanted = most * counts.double() / counts.sum()
    shares = wanted.floor().long()
    shares[(shares - wanted).argsort(stable=True)[: most - int(shares.sum())]] += 1
    for missing in ((shares == 0) & (counts > 0)).nonzero()[:, 0]:
        if shares.max() > 1:
            shares[shares.argmax()] -= 1
            shares[missing] = 1
    return shares
