"""Many small networks of bounded slope, side by side in one batched product."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from particles.keys import ROOT, Key
from particles.networks.activations import ACTIVATIONS
from particles.networks.dense import back, outer
from particles.networks.lipschitz import operator_norms

Pull = Callable[[Tensor, bool, bool], tuple[list[Tensor], Tensor | None]]


def _settle_again(module: nn.Module, _: object) -> None:
    module._settle()  # type: ignore[operator]


class StackedNetwork(nn.Module):
    r"""B fully connected networks :math:`\varphi_b: R^d \to R`, each with the bound L on its slope.

    They share shapes, not weights. Each layer has operator norm at most :math:`L^{1/\text{depth}}`, as in
    :class:`~particles.networks.dense.DenseNetwork`: followed by power iteration in training, computed exactly in
    evaluation mode. A constant in φ means nothing, so the last layer has no bias.

    Arguments:
        blocks: The number B of networks.
        dimension: The dimension d of the points.
        widths: The widths of the hidden layers.
        lipschitz: The bound L, in units of 1 / length.
        activation: ``relu``, ``leaky-relu``, ``softplus`` or ``groupsort``.
        key: The source of the initial weights; network b has the same ones whatever B is.
    """

    def __init__(
        self,
        blocks: int,
        dimension: int,
        widths: Sequence[int] = (64, 64, 64),
        lipschitz: float = 1.0,
        activation: str = "relu",
        key: Key = ROOT,
    ):
        super().__init__()
        if blocks < 1 or dimension < 1 or not widths or min(widths) < 1:
            raise ValueError(
                f"networks need a positive number, dimension and widths, not {blocks}, {dimension}, {tuple(widths)}"
            )
        if not 0 < lipschitz < math.inf:
            raise ValueError(f"lipschitz must be positive and finite, not {lipschitz}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        self.activation = ACTIVATIONS[activation]
        if self.activation.even and any(width % 2 for width in widths):
            raise ValueError(f"{activation} sorts pairs and needs even widths, not {tuple(widths)}")
        self.bound = lipschitz ** (1 / (len(widths) + 1))
        sizes = (dimension, *widths, 1)
        weights: list[list[Tensor]] = [[] for _ in sizes[1:]]
        for b in range(blocks):
            generator = key.fold("network", b).generator()
            for layer, (inputs, outputs) in zip(weights, itertools.pairwise(sizes)):
                layer.append(torch.randn(outputs, inputs, generator=generator) * math.sqrt(2 / inputs))
        stacks = [torch.stack(layer) for layer in weights]
        stacks = [stack * (self.bound / operator_norms(stack))[:, None, None] for stack in stacks]
        self.weights = nn.ParameterList(stacks)
        self.biases = nn.ParameterList([torch.zeros(blocks, 1, width) for width in widths])
        for i, stack in enumerate(stacks):  # where power iteration is
            self.register_buffer(f"left{i}", torch.ones(blocks, stack.shape[1], 1))
        self.settled: list[Tensor] = []
        self.register_load_state_dict_post_hook(_settle_again)

    def train(self, mode: bool = True) -> StackedNetwork:
        super().train(mode)
        self._settle()
        return self

    def _apply(self, *arguments: Any, **options: Any) -> StackedNetwork:
        """After a change of type or device the bounded weights are those of the new weights."""
        super()._apply(*arguments, **options)
        self._settle()
        return self

    @torch.no_grad()
    def _settle(self) -> None:
        """In evaluation mode, computes the bounded weights once for all that follows."""
        stacks = [] if self.training else [stack.detach() for stack in self.weights]
        self.settled = [stack * (self.bound / operator_norms(stack)).clamp(max=1)[:, None, None] for stack in stacks]

    @torch.no_grad()
    def push(self, x: Tensor) -> tuple[Tensor, Pull]:
        """The values with shape (B, n) at points with shape (B, n, d), outside of autograd, and the way back for gradients.

        Returns:
            The values, and a function of a gradient in them that answers the gradients in all parameters, in their order, and the
            gradient in ``x``; each if it is wanted.
        """
        scaled = [self._scaled(i) for i in range(len(self.weights))]
        weights = [weight for weight, _ in scaled]
        inputs, kept = [x], []
        for weight, bias in zip(weights[:-1], self.biases):
            value, keep = self.activation.push(torch.baddbmm(bias, inputs[-1], weight.mT))
            inputs.append(value)
            kept.append(keep)
        values = torch.bmm(inputs[-1], weights[-1].mT)[..., 0]

        @torch.no_grad()
        def pull(gradient: Tensor, in_parameters: bool, in_x: bool) -> tuple[list[Tensor], Tensor | None]:
            gradient = gradient[..., None]
            in_weights, in_biases = [], []
            for i in reversed(range(len(weights))):
                if in_parameters:
                    in_weights.append(scaled[i][1](outer(gradient, inputs[i])))
                    if i < len(self.biases):
                        in_biases.append(gradient.sum(1, keepdim=True))
                if i > 0:
                    gradient = self.activation.pull(torch.bmm(gradient, weights[i]), kept[i - 1])
            return in_weights[::-1] + in_biases[::-1], back(gradient, weights[0]) if in_x else None

        return values, pull

    def _scaled(self, i: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The weights of a layer within their bound, and the way back for gradients in them."""
        if not self.training:
            return self.settled[i], lambda gradient: gradient  # frozen: nobody asks for these gradients
        weight = self.weights[i].detach()
        left = getattr(self, f"left{i}")
        right = torch.bmm(weight.mT, left)
        right /= torch.linalg.vector_norm(right, dim=1, keepdim=True)
        reached = torch.bmm(weight, right)
        norm = torch.linalg.vector_norm(reached, dim=1, keepdim=True)
        left.copy_(reached / norm)
        factor = (self.bound / norm).clamp(max=1)
        slope = torch.bmm(left, right.mT)

        def inwards(gradient: Tensor) -> Tensor:
            along = (gradient * weight).sum((1, 2), keepdim=True) / norm * (norm > self.bound)
            inside: Tensor = (gradient - along * slope) * factor
            return inside

        return weight * factor, inwards
