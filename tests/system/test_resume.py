"""Runs that are stopped or killed and resumed, and runs in a folder that is taken."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from mdistiller_ext import checkpoint
from tests.support.programs import run_program, spawn_program
from tests.support.runs import (
    ALWAYS,
    RUNS,
    assert_one_line_error,
    assert_same_run,
    names,
    run_never_stopped,
    stop_after,
)

ONE_START = {"train.events", "notes.txt", "provenance.json"}  # to which every start adds


@pytest.mark.parametrize(
    ("run", "epochs_done"), [("base", 1), ("base", 2), ("dot", 2), ("deepkd", 1), ("deepkd", 3), ("average", 3), ("memory", 2)]
)
def test_a_run_stopped_and_resumed_is_the_run_never_stopped(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str, epochs_done: int
) -> None:
    arguments = [*tiny, *RUNS[run].split(), "SOLVER.EPOCHS", "4", "SOLVER.LR", "0.1"]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)

    with monkeypatch.context() as patch:
        stop_after(patch, steps=2 * epochs_done + 1)  # an epoch has two steps
        stopped = run_program("train.py", *arguments)
    assert stopped.status == 130
    assert "Traceback" not in stopped.err
    assert checkpoint.load(folder / "latest")["epoch"] == epochs_done
    assert names(folder) >= {"curves.png", "metrics.csv"}  # a stopped run is drawn too

    resumed = run_program("train.py", "--resume", *arguments)
    assert (resumed.status, resumed.err) == (0, "")
    assert f"epoch {epochs_done + 1}/4" in resumed.out
    assert f"epoch {epochs_done}/4" not in resumed.out
    assert_same_run(folder, never_stopped)
    if run == "average":
        assert checkpoint.load(folder / "latest")["average"]["n_averaged"] == 3
    content = b"".join(file.read_bytes() for file in (folder / "train.events").iterdir())
    assert content.count(b"test_acc_top5") == 4


def test_a_run_resumed_after_every_epoch_is_the_run_never_stopped(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*tiny, *RUNS["average"].split(), "SOLVER.EPOCHS", "4"]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    for turn in range(4):
        with monkeypatch.context() as patch:
            stop_after(patch, steps=2 if turn < 3 else 99)
            run_program("train.py", *(["--resume"] if turn else []), *arguments)
    assert_same_run(folder, never_stopped)


class Killed(BaseException):
    """Nothing after it runs, as after kill -9."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the files that the killed run left open
def test_a_run_killed_between_any_two_files_resumes_exactly(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch puts several files in place; wherever a kill falls, the next process must not take half an epoch for one."""
    arguments = [*tiny, *RUNS["dot"].split(), "SOLVER.EPOCHS", "2", "LOG.SAVE_CHECKPOINT_FREQ", "1"]
    folder = tmp_path / "p" / "run"
    replace, count, limit = os.replace, 0, 10**9

    def counted(*paths: Any) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise Killed
        replace(*paths)

    monkeypatch.setattr(os, "replace", counted)
    run_program("train.py", *arguments)
    total, never_stopped = count, folder.rename(tmp_path / "never_stopped")
    assert total > 10
    for killed_after in range(total // 2, total):  # from the end of the first epoch to the last file of the run
        count, limit = 0, killed_after
        with pytest.raises(Killed):
            run_program("train.py", *arguments)
        count, limit = 0, 10**9
        assert run_program("train.py", "--resume", *arguments).status == 0
        for left in folder.glob(".*.tmp"):
            left.unlink()
        assert_same_run(folder, never_stopped)
        folder.rename(tmp_path / f"killed_{killed_after}")
    gc.collect()  # those files are closed here, not in another test


KILLER = """
import os, signal
from mdistiller_ext.trainers import BaseTrainer

step, taken = BaseTrainer.train_step, 0

def train_step(self, images, labels):
    global taken
    taken += 1
    if taken == {steps}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, images, labels)

BaseTrainer.train_step = train_step
"""


def test_a_process_killed_in_mid_epoch_resumes_exactly(tiny: list[str], tmp_path: Path) -> None:
    arguments = [*tiny, *RUNS["deepkd"].split(), "SOLVER.EPOCHS", "4"]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    killer = tmp_path / "killer.py"
    killer.write_text(KILLER.format(steps=6))  # the second step of the third epoch
    killed = spawn_program("train.py", "--plugin", killer, *arguments)
    assert killed.status == -signal.SIGKILL
    assert checkpoint.load(folder / "latest")["epoch"] == 2
    resumed = run_program("train.py", "--resume", *arguments)
    assert (resumed.status, resumed.err) == (0, "")
    assert_same_run(folder, never_stopped)


def test_resuming_with_the_run_folders_own_config_needs_nothing_else(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*tiny, *RUNS["base"].split()]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, steps=3)
        run_program("train.py", *arguments)
    assert run_program("train.py", "--resume", "--cfg", folder / "config.yaml").status == 0
    assert_same_run(folder, never_stopped)


def test_resuming_a_finished_run_changes_nothing(tiny: list[str], tmp_path: Path) -> None:
    arguments = [*tiny, *RUNS["average"].split()]
    run_program("train.py", *arguments)
    folder = tmp_path / "p" / "run"
    before = {name: (folder / name).read_bytes() for name in ALWAYS - ONE_START | {"student_average"}}
    again = run_program("train.py", "--resume", *arguments)
    assert (again.status, again.err) == (0, "")
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_resuming_with_other_settings_is_refused_by_name(tiny: list[str], tmp_path: Path) -> None:
    run_program("train.py", *tiny, "SOLVER.EPOCHS", 1)
    folder = tmp_path / "p" / "run"
    before = (folder / "latest").read_bytes()
    refused = run_program("train.py", "--resume", *tiny, "SOLVER.EPOCHS", 1, "SOLVER.LR", 0.2, "DATASET.LIMIT", 16)
    assert_one_line_error(refused, "SOLVER.LR: 0.05 -> 0.2", "DATASET.LIMIT: 32 -> 16", f"--cfg {folder / 'config.yaml'}")
    assert (folder / "latest").read_bytes() == before


@pytest.mark.parametrize("more", ["LOG.SAVE_CHECKPOINT_FREQ 3", "DATASET.NUM_WORKERS 5"])
@pytest.mark.filterwarnings("ignore::mdistiller_ext.errors.ConfigWarning")
def test_resuming_with_settings_that_change_no_result_is_allowed(tiny: list[str], more: str) -> None:
    run_program("train.py", *tiny, "SOLVER.EPOCHS", 1)
    assert run_program("train.py", "--resume", *tiny, "SOLVER.EPOCHS", 1, *more.split()).status == 0


def test_resuming_a_run_of_another_version_ignores_settings_of_methods_it_does_not_use(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method added since (in the library, or by --plugin) is no reason to lose a run."""
    run_program("train.py", *tiny, "SOLVER.EPOCHS", 1)
    state = checkpoint.load(tmp_path / "p/run/latest")
    config = yaml.safe_load(state["config"])
    del config["GDKD3"]
    config["OLDMETHOD"] = {"WEIGHT": 1.0}
    checkpoint.save(tmp_path / "p/run/latest", state | {"config": yaml.safe_dump(config)})
    resumed = run_program("train.py", "--resume", *tiny, "SOLVER.EPOCHS", 1)
    assert resumed.status == 0, resumed.err


def test_resuming_without_a_run_says_so(tiny: list[str], tmp_path: Path) -> None:
    refused = run_program("train.py", "--resume", *tiny)
    assert_one_line_error(refused, "nothing to resume", str(tmp_path / "p/run/latest"), "without --resume")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("damage", ["truncated", "weights only", "no checkpoint"])
def test_resuming_from_a_damaged_checkpoint_is_one_line(tiny: list[str], tmp_path: Path, damage: str) -> None:
    run_program("train.py", *tiny, "SOLVER.EPOCHS", 1)
    folder = tmp_path / "p" / "run"
    latest = folder / "latest"
    content = {
        "truncated": latest.read_bytes()[:5000],
        "weights only": (folder / "student_latest").read_bytes(),
        "no checkpoint": b"hello",
    }
    latest.write_bytes(content[damage])
    (folder / "best").unlink()  # the only other one
    refused = run_program("train.py", "--resume", *tiny, "SOLVER.EPOCHS", 1)
    assert_one_line_error(refused, str(latest))
    assert latest.read_bytes() == content[damage]


def test_a_second_run_moves_the_first_aside_and_loses_nothing(tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "p" / "run"
    kept = []
    for seed in (1, 2, 3):
        finished = run_program("train.py", "--seed", seed, *tiny, "SOLVER.EPOCHS", 1)
        kept.append({name: (folder / name).read_bytes() for name in ALWAYS - {"train.events", "previous"}})
        assert ("an earlier run is kept as" in finished.out) == (seed > 1)
    assert names(tmp_path / "p") == {"run", "run.1", "run.2"}
    for place, content in zip(("run.1", "run.2", "run"), kept, strict=True):
        assert {name: (tmp_path / "p" / place / name).read_bytes() for name in content} == content


def test_a_run_that_cannot_start_moves_nothing_aside(tiny: list[str], tmp_path: Path) -> None:
    run_program("train.py", *tiny, "SOLVER.EPOCHS", 1)
    mistake = run_program("train.py", *tiny, "DISTILLER.TYPE", "DIST", "SOLVER.TRAINER", "deepkd")
    assert_one_line_error(mistake, "trainer 'deepkd' needs task, target and nontarget; DIST offers task and kd")
    assert names(tmp_path / "p") == {"run"}
