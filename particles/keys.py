"""Randomness as a value.

A key is a path of integers and names. Folding a number into it gives another key; the same key always
gives the same random numbers. Step ``k`` of a run draws from ``key.fold(k)``, so a resumed run draws what an
uninterrupted one would have drawn, and nothing about a generator has to be saved.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Key:
    """A place in the tree of random streams.

    Arguments:
        path: The integers and names on the way from the root; ``Key.of(seed)`` makes a root.
    """

    path: tuple[int | str, ...]

    @staticmethod
    def of(seed: int) -> Key:
        """The root key of a seed."""
        return Key((int(seed),))

    def fold(self, *steps: int | str) -> Key:
        """The key that many steps further down."""
        return Key((*self.path, *steps))

    @property
    def seed(self) -> int:
        """A 63-bit seed that depends on every step of the path, and on their order."""
        digest = hashlib.blake2b(repr(self.path).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh torch generator on ``device``, seeded by this key."""
        return torch.Generator(device=device).manual_seed(self.seed)

    def choice(self, total: int, size: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """``size`` different numbers below ``total``, any set of them as likely as any other, with shape (size,).

        For few of many the time grows with ``size`` alone: numbers are drawn independently, and those that came before are
        skipped. So many are drawn that they are not enough with a probability below 1e-15; then some come twice. Nothing waits for the
        device.
        """
        generator = self.generator(device)
        if total <= SHUFFLED or size > total // 16:
            return torch.randperm(total, generator=generator, device=device)[:size]
        tries = math.ceil(-total * math.log1p(-size / total) + 2 * math.sqrt(size)) + 16
        drawn = torch.randint(total, (tries,), generator=generator, device=device)
        ordered, place = drawn.sort(stable=True)
        new = torch.ones_like(place)
        new[place[1:]] = (ordered[1:] != ordered[:-1]).long()  # 0 for a number that came before
        rank = torch.where(new.bool(), new.cumsum(0) - 1, size).clamp_(max=size)
        return drawn[:1].repeat(size + 1).scatter_(0, rank, drawn)[:size]

    def numpy(self) -> np.random.Generator:
        """A fresh NumPy generator, seeded by this key."""
        return np.random.default_rng(self.seed)


SHUFFLED = 1 << 14
"""Up to so many numbers it is quicker to shuffle all of them."""
ROOT = Key.of(0)
