"""Function of a Slurm job of a study. The job imports no torch: its ``train.py`` does."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import submitit
from submitit.helpers import DelayedSubmission

from ..errors import Stopped
from .process import start_run

_GRACE = 60  # seconds between the signals of a preemption


class TrainJob:
    """Function of a job for submitit: runs ``train.py`` and returns its exit status.

    On submitit's signal, before a preemption or the time limit, the run is saved, and submitit puts the job into the queue
    again, where it goes on by ``--resume auto``.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, command: Sequence[str], log: str) -> int:
        number = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        # The scheduler may send that signal to all processes of a job; train.py would be killed by it.
        ignore = partial(signal.signal, number, signal.SIG_IGN)
        # Where the scheduler does not bind a job to its cores, torch would take all of the machine.
        threads = os.environ.get("SLURM_CPUS_PER_TASK")
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} if threads else {}
        self._process = start_run(command, Path(log), environment=environment, wait=True, preexec_fn=ignore)
        status = self._process.wait()
        if status == Stopped.status:  # SIGTERM of a preemption reached it directly; submitit's signal comes next
            time.sleep(_GRACE)
        return status

    def checkpoint(self, command: Sequence[str], log: str) -> DelayedSubmission:
        """Stop the run; called by submitit's signal handler, within :meth:`__call__`."""
        if self._process is not None:
            self._process.terminate()
            # Popen.wait may hold its lock in the code that the signal interrupted.
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(TrainJob(), command, log)
