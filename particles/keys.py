"""Randomness as a value.

A key is a path of integers and names. Folding a number into it gives another key; the same key always
gives the same random numbers. Step ``k`` of a run draws from ``key.fold(k)``, so a resumed run draws what an
uninterrupted one would have drawn, and nothing about a generator has to be saved.
"""

from __future__ import annotations

import hashlib
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

    def numpy(self) -> np.random.Generator:
        """A fresh NumPy generator, seeded by this key."""
        return np.random.default_rng(self.seed)


ROOT = Key.of(0)
