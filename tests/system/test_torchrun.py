"""The programs under torchrun: one process writes, and a run that was stopped or killed goes on exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext import checkpoint
from tests.support.programs import Finished, run_program, spawn_program
from tests.support.runs import ALWAYS, assert_same_run, names

DISTURBER = """
import os, pathlib, signal
from mdistiller_ext.distributed import rank
from mdistiller_ext.trainers import BaseTrainer
from mdistiller_ext.trainers.recorder import Recorder

step, taken, done = BaseTrainer.train_step, 0, pathlib.Path({done!r})
times = len(done.read_text()) if done.exists() else 0

def train_step(self, images, labels):
    global taken
    taken += 1
    if rank() == (times + 1) % 2 and taken == {step} and times < {times}:
        done.write_text("x" * (times + 1))
        os.kill(os.getpid(), signal.{signal})
    return step(self, images, labels)

BaseTrainer.train_step = train_step
"""


def disturber(folder: Path, name: str, step: int, times: int = 1) -> list[Any]:
    """Options with which the second process gets a signal in its ``step``-th step; more often, both in turn."""
    plugin = folder / f"{name}.py"
    plugin.write_text(DISTURBER.format(done=str(folder / f"{name}.done"), step=step, signal=name, times=times))
    return ["--plugin", plugin]


@pytest.fixture(scope="module")
def in_two(glyphs_root: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, Finished]:
    """Arguments, folder and output of a run of 3 epochs of 3 steps in two processes, the last of a batch of one image."""
    prefix = tmp_path_factory.mktemp("together")
    arguments = (
        f"EXPERIMENT.PROJECT p EXPERIMENT.NAME run DATASET.TYPE glyphs DATASET.ROOT {glyphs_root} DATASET.LIMIT 65 "
        f"DISTILLER.TYPE DKD DISTILLER.STUDENT resnet8 DISTILLER.TEACHER resnet8 DISTILLER.TEACHER_CKPT {teacher_file} "
        "SOLVER.TRAINER dot SOLVER.BATCH_SIZE 32 SOLVER.EPOCHS 3 SOLVER.LR_SCHEDULER onecycle SOLVER.DEVICE cpu"
    ).split()
    finished = spawn_program("train.py", *arguments, "LOG.PREFIX", prefix, processes=2)
    return arguments, prefix / "p" / "run", finished


def test_one_process_writes_and_speaks(in_two: tuple[list[str], Path, Finished]) -> None:
    _, folder, finished = in_two
    assert (finished.status, finished.err) == (0, "")
    assert "on cpu (2 processes)" in finished.out
    assert [finished.out.count(part) for part in ("teacher:", "epoch 1/3", "epoch 3/3", "test top-1:")] == [1, 1, 1, 1]
    assert names(folder) == ALWAYS
    assert len(list((folder / "train.events").iterdir())) == 1
    assert json.loads((folder / "summary.json").read_text())["processes"] == 2
    assert names(folder.parent) == {"run"}


def test_eval_in_several_processes_says_what_it_says_in_one(in_two: tuple[list[str], Path, Finished], tmp_path: Path) -> None:
    _, folder, _ = in_two
    together = spawn_program("eval.py", "-c", folder, "--report", tmp_path, processes=2)
    assert (together.status, together.err) == (0, "")
    names = ("per_class.csv", "confusion.csv")
    tables = [(tmp_path / name).read_bytes() for name in names]
    assert together.out == run_program("eval.py", "-c", folder, "--report", tmp_path).out
    assert tables == [(tmp_path / name).read_bytes() for name in names]


def test_processes_that_were_stopped_go_on_exactly_and_then_as_one(
    in_two: tuple[list[str], Path, Finished], tmp_path: Path
) -> None:
    """SIGTERM reaches one of the two, in the middle of an epoch."""
    arguments, never_stopped, _ = in_two
    arguments = [*arguments, "LOG.PREFIX", str(tmp_path)]
    stopped = spawn_program("train.py", *arguments, *disturber(tmp_path, "SIGTERM", 5), processes=2)
    assert stopped.status == 1  # torchrun's own; that of a process is in what it writes
    assert "exitcode  : 75" in stopped.err
    assert stopped.err.count("stopped in epoch 2, step 3 of 3, and saved: --resume goes on there\n") == 1
    folder = tmp_path / "p" / "run"
    state = checkpoint.load(folder / "latest")
    assert (state["epoch"], state["step"]) == (1, 3)  # the other one hears of it one step later
    one_process = shutil.copytree(folder, tmp_path / "p" / "alone")

    resumed = spawn_program("train.py", "--resume", "auto", *arguments, processes=2)
    assert (resumed.status, resumed.err) == (0, "")
    assert_same_run(folder, never_stopped)

    folder.rename(tmp_path / "p" / "together")
    one_process.rename(folder)
    alone = run_program("train.py", *arguments, "--resume")
    assert alone.status == 0, alone.err
    assert "the run was on 2 processes and goes on with 1" in alone.out
    assert len((folder / "metrics.csv").read_text().splitlines()) == 4


def test_torchrun_starts_processes_again_after_one_was_killed_and_they_go_on_exactly(
    in_two: tuple[list[str], Path, Finished], tmp_path: Path, soak: bool, figures: dict[str, float]
) -> None:
    arguments, never_killed, _ = in_two
    saving = ["LOG.PREFIX", tmp_path, "SOLVER.CHECKPOINT_STEPS", 1]
    kills, step = (8, 2) if soak else (1, 5)
    killer = disturber(tmp_path, "SIGKILL", step, kills)
    finished = spawn_program("train.py", *arguments, *saving, *killer, processes=2, restarts=kills)
    assert finished.status == 0, finished.err
    assert "Traceback" not in finished.err
    assert finished.out.count("run folder") == kills + 2  # at each beginning, and at the end
    figures["processes of torchrun killed and started again"] += kills
    assert names(tmp_path / "p") == {"run"}  # not a second run beside the first
    assert_same_run(tmp_path / "p" / "run", never_killed)
