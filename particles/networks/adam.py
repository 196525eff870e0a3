"""Adam, as a value: torch's own arithmetic, without the machinery of its optimiser class.

That machinery costs more per step than the arithmetic on networks of this size, and imports a compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Adam:
    """Gradient ascent with Adam's moments (Kingma & Ba, 2015).

    Arguments:
        weights: What is optimised, in place.
        learning_rate: The step.
        momentum: The decay of the first moment, from 0 to 1.
    """

    def __init__(self, weights: Sequence[Tensor], learning_rate: float, momentum: float):
        self.weights = list(weights)
        self.momentum = momentum
        self.first = [torch.zeros_like(weight, requires_grad=False) for weight in self.weights]
        self.second = [torch.zeros_like(weight, requires_grad=False) for weight in self.weights]
        self.step = self.weights[0].new_zeros((), dtype=torch.float32, requires_grad=False)  # one for all of them
        self.rate = self.step.clone()  # what a GPU reads, so that it is no constant of a captured graph
        self.learning_rate = learning_rate

    @torch.no_grad()
    def ascend(self, gradients: Sequence[Tensor]) -> None:
        """One step up the gradients, one for each weight."""
        self.step += 1
        torch._fused_adam_(  # type: ignore[call-overload]
            self.weights,
            list(gradients),
            self.first,
            self.second,
            [],
            [self.step] * len(self.weights),
            amsgrad=False,
            beta1=self.momentum,
            beta2=0.999,
            lr=self.rate if self.rate.is_cuda else self.learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=True,
        )

    @property
    def learning_rate(self) -> float:
        """The step."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = value
        if self.rate.is_cuda:
            self.rate.fill_(value)

    def state_dict(self) -> dict[str, Any]:
        """The moments and the number of steps."""
        return {"first": self.first, "second": self.second, "steps": [self.step]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` gave, in place."""
        for own, saved in ((self.first, "first"), (self.second, "second")):
            for mine, theirs in zip(own, state[saved], strict=True):
                mine.copy_(theirs)
        self.step.copy_(state["steps"][0])  # earlier versions kept one for each weight
