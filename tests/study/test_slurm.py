"""A study as jobs of a scheduler: preempted, requeued, cancelled, left alone and taken up again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import submitit

from mdistiller_ext.study import process
from mdistiller_ext.study.slurm import SlurmExecutor
from tests.support import slurm
from tests.support.study import CFG, entries, run_study, signal_this_process, starts, states, when


@pytest.fixture
def scheduler(tmp_path: Path, quick_train: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in scheduler, on the PATH; returns the folder with its state."""
    folder = tmp_path / "slurm"
    slurm.install(folder)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(SlurmExecutor, "interval", 0.05)
    submitit.SlurmJob.watcher.clear()  # states of the jobs of earlier tests
    return folder


def options(folder: Path, *names: str, epochs: int) -> list[Any]:
    words = ["--cfg", CFG, "--out", folder, "--set", f"EXPERIMENT.NAME={','.join(names)}", f"SOLVER.EPOCHS={epochs}"]
    return [*words, "--executor", "slurm", "--slurm", "time=60", "partition=gpu", "cpus_per_task=3"]


def epochs(run: Path) -> list[str]:
    """For each epoch of a run the process that trained it."""
    return (run / "epochs").read_text().split() if (run / "epochs").exists() else []


def job_of(folder: Path, name: str) -> str:
    (job,) = (run["job"] for run in entries(folder) if run["name"] == name)
    assert isinstance(job, str)
    return job


def submissions(scheduler: Path) -> int:
    return len(list(scheduler.glob("*.sh")))


def test_preempted_jobs_save_their_runs_and_go_on_when_they_are_requeued(quick_train: Path, scheduler: Path) -> None:
    def preempt() -> None:
        """One job by submitit's signal, the other one by SIGTERM before it."""
        a, b = (job_of(quick_train, name) for name in "ab")
        for job, number in ((a, "USR2"), (b, "TERM"), (b, "USR2")):
            subprocess.run(["scancel", job, "--signal", number], check=True)
            time.sleep(0.3)

    names = ("a", "b", "fails", "diverges")
    thread = when(lambda: all(len(epochs(quick_train / name)) > 2 for name in "ab"), preempt)
    finished = run_study(*options(quick_train, *names, epochs=20))
    thread.join()
    assert (finished.status, finished.err) == (1, "")
    assert states(quick_train) == {"a": "finished", "b": "finished", "fails": "failed", "diverges": "diverged"}
    assert [run["error"] for run in entries(quick_train)] == [None, None, "no such teacher", "the loss is not finite"]
    assert [run["attempts"] for run in entries(quick_train)] == [1, 1, 1, 1]
    for name in "ab":
        (began, first, threads, _), (went_on, second, *_) = starts(quick_train / name)
        assert threads == "3"
        assert began == "0"
        assert int(went_on) > 2
        assert epochs(quick_train / name) == [first] * int(went_on) + [second] * (20 - int(went_on))
    assert submissions(scheduler) == 1  # an array
    script = (scheduler / "100.sh").read_text()
    assert "#SBATCH --partition=gpu" in script
    assert "#SBATCH --time=60" in script

    (quick_train / "mended").touch()
    assert run_study(*options(quick_train, *names, epochs=20)).status == 1
    assert states(quick_train) == {name: "diverged" if name == "diverges" else "finished" for name in names}
    assert submissions(scheduler) == 2


def test_jobs_go_on_without_the_study_and_are_not_submitted_twice(
    quick_train: Path, scheduler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = options(quick_train, "a", "b", epochs=60)

    def both_have_a_checkpoint() -> bool:
        return min(len(epochs(quick_train / name)) for name in "ab") > 1

    thread = when(both_have_a_checkpoint, lambda: signal_this_process(signal.SIGINT))
    left = run_study(*words)
    thread.join()
    assert left.status == 75
    assert "the jobs stay in the queue (scancel 100 takes them out)" in left.err
    assert states(quick_train) == {"a": "running", "b": "running"}

    watched, ended = [], SlurmExecutor.ended

    def cancel_first(self: SlurmExecutor) -> Any:
        if not watched:
            watched.append(job_of(quick_train, "a"))
            subprocess.run(["scancel", *watched], check=True)
        return ended(self)

    monkeypatch.setattr(SlurmExecutor, "ended", cancel_first)
    again = run_study(*words)
    assert again.status == 1
    assert submissions(scheduler) == 1
    assert states(quick_train) == {"a": "failed", "b": "finished"}
    assert len(starts(quick_train / "b")) == 1
    assert entries(quick_train)[0]["error"].startswith("its job 100_0 ended as CANCELLED by 0; see ")

    assert run_study(*words).status == 0  # the cancelled one
    assert submissions(scheduler) == 2
    assert set(epochs(quick_train / "a")) == {number for _, number, *_ in starts(quick_train / "a")}


def test_a_job_waits_for_a_process_of_the_same_run(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    command = [sys.executable, "-c", "import time; time.sleep(0.3); print('end', flush=True)"]
    first = process.start_run(command, log)
    with pytest.raises(BlockingIOError):
        process.start_run(command, log)
    second = process.start_run(command, log, wait=True)
    assert first.poll() is not None or first.wait(5) == 0
    assert log.read_text().count("end\n") >= 1
    assert second.wait() == 0
    assert log.read_text().count("\nend\n") == 2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["time=60", "partion=x"], "unknown parameter --slurm partion; did you mean 'partition'? Known: "),
        (["partition=x"], "--slurm time=MINUTES, the time limit of a job, must be a whole number, not None"),
        (["time=1:00:00"], "must be a whole number, not '1:00:00'"),
        (["time=60", "setup=[a: b: c]"], "--slurm setup is not readable yaml: '[a: b: c]'"),
        (["time"], "--slurm takes KEY=VALUE, such as partition=gpu, not 'time'"),
    ],
)
def test_mistakes_in_the_options_of_the_scheduler(quick_train: Path, scheduler: Path, words: list[str], part: str) -> None:
    mistaken = run_study("--cfg", CFG, "--out", quick_train, "--executor", "slurm", "--slurm", *words)
    assert mistaken.status == 2
    assert part in mistaken.err
    assert submissions(scheduler) == 0


def test_a_machine_without_slurm_and_options_without_slurm(quick_train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    words = ["--cfg", CFG, "--out", quick_train, "--slurm", "time=60"]
    assert "there is no Slurm here: srun is not on the PATH" in run_study(*words, "--executor", "slurm").err
    assert "--slurm belongs to --executor slurm" in run_study(*words).err


def test_jobs_that_the_scheduler_refuses_are_one_line(quick_train: Path, scheduler: Path) -> None:
    (scheduler / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    refused = run_study(*options(quick_train, "a", epochs=1))
    assert refused.status == 2
    assert "\nerror: Slurm does not accept the jobs: sbatch: error: invalid partition\n" in refused.err


def test_without_submitit_the_message_says_how_to_get_it(quick_train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mdistiller_ext.study.slurm")
    monkeypatch.delitem(sys.modules, "mdistiller_ext.study.job")
    monkeypatch.setitem(sys.modules, "submitit", None)
    missing = run_study("--cfg", CFG, "--out", quick_train, "--executor", "slurm", "--slurm", "time=60")
    assert missing.status == 2
    assert "needs the package submitit: pip install" in missing.err
