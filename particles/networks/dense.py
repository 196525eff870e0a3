"""Fully connected networks of bounded slope."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from particles.keys import ROOT, Key
from particles.networks.activations import ACTIVATIONS
from particles.networks.lipschitz import Bounded, BoundedRows, BoundedWeight

Pull = Callable[[Tensor, bool, bool], tuple[list[Tensor], Tensor | None]]


class _DensePass(torch.autograd.Function):
    """The whole network as one node of a graph."""

    @staticmethod
    def forward(ctx, network: DenseNetwork, x: Tensor, label: Tensor | None, *parameters: Tensor):  # type: ignore[no-untyped-def]
        values, ctx.pull = network.push(x, label)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        _, in_x, _, *in_parameters = ctx.needs_input_grad
        gradients, x = ctx.pull(gradient, any(in_parameters), in_x)
        return None, x, None, *(gradients or [None] * len(in_parameters))


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
        # Without classes a constant in φ means nothing: a last bias would drift on rounding errors.
        self.biases = nn.ParameterList([torch.zeros(size) for size in ((*widths, heads) if classes else widths)])

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
        parameters = self.parameters() if self.training else (p.detach() for p in self.parameters())
        values: Tensor = _DensePass.apply(self, x, label, *parameters)
        return values

    @torch.no_grad()
    def push(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Pull]:
        """The values of φ outside of autograd, and the way back for gradients, written out.

        On small clouds autograd's bookkeeping costs several times what the arithmetic does, and on large ones the
        fresh memory that it asks for; this works in place.

        Returns:
            The values, and a function of a gradient in them, with shape :math:`(n,)`, that answers the gradients in all
            parameters, in their order, and the gradient in ``x``; each if it is wanted.
        """
        weights, scalings = zip(*(bounded.push() for bounded in self.matrices))
        inputs, kept = [x], []
        for weight, bias in zip(weights[:-1], self.biases):
            value, keep = self.activation.push(torch.addmm(bias, inputs[-1], weight.mT))
            inputs.append(value)
            kept.append(keep)
        values = inputs[-1] @ weights[-1].mT
        if len(self.biases) == len(weights):
            values += self.biases[-1]

        @torch.no_grad()
        def pull(gradient: Tensor, in_parameters: bool, in_x: bool) -> tuple[list[Tensor], Tensor | None]:
            gradient = gradient[:, None]
            if label is not None:
                gradient = torch.zeros_like(values).scatter_(1, label[:, None], gradient)
            in_weights, in_biases = [], []
            for i in reversed(range(len(weights))):
                if in_parameters:
                    scaling, in_weight = scalings[i], outer(gradient, inputs[i])
                    in_weights.append(in_weight if scaling is None else scaling.pull(in_weight))
                    if i < len(self.biases):
                        in_biases.append(gradient.sum(0))
                if i > 0:
                    gradient = self.activation.pull(gradient @ weights[i], kept[i - 1])
            return in_weights[::-1] + in_biases[::-1], back(gradient, weights[0]) if in_x else None

        return _choose(values, label), pull

    def smooth(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """The same values, layer by layer: slower, and differentiable any number of times."""
        *hidden, last = self.matrices
        for weight, bias in zip(hidden, self.biases):
            x = self.activation(functional.linear(x, weight(), bias))
        return _choose(functional.linear(x, last(), *self.biases[len(hidden) :]), label)


def _choose(values: Tensor, label: Tensor | None) -> Tensor:
    return values[:, 0] if label is None else values.gather(1, label[:, None])[:, 0]


def outer(gradient: Tensor, inputs: Tensor) -> Tensor:
    """What goes back into a weight, with shape (..., outputs, inputs): the gradient, (..., n, outputs), transposed, times the inputs."""
    if inputs.shape[-1] < gradient.shape[-1]:
        return (inputs.mT @ gradient).mT.contiguous()
    return gradient.mT @ inputs


def back(gradient: Tensor, weight: Tensor) -> Tensor:
    """What goes back into the inputs, with shape (..., n, inputs): the gradient times the weight."""
    return gradient @ weight.mT.contiguous().mT
