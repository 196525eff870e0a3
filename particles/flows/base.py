"""What every flow can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from particles.cloud import Cloud
from particles.keys import Key
from particles.potentials.base import Info


class Flow(ABC):
    """A velocity field that may depend on the whole cloud."""

    @abstractmethod
    def velocity(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        """The velocity of every point of ``cloud``, carried ones too, with shape :math:`(n, d)`, and what was measured.

        The same key gives the same minibatches.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that the next velocity depends on, but for the cloud."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` gave."""
