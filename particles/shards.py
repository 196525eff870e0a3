"""Several processes that share the rows of clouds: who has which, and what they tell each other; the only importer of torch.distributed.

Every process runs the same program on rows of its own. What concerns all rows goes through the functions here, which all processes
call alike: then they all have the same numbers, decide alike, and none waits for another in vain. With one process they cost nothing.

The numbers of the rows are those of the whole cloud, in the order of the processes; whatever is random is drawn by these numbers, so
that it does not depend on how many processes there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

RENDEZVOUS = "PARTICLES_RENDEZVOUS"
"""The name of a variable of the environment: a file that is not there yet, by which the processes of one machine find each other
instead of by ``torchrun``."""
PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others, who may be reading data or compiling."""

_rank, _world = 0, 1


def rank() -> int:
    """The number of this process, from 0; process 0 is the one that writes."""
    return _rank


def world() -> int:
    """The number of processes that share the rows."""
    return _world


def launched() -> int:
    """How many processes the environment speaks of, by the variables of ``torchrun``: 1 where there are none.

    Raises:
        ValueError: If they are there and are no numbers.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 1
    try:
        number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except ValueError:
        number, count = -1, 0
    if not 0 <= number < count:
        raise ValueError(
            f"RANK={os.environ['RANK']} and WORLD_SIZE={os.environ['WORLD_SIZE']} in the environment are no process of so many; "
            f"unset them, or start with torchrun"
        )
    return count


@contextmanager
def together() -> Iterator[None]:
    """The time in which this process is one of several, if it was started as one: by ``torchrun``, or by hand with its variables.

    Tensors on the CPU go by gloo, those on GPUs by nccl, one GPU per process.

    Raises:
        ValueError: If the processes cannot find each other.
    """
    global _rank, _world
    if launched() == 1 or _world > 1:
        yield
        return
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    meeting: dict[str, Any] = {}
    if RENDEZVOUS in os.environ:
        meeting = {"store": dist.FileStore(os.environ[RENDEZVOUS], count), "rank": number, "world_size": count}
    try:
        dist.init_process_group(backend, timeout=PATIENCE, **meeting)
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(
            f"the {count} processes cannot find each other ({str(error).strip().splitlines()[0]}); start them with torchrun"
        ) from None
    _rank, _world = number, count
    try:
        yield
    finally:
        _rank, _world = 0, 1
        dist.destroy_process_group()


class Lost(RuntimeError):
    """Another process has ended, or does not answer: this one cannot go on alone."""


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise Lost(f"process {_rank} of {_world} has lost the others ({str(error).strip().splitlines()[0]})") from error


@dataclass(frozen=True)
class Shard:
    """Which rows of a cloud each process has.

    Attributes:
        sizes: The number of rows of each process, in their order.
    """

    sizes: tuple[int, ...]

    @staticmethod
    def of(total: int) -> Shard:
        """``total`` rows in parts as even as can be, longer ones first."""
        return Shard(tuple(total // _world + (number < total % _world) for number in range(_world)))

    @property
    def total(self) -> int:
        """The number of all rows."""
        return sum(self.sizes)

    @property
    def start(self) -> int:
        """The number of the first row of this process."""
        return sum(self.sizes[:_rank])

    @property
    def size(self) -> int:
        """How many rows this process has."""
        return self.sizes[_rank]

    def local(self, whole: Tensor) -> Tensor:
        """The rows of this process out of all."""
        return whole[self.start : self.start + self.size]

    def pick(self, index: Tensor) -> tuple[Tensor, Shard]:
        """Out of row numbers those of this process, as places among its own rows, and who has which of the rows that were asked for."""
        ends = torch.tensor(self.sizes, device=index.device).cumsum(0)
        owner = torch.bucketize(index, ends, right=True)
        sizes = owner.bincount(minlength=len(self.sizes)).tolist()
        return index[owner == _rank] - self.start, Shard(tuple(sizes))

    def gather(self, rows: Tensor) -> Tensor:
        """All rows, on every process, from those of each."""
        import torch.distributed as dist

        longest = max(self.sizes)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: self.size] = rows.detach()
        flags = padded.dtype == torch.bool
        parts = [torch.empty_like(padded, dtype=torch.uint8 if flags else None) for _ in self.sizes]
        with _reached():
            dist.all_gather(parts, padded.to(parts[0].dtype))
        whole = torch.cat([part[:size] for part, size in zip(parts, self.sizes)])
        return whole.bool() if flags else whole


class _Sum(torch.autograd.Function):
    """The sum over all processes. Each of them goes back from the whole to its own part alone."""

    @staticmethod
    def forward(ctx, part):  # type: ignore[no-untyped-def]
        import torch.distributed as dist

        whole = part.contiguous().clone()
        with _reached():
            dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient


def total(part: Tensor) -> Tensor:
    """The sum of a tensor over all processes.

    Differentiable: a loss that all processes have alike, made of such sums, is brought back by each to its own rows; gradients in what
    they share, such as weights, are then to be summed over the processes once (``total_gradient``).
    """
    whole: Tensor = part if _world == 1 else _Sum.apply(part)
    return whole


def total_gradient(parts: Sequence[Tensor]) -> list[Tensor]:
    """The sums of some tensors over all processes, in one message, in double precision."""
    if _world == 1:
        return list(parts)
    import torch.distributed as dist

    flat = torch.cat([part.detach().reshape(-1).double() for part in parts])
    with _reached():
        dist.all_reduce(flat)
    pieces = flat.split([part.numel() for part in parts])
    return [piece.view(part.shape).to(part.dtype) for piece, part in zip(pieces, parts)]


def largest(part: Tensor) -> Tensor:
    """The entrywise largest of a tensor over all processes, infinite where one of them has no number; not differentiable."""
    if _world == 1:
        return part
    import torch.distributed as dist

    whole = part.detach().contiguous().clone()
    if whole.is_floating_point():
        whole = torch.where(whole.isnan(), torch.inf, whole)  # or it would be lost among numbers
    with _reached():
        dist.all_reduce(whole, op=dist.ReduceOp.MAX)
    return whole


def highest(number: int) -> int:
    """The largest of the numbers that the processes have."""
    return number if _world == 1 else int(largest(torch.tensor(number)))


def spread(rows: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of each row of ``x``, which all processes have: each does its part of the rows, and all get the whole."""
    if _world == 1:
        return rows(x)
    shard = Shard.of(len(x))
    part = shard.local(x)
    return shard.gather(rows(part) if len(part) else rows(x[:1])[:0])


def once(compute: Callable[[], Result]) -> Result:
    """What process 0 computes, for all; what it raises, they all raise."""
    if _world == 1:
        return compute()
    import torch.distributed as dist

    told: list[Any] = [None, None]
    if _rank == 0:
        try:
            told[0] = compute()
        except Exception as error:
            told[1] = error
    with _reached():
        dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    result: Result = told[0]
    return result


def barrier() -> None:
    """Waits until all processes are here."""
    if _world > 1:
        import torch.distributed as dist

        with _reached():
            dist.barrier()
