r"""Two ways to keep a discriminator L-Lipschitz: weights of bounded operator norm, and a penalty on the slope.

The operator norm of a weight is its largest singular value. (The authors' code divides by the Frobenius norm,
which bounds it but is several times larger, so their networks start far below the slope that they are allowed.)
While a network is trained the norm is followed by power iteration, one step per call from where the last one
ended; whenever it is used, in evaluation mode, the norm is computed exactly, so that the bound holds always.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def operator_norms(weights: Tensor) -> Tensor:
    """The largest singular value of each matrix, for a stack with shape (..., rows, columns): the root of its Gram matrix' largest eigenvalue.

    Raises:
        FloatingPointError: If a matrix has a number that is not finite; on a GPU its norm is none either, and nothing is raised.
    """
    double = weights.double()
    gram = double @ double.mT if weights.shape[-2] <= weights.shape[-1] else double.mT @ double
    if weights.is_cuda:  # where a solver would wait for the device, and could not be captured in a graph
        largest = by_squaring(gram, 22 if weights.dtype == torch.float32 else 50)
    else:
        try:
            largest = torch.linalg.eigvalsh(gram)[..., -1].clamp_(min=0)
        except torch.linalg.LinAlgError:  # which blames the matrix for being ill-conditioned
            raise FloatingPointError(
                "the weights of a discriminator have non-finite values; a smaller learning_rate, step_size or lipschitz may help"
            ) from None
    norms: Tensor = largest.sqrt_().to(weights.dtype)
    return norms


def by_squaring(gram: Tensor, squarings: int) -> Tensor:
    r"""The largest eigenvalue of each positive semi-definite matrix in a stack, without a solver.

    With :math:`A_0 = A` and :math:`A_{k+1} = (A_k / \|A_k\|_F)^2`, the product of all :math:`\|A_k\|_F^{1/2^k}` falls to the eigenvalue: after
    K squarings of n rows it is above it by a factor of at most :math:`n^{1/2^{K+1}}`, however close the other eigenvalues are. So a bound
    that is kept with it holds always.
    """
    gram = gram + torch.finfo(gram.dtype).tiny ** 0.5 * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    norms = []
    for _ in range(squarings):
        norms.append(torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True))
        gram = gram / norms[-1]
        gram = gram @ gram
    norms.append(torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True))
    logs = torch.stack(norms)[..., 0, 0].log()
    part = torch.arange(len(norms), dtype=gram.dtype, device=gram.device).neg().exp2()
    largest: Tensor = torch.tensordot(part, logs, 1).exp()
    return largest


class Scaling(NamedTuple):
    r"""A weight divided by what it has too much norm, and the way back for gradients.

    Attributes:
        weight: The matrix W before scaling.
        factor: :math:`\min(1, b/\|W\|)`; one number, or one per row.
        share: 1 / norm where the bound is active, 0 elsewhere.
        slope: The derivative of the norm in W, with the shape of W.
    """

    weight: Tensor
    factor: Tensor
    share: Tensor
    slope: Tensor

    @staticmethod
    def of(weight: Tensor, norm: Tensor, slope: Tensor, bound: Tensor) -> Scaling:
        capped = torch.minimum(norm, bound)
        return Scaling(weight, capped / norm, (norm - capped).sign_().div_(norm), slope)

    def pull(self, gradient: Tensor) -> Tensor:
        """The gradient in W of a function with the given gradient in the scaled weight."""
        along = gradient * self.weight
        along = along.sum() if self.share.ndim == 0 else along.sum(1, keepdim=True)
        return gradient.addcmul(self.slope, along.mul_(self.share), value=-1).mul_(self.factor)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, scaling):  # type: ignore[no-untyped-def]
        ctx.scaling = scaling
        return weight * scaling.factor

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return ctx.scaling.pull(gradient), None


class Bounded(nn.Module, ABC):
    """A matrix whose norm stays within a bound, as a module without arguments.

    Arguments:
        weight: The initial matrix, with shape ``(outputs, inputs)``.
        bound: The largest norm, ``inf`` for any.

    Raises:
        ValueError: If the bound is so small that the norm of such a matrix would be lost, or so large that it is no number of its type.
    """

    bound: Tensor

    def __init__(self, weight: Tensor, bound: float):
        super().__init__()
        if bound < (least := torch.finfo(weight.dtype).tiny ** 0.5):  # below, squares are 0, and so are norms
            raise ValueError(f"lipschitz is too small: each layer would have a norm of {bound:.3g}, below {least:.3g}")
        if math.inf > bound > (most := torch.finfo(weight.dtype).max):
            raise ValueError(f"lipschitz is too large: each layer would have a norm of {bound:.3g}, above {most:.3g}")
        self.bounded = bound < math.inf
        self.register_buffer("bound", torch.tensor(bound), persistent=False)
        self.weight = nn.Parameter(weight)

    def forward(self) -> Tensor:
        """The bounded matrix, differentiable in the weight while in training mode."""
        matrix, scaling = self.push()
        return matrix if scaling is None else _Scaled.apply(self.weight, scaling)

    @abstractmethod
    def push(self) -> tuple[Tensor, Scaling | None]:
        """The bounded matrix outside of autograd, and the way back; ``None`` where the weight was not scaled."""


def _settle_again(module: nn.Module, _: object) -> None:
    module._settle()  # type: ignore[operator]


class BoundedWeight(Bounded):
    r"""A matrix of operator norm at most ``bound``: :math:`\min(1, b/\|W\|)\, W`.

    A matrix that is already within the bound is left as it is, so that a discriminator can become flat where
    particles and target agree. In evaluation mode the norm is exact, and the weight takes no gradient.

    Arguments:
        outputs: The number of rows.
        inputs: The number of columns.
        bound: The largest operator norm, ``inf`` for any.
        generator: The source of the initial matrix: a normal law, scaled to the bound.
    """

    left: Tensor
    right: Tensor
    settled: Tensor

    def __init__(self, outputs: int, inputs: int, bound: float, generator: torch.Generator):
        weight = torch.randn(outputs, inputs, generator=generator) * math.sqrt(2 / inputs)
        left, norms, right = torch.linalg.svd(weight, full_matrices=False)
        super().__init__(weight if bound == math.inf else weight * (bound / norms[0]), bound)
        self.register_buffer("left", left[:, 0].clone())
        self.register_buffer("right", right[0].clone())
        self.register_buffer("settled", self.weight.detach().clone(), persistent=False)
        self.register_load_state_dict_post_hook(_settle_again)

    def train(self, mode: bool = True) -> BoundedWeight:
        super().train(mode)
        self._settle()
        return self

    @torch.no_grad()
    def _settle(self) -> None:
        if self.training or not self.bounded:
            return
        norm = operator_norms(self.weight)
        torch.mul(self.weight, (self.bound / norm).clamp_(max=1), out=self.settled)

    def push(self) -> tuple[Tensor, Scaling | None]:
        if not self.bounded:
            return self.weight, None
        if not self.training:
            return self.settled, None
        weight, left, right = self.weight.detach(), self.left, self.right
        torch.mv(weight.mT, left, out=right)
        right /= torch.linalg.vector_norm(right)
        torch.mv(weight, right, out=left)
        norm = torch.linalg.vector_norm(left)  # = uᵀ W v
        left /= norm
        scaling = Scaling.of(weight, norm, torch.outer(left, right), self.bound)
        return weight * scaling.factor, scaling


class BoundedRows(Bounded):
    """A matrix whose rows have Euclidean norm at most ``bound`` each: the outputs for several classes, each a map to R.

    Arguments:
        outputs: The number of rows.
        inputs: The number of columns.
        bound: The largest norm of a row, ``inf`` for any.
        generator: The source of the initial rows, of norm ``bound``.
    """

    def __init__(self, outputs: int, inputs: int, bound: float, generator: torch.Generator):
        weight = torch.randn(outputs, inputs, generator=generator)
        norm = weight.norm(dim=1, keepdim=True)
        super().__init__(weight / norm * (1.0 if bound == math.inf else bound), bound)

    def push(self) -> tuple[Tensor, Scaling | None]:
        if not self.bounded:
            return self.weight, None
        weight = self.weight.detach()
        norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        scaling = Scaling.of(weight, norm, weight / norm, self.bound)
        return weight * scaling.factor, scaling if self.training else None


def slope_penalty(values: Tensor, x: Tensor, lipschitz: float, count: int | None = None) -> Tensor:
    r"""The one-sided gradient penalty :math:`E \max(\|\nabla\varphi\|^2 / L^2 - 1, 0)`, on the full gradient norm.

    Arguments:
        values: φ at ``x``, with shape :math:`(n,)`, each depending on its own row alone.
        x: Points that require gradients, with shape :math:`(n, d)`.
        lipschitz: The bound L.
        count: The number of points of which these are some: their part of the mean is answered.
    """
    (gradient,) = torch.autograd.grad(values.sum(), x, create_graph=True)
    excess = (gradient.square().sum(1) / lipschitz**2 - 1).clamp(min=0)
    return excess.mean() if count is None else excess.sum() / count
