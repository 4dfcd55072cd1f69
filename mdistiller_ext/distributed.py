"""Ranks of a distributed training run, started by torchrun, and every collective operation between them.

With a single rank each operation is the identity. Gradients are summed in ``trainers/gradient_exchange.py``.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import ConfigError, TrainingError

_TIMEOUT = datetime.timedelta(minutes=30)  # long enough for another rank to download a data set

T = TypeVar("T")


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process; rank 0 writes files and prints."""
    return dist.get_rank() if world_size() > 1 else 0


def launched() -> tuple[int, int]:
    """``(rank, world size)`` of torchrun's environment, also before and after :func:`group`."""
    try:
        of_env = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise ConfigError(f"RANK and WORLD_SIZE are torchrun's and must be numbers: {error}") from error
    return of_env if of_env[1] > 1 else (0, 1)


def restarted() -> bool:
    """Whether torchrun started these processes again after one of them had failed (``--max-restarts``)."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")


def local_rank() -> int:
    """Rank of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if launched()[1] > 1 else 0


@contextlib.contextmanager
def group() -> Iterator[None]:
    """Initialise the default process group while the block runs; without torchrun do nothing.

    CPU tensors use gloo, CUDA tensors NCCL. Raises TrainingError where the other ranks cannot be reached.
    """
    if launched()[1] == 1 or world_size() > 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    with reachable():
        store, own_rank, size = next(dist.rendezvous("env://", timeout=_TIMEOUT))
        store = _of_this_start(store, own_rank, size)
        dist.init_process_group(backend, store=store, rank=own_rank, world_size=size, timeout=_TIMEOUT)
    try:
        yield
    finally:
        # In torch 2.6 this waits for gloo's threads while it holds the GIL, which one of them may need for its last tensor.
        time.sleep(0.1)
        with contextlib.suppress(RuntimeError):  # of a process that the others have left
            dist.destroy_process_group()


def _of_this_start(store: dist.Store, own_rank: int, size: int) -> dist.Store:
    """Part of torchrun's store under a prefix that only the processes of this start know.

    The store outlives a restart, and with it the addresses of processes that have ended, which new ones would take for those
    of their peers (pytorch#135712). The count of restarts cannot tell them apart: it differs between machines. So each
    rank posts a random word, and rank 0 replies with it and the prefix of this start: stale keys are ignored.
    """
    word, until = uuid.uuid4().hex, time.monotonic() + _TIMEOUT.total_seconds()
    waiting_for = set(range(1, size)) if own_rank == 0 else {0}
    while waiting_for:
        if time.monotonic() > until:
            raise TimeoutError(f"no answer of process {min(waiting_for)} for {_TIMEOUT}")
        if own_rank:
            store.set(f"hello/{own_rank}", word)
            start, _, answered = store.get(f"welcome/{own_rank}").decode().partition(" ")
            if answered == word:
                store.set(f"joined/{start}/{own_rank}", "")
                return dist.PrefixStore(start, store)
        for other in sorted(waiting_for - {0}):
            if store.check([f"hello/{other}"]):
                store.set(f"welcome/{other}", f"{word} {store.get(f'hello/{other}').decode()}")
            if store.check([f"joined/{word}/{other}"]):
                waiting_for.discard(other)
        time.sleep(0.02)
    return dist.PrefixStore(word, store)


@contextlib.contextmanager
def reachable() -> Iterator[None]:
    """Turn torch's errors about unreachable ranks into a TrainingError of one line."""
    try:
        yield
    except TrainingError:
        raise
    except (RuntimeError, ValueError, TimeoutError) as error:
        raise TrainingError(
            f"the other processes cannot be reached; the one that ended first says why ({' '.join(str(error).split())[:200]})"
        ) from error


# ---- rows of a batch ----------------------------------------------------------------------------------------------


def local_batch_sizes(count: int) -> list[int]:
    """Number of a batch's ``count`` rows on each rank: row ``i`` belongs to rank ``i % world_size``."""
    ranks = world_size()
    return [len(range(first, count, ranks)) for first in range(ranks)]


def sizes_of_ranks(count: int, device: torch.device) -> list[int] | None:
    """Number of rows of each rank, of which this one has ``count``; None with a single rank. Synchronises with the device."""
    if world_size() == 1:
        return None
    sizes = torch.zeros(world_size(), dtype=torch.int64, device=device)
    sizes[rank()] = count
    return [int(size) for size in all_reduce_sum(sizes).tolist()]


class _AllGatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes, ctx.given = sizes, len(rows)
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])  # all must be of one size
        padded[: sizes[rank()]] = rows[: sizes[rank()]]
        everyone = [torch.empty_like(padded) for _ in sizes]
        with reachable():
            dist.all_gather(everyone, padded)
        return torch.cat([theirs[:size] for theirs, size in zip(everyone, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        own, start = ctx.sizes[rank()], sum(ctx.sizes[: rank()])
        gradient = gradients[0].new_zeros(ctx.given, *gradients[0].shape[1:])
        if own:
            # Cancel the weighting by this rank's share of the batch, which follows when gradients are summed.
            gradient[:own] = gradients[0][start : start + own] * (sum(ctx.sizes) / own)
        return gradient, None


def all_gather_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Concatenate the rows of all ranks, rank by rank: ``[n, ...]`` -> ``[N, ...]``; gradients reach this rank's rows.

    Args:
        sizes: number of rows of each rank (see local_batch_sizes); further rows, at the end of ``rows``, are left out.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _AllGatherRows.apply(rows, sizes)
    return gathered


# ---- reductions -----------------------------------------------------------------------------------------------------


class AsyncAnyReduce:
    """Logical OR of flags across ranks, one call late.

    The all-reduce overlaps the work between two calls, so that no rank waits for it. Every rank must call it equally often.
    On a single rank the flags are returned at once.
    """

    def __init__(self) -> None:
        self._flags: Tensor | None = None
        self._work: Any = None

    def __call__(self, *flags: bool) -> list[bool]:
        if world_size() == 1:
            return list(flags)
        with reachable():
            if self._work is not None:
                self._work.wait()
            reduced = [False] * len(flags) if self._flags is None else [bool(flag) for flag in self._flags.tolist()]
            self._flags = torch.tensor(flags, dtype=torch.uint8)
            self._work = dist.all_reduce(self._flags, dist.ReduceOp.MAX, async_op=True)
        return reduced


def any_reduce(flag: bool) -> bool:
    """Logical OR of a flag across ranks."""
    return bool(all_reduce_sum(torch.tensor(float(flag))))


def barrier() -> None:
    """Wait until every rank is here."""
    all_reduce_sum(torch.zeros(()))


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, as a new tensor."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    with reachable():
        dist.all_reduce(total)
    return total


@torch.no_grad()
def all_reduce_mean_(tensors: Iterable[Tensor]) -> None:
    """Replace floating-point tensors by their means over all ranks, in place."""
    for tensor in tensors:
        if world_size() > 1 and tensor.is_floating_point():
            tensor.copy_(all_reduce_sum(tensor) / world_size())


@torch.no_grad()
def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of rank 0, in place."""
    if world_size() == 1:
        return
    for tensor in tensors:
        values = tensor.contiguous()
        with reachable():
            dist.broadcast(values, 0)
        tensor.copy_(values)


def broadcast_object(value: T) -> T:
    """Value of rank 0."""
    box = [value]
    if world_size() > 1:
        with reachable():
            dist.broadcast_object_list(box, 0)
    return box[0]


def all_gather_object(value: T) -> list[T]:
    """Values of all ranks, in their order."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        with reachable():
            dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Run the block on each machine's local rank 0 first, then on its other ranks, which find what that downloaded or drew."""
    if local_rank():
        barrier()
    yield
    if not local_rank():
        barrier()
