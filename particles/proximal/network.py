r"""A potential in space and time, with its slopes written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from particles.keys import ROOT, Key

FULL = 1024
"""The largest dimension in which the matrix A of the quadratic part is a full one."""
RANK = 64


class Slopes(NamedTuple):
    r"""A potential and its derivatives at some points, differentiable by autograd in points and weights.

    Attributes:
        value: U, with shape :math:`(n,)`.
        in_x: :math:`\nabla U`, with shape :math:`(n, d)`.
        in_t: :math:`\partial_t U`, with shape :math:`(n,)`.
    """

    value: Tensor
    in_x: Tensor
    in_t: Tensor


class TimedNetwork(nn.Module):
    r"""A network U(x, t) for :math:`0 \le t \le T`.

    .. math:: U(x, t) = c \, r(t)^{p-1} \left( N(y, t/T) + \tfrac12 y \cdot A y + b \cdot y \right), \quad y = x / s,
        \quad r(t) = \frac{1}{1 - t/T + \delta}

    with a fully connected N whose activation is the integral of :math:`\min(\max(z, 0), 2)`: smooth enough for slopes of slopes, and
    made of clamps, which on a CPU take a third of the time of softplus. The factor r is how the value function of a particle that still
    has to go to z grows, :math:`\alpha\|x - z\|^p / (p (T - t)^{p-1})`; so what the network has to learn, where each particle is
    going, hardly changes with time. The quadratic part is what contracts towards a plane. The last weights are 0 at first, and so is U.
    Above 1,024 dimensions A is a diagonal and :math:`\tfrac12 (B C^\top + C B^\top)` with 64 columns in B and C: enough to
    contract towards 64 dimensions, and the work of a step grows like d, not like d².

    The slopes are computed by hand (one pass down and one up), so that a loss made of them is differentiated once, not twice.

    Arguments:
        dimension: The dimension d of the points.
        widths: The widths of the hidden layers.
        horizon: The time T.
        size: The length s, that of the problem: the root mean square of the target, say.
        scale: The constant c, in the units of U.
        power: The exponent p of the transport cost.
        delta: The part δ of the horizon that keeps r finite at its end.
        classes: The number of classes: each has last weights and a b of its own, chosen by the label. 0 for points without labels.
        key: The source of the initial weights.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        dimension: int,
        widths: Sequence[int] = (64, 64, 64),
        *,
        horizon: float = 1.0,
        size: float = 1.0,
        scale: float = 1.0,
        power: float = 2.0,
        delta: float = 0.05,
        classes: int = 0,
        key: Key = ROOT,
    ):
        super().__init__()
        if dimension < 1 or not widths or min(widths) < 1:
            raise ValueError(
                f"a network needs a positive dimension and positive widths, not {dimension} and {tuple(widths)}"
            )
        for name, value in (("horizon", horizon), ("size", size), ("scale", scale), ("delta", delta)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {value}")
        self.horizon, self.size, self.scale, self.power, self.delta = horizon, size, scale, power, delta
        generator = key.generator()
        sizes = (dimension + 1, *widths)
        self.weights = nn.ParameterList(
            [
                torch.randn(out, inputs, generator=generator) * (2 / math.sqrt(inputs))
                for inputs, out in zip(sizes, widths)
            ]
        )
        self.biases = nn.ParameterList([torch.randn(width, generator=generator) / 2 for width in widths])
        heads = max(classes, 1)
        self.last = nn.Parameter(torch.zeros(heads, widths[-1]))
        self.slant = nn.Parameter(torch.zeros(heads, dimension))
        self.full = dimension <= FULL
        self.bend = nn.Parameter(torch.zeros(dimension, dimension if self.full else 1))
        if not self.full:
            self.plane = nn.Parameter(torch.randn(dimension, RANK, generator=generator) / math.sqrt(dimension))
            self.fold = nn.Parameter(torch.zeros(dimension, RANK))

    def slopes(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Slopes:
        """The potential and its derivatives.

        Arguments:
            x: The points, with shape :math:`(n, d)`.
            t: The time of each, with shape :math:`(n, 1)`, or of all.
            label: The class of each, integers with shape :math:`(n,)`.
        """
        time = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x), 1) / self.horizon
        y = x / self.size
        inputs, derivatives = torch.cat((y, time), 1), []
        for weight, bias in zip(self.weights, self.biases):
            near = torch.addmm(bias, inputs, weight.mT)
            near, z = near.clamp(0, 2), near
            derivatives.append(near)
            inputs = near * (torch.maximum(near, z) - near / 2)
        head = self.last[:1] if label is None else self.last[label]
        slant = self.slant[:1] if label is None else self.slant[label]
        bent = self._bent(y)
        value = (inputs * head).sum(1) + ((bent / 2 + slant) * y).sum(1)
        back = head * derivatives[-1]
        for weight, derivative in zip(reversed(list(self.weights)[1:]), reversed(derivatives[:-1])):
            back = (back @ weight) * derivative
        back = back @ self.weights[0]
        rise = 1 / (1 - time[:, 0] + self.delta)
        factor = self.scale * rise ** (self.power - 1)
        in_x = (back[:, :-1] + bent + slant) * (factor / self.size)[:, None]
        in_t = (back[:, -1] + (self.power - 1) * rise * value) * (factor / self.horizon)
        return Slopes(value * factor, in_x, in_t)

    def _bent(self, y: Tensor) -> Tensor:
        """A y for each of the points."""
        if self.full:
            return y @ (self.bend + self.bend.mT) / 2
        return y * self.bend[:, 0] + (y @ self.plane @ self.fold.mT + y @ self.fold @ self.plane.mT) / 2

    def forward(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Tensor:
        """The values of U, with shape :math:`(n,)`."""
        return self.slopes(x, t, label).value
