"""Runs of a study as processes on this machine: one per GPU, or several on the CPU that share its cores."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence

import torch

from ..errors import ConfigError
from .plan import PlannedRun
from .process import error_after, lock_slot, start_run, state_after
from .record import Record

_MOST_JOBS = 8  # by default, on a CPU: each needs memory for a process of torch and its data


class LocalExecutor:
    """Starts processes in slots, each with its threads and, where there are GPUs, one of them.

    A slot is a locked file that the process inherits: one that outlived an earlier ``study run`` still has its slot.

    Args:
        record: the states of the runs.
        runs: all runs of the study. The number of slots, and with it that of threads, must not depend on how many are left, as
            results depend on the number of threads.
        jobs: number of slots; None is one per GPU or, on a CPU, one per core, at most 8.

    Attributes:
        interval: seconds between two looks at the processes.
    """

    interval = 0.3

    def __init__(self, record: Record, runs: Sequence[PlannedRun], jobs: int | None) -> None:
        if jobs is not None and jobs < 1:
            raise ConfigError(f"--jobs must be at least 1, not {jobs}")
        self._record = record
        self._gpus = visible_gpus() if any(run.config.SOLVER.DEVICE != "cpu" for run in runs) else []
        cores = usable_cores()
        self.jobs = jobs or min(len(self._gpus) or min(cores, _MOST_JOBS), len(runs))
        self.threads = max(cores // self.jobs, 1)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def active(self) -> bool:
        """Whether there are processes that have not been reported as ended."""
        return bool(self._processes)

    def attach(self, runs: Sequence[PlannedRun]) -> Iterator[PlannedRun]:
        """No runs: processes of an earlier call cannot be waited for by this one."""
        return iter(())

    def start(self, runs: Sequence[PlannedRun]) -> Iterator[PlannedRun]:
        """Start as many of the runs as there are free slots; yields them."""
        for run in runs:
            slots = ((number, self._lock(number)) for number in range(self.jobs))
            number, slot = next(((number, slot) for number, slot in slots if slot is not None), (0, None))
            if slot is None:
                return
            try:
                self._processes[run.name] = start_run(
                    run.command,
                    self._record.log(run.name),
                    environment=self._environment(number),
                    hold=[slot],
                    start_new_session=True,  # Ctrl-C is for this process alone, which stops the others
                )
            finally:
                os.close(slot)
            entry = self._record.entries[run.name]
            entry.state, entry.error, entry.attempts = "running", None, entry.attempts + 1
            yield run

    def ended(self) -> Iterator[tuple[str, str, str | None]]:
        """Yield name, state and error of the runs whose processes have ended."""
        for name, process in list(self._processes.items()):
            status = process.poll()
            if status is not None:
                del self._processes[name]
                state = state_after(status)
                error = error_after(status, self._record.log(name)) if state in ("failed", "diverged") else None
                yield name, state, error

    def stop(self) -> None:
        """Let all processes save their runs and end."""
        for process in self._processes.values():
            process.terminate()

    def kill(self) -> None:
        """Kill all processes and their dataloader workers."""
        for process in self._processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def left(self) -> str:
        """What goes on when this process ends, for a message."""
        return ""

    def _lock(self, number: int) -> int | None:
        return lock_slot(self._record.study.folder / "logs" / f".slot{number}")

    def _environment(self, slot: int) -> dict[str, str]:
        gpu = {"CUDA_VISIBLE_DEVICES": self._gpus[slot % len(self._gpus)]} if self._gpus else {}
        return {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads), **gpu}


def visible_gpus() -> list[str]:
    """Names of this process's GPUs for ``CUDA_VISIBLE_DEVICES``."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def usable_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS
