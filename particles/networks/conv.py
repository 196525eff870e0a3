r"""Convolutional networks of bounded slope, for images.

The bound is on convolutions as they act on images of their size, with stride and zeros around: the norm of that linear
operator is neither the norm of the kernel written as a matrix (which may be several times smaller or larger) nor that of a
convolution on a torus (which is larger, on small images by a half). While a network is trained the norm is followed by power
iteration (Gouk et al., arXiv 1804.04368), one step per call from where the last one ended; in evaluation mode it is computed
to 1e-5, from above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from particles.keys import ROOT, Key
from particles.networks.activations import ACTIVATIONS, Activation
from particles.networks.lipschitz import Bounded, BoundedRows, BoundedWeight, Scaling

Shape = tuple[int, int] | tuple[int, int, int]

_DENSE = 256  # up to this many rows or columns the operator is written out as a matrix
_TOLERANCE = 1e-5


class Convolution:
    r"""A strided convolution with zeros around the image, and its adjoint.

    Arguments:
        outputs: The number of channels of the result.
        inputs: The number of channels of the image.
        kernel: The height and width of the kernel.
        height: The height of the image.
        width: The width of the image.
        stride: The step between two places of the kernel.
        padding: The rows and columns of zeros on each side of the image.

    Raises:
        ValueError: If the kernel does not fit in the padded image.
    """

    def __init__(self, outputs: int, inputs: int, kernel: int, height: int, width: int, stride: int, padding: int):
        least = kernel - 2 * padding
        if min(outputs, inputs, kernel, stride) < 1 or padding < 0 or min(height, width) < max(least, 1):
            raise ValueError(
                f"a {kernel} × {kernel} kernel with stride {stride} and padding {padding} does not fit an image of "
                f"{height} × {width}; choose a smaller kernel or a larger image"
            )
        self.weight_shape = (outputs, inputs, kernel, kernel)
        self.image = (inputs, height, width)
        self.result = (outputs, (height - least) // stride + 1, (width - least) // stride + 1)
        self.stride, self.padding = stride, padding
        # What the adjoint cannot know of the image's size: the rows and columns behind the kernel's last place.
        self.behind = ((height - least) % stride, (width - least) % stride)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Images of shape ``(n, inputs, height, width)`` to results ``(n, outputs, …)``."""
        return functional.conv2d(x, weight, bias, self.stride, self.padding)

    def adjoint(self, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Results to images: the transposed matrix."""
        return functional.conv_transpose2d(y, weight, bias, self.stride, self.padding, self.behind)

    def slope(self, left: Tensor, right: Tensor) -> Tensor:
        """The derivative of ⟨left, right ∗ weight⟩ in the weight."""
        slope: Tensor = conv2d_weight(right, self.weight_shape, left, self.stride, self.padding)
        return slope

    @torch.no_grad()
    def norm(self, weight: Tensor, near: Tensor | None = None) -> float:
        """The operator norm, the largest singular value; at most 1e-5 of it above the true one, and not below.

        Small operators are written out as matrices, others go through a Lanczos method (ARPACK).

        Arguments:
            weight: The kernels, with shape ``(outputs, inputs, kernel, kernel)``.
            near: A guess of the right singular vector, with shape ``(1, inputs, height, width)``; it saves time only.
        """
        inputs, outputs = math.prod(self.image), math.prod(self.result)
        if min(inputs, outputs) <= _DENSE:
            eye = torch.eye(min(inputs, outputs), dtype=weight.dtype, device=weight.device)
            image = inputs <= outputs
            full = (
                self(eye.view(-1, *self.image), weight) if image else self.adjoint(eye.view(-1, *self.result), weight)
            )
            square = torch.linalg.eigvalsh((full := full.flatten(1)) @ full.mT)[-1]
        else:
            square = self._largest(weight, near)
        return math.sqrt(max(float(square), 0.0)) * (1 + _TOLERANCE / 2)

    def _largest(self, weight: Tensor, near: Tensor | None) -> float:
        """The largest eigenvalue of the operator's square."""
        from scipy.sparse.linalg import LinearOperator, eigsh

        weight = weight.detach().cpu()
        kind = weight.numpy().dtype

        def square(x: np.ndarray) -> np.ndarray:
            image = torch.from_numpy(np.ascontiguousarray(x, dtype=kind)).view(1, *self.image)
            return np.asarray(self.adjoint(self(image, weight), weight).flatten().numpy())

        size = math.prod(self.image)
        # A part that knows nothing of the weight: whatever the guess misses, Lanczos finds.
        start = np.random.default_rng(0).standard_normal(size)
        if near is not None:
            guess = near.detach().cpu().double().numpy().ravel()
            start = start / np.linalg.norm(start) * 0.1 + guess / max(float(np.linalg.norm(guess)), 1e-30)
        if not weight.any():
            return 0.0
        operator = LinearOperator((size, size), matvec=square, dtype=kind)
        found = eigsh(operator, k=1, v0=start.astype(kind), tol=_TOLERANCE / 2, return_eigenvectors=False)
        return float(found[0])


class BoundedKernel(Bounded):
    r"""Kernels of a convolution whose operator norm is at most ``bound``: :math:`\min(1, b/\|W\|)\, W`.

    As with :class:`BoundedWeight`, what is within the bound is left alone, and in evaluation mode nothing but points takes a
    gradient. The adjoint has the same norm.

    Arguments:
        convolution: Sizes, stride and padding.
        bound: The largest operator norm, ``inf`` for any.
        generator: The source of the initial kernels: a normal law, scaled to the bound.
    """

    left: Tensor
    right: Tensor
    settled: Tensor

    def __init__(self, convolution: Convolution, bound: float, generator: torch.Generator):
        fan = math.prod(convolution.weight_shape[1:])
        weight = torch.randn(convolution.weight_shape, generator=generator) * math.sqrt(2 / fan)
        super().__init__(weight if bound == math.inf else weight * (bound / convolution.norm(weight)), bound)
        self.convolution = convolution
        self.register_buffer("left", torch.randn((1, *convolution.result), generator=generator))
        self.register_buffer("right", torch.randn((1, *convolution.image), generator=generator))
        self.register_buffer("settled", self.weight.detach().clone(), persistent=False)
        for _ in range(10):  # from nowhere to near the norm, so that the first step of training has it
            self._iterate()
        self.register_load_state_dict_post_hook(_settle_again)

    def train(self, mode: bool = True) -> BoundedKernel:
        super().train(mode)
        self._settle()
        return self

    @torch.no_grad()
    def _settle(self) -> None:
        if self.training or not self.bounded:
            return
        norm = self.convolution.norm(self.weight, self.right)
        torch.mul(self.weight, min(1.0, float(self.bound) / norm) if norm else 1.0, out=self.settled)

    @torch.no_grad()
    def _iterate(self) -> Tensor:
        """One step of power iteration; the norm."""
        weight = self.weight.detach()
        self.right.copy_(
            functional.normalize(self.convolution.adjoint(self.left, weight).flatten(), dim=0).view_as(self.right)
        )
        self.left.copy_(self.convolution(self.right, weight))
        norm: Tensor = torch.linalg.vector_norm(self.left)
        self.left /= norm
        return norm

    @torch.no_grad()
    def push(self) -> tuple[Tensor, Scaling | None]:
        if not self.bounded:
            return self.weight if self.training else self.weight.detach(), None
        if not self.training:
            return self.settled, None
        norm, weight = self._iterate(), self.weight.detach()
        scaling = Scaling.of(weight, norm, self.convolution.slope(self.left, self.right), self.bound)
        return weight * scaling.factor, scaling


class ConvNetwork(nn.Module):
    r"""A convolutional discriminator of flattened images with :math:`|\varphi(x) - \varphi(y)| \le L \|x - y\|`.

    Strided convolutions, one fully connected layer, and one output per class. Each layer has operator norm at most
    :math:`L^{1/\text{depth}}`, where the depth counts all of them.

    Arguments:
        shape: Height and width of an image, and its channels, which come last; rows of points are such arrays, flattened.
        channels: The channels of each convolution. Deeper is weaker under the same bound: between 100 threes and 100 eights (28 × 28)
            at L = 1, one convolution attained 0.44 of the Wasserstein distance, two attained 0.18, fully connected layers 0.48.
        kernel: The height and width of the kernels, in pixels, odd.
        stride: The step between two places of a kernel, in pixels.
        width: The width of the fully connected layer.
        lipschitz: The bound L, in units of 1 / length (Euclidean, between flattened images); ``inf`` for a plain network.
        activation: ``relu``, ``leaky-relu``, ``softplus`` or ``groupsort`` (which needs even channels and an even width).
        classes: The number of classes: one output per class, chosen by the label. 0 for points without labels.
        key: The source of the initial weights.

    Raises:
        ValueError: If a size, the bound or the activation is not one of these.
    """

    def __init__(
        self,
        shape: Shape,
        channels: Sequence[int] = (16,),
        kernel: int = 5,
        stride: int = 2,
        width: int = 64,
        lipschitz: float = 1.0,
        activation: str = "relu",
        classes: int = 0,
        key: Key = ROOT,
    ):
        super().__init__()
        self.shape = image_shape(shape)
        if not channels or min(*channels, width) < 1:
            raise ValueError(
                f"a network needs positive channels and a positive width, not {tuple(channels)} and {width}"
            )
        if kernel < 1 or kernel % 2 == 0 or stride < 1:
            raise ValueError(f"the kernel must be odd and the stride positive, not {kernel} and {stride}")
        if not lipschitz > 0:
            raise ValueError(f"lipschitz must be positive, not {lipschitz}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        self.activation = ACTIVATIONS[activation]
        if self.activation.even and any(size % 2 for size in (*channels, width)):
            raise ValueError(
                f"{activation} sorts pairs and needs even channels and an even width, not {tuple(channels)} and {width}"
            )
        bound = lipschitz ** (1 / (len(channels) + 2)) if lipschitz < math.inf else math.inf
        generator = key.generator()
        self.kernels = nn.ModuleList(
            BoundedKernel(convolution, bound, generator)
            for convolution in convolutions(self.shape, channels, kernel, stride)
        )
        features = math.prod(self.kernels[-1].convolution.result)  # type: ignore[union-attr, arg-type]
        heads = max(classes, 1)
        self.weights = nn.ModuleList(
            [BoundedWeight(width, features, bound, generator), BoundedRows(heads, width, bound, generator)]
        )
        # Without classes a constant in φ means nothing: a last bias would drift on rounding errors.
        sizes = (*channels, width, heads) if classes else (*channels, width)
        self.biases = nn.ParameterList([torch.zeros(size) for size in sizes])
        self.register_load_state_dict_post_hook(_settle_again)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """The values of φ, with shape :math:`(n,)`; in evaluation mode differentiable in ``x`` alone.

        Arguments:
            x: The images, flattened, with shape :math:`(n, H W C)`.
            label: The class of each, integers with shape :math:`(n,)`: which output is its value.
        """
        biases = [bias if self.training else bias.detach() for bias in self.biases]
        value = to_channels(x, self.shape)
        for kernel, bias in zip(self.kernels, biases):
            value = over_channels(self.activation, kernel.convolution(value, kernel(), bias))  # type: ignore[operator]
        hidden, last = self.weights
        value = self.activation(functional.linear(value.flatten(1), hidden(), biases[len(self.kernels)]))
        values: Tensor = functional.linear(value, last(), *biases[len(self.kernels) + 1 :])
        return values[:, 0] if label is None else values.gather(1, label[:, None])[:, 0]

    def smooth(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """The same values: all of it is differentiable in ``x`` any number of times."""
        return self.forward(x, label)


def _settle_again(module: nn.Module, _: object) -> None:
    module.train(module.training)  # a copy of the module brings itself here, which a bound method would not


def image_shape(shape: Shape) -> tuple[int, int, int]:
    """Height, width and channels.

    Raises:
        ValueError: If these are not two or three positive integers.
    """
    if len(shape) not in (2, 3) or any(int(size) != size or size < 1 for size in shape):
        raise ValueError(f"the shape of an image is (height, width) or (height, width, channels), not {tuple(shape)}")
    return int(shape[0]), int(shape[1]), int(shape[2]) if len(shape) == 3 else 1


def convolutions(shape: tuple[int, int, int], channels: Sequence[int], kernel: int, stride: int) -> list[Convolution]:
    """Convolutions one after the other, each with half a kernel of zeros around."""
    height, width, inputs = shape
    chain = []
    for outputs in channels:
        chain.append(Convolution(outputs, inputs, kernel, height, width, stride, kernel // 2))
        inputs, height, width = chain[-1].result
    return chain


def to_channels(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Flattened images with channels last, as ``(n, channels, height, width)``."""
    return x.reshape(len(x), *shape).permute(0, 3, 1, 2)


def from_channels(x: Tensor) -> Tensor:
    """Flattened images with channels last, from ``(n, channels, height, width)``."""
    return x.permute(0, 2, 3, 1).flatten(1)


def over_channels(activation: Activation, x: Tensor) -> Tensor:
    """An activation that may sort pairs of features, where the features are channels."""
    return activation(x.movedim(1, -1)).movedim(-1, 1) if activation.even else activation(x)
