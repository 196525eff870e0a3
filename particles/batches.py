"""Minibatches that are spread evenly over a cloud."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from particles.cloud import Cloud
from particles.keys import Key

LEAVES = 4096
"""The most groups of neighbours that a cloud is ordered into; within a group the order is the cloud's own."""


class Stratified:
    """Draws one point from each of as many groups of neighbours as a batch is to have: stratified sampling.

    Every point is as likely as its mass says, as in independent draws, but a batch has nearly the cloud's shares everywhere, so that
    means over it vary less: with a discriminator that is nearly linear in what is drawn, many times less.

    Arguments:
        cloud: The cloud, without carried points.
    """

    def __init__(self, cloud: Cloud):
        self.cloud = cloud
        self.order = _neighbours_together(cloud)
        mass = cloud.mass[self.order].double()
        self.reached = mass.cumsum(0) / mass.sum()

    def draw(self, size: int, key: Key) -> Cloud:
        """``size`` points of equal masses, or the cloud itself if it is no larger."""
        if size >= len(self.cloud):
            return self.cloud
        device = self.reached.device
        chance = torch.rand(size, generator=key.generator(device), dtype=torch.double, device=device)
        place = (torch.arange(size, dtype=torch.double, device=device) + chance) / size
        index = torch.searchsorted(self.reached, place, right=True).clamp_(max=len(self.order) - 1)
        return replace(self.cloud.take(self.order[index]), weight=None)


def _neighbours_together(cloud: Cloud) -> Tensor:
    """An order of the points in which neighbours are near: each class by itself, halved again and again across its widest axis."""
    everything = torch.arange(len(cloud), device=cloud.x.device)
    groups = [everything]
    if cloud.label is not None:
        groups = [everything[cloud.label == label] for label in cloud.label.unique()]
    while len(groups) < LEAVES and any(len(group) > 1 for group in groups):
        groups = [half for group in groups for half in _halves(cloud.x, group)]
    return torch.cat(groups)


def _halves(x: Tensor, group: Tensor) -> tuple[Tensor, ...]:
    if len(group) < 2:
        return (group,)
    points = x[group]
    widest = points.var(0).argmax()
    group = group[points[:, widest].argsort(stable=True)]
    return group[: len(group) // 2], group[len(group) // 2 :]
