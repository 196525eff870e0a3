"""The empirical measure: points, and the expectation over them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from particles import shards
from particles.keys import Key
from particles.shards import Shard

NUMBERS = 1 << 20
"""The most coordinates that are worked on at once where the result is small or there already: clouds may be as large as memory allows."""


@dataclass(frozen=True, eq=False)
class Cloud:
    r"""A set of points as a probability measure :math:`\sum_i w_i \delta_{x_i}`.

    Expectations are methods of the cloud, so that no divergence and no network has to know about weights, nor about how many
    processes share the points: a *sharded* cloud holds those of this process, and speaks of all of them. Its expectations, ``max``
    and ``gathered`` are to be asked for by all processes alike.

    Arguments:
        x: The points, with shape :math:`(n, d)`.
        label: The class of each point, integers with shape :math:`(n,)`, or ``None``.
        weight: The mass of each point that is not carried, positive, summing to one, or ``None`` for equal masses.
        carried: How many of the last rows only ride along: they are moved with the others, but
            ``active`` leaves them out, so they influence nothing.
        shard: Which of the points that are not carried each process has, or ``None`` if this one has them all. What is above is
            then about the points of this process, which may be none; but weights sum to one over all processes.
        carried_shard: The same of the carried ones.

    Raises:
        ValueError: If a shape or a type does not fit, or the cloud is empty. What the numbers are is looked at where they are used
            first, see ``check``.
    """

    x: Tensor
    label: Tensor | None = None
    weight: Tensor | None = None
    carried: int = 0
    shard: Shard | None = None
    carried_shard: Shard | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.x, Tensor):
            raise ValueError(
                f"a cloud needs its points as a tensor, torch.as_tensor(points), not {type(self.x).__name__}"
            )
        if self.x.ndim != 2 or self.x.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"a cloud needs points of shape (n, d) in float32 or float64, not {self.x.dtype} {tuple(self.x.shape)}"
            )
        if not 0 <= self.carried < len(self.x) + (shards.world() > 1):  # a process may have none of the points
            raise ValueError(
                f"a cloud of {len(self.x)} points, {self.carried} of them carried, has no point of its own"
            )
        own = len(self.x) - self.carried
        for name, value, count in (("label", self.label, len(self.x)), ("weight", self.weight, own)):
            if value is not None and value.shape != (count,):
                raise ValueError(f"{name} needs shape ({count},), one entry per point, not {tuple(value.shape)}")

    def check(self, name: str) -> None:
        """Looks at the numbers of a whole cloud.

        Raises:
            ValueError: If points have no coordinates or not finite ones, weights are not positive, not of the type of the points, or do
                not sum to one, or labels are no integers from 0 up; the sentence has the ``name`` in it.
        """
        if not self.dimension:
            raise ValueError(f"the points of the {name} have no coordinates")
        if bad := self.spoilt:
            raise ValueError(
                f"{bad} of the {len(self)} points of the {name} are not finite; leave them out or mend them"
            )
        if self.label is not None and (
            self.label.is_floating_point() or self.label.is_complex() or int(self.label.min()) < 0
        ):
            raise ValueError(f"the labels of the {name} must be integers from 0 up, the numbers of classes")
        if self.weight is not None and self.weight.dtype != self.x.dtype:
            raise ValueError(
                f"the weights of the {name} must be {self.x.dtype} as its points are, not {self.weight.dtype}"
            )
        self.check_weights(name)

    @property
    def spoilt(self) -> int:
        """How many points, carried ones too, have a coordinate that is not finite."""
        return sum(int((~torch.isfinite(part).all(1)).sum()) for part in self.x.split(at_once(self.x)))

    def check_weights(self, name: str) -> None:
        """Raises ValueError unless the weights are positive and sum to one, if there are any; those of a part are not looked at."""
        if (weight := self.weight) is None or self.shard is not None:
            return
        total = float(weight.double().sum())
        if not (bool((weight > 0).all()) and abs(total - 1) < 1e-4):
            raise ValueError(
                f"the weights of the {name} must be positive and sum to one, not be from {float(weight.min()):.3g} and sum to {total:.6g}; "
                f"leave out points without mass, and divide by the sum"
            )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def dimension(self) -> int:
        return self.x.shape[1]

    @property
    def total(self) -> int:
        """The number of points, over all processes."""
        rows = len(self) if self.shard is None else self.shard.total
        return rows if self.carried_shard is None else rows + self.carried_shard.total

    @property
    def mass(self) -> Tensor:
        """The mass of each point that is not carried, with shape :math:`(n,)`."""
        if self.weight is not None:
            return self.weight
        own = len(self) - self.carried
        return self.x.new_full((own,), 1 / (own if self.shard is None else self.shard.total))

    def at(self, x: Tensor) -> Cloud:
        """The same points, moved to ``x``."""
        return replace(self, x=x)

    def take(self, index: Tensor | slice) -> Cloud:
        """The chosen points; their weights are brought back to sum one, and none of them is carried.

        Arguments:
            index: Row numbers; those of all points, the same ones for all processes, where the cloud is sharded.
        """
        shard = self.shard
        if shard is not None:
            rows = index if isinstance(index, Tensor) else torch.arange(shard.total, device=self.x.device)[index]
            index, shard = shard.pick(rows)
        label = None if self.label is None else self.label[index]
        weight = None if self.weight is None else self.weight[index]
        if weight is not None:
            weight = weight / (weight.sum() if shard is None else shards.total(weight.sum()))
        return Cloud(self.x[index], label, weight, shard=shard)

    def places(self, rows: Tensor | slice) -> Cloud:
        """Some of the points that this process has, to look at something there: with their classes, and no weights."""
        return Cloud(self.x[rows], None if self.label is None else self.label[rows])

    @property
    def active(self) -> Cloud:
        """The points that count: without the carried ones."""
        if not self.carried and self.carried_shard is None:
            return self
        own = len(self) - self.carried
        label = None if self.label is None else self.label[:own]
        return Cloud(self.x[:own], label, self.weight, shard=self.shard)

    @property
    def riders(self) -> Cloud | None:
        """The carried points alone, or ``None``."""
        if not self.carried and self.carried_shard is None:
            return None
        own = len(self) - self.carried
        return Cloud(self.x[own:], None if self.label is None else self.label[own:], shard=self.carried_shard)

    def join(self, riders: Cloud) -> Cloud:
        """This cloud with another one carried along behind it."""
        if any(cloud.riders is not None for cloud in (self, riders)) or riders.weight is not None:
            raise ValueError("only riders without weights can be joined, and only to a cloud that carries none yet")
        if (self.label is None) != (riders.label is None):
            raise ValueError("carried points need labels exactly if the particles have them")
        label = None if self.label is None or riders.label is None else torch.cat((self.label, riders.label))
        return Cloud(torch.cat((self.x, riders.x)), label, self.weight, len(riders), self.shard, riders.shard)

    def draw(self, size: int | None, key: Key) -> Cloud:
        """A minibatch of ``size`` different points (with weights: independent draws by weight), or the cloud itself if it is no larger."""
        if size is None or size >= self.total:
            return self
        if self.weight is None:
            return self.take(key.choice(self.total, size, self.x.device))
        generator = key.generator(self.x.device)
        weight = self.weight if self.shard is None else self.shard.gather(self.weight)
        index = torch.multinomial(weight, size, replacement=True, generator=generator)
        return replace(self.take(index), weight=None)  # the draw has already spent the weights

    def normal(self, key: Key) -> Tensor:
        """Standard normal numbers for all coordinates, the same ones for a point in whichever process it is; with shape :math:`(n, d)`."""
        shape, generator = (self.total, self.dimension), key.generator(self.x.device)
        numbers = torch.randn(shape, generator=generator, dtype=self.x.dtype, device=self.x.device)
        return numbers if self.shard is None else self.shard.local(numbers)

    def sharded(self) -> Cloud:
        """This process' part of the cloud, which all processes have; the cloud itself if there is but one process."""
        if shards.world() == 1 or self.shard is not None:
            return self
        own, riders = Shard.of(len(self) - self.carried), Shard.of(self.carried) if self.carried else None
        rows = replace(self, shard=own, carried_shard=riders)
        return replace(
            rows,
            x=rows.local(self.x),
            label=None if self.label is None else rows.local(self.label),
            weight=None if self.weight is None else own.local(self.weight),
            carried=0 if riders is None else riders.size,
        )

    def local(self, whole: Tensor) -> Tensor:
        """The rows of this process, carried ones last, out of one row per point of the cloud."""
        if self.shard is None:
            return whole
        own = self.shard.local(whole)
        riders = self.carried_shard
        return own if riders is None else torch.cat((own, riders.local(whole[self.shard.total :])))

    def whole(self, rows: Tensor) -> Tensor:
        """A row per point of the cloud, carried ones last, from the rows of each process."""
        if self.shard is None:
            return rows
        own = self.shard.gather(rows[: self.shard.size])
        riders = self.carried_shard
        return own if riders is None else torch.cat((own, riders.gather(rows[self.shard.size :])))

    def gathered(self) -> Cloud:
        """All points, on every process; the cloud itself if it has them all."""
        if self.shard is None:
            return self
        return Cloud(
            self.whole(self.x),
            None if self.label is None else self.whole(self.label),
            None if self.weight is None else self.shard.gather(self.weight),
            0 if self.carried_shard is None else self.carried_shard.total,
        )

    def state_dict(self) -> dict[str, Tensor | int | None]:
        """The cloud in plain values: its fields by their names, for ``Cloud(**...)``; of one that is not sharded."""
        return {"x": self.x, "label": self.label, "weight": self.weight, "carried": self.carried}

    def mean(self, values: Tensor) -> Tensor:
        r"""The expectation of ``values``, with shape :math:`(..., n)`, over the last axis."""
        part = values if self.weight is None else values * self.weight
        whole = part.sum(-1, dtype=torch.double)  # in which the order, and who has which points, makes no difference
        if self.shard is not None:
            whole = shards.total(whole)
        return (whole / self.total if self.weight is None else whole).to(values.dtype)

    def logmeanexp(self, values: Tensor) -> Tensor:
        r"""The logarithm of the expectation of ``exp(values)``, with shape :math:`(..., n)`, without overflow."""
        if (
            self.shard is not None
        ):  # the mean of the parts' logarithms would be another number, and so would be its gradient
            top = self.max(values.detach())
            return top + self.mean(torch.exp(values - top[..., None])).log()
        if self.weight is None:
            return torch.logsumexp(values, -1) - math.log(values.shape[-1])
        return torch.logsumexp(values + self.weight.log(), -1)

    def max(self, values: Tensor) -> Tensor:
        r"""The largest of ``values``, with shape :math:`(..., n)`, over the last axis; not differentiable where the cloud is sharded."""
        if self.shard is None:
            return values.amax(-1)
        nothing = values.new_full((*values.shape[:-1], 1), -math.inf)
        return shards.largest(torch.cat((values.detach(), nothing), -1).amax(-1))


def at_once(x: Tensor) -> int:
    """The most rows of ``x`` that are worked on at once; a multiple of 16, by which torch draws normal numbers."""
    return max(16, NUMBERS // max(x.shape[1], 1) // 16 * 16)


def squares(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The squared length of each row of ``x``, or of ``x - y``, with shape (n,); no memory as large as ``x`` is asked for."""
    parts = x.split(at_once(x)) if y is None else (a - b for a, b in zip(x.split(at_once(x)), y.split(at_once(x))))
    return torch.cat([part.square().sum(1) for part in parts])


def mean_square(p: Cloud, q: Cloud) -> Tensor:
    """The mean squared distance of a point of one cloud to a point of the other, in double precision."""
    x, y = p.x.double(), q.x.double()
    centre_p, centre_q = p.mean(x.t()), q.mean(y.t())
    spread = p.mean((x - centre_p).square().sum(1)) + q.mean((y - centre_q).square().sum(1))
    return spread + (centre_p - centre_q).square().sum()
