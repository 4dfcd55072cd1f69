"""Runs on a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mdistiller_ext import checkpoint
from tests.support.programs import run_program, spawn_program
from tests.support.runs import (
    RUNS,
    assert_one_line_error,
    assert_same_run,
    run_never_stopped,
    small_files_only,
    stop_after,
)


def test_a_full_disk_is_one_line_and_the_older_checkpoint_stays(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*tiny, *RUNS["deepkd"].split()]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, steps=3)
        run_program("train.py", *arguments)
    before = {name: (folder / name).read_bytes() for name in ("latest", "student_latest", "metrics.csv")}

    full = spawn_program("train.py", "--resume", *arguments, preexec_fn=small_files_only(50_000))
    assert_one_line_error(full, "cannot write", str(folder), os.strerror(errno.EFBIG), "--resume")
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert not list(folder.glob(".*.tmp"))

    assert run_program("train.py", "--resume", *arguments).status == 0  # some space has been freed
    assert_same_run(folder, never_stopped)


@pytest.mark.parametrize("limit", [0, 200, 3_000])
def test_a_disk_full_from_the_start_is_one_line(tiny: list[str], limit: int) -> None:
    full = spawn_program("train.py", *tiny, "SOLVER.EPOCHS", 1, preexec_fn=small_files_only(limit))
    assert_one_line_error(full)
    # The last two are torch's own words: some versions write a temporary file when they are first used.
    assert any(word in full.err for word in ("cannot", "File too large", "temporary directory")), full.err


@pytest.mark.parametrize("records", [0, 2])
def test_a_disk_that_is_full_only_for_tensorboard_ends_the_run_too(tiny: list[str], tmp_path: Path, records: int) -> None:
    """Its file is the last that an epoch writes: the run must neither hang nor lose the epoch."""
    plugin = tmp_path / "full.py"
    plugin.write_text(
        f"""
from mdistiller_ext.run import tensorboard

record, written = tensorboard._record, 0

def full(data):
    global written
    written += 1
    if written > {records}:
        raise OSError(28, "No space left on device")
    return record(data)

tensorboard._record = full
"""
    )
    finished = spawn_program("train.py", "--plugin", plugin, *tiny, limit=60)
    assert_one_line_error(finished, "cannot write", "train.events", "No space left on device")
    if records:
        assert checkpoint.load(tmp_path / "p/run/latest")["epoch"] == 1
