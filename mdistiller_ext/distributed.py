"""Several processes that train one model, as torchrun starts them: who they are, and all that they tell each other.

Every exchange between processes is in this file; with one process each is nothing. Gradients are added up here and not by
DistributedDataParallel, which passes over every backward pass after the first of a step without a word.
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

_PATIENCE = datetime.timedelta(minutes=30)  # a rank may wait that long: another one downloads data, say

T = TypeVar("T")


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process among them; 0 is the one that writes files and talks."""
    return dist.get_rank() if world_size() > 1 else 0


def launched() -> tuple[int, int]:
    """``(rank, world size)`` as torchrun's environment says, also before and after :func:`group`."""
    try:
        of_env = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise ConfigError(f"RANK and WORLD_SIZE are torchrun's and must be numbers: {error}") from error
    return of_env if of_env[1] > 1 else (0, 1)


def restarted() -> bool:
    """Whether torchrun started these processes again after one of them had failed (``--max-restarts``)."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")


def local_rank() -> int:
    """This process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if launched()[1] > 1 else 0


@contextlib.contextmanager
def group() -> Iterator[None]:
    """The processes that torchrun started, joined while the block runs; nothing without torchrun.

    CPU tensors travel by gloo, CUDA tensors by NCCL. Raises TrainingError where the others cannot be reached.
    """
    if launched()[1] == 1 or world_size() > 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    with _reachable():
        store, own_rank, size = next(dist.rendezvous("env://", timeout=_PATIENCE))
        store = _of_this_start(store, own_rank, size)
        dist.init_process_group(backend, store=store, rank=own_rank, world_size=size, timeout=_PATIENCE)
    try:
        yield
    finally:
        # In torch 2.6 this waits, with Python's lock, for gloo's threads, of which one may want that lock for its last tensor.
        time.sleep(0.1)
        with contextlib.suppress(RuntimeError):  # of a process that the others have left
            dist.destroy_process_group()


def _of_this_start(store: dist.Store, own_rank: int, size: int) -> dist.Store:
    """A part of torchrun's store that only the processes of this start know.

    The store outlives a restart, and with it the addresses of processes that are gone, which new ones would take for those
    of their peers (pytorch#135712). The count of restarts could not tell them apart: it differs between machines. So the
    first process answers the others, each of which has sent it a word that nobody said before.
    """
    word, until = uuid.uuid4().hex, time.monotonic() + _PATIENCE.total_seconds()
    waiting_for = set(range(1, size)) if own_rank == 0 else {0}
    while waiting_for:
        if time.monotonic() > until:
            raise TimeoutError(f"no word of process {min(waiting_for)} for {_PATIENCE}")
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
def _reachable() -> Iterator[None]:
    """What torch says when another process has gone, in many ways, as one line."""
    try:
        yield
    except TrainingError:
        raise
    except (RuntimeError, ValueError, TimeoutError) as error:
        raise TrainingError(
            f"the other processes cannot be reached; the one that ended first says why ({' '.join(str(error).split())[:200]})"
        ) from error


# ---- whose rows ---------------------------------------------------------------------------------------------------


def shares(count: int) -> list[int]:
    """How many of a batch's ``count`` rows each process takes: row ``i`` goes to process ``i % world_size``."""
    others = world_size()
    return [len(range(first, count, others)) for first in range(others)]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes, ctx.given = sizes, len(rows)
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])  # all must be of one size
        padded[: sizes[rank()]] = rows[: sizes[rank()]]
        everyone = [torch.empty_like(padded) for _ in sizes]
        with _reachable():
            dist.all_gather(everyone, padded)
        return torch.cat([theirs[:size] for theirs, size in zip(everyone, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        own, start = ctx.sizes[rank()], sum(ctx.sizes[: rank()])
        gradient = gradients[0].new_zeros(ctx.given, *gradients[0].shape[1:])
        if own:
            # Gradients are weighted by a process's share of the batch when they are added up; these are whole.
            gradient[:own] = gradients[0][start : start + own] * (sum(ctx.sizes) / own)
        return gradient, None


def gather_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Everybody's rows, process by process: ``[n, ...]`` -> ``[N, ...]``; gradients go back to one's own.

    Args:
        sizes: how many rows each process brings (see shares); more than that, at the end of ``rows``, do not count.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, sizes)
    return gathered


# ---- gradients, sums, agreement -----------------------------------------------------------------------------------


class GradientExchange:
    """Adds up the gradients of all processes, while this one goes on to its next backward pass.

    Takes the gradients that are there out of ``.grad``; :meth:`wait` puts the sums in their place.

    Args:
        weight: this process's share of the batch, so that the sum of its means is the mean over the whole batch.
    """

    def __init__(self, parameters: Iterable[Tensor], weight: float) -> None:
        self._reached = [p for p in parameters if p.grad is not None]
        self._buckets: list[Tensor] = []
        self._sums: list[tuple[Tensor, Tensor]] = []
        for dtype in sorted({p.dtype for p in self._reached}, key=str):
            of_dtype = [p for p in self._reached if p.dtype == dtype]
            bucket = torch.empty(sum(p.numel() for p in of_dtype), dtype=dtype, device=of_dtype[0].device)
            parts = bucket.split([p.numel() for p in of_dtype])
            # In each parameter's own memory layout: what comes back is added to buffers of that layout.
            sums = [part.as_strided(p.shape, p.stride()) for part, p in zip(parts, of_dtype, strict=True)]
            torch._foreach_copy_(sums, [p.grad for p in of_dtype if p.grad is not None])
            # Zero times a gradient that is not finite is not zero.
            self._buckets.append(bucket.mul_(weight) if weight else bucket.zero_())
            self._sums += zip(of_dtype, sums, strict=True)
        for p in self._reached:
            p.grad = None
        with _reachable():
            self._works = [dist.all_reduce(bucket, async_op=True) for bucket in self._buckets]

    def wait(self) -> None:
        """Put the sums into ``.grad``."""
        with _reachable():
            for work in self._works:
                work.wait()
        for p, total in self._sums:
            p.grad = total


class Agreement:
    """Wishes that one process may have and all must follow, known to everybody one call later.

    Later, because the question then travels while the processes work: nobody waits for it. Every process must call it as
    often as the others. A single process has its wishes at once.
    """

    def __init__(self) -> None:
        self._asked: Tensor | None = None
        self._work: Any = None

    def __call__(self, *wishes: bool) -> list[bool]:
        if world_size() == 1:
            return list(wishes)
        with _reachable():
            if self._work is not None:
                self._work.wait()
            granted = [False] * len(wishes) if self._asked is None else [bool(wish) for wish in self._asked.tolist()]
            self._asked = torch.tensor(wishes, dtype=torch.uint8)
            self._work = dist.all_reduce(self._asked, dist.ReduceOp.MAX, async_op=True)
        return granted


def any_process(wish: bool) -> bool:
    """Whether any process says so, known at once."""
    return bool(sum_over_processes(torch.tensor(float(wish))))


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The tensor added up over all processes, as a new one."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    with _reachable():
        dist.all_reduce(total)
    return total


@torch.no_grad()
def average_over_processes_(tensors: Iterable[Tensor]) -> None:
    """Replace floating-point tensors by their means over all processes."""
    for tensor in tensors:
        if world_size() > 1 and tensor.is_floating_point():
            tensor.copy_(sum_over_processes(tensor) / world_size())


@torch.no_grad()
def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of process 0."""
    if world_size() == 1:
        return
    for tensor in tensors:
        values = tensor.contiguous()
        with _reachable():
            dist.broadcast(values, 0)
        tensor.copy_(values)


def from_first(value: T) -> T:
    """The value that process 0 has."""
    box = [value]
    if world_size() > 1:
        with _reachable():
            dist.broadcast_object_list(box, 0)
    return box[0]


def from_all(value: T) -> list[T]:
    """The values of all processes, process by process."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        with _reachable():
            dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def first_on_this_machine() -> Iterator[None]:
    """The others of a machine come after its first process, which may fetch or draw what they then find."""
    if local_rank():
        any_process(False)
    yield
    if not local_rank():
        any_process(False)
