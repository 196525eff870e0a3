r"""Autoencoders whose decoders have a known Lipschitz constant.

Encoder and decoder are principal components plus a network: training starts at the former, and what it keeps is the state that
reconstructs a validation part best. With few rows that is often the start, and the autoencoder is a PCA then.
"""

from __future__ import annotations

import copy
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from particles.augment.latent import Latent, Residual, training_rows
from particles.keys import Key
from particles.networks.activations import ACTIVATIONS
from particles.networks.conv import BoundedKernel, Shape, convolutions, from_channels, image_shape, to_channels
from particles.networks.lipschitz import BoundedWeight

_VALIDATION = 0.2
_LEAST = 10  # rows below which there is no validation part, and nothing is trained
_EVERY = 10  # steps between two looks at the validation part

_SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, **ACTIVATIONS}  # all of slope at most 1


class _Part(nn.Module, ABC):
    """A linear map plus a network that starts near 0."""

    linear: BoundedWeight

    @abstractmethod
    def network(self, x: Tensor) -> Tensor: ...

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.linear()) + self.network(x)


class _BoundedPart(_Part):
    """One of a known Lipschitz constant, as decoders are."""

    def bound(self) -> float:
        """A bound on the Lipschitz constant: the norm of the linear map plus the product of those of the layers."""
        product = 1.0
        for norm in self.norms():
            product *= norm
        return _norm(self.linear) + product

    @abstractmethod
    def norms(self) -> list[float]: ...


class _Dense(_BoundedPart):
    def __init__(
        self,
        sizes: Sequence[int],
        linear: Tensor,
        bounds: tuple[float, float],
        activation: str,
        generator: torch.Generator,
    ):
        super().__init__()
        self.linear = _started(BoundedWeight(sizes[-1], sizes[0], bounds[0], generator), linear)
        bound = bounds[1] ** (1 / (len(sizes) - 1))
        self.layers = nn.ModuleList(
            BoundedWeight(out, inputs, bound, generator) for inputs, out in itertools.pairwise(sizes)
        )
        self.biases = nn.ParameterList([torch.zeros(size) for size in sizes[1:]])
        self.activation = _SMOOTH[activation]
        _shrink(self.layers[-1])

    def network(self, x: Tensor) -> Tensor:
        for i, (layer, bias) in enumerate(zip(self.layers, self.biases)):
            x = functional.linear(x, layer(), bias)
            if i + 1 < len(self.layers):
                x = self.activation(x)
        return x

    def norms(self) -> list[float]:
        return [_norm(layer) for layer in self.layers]


class _ConvEncoder(_Part):
    def __init__(
        self, shape: tuple[int, int, int], channels: Sequence[int], linear: Tensor, generator: torch.Generator
    ):
        super().__init__()
        self.shape = shape
        self.linear = _started(BoundedWeight(linear.shape[0], linear.shape[1], math.inf, generator), linear)
        chain = convolutions(shape, channels, 3, 2)
        self.kernels = nn.ModuleList(BoundedKernel(convolution, math.inf, generator) for convolution in chain)
        self.biases = nn.ParameterList([torch.zeros(size) for size in channels])
        self.last = BoundedWeight(len(linear), math.prod(chain[-1].result), math.inf, generator)
        _shrink(self.last)

    def network(self, x: Tensor) -> Tensor:
        x = to_channels(x, self.shape)
        for kernel, bias in zip(self.kernels, self.biases):
            x = torch.relu(kernel.convolution(x, kernel(), bias))  # type: ignore[operator]
        return functional.linear(x.flatten(1), self.last())


class _ConvDecoder(_BoundedPart):
    """The adjoints of the encoder's convolutions, in the reverse order, each with kernels of its own."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        channels: Sequence[int],
        linear: Tensor,
        bounds: tuple[float, float],
        generator: torch.Generator,
    ):
        super().__init__()
        bound = bounds[1] ** (1 / (len(channels) + 1))
        self.linear = _started(BoundedWeight(linear.shape[0], linear.shape[1], bounds[0], generator), linear)
        chain = convolutions(shape, channels, 3, 2)[::-1]
        self.first = BoundedWeight(math.prod(chain[0].result), linear.shape[1], bound, generator)
        self.kernels = nn.ModuleList(BoundedKernel(convolution, bound, generator) for convolution in chain)
        self.biases = nn.ParameterList(
            [torch.zeros(self.first.weight.shape[0]), *(torch.zeros(convolution.image[0]) for convolution in chain)]
        )
        _shrink(self.kernels[-1])

    def network(self, z: Tensor) -> Tensor:
        first, *biases = self.biases
        x = functional.linear(z, self.first(), first).unflatten(1, self.kernels[0].convolution.result)  # type: ignore[union-attr, arg-type]
        for kernel, bias in zip(self.kernels, biases):
            x = kernel.convolution.adjoint(torch.relu(x), kernel(), bias)  # type: ignore[operator, union-attr, call-arg]
        return from_channels(x)

    def norms(self) -> list[float]:
        return [_norm(self.first), *(_norm(kernel) for kernel in self.kernels)]


def _started(bounded: BoundedWeight, weight: Tensor) -> BoundedWeight:
    """The same module with another weight, whose left singular vector power iteration starts from."""
    with torch.no_grad():
        bounded.weight.copy_(weight)
        left, _, right = torch.linalg.svd(bounded.weight, full_matrices=False)
        bounded.left.copy_(left[:, 0])
        bounded.right.copy_(right[0])
    return bounded


def _shrink(bounded: nn.Module) -> None:
    with torch.no_grad():
        bounded.weight.mul_(1e-2)  # type: ignore[operator, union-attr]


@torch.no_grad()
def _norm(bounded: nn.Module) -> float:
    """The norm of a bounded weight as it is used in evaluation mode."""
    if isinstance(bounded, BoundedKernel):
        return bounded.convolution.norm(bounded())
    return float(torch.linalg.matrix_norm(bounded(), 2))


@dataclass(frozen=True, eq=False)
class NetworkLatent(Latent):
    """A trained encoder and decoder.

    Arguments:
        mean: The mean of the training rows, with shape (d,).
        unit: The root mean square deviation from it, over rows and columns: networks see rows in this unit.
        encoder: Its network, in double precision and evaluation mode.
        decoder: The way back.
        target: The coordinates of the training rows, with shape (n, k), in the unit of the columns.
        lipschitz: The bound on the decoder, by the exact operator norms of its layers.
        reconstruction: The root mean square residual of the training rows, in the unit of the columns.
        residual: The law of the noise: as the residuals of all training rows correlate, of the size that those of the
            validation part have, corrected so that decoded rows vary as the rows do.
        steps: The number of training steps to the state that was kept.
    """

    mean: np.ndarray
    unit: float
    encoder: nn.Module
    decoder: nn.Module
    target: np.ndarray
    lipschitz: float
    reconstruction: float
    residual: Residual
    steps: int

    columns = property(lambda self: len(self.mean))  # type: ignore[assignment]
    dimension = property(lambda self: self.target.shape[1])  # type: ignore[assignment]

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.unit * _apply(self.encoder, (x - self.mean) / self.unit))

    def _reconstruct(self, z: np.ndarray) -> np.ndarray:
        return np.asarray(self.unit * _apply(self.decoder, z / self.unit) + self.mean)

    def _noise(self, count: int, key: Key) -> np.ndarray:
        return self.residual.draw(count, key)


class AutoencoderLatent(NetworkLatent):
    """A fully connected autoencoder, with a decoder of bounded slope."""

    @staticmethod
    def fit(
        x: np.ndarray,
        dimension: int,
        key: Key,
        *,
        widths: Sequence[int] = (64, 64),
        activation: str = "tanh",
        lipschitz: float = 3.0,
        steps: int = 1000,
        learning_rate: float = 3e-3,
        patience: int = 20,
    ) -> AutoencoderLatent:
        """Trains with Adam on all rows at once until a validation part of them, a fifth, is reconstructed no better.

        Arguments:
            x: Rows with shape (n, d), on the scale that matters: columns are not brought to one scale here.
            dimension: The number of coordinates.
            key: The source of randomness.
            widths: The widths of the encoder's hidden layers; the decoder has them in the reverse order.
            activation: ``tanh``, ``relu``, ``leaky-relu``, ``softplus`` or ``groupsort``.
            lipschitz: The bound on the decoder, above 1: principal components take 1 of it.
            steps: The most steps of Adam.
            learning_rate: Its step.
            patience: How many looks at the validation part, one every 10 steps, may bring nothing before it ends.

        Raises:
            ValueError: If rows are not finite or all the same, are too few for the dimension, or an option is out of range.
        """
        if activation not in _SMOOTH:
            raise ValueError(f"activation {activation!r} is not one of {', '.join(_SMOOTH)}")
        x, bounds = training_rows(x), _bounds(lipschitz)
        generator = key.fold("weights").generator()
        split = _Split.of(x, dimension, key)
        start = split.components
        encoder = _Dense((x.shape[1], *widths, dimension), start, (math.inf, math.inf), activation, generator)
        decoder = _Dense((dimension, *widths[::-1], x.shape[1]), start.mT, bounds, activation, generator)
        train = _Training(steps, learning_rate, patience)
        return AutoencoderLatent(*train(x, split, encoder, decoder, key))


class ConvAutoencoderLatent(NetworkLatent):
    """A convolutional autoencoder, with a decoder of bounded slope."""

    @staticmethod
    def fit(
        x: np.ndarray,
        shape: Shape,
        dimension: int,
        key: Key,
        *,
        channels: Sequence[int] = (8, 16),
        lipschitz: float = 3.0,
        steps: int = 600,
        learning_rate: float = 3e-3,
        patience: int = 20,
        batch_size: int = 128,
    ) -> ConvAutoencoderLatent:
        """Trains as :meth:`AutoencoderLatent.fit` does, on batches.

        Arguments:
            x: Flattened images, channels last, with shape (n, height · width · channels).
            shape: Their height, width and, if there are any, channels.
            dimension: The number of coordinates.
            key: The source of randomness.
            channels: The channels of the encoder's convolutions, of stride 2; the decoder has them in the reverse order.
            lipschitz: The bound on the decoder, above 1: principal components take 1 of it.
            steps: The most steps of Adam.
            learning_rate: Its step.
            patience: How many looks at the validation part, one every 10 steps, may bring nothing before it ends.
            batch_size: The most rows in one step.

        Raises:
            ValueError: If rows are not images of that shape, or as :meth:`AutoencoderLatent.fit`.
        """
        x, bounds, sizes = training_rows(x), _bounds(lipschitz), image_shape(shape)
        if math.prod(sizes) != x.shape[1]:
            raise ValueError(
                f"images of shape {tuple(shape)} have {math.prod(sizes)} values, but a row has {x.shape[1]}"
            )
        generator = key.fold("weights").generator()
        split = _Split.of(x, dimension, key)
        start = split.components
        encoder = _ConvEncoder(sizes, channels, start, generator)
        decoder = _ConvDecoder(sizes, channels, start.mT, bounds, generator)
        train = _Training(steps, learning_rate, patience, batch_size)
        return ConvAutoencoderLatent(*train(x, split, encoder, decoder, key))


def _bounds(lipschitz: float) -> tuple[float, float]:
    """The bounds on the decoder's linear map and on its network."""
    if not 1 < lipschitz < math.inf:
        raise ValueError(f"the bound on the decoder must be above 1 and finite, not {lipschitz}")
    return 1.0, lipschitz - 1.0


@dataclass(frozen=True)
class _Split:
    """Which rows are trained on, and where training starts: mean, unit and principal components of these alone."""

    kept: np.ndarray
    held: np.ndarray
    mean: np.ndarray
    unit: float
    components: Tensor

    @staticmethod
    def of(x: np.ndarray, dimension: int, key: Key) -> _Split:
        from sklearn.decomposition import PCA

        order = key.fold("validation").numpy().permutation(len(x))
        count = round(len(x) * _VALIDATION) if len(x) >= _LEAST else 0
        held, kept = np.split(order, [count])
        most = min(len(kept) - 1, x.shape[1])
        if not 1 <= dimension <= most:
            raise ValueError(
                f"{dimension} coordinates are asked for, but {len(x)} rows, {count} of them for validation, with "
                f"{x.shape[1]} columns allow 1 to {most}"
            )
        pca = PCA(dimension, svd_solver="full").fit(x[kept])
        unit = math.sqrt(float(np.square(x - pca.mean_).mean()))
        return _Split(kept, held, pca.mean_, unit, torch.as_tensor(pca.components_, dtype=torch.float32))


@dataclass(frozen=True)
class _Training:
    steps: int
    learning_rate: float
    patience: int
    batch_size: int | None = None

    def __call__(
        self, x: np.ndarray, split: _Split, encoder: _Part, decoder: _BoundedPart, key: Key
    ) -> tuple[np.ndarray, float, nn.Module, nn.Module, np.ndarray, float, float, Residual, int]:
        """What a :class:`NetworkLatent` is made of."""
        mean, unit, kept, held = split.mean, split.unit, split.kept, split.held
        seen = torch.as_tensor((x - mean) / unit, dtype=torch.float32)
        both = nn.Sequential(encoder, decoder)
        steps = self._train(both, seen[kept], seen[held], key) if len(held) else 0
        both.double().eval()
        z = _apply(encoder, (x - mean) / unit)
        back = unit * _apply(decoder, z)
        missed = x - mean - back
        # Where residuals go with what is decoded, independent noise of their size would add too much, or too little.
        together = 2 * float(((back - back.mean(0)) * missed).sum(1).mean())
        own = float(np.square(missed[held] if len(held) else missed).sum(1).mean())
        law = Residual.fit(missed, max(own + together, 0.0))
        error = math.sqrt(float(np.square(missed).mean()))
        return mean, unit, encoder, decoder, unit * z, decoder.bound(), error, law, steps

    def _train(self, both: nn.Sequential, x: Tensor, held: Tensor, key: Key) -> int:
        """Leaves the best state in the networks; the number of its step."""
        optimizer = torch.optim.Adam(both.parameters(), self.learning_rate, fused=True)
        generator = key.fold("batches").generator()
        best, state, found = math.inf, copy.deepcopy(both.state_dict()), 0
        for step in range(self.steps + 1):
            if step % _EVERY == 0:
                with torch.no_grad():
                    error = float(functional.mse_loss(both(held), held))
                if error < best * (1 - 1e-4):
                    best, state, found = error, copy.deepcopy(both.state_dict()), step
                elif step - found >= self.patience * _EVERY:
                    break
            whole = self.batch_size is None or len(x) <= self.batch_size
            part = x if whole else x[torch.randperm(len(x), generator=generator)[: self.batch_size]]
            optimizer.zero_grad()
            functional.mse_loss(both(part), part).backward()
            optimizer.step()
        both.load_state_dict(state)
        return found


@torch.no_grad()
def _apply(network: nn.Module, x: np.ndarray) -> np.ndarray:
    return np.asarray(network(torch.as_tensor(x, dtype=torch.float64)).numpy())
