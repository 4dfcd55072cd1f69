"""A teacher that has changed between the parts of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mdistiller_ext import checkpoint
from tests.support.faults import KD_RUN, contents
from tests.support.programs import run_program
from tests.support.runs import assert_one_line_error, assert_same_run, run_never_stopped, stop_after


def test_a_teacher_that_has_changed_is_refused_and_one_that_has_moved_is_not(
    tiny: list[str], tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, moved = tmp_path / "teacher.pth", tmp_path / "moved.pth"
    shutil.copy(teacher_file, teacher)
    arguments = [*tiny, *KD_RUN, "DISTILLER.TEACHER_CKPT", str(teacher)]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        run_program("train.py", *arguments)
    before = checkpoint.load(folder / "latest")["teacher_hash"]

    teacher.rename(moved)
    state = checkpoint.load(moved)
    state["model"]["fc.bias"] += 1e-3
    checkpoint.save(teacher, state)
    untouched = contents(tmp_path / "p")
    assert_one_line_error(run_program("train.py", "--resume", *arguments), "teacher", before[:12], "put that back")
    assert contents(tmp_path / "p") == untouched

    resumed = run_program("train.py", "--resume", *arguments, "DISTILLER.TEACHER_CKPT", moved)
    assert (resumed.status, resumed.err) == (0, "")
    assert_same_run(folder, never_stopped)
