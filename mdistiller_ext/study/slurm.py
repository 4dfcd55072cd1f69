"""Runs of a study as jobs of Slurm, through submitit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import submitit
import yaml
from submitit.core.utils import FailedJobError, UncompletedJobError

from ..errors import ConfigError, UnknownNameError, did_you_mean, listing, one_line, shown
from ..project import IN_CHECKOUT, ROOT
from .job import TrainJob
from .plan import PlannedRun
from .process import error_after, state_after
from .record import Record

_MOST_TIMEOUTS = 1000  # a job is requeued so often: every time it goes on from a checkpoint
# A job starts in another folder, where it does not find the package of a checkout.
_PATH = [f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"] if IN_CHECKOUT else []


class SlurmExecutor:
    """Submits runs as an array of jobs, which go on without this process. A requeued job is the same job.

    Args:
        record: the states of the runs, with the ids of their jobs.
        options: ``KEY=VALUE``, parameters of submitit's SlurmExecutor; ``time``, in minutes, is required.
        jobs: number of jobs of an array that may run at the same time; None is submitit's default.

    Attributes:
        interval: seconds between two looks at the jobs.
    """

    interval = 2.0

    def __init__(self, record: Record, options: Sequence[str], jobs: int | None) -> None:
        self._record = record
        self._folder = record.study.folder / "logs" / "slurm"
        try:
            self._executor = submitit.SlurmExecutor(self._folder, max_num_timeout=_MOST_TIMEOUTS)
        except RuntimeError as error:
            raise ConfigError("there is no Slurm here: srun is not on the PATH") from error
        parameters = _parameters(options)
        if jobs is not None:
            parameters["array_parallelism"] = jobs
        parameters.setdefault("job_name", record.study.name)
        try:
            self._executor.update_parameters(**parameters)
        except ValueError as error:
            known = re.findall(r"^ +- (\w+) ", str(error), re.MULTILINE)
            unknown = next(key for key in parameters if key not in known)
            near = did_you_mean(unknown, known) or "."
            raise UnknownNameError(f"unknown parameter --slurm {unknown}{near} Known: {listing(known, limit=1000)}") from error
        self._jobs: dict[str, submitit.Job[int]] = {}
        self._left: list[str] = []

    @property
    def active(self) -> bool:
        """Whether there are jobs that have not been reported as ended."""
        return bool(self._jobs)

    def attach(self, runs: Sequence[PlannedRun]) -> Iterator[PlannedRun]:
        """Watch the jobs of an earlier call that are in the queue, or whose runs diverged; yields the runs."""
        for run in runs:
            job_id = self._record.entries[run.name].job
            if job_id is not None:
                job: submitit.Job[int] = submitit.SlurmJob(self._folder, job_id)
                if not job.done() or self._outcome(run.name, job)[0] == "diverged":
                    self._jobs[run.name] = job
                    yield run

    def start(self, runs: Sequence[PlannedRun]) -> Iterator[PlannedRun]:
        """Submit runs; yields all."""
        if not runs:
            return
        commands, logs = zip(*((run.command, str(self._record.log(run.name).absolute())) for run in runs), strict=True)
        try:
            jobs = self._executor.map_array(TrainJob(), commands, logs)
        except FailedJobError as error:  # of the command sbatch
            raise ConfigError(f"Slurm does not accept the jobs: {one_line(str(error).strip())}") from error
        for run, job in zip(runs, jobs, strict=True):
            entry = self._record.entries[run.name]
            entry.state, entry.error, entry.attempts, entry.job = "waiting", None, entry.attempts + 1, job.job_id
            self._jobs[run.name] = job
            yield run

    def ended(self) -> Iterator[tuple[str, str, str | None]]:
        """Yield name, state and error of the runs whose jobs have ended."""
        for name, job in list(self._jobs.items()):
            if job.done():
                del self._jobs[name]
                self._record.entries[name].job = None
                yield name, *self._outcome(name, job)

    def stop(self) -> None:
        """Watch the jobs no more; they stay in the queue."""
        self._left = sorted({job.job_id.split("_")[0] for job in self._jobs.values()})
        self._jobs = {}

    def kill(self) -> None:
        """Do nothing: the jobs stay in the queue."""

    def left(self) -> str:
        """What goes on when this process ends, for a message."""
        return f" watching; the jobs stay in the queue (scancel {' '.join(self._left)} takes them out)" if self._left else ""

    def _outcome(self, name: str, job: submitit.Job[int]) -> tuple[str, str | None]:
        try:
            # Without a result, Job.result waits for 15 seconds: too long where a hundred jobs were cancelled.
            status = job.result() if job.paths.result_pickle.exists() else None
        except UncompletedJobError:  # an error of this program, in the job
            status = None
        if status is None:
            return "failed", f"its job {job.job_id} ended as {job.state}; see {job.paths.stderr}"
        state = state_after(status)
        return state, error_after(status, self._record.log(name)) if state in ("failed", "diverged") else None


def _parameters(words: Sequence[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` words: whole numbers, true, lists and groups in brackets, or else text."""
    parameters: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--slurm takes KEY=VALUE, such as partition=gpu, not {shown(word)}")
        try:
            parameters[key] = yaml.safe_load(text) if re.fullmatch(r"\d+|true|\[.*\]|\{.*\}", text) else text
        except yaml.YAMLError as error:
            raise ConfigError(f"--slurm {key} is not readable yaml: {shown(text)}") from error
    minutes = parameters.get("time")
    if not isinstance(minutes, int):
        raise ConfigError(f"--slurm time=MINUTES, the time limit of a job, must be a whole number, not {shown(minutes)}")
    setup = parameters.get("setup", [])
    parameters["setup"] = [*_PATH, *(setup if isinstance(setup, list) else [setup])]
    return parameters
