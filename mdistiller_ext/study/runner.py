"""Run a study: start what is not finished, watch it, and record what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from ..errors import Stopped, UserError, listing
from ..run import owner
from ..trainers.shutdown import shutdown_request
from .plan import PlannedRun
from .process import is_running
from .progress import Progress
from .record import Record


class Executor(Protocol):
    """Where runs are executed: :class:`LocalExecutor` or :class:`SlurmExecutor`."""

    interval: float

    @property
    def active(self) -> bool:
        """Whether runs are being executed."""

    def attach(self, runs: Sequence[PlannedRun]) -> Iterator[PlannedRun]:
        """Take over those runs whose processes an earlier call has left; yields them."""

    def start(self, runs: Sequence[PlannedRun]) -> Iterator[PlannedRun]:
        """Start as many of these runs as there are resources for; yields them."""

    def ended(self) -> Iterator[tuple[str, str, str | None]]:
        """Name, state and error of the runs that have ended since the last call."""

    def stop(self) -> None:
        """Let the runs save and stop, where the executor runs them itself."""

    def kill(self) -> None:
        """Kill the runs."""

    def left(self) -> str:
        """What the user is told about runs that go on without the study; empty if none do."""


def run_study(record: Record, executor: Executor, progress: Progress) -> None:
    """Run all runs of a study that are neither finished nor diverged, until each has ended in some way.

    A run whose process outlived an earlier call is waited for; if it is not finished then, it is started again.

    On SIGTERM, SIGINT or SIGHUP the runs are stopped and saved, where the executor runs them itself, and Stopped is raised. A
    second SIGINT kills them and raises KeyboardInterrupt.
    """
    entries = record.entries
    pending = {run.name: run for run in record.study.runs if not entries[run.name].ended}
    started = {pending.pop(run.name).name for run in list(executor.attach(list(pending.values())))}
    stopping = False
    with shutdown_request() as request, progress:
        try:
            while executor.active or (pending and not stopping):
                if request.made and not stopping:
                    stopping = True
                    executor.stop()
                if not stopping:
                    free = _free_runs(record, pending)
                    started |= {pending.pop(run.name).name for run in executor.start(free)}
                for name, state, error in executor.ended():
                    started.discard(name)
                    done = record.is_finished(name)
                    entries[name].state, entries[name].error = ("finished", None) if done else (state, error)
                for name in started:  # those in a queue wait until their process has begun
                    entries[name].state = "running" if is_running(record.log(name)) else "waiting"
                record.save()
                progress.refresh()
                time.sleep(executor.interval)
        except KeyboardInterrupt:
            executor.kill()
            raise
        except (UserError, OSError):  # such as a full disk: no run goes on without this process to record its end
            executor.stop()
            raise
        finally:
            record.save()
    if stopping and not all(entries[run.name].ended for run in record.study.runs):
        others = sorted({who for run in pending.values() if (who := owner(run.folder)) is not None})
        left = f"{executor.left()}{f'; runs of other processes go on ({listing(others)})' if others else ''}"
        raise Stopped(f"stopped{left}. The same command goes on: {record.command}")


def _free_runs(record: Record, pending: dict[str, PlannedRun]) -> list[PlannedRun]:
    """Return the pending runs that no process executes; removes those that such a process has finished from ``pending``."""
    free = []
    for name, run in list(pending.items()):
        entry = record.entries[name]
        if is_running(record.log(name)) or owner(run.folder) is not None:
            entry.state = "running"
        elif record.is_finished(name):
            entry.state = "finished"
            del pending[name]
        else:
            entry.state = "stopped" if entry.state == "running" else entry.state
            free.append(run)
    return free
