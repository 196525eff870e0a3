"""Fully connected networks of bounded slope."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from particles.keys import ROOT, Key
from particles.networks.activations import ACTIVATIONS
from particles.networks.lipschitz import Bounded, BoundedRows, BoundedWeight


class _DensePass(torch.autograd.Function):
    """The whole network as one node of the graph, with its backward pass written out.

    On small clouds autograd's bookkeeping costs several times what the arithmetic does, and on large ones the
    fresh memory that it asks for; this pass works in place.
    """

    @staticmethod
    def forward(ctx, network: DenseNetwork, x: Tensor, *parameters: Tensor):  # type: ignore[no-untyped-def]
        weights, scalings = zip(*(bounded.push() for bounded in network.matrices))
        *biases, last = parameters[1::2]
        inputs, kept = [x], []
        for weight, bias in zip(weights, biases):
            value, keep = network.activation.push(torch.addmm(bias, inputs[-1], weight.mT))
            inputs.append(value)
            kept.append(keep)
        ctx.activation, ctx.weights, ctx.scalings, ctx.inputs, ctx.kept = (
            network.activation,
            weights,
            scalings,
            inputs,
            kept,
        )
        return torch.addmm(last, inputs[-1], weights[-1].mT)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        _, wants_x, *wants = ctx.needs_input_grad
        answers: list[Tensor | None] = []
        for i in reversed(range(len(ctx.weights))):
            answers.append(gradient.sum(0) if wants[2 * i + 1] else None)
            in_weight = gradient.mT @ ctx.inputs[i] if wants[2 * i] else None
            if in_weight is not None and ctx.scalings[i] is not None:
                in_weight = ctx.scalings[i].pull(in_weight)
            answers.append(in_weight)
            if i > 0:
                gradient = ctx.activation.pull(gradient @ ctx.weights[i], ctx.kept[i - 1])
        answers.append(gradient @ ctx.weights[0] if wants_x else None)
        return None, *reversed(answers)


class DenseNetwork(nn.Module):
    r"""A fully connected network :math:`\varphi: R^d \to R` with :math:`|\varphi(x) - \varphi(y)| \le L \|x - y\|`.

    Each of its layers has operator norm at most :math:`L^{1/\text{depth}}`, where the depth counts all weight matrices,
    and its activations have slopes of at most 1 (arXiv 2210.17230, Section 4).

    Arguments:
        dimension: The dimension d of the points.
        widths: The widths of the hidden layers.
        lipschitz: The bound L, in units of 1 / length; ``inf`` for a plain network.
        activation: ``relu``, ``leaky-relu``, ``softplus`` or ``groupsort`` (which needs even widths).
        classes: The number of classes: one output per class, chosen by the label. 0 for points without labels.
        key: The source of the initial weights.

    Raises:
        ValueError: If a width, the bound or the activation is not one of these.
    """

    def __init__(
        self,
        dimension: int,
        widths: Sequence[int] = (64, 64, 64),
        lipschitz: float = 1.0,
        activation: str = "relu",
        classes: int = 0,
        key: Key = ROOT,
    ):
        super().__init__()
        if dimension < 1 or not widths or min(widths) < 1:
            raise ValueError(
                f"a network needs a positive dimension and positive widths, not {dimension} and {tuple(widths)}"
            )
        if not lipschitz > 0:
            raise ValueError(f"lipschitz must be positive, not {lipschitz}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        self.activation = ACTIVATIONS[activation]
        if self.activation.even and any(width % 2 for width in widths):
            raise ValueError(f"{activation} sorts pairs and needs even widths, not {tuple(widths)}")
        generator = key.generator()
        bound = lipschitz ** (1 / (len(widths) + 1)) if lipschitz < math.inf else math.inf
        sizes = (dimension, *widths)
        hidden = [BoundedWeight(outputs, inputs, bound, generator) for inputs, outputs in zip(sizes, widths)]
        heads = max(classes, 1)
        self.weights = nn.ModuleList([*hidden, BoundedRows(heads, sizes[-1], bound, generator)])
        self.biases = nn.ParameterList([torch.zeros(size) for size in (*widths, heads)])

    @property
    def matrices(self) -> Iterator[Bounded]:
        """The bounded weights, from the first layer to the last."""
        return iter(self.weights)  # type: ignore[arg-type]

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """The values of φ, with shape :math:`(n,)`; differentiable once, in evaluation mode in ``x`` alone.

        Arguments:
            x: The points, with shape :math:`(n, d)`.
            label: The class of each point, integers with shape :math:`(n,)`: which output is its value.
        """
        parameters = [p for bounded, bias in zip(self.matrices, self.biases) for p in (bounded.weight, bias)]
        if not self.training:
            parameters = [p.detach() for p in parameters]
        return _choose(_DensePass.apply(self, x, *parameters), label)

    def smooth(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """The same values, layer by layer: slower, and differentiable any number of times."""
        *hidden, last = zip(self.matrices, self.biases)
        for weight, bias in hidden:
            x = self.activation(functional.linear(x, weight(), bias))
        weight, bias = last
        return _choose(functional.linear(x, weight(), bias), label)


def _choose(values: Tensor, label: Tensor | None) -> Tensor:
    return values[:, 0] if label is None else values.gather(1, label[:, None])[:, 0]
