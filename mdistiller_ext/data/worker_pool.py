"""Run a dataset in dataloader workers, pass after pass; a worker that ends or hangs raises where a batch is waited for.

A `torch.utils.data.DataLoader` with persistent workers, used through its public interface. Two of its defaults are changed:

- DataLoader installs a handler of SIGCHLD that raises in the main thread when a worker ends, also in the middle of an
  optimizer step or of a collective. The previous handler is put back, so that the end of a worker raises between two steps.
- Without ``timeout`` DataLoader waits for ever for a worker that is alive and delivers nothing.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import DataWorkerError

T = TypeVar("T")
R = TypeVar("R")

REMEDY = (
    "Most likely memory, or shared memory (/dev/shm; docker run --shm-size), is too small: get more of it, smaller batches, or "
    "fewer workers (DATASET.NUM_WORKERS; 0 reads in the training process)"
)

_POLL = 10.0  # seconds of one wait in DataLoader, which looks for workers that have ended when a wait is over
_TIMEOUT = 600.0  # seconds without a batch until workers that are alive count as hung
_GRACE = 1.0  # seconds from a connection that broke until the process behind it has ended
_END = object()


def one_per_core(num_workers: int) -> int:
    """A number of workers, at most one for each core that this process may use."""
    return min(num_workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class WorkerPool(Generic[T]):
    """Compute ``dataset[key]`` for the keys of a pass in worker processes, in the order of the keys.

    The workers are started by the first pass and kept until `close`.

    Args:
        num_workers: number of processes; 0 computes in this one.
        pin_memory: copy tensors into page-locked memory.
    """

    def __init__(self, dataset: Dataset[T], num_workers: int, *, pin_memory: bool) -> None:
        self.dataset = dataset
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._keys = _Keys()
        self._loader: DataLoader[T] | None = None
        self._iterator: Iterator[T] = iter(())
        self._workers: list[BaseProcess] = []
        self._pass: object | None = None  # identifies the pass in progress

    def run(self, keys: Iterable[Any]) -> Iterator[T]:
        """Yield ``dataset[key]`` for every key. A new pass ends the previous one.

        Raises DataWorkerError if a worker has ended or hangs; the other workers are then ended, and a new pass starts others.
        """
        if self._pass is not None:
            self.close()
        this = self._pass = object()
        self._keys.current = keys
        self._watch(self._begin)
        while (batch := self._watch(self._next)) is not _END:
            yield batch
            if self._pass is not this:
                raise RuntimeError("this pass of the loader was ended by close() or by another pass")
        self._pass = None

    def close(self) -> None:
        """End the worker processes. The pass in progress cannot continue; a new one starts other workers."""
        # DataLoader has no public method for this: it ends the workers when the last reference to its iterator is gone.
        self._loader, self._iterator, self._workers, self._pass = None, iter(()), [], None

    def _begin(self) -> None:
        if self._loader is not None:
            self._iterator = iter(self._loader)
            return
        others = multiprocessing.active_children()
        loader = DataLoader(
            self.dataset,
            batch_size=None,  # a key stands for a whole batch
            sampler=self._keys,
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            timeout=_POLL if self._num_workers else 0,
            pin_memory=self._pin_memory,
            generator=torch.Generator(),  # workers are seeded from it at each pass: not from the global generator
            worker_init_fn=_ignore_interrupts,
        )
        with _sigchld_handler_kept():
            self._iterator = iter(loader)
        self._loader = loader
        self._workers = [child for child in multiprocessing.active_children() if child not in others]

    def _next(self) -> Any:
        deadline = time.monotonic() + _TIMEOUT
        while True:
            try:
                return next(self._iterator, _END)
            except RuntimeError as error:
                if not _is_timeout(error) or time.monotonic() > deadline:
                    raise

    def _watch(self, action: Callable[[], R]) -> R:
        """Call ``action``. Raises DataWorkerError for an exception caused by a dead or hung worker."""
        try:
            return action()
        except Exception as error:
            reason = self._reason(error)
            if not reason:
                raise
        # Not in the handler: the exception's traceback refers to DataLoader's iterator, and would keep the workers alive.
        self.close()
        raise DataWorkerError(f"{reason}. {REMEDY}")

    def _reason(self, error: Exception) -> str:
        """What happened to the workers; empty for an exception of another origin, such as a transform's.

        Where a worker has ended, that is the reason whatever was raised: a connection breaks in many ways.
        """
        if _is_timeout(error):
            return f"dataloader workers delivered no batch for {_TIMEOUT:g} seconds"
        if not self._workers:
            return ""
        ended = multiprocessing.connection.wait([worker.sentinel for worker in self._workers], timeout=_GRACE)
        dead = [worker for worker in self._workers if worker.sentinel in ended]
        return f"a dataloader worker died ({', '.join(map(_exit_status, dead))})" if dead else ""


class _Keys:
    """The sampler of a DataLoader, which keeps it for life: yields the keys of the pass in progress."""

    def __init__(self) -> None:
        self.current: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.current)


def _is_timeout(error: Exception) -> bool:
    """Whether DataLoader's ``timeout`` is over. All workers were alive then, and `next` may be called again."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader timed out")


def _exit_status(worker: BaseProcess) -> str:
    """``pid 123: SIGKILL`` or ``pid 123: exit status 1``."""
    worker.join(_GRACE)
    status = worker.exitcode or 0
    with contextlib.suppress(ValueError):  # no signal, or one without a name
        return f"pid {worker.pid}: {signal.Signals(-status).name}"
    return f"pid {worker.pid}: exit status {status}"


@contextlib.contextmanager
def _sigchld_handler_kept() -> Iterator[None]:
    """Put the handler of SIGCHLD back at the end of the block; no-op outside of the main thread, where none can be set."""
    number = getattr(signal, "SIGCHLD", None)  # None on Windows
    before = signal.getsignal(number) if number is not None else None
    try:
        yield
    finally:
        if number is not None and before is not None:
            with contextlib.suppress(ValueError):
                signal.signal(number, before)


def _ignore_interrupts(_: int) -> None:
    """Leave Ctrl-C, which reaches all processes of a terminal, to the training process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
