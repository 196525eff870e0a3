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
    def field(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        """The same velocity with the potential left as it was last fitted, and what was measured of it."""

    @abstractmethod
    def phi(self, cloud: Cloud) -> Tensor:
        """What the particles of ``cloud`` descend, as it was last fitted: its value at every point, with shape :math:`(n,)`."""

    @abstractmethod
    def landscape(self, t: float, cloud: Cloud) -> tuple[Tensor, Tensor]:
        """What points at the time ``t`` go down, as it was last fitted: its values at every point, with shape :math:`(n,)`, and its
        gradients, with shape :math:`(n, d)`; without noise.
        """

    def check(self, cloud: Cloud) -> None:  # noqa: B027
        """Raises ValueError unless such particles can go along."""

    def ride(self, t: float, cloud: Cloud, key: Key) -> Tensor:
        """The velocity of points that only ride along, with the potential as it was last fitted, with shape :math:`(n, d)`."""
        return self.field(t, cloud, key)[0]

    def record(self) -> dict[str, Any]:
        """What ``ride`` and ``phi`` depend on, for ``recall``: tensors that are in use, numbers and containers of them."""
        return self.state_dict()

    def recall(self, record: dict[str, Any]) -> None:
        """Takes back what ``record`` gave, for ``ride`` and ``phi`` alone."""
        self.load_state_dict(record)

    def steer(self, number: Tensor | float) -> float:
        """A number that decides what a stepper does next, such as an error that asks for a smaller step.

        Steppers pass all of them through here, so that a recorded run can take new points along the same way: it reads
        back what was decided on the particles.
        """
        return float(number)

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that the next velocity depends on, but for the cloud."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` gave."""


class Around(Flow):
    """A flow around another one, which does what is not said otherwise: all but the velocity.

    Attributes:
        flow: The other flow.
    """

    flow: Flow

    def check(self, cloud: Cloud) -> None:
        self.flow.check(cloud)

    def field(self, t: float, cloud: Cloud, key: Key) -> tuple[Tensor, Info]:
        return self.flow.field(t, cloud, key)

    def phi(self, cloud: Cloud) -> Tensor:
        return self.flow.phi(cloud)

    def landscape(self, t: float, cloud: Cloud) -> tuple[Tensor, Tensor]:
        return self.flow.landscape(t, cloud)

    def ride(self, t: float, cloud: Cloud, key: Key) -> Tensor:
        return self.flow.ride(t, cloud, key)

    def record(self) -> dict[str, Any]:
        return self.flow.record()

    def recall(self, record: dict[str, Any]) -> None:
        self.flow.recall(record)

    def state_dict(self) -> dict[str, Any]:
        return self.flow.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.flow.load_state_dict(state)
