"""Laws that particles start from, in the units of the flow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from particles.cloud import Cloud, at_once
from particles.keys import Key


def gaussian(target: Cloud, count: int, mean: float, std: float, key: Key) -> Cloud:
    """Independent normal coordinates with this mean and standard deviation."""
    generator, x = key.generator(), _room(target, count)
    for part in x.split(at_once(x)):
        part.copy_(mean + std * torch.randn(part.shape, generator=generator, dtype=torch.float64))
    return _like(target, x, _shares(target, count))


def uniform(target: Cloud, count: int, mean: float, std: float, key: Key) -> Cloud:
    """Uniform in a cube, its coordinates with this mean and standard deviation: of side std · √12."""
    generator, x = key.generator(), _room(target, count)
    for part in x.split(at_once(x)):
        chance = torch.rand(part.shape, generator=generator, dtype=torch.float64)
        part.copy_(mean + std * math.sqrt(12) * (chance - 0.5))
    return _like(target, x, _shares(target, count))


def bootstrap(target: Cloud, count: int, mean: float, std: float, key: Key) -> Cloud:
    """Rows of the target drawn anew, with a normal jitter of this mean and standard deviation."""
    generator = key.generator()
    label = _shares(target, count)
    if label is None or target.label is None:
        rows = torch.randint(len(target), (count,), generator=generator)
    else:
        rows = torch.empty(count, dtype=torch.long)
        for c in label.unique():
            own = (target.label.cpu() == c).nonzero()[:, 0]
            here = label == c
            rows[here] = own[torch.randint(len(own), (int(here.sum()),), generator=generator)]
    x, places = _room(target, count), target.x.cpu().double()
    for part, chosen in zip(x.split(at_once(x)), rows.split(at_once(x))):
        part.copy_(places[chosen] + mean + std * torch.randn(part.shape, generator=generator, dtype=torch.float64))
    return _like(target, x, label)


def balanced(cloud: Cloud, target: Cloud) -> Cloud:
    """The cloud with the masses that give its classes the shares that they have in the target.

    The discriminator of a labelled flow is free in each class by a constant, so unequal shares would be a divergence that
    no motion can remove (for W1, an infinite one).
    """
    if cloud.label is None or target.label is None:
        return cloud
    shares = torch.bincount(target.label).double() / len(target)
    counts = torch.bincount(cloud.label, minlength=len(shares))
    return Cloud(cloud.x, cloud.label, (shares / counts)[cloud.label].to(cloud.x.dtype))


def _room(target: Cloud, count: int) -> Tensor:
    """Memory for the points, in the type of the target's; it is filled part by part, from numbers in double precision."""
    return torch.empty(count, target.dimension, dtype=target.x.dtype)


def _like(target: Cloud, x: Tensor, label: Tensor | None) -> Cloud:
    return Cloud(x.to(target.x), None if label is None else label.to(target.x.device))


def _shares(target: Cloud, count: int) -> Tensor | None:
    """Labels in the proportions of the target's, to the nearest particle (largest remainders first), none left out."""
    if target.label is None:
        return None
    wanted = torch.bincount(target.label.cpu()).double() / len(target) * count
    whole = wanted.floor()
    whole[(whole - wanted).argsort(stable=True)[: count - int(whole.sum())]] += 1
    if count >= len(whole):
        for missing in (whole == 0).nonzero()[:, 0]:
            whole[whole.argmax()] -= 1
            whole[missing] = 1
    return torch.repeat_interleave(torch.arange(len(whole)), whole.long())
