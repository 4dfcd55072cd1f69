"""torch's DataLoader with workers that may die: a death is an exception where a batch is asked for, and nowhere else.

The only file that touches what torch keeps private. Left alone, torch raises a death by a signal handler, out of whatever
the training process is computing, and shuts down by asking, which waits for ever on a lock that the dead worker held.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import multiprocessing.util
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.signal_handling import _remove_worker_pids
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

T = TypeVar("T")
R = TypeVar("R")

_LOOK = 0.5  # seconds between two looks at the workers while a batch is waited for
_GRACE = 1.0  # seconds from a connection that broke to the end of the process behind it
_PATIENCE = 5.0  # seconds for what was killed to be gone; one that waits for a lost network drive may take for ever


class Keys(Protocol):
    """What a run is about; it need not be in memory."""

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


class WorkerDiedError(Exception):
    """A worker process ended that should not have; says which, and how."""


class Workers(Generic[T]):
    """Worker processes that turn keys into ``dataset[key]``, in the order of the keys; 0 do it in this process.

    They are started by the first run and kept until `end`, or until this object is.
    """

    def __init__(self, dataset: Dataset[T], num_workers: int, *, pin_memory: bool) -> None:
        self.dataset = dataset
        self._owner = os.getpid()
        self._keys = _Keys()
        self._loader = DataLoader(
            dataset,
            batch_size=None,  # a key stands for a whole batch
            sampler=self._keys,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # a pass draws the workers' seeds: not from the global generator
            worker_init_fn=_leave_interrupts_to_the_parent,
        )

    def run(self, keys: Keys) -> Iterator[T]:
        """``dataset[key]`` for every key. A new run ends the one before.

        Raises WorkerDiedError; all workers are ended then, and another run starts new ones.
        """
        if not self._loader.num_workers:
            self._keys.now = keys
            yield from self._loader
            return

        def begin(iterator: _MultiProcessingDataLoaderIter) -> None:
            iterator._timeout = 0  # this may take as long as what is left of another run
            self._keys.now = keys
            iter(self._loader)  # the same iterator, begun anew

        self._watched(begin)
        for _ in range(len(keys)):
            yield self._watched(_next)

    def end(self) -> None:
        """End the worker processes now; a run that is under way cannot go on.

        They are killed, for they have nothing to lose, and asking takes locks that one which died may have kept.
        """
        iterator = self._iterator()
        if iterator is None:
            return
        self._loader._iterator = None
        iterator._shutdown = True  # or torch would still ask when it is collected
        if hasattr(iterator, "_pin_memory_thread"):
            iterator._pin_memory_thread_done_event.set()
            iterator._worker_result_queue.cancel_join_thread()
            iterator._worker_result_queue.put((None, None))  # wakes it
            iterator._pin_memory_thread.join(_PATIENCE)
        for worker in iterator._workers:
            worker.kill()
        for worker in iterator._workers:
            worker.join(_PATIENCE)
        for queue in iterator._index_queues:
            queue.close()

    def __del__(self) -> None:
        if os.getpid() == self._owner:  # a copy in a forked process has no workers
            self.end()

    def _iterator(self) -> _MultiProcessingDataLoaderIter | None:
        iterator = self._loader._iterator
        return iterator if isinstance(iterator, _MultiProcessingDataLoaderIter) else None

    def _start(self) -> _MultiProcessingDataLoaderIter:
        """The workers, new ones if there are none, without work: should one die of that, the others must be at hand."""
        if self._iterator() is None:
            multiprocessing.util.get_temp_dir()  # one for all, removed by this process: a killed worker would leave its own
            self._keys.now = ()
            iter(self._loader)
            started = self._iterator()
            assert started is not None
            _remove_worker_pids(id(started))  # or torch's handler of SIGCHLD would raise wherever this process is
            started._worker_pids_set = False
        iterator = self._iterator()
        assert iterator is not None
        return iterator

    def _watched(self, action: Callable[[_MultiProcessingDataLoaderIter], R]) -> R:
        """``action`` of the workers, ended if that fails. Raises WorkerDiedError if one of them is dead."""
        try:
            iterator = self._start()
            _check_alive(iterator)  # since the last batch
            return action(iterator)
        except BaseException as error:
            # Whatever it is, for a broken connection may be anything: if a worker is dead, that comes first. A mistake in a
            # transform comes again.
            death = self._death(error) if isinstance(error, Exception) else ""
            self.end()  # torch's records are of no use if Ctrl-C came in between
            if death:
                raise WorkerDiedError(death) from error
            raise

    def _death(self, error: Exception) -> str:
        """Which of the workers is dead and how it ended; empty if all are alive."""
        iterator = self._iterator()
        if iterator is None:  # it was killed while the others were being started
            return str(error).rstrip(" .") if str(error).startswith("DataLoader worker (pid") else ""
        ended = multiprocessing.connection.wait([worker.sentinel for worker in iterator._workers], timeout=_GRACE)
        dead = [worker for worker in iterator._workers if worker.sentinel in ended]
        for worker in dead:
            worker.join(_PATIENCE)  # what it had open is closed a moment before it has an exit status
        return ", ".join(map(_how_it_ended, dead))


class _Keys:
    """DataLoader's sampler, which it wants for life: what to do now."""

    def __init__(self) -> None:
        self.now: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.now)


def _next(iterator: _MultiProcessingDataLoaderIter) -> Any:
    """The next batch, however long it takes as long as there is somebody to make it."""
    iterator._timeout = _LOOK
    while True:
        try:
            return next(iterator)
        except RuntimeError as error:  # before anything was taken from the queue
            if not str(error).startswith("DataLoader timed out"):
                raise
        _check_alive(iterator)


def _check_alive(iterator: _MultiProcessingDataLoaderIter) -> None:
    """Raise RuntimeError unless all are alive who bring the batches."""
    helpers: list[Any] = [
        *iterator._workers,
        *([iterator._pin_memory_thread] if hasattr(iterator, "_pin_memory_thread") else []),
    ]
    if not all(helper.is_alive() for helper in helpers):
        raise RuntimeError("a thread or a process that brings batches ended")


def _how_it_ended(worker: BaseProcess) -> str:
    """``pid 123: SIGKILL``, or its exit status."""
    status = worker.exitcode
    with contextlib.suppress(ValueError):  # no signal, or one without a name
        return f"pid {worker.pid}: {signal.Signals(-(status or 0)).name}"
    return f"pid {worker.pid}: exit status {status}"


def _leave_interrupts_to_the_parent(_: int) -> None:
    """Ctrl-C reaches all processes of a terminal; whether to stop, and when, the one that trains decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
