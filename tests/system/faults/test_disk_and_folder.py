"""Full and read-only disks, deleted and locked run folders, and links in place of their files."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mdistiller_ext import checkpoint
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.errors import CorruptFileError
from mdistiller_ext.run import run_folder
from mdistiller_ext.trainers import BaseTrainer
from tests.support.faults import KD_RUN, checkpoints
from tests.support.forge import Forge, can_mount
from tests.support.programs import ROOT, run_program
from tests.support.runs import assert_one_line_error, assert_same_run, names, run_never_stopped


@pytest.mark.parametrize(("size", "every"), [("600k", 0), ("2300k", 0), ("2600k", 0), ("2600k", 1)])
def test_a_disk_that_is_full_is_one_line_and_with_more_space_the_run_goes_on(
    tiny: list[str], tmp_path: Path, forge: Forge, size: str, every: int
) -> None:
    arguments = [*tiny, *KD_RUN, "SOLVER.CHECKPOINT_STEPS", str(every)]
    _, never_stopped = run_never_stopped(arguments, tmp_path)
    disk, kept, plugin = tmp_path / "disk", tmp_path / "kept", tmp_path / "full.py"
    disk.mkdir()
    imports = f"import sys\nsys.path.append({str(ROOT)!r})\n"
    if can_mount():
        plugin.write_text(f"{imports}from tests.support import forge\nforge.mount_small_disk('{disk}', '{size}', '{kept}')\n")
    else:
        plugin.write_text(f"{imports}from tests.support import runs\nruns.small_files_only(500_000)()\n")
        kept = disk
    full = forge.start("--plugin", plugin, *arguments, "LOG.PREFIX", disk).wait()
    assert full.status == 2, full.err
    (line,) = full.err.splitlines()
    assert line.startswith(f"error: cannot write {disk}/p/run/")
    assert any(os.strerror(number) in line for number in (errno.ENOSPC, errno.EFBIG))
    left = kept / "p" / "run"
    assert not list(left.glob(".*.tmp"))
    for file in checkpoints(left):
        checkpoint.load(file)
    assert (left / "latest").exists() == (size != "600k" and kept != disk)

    resumed = run_program("train.py", "--resume", "auto", *arguments, "LOG.PREFIX", kept)
    assert (resumed.status, resumed.err) == (0, "")
    assert_same_run(left, never_stopped)


def test_a_folder_that_is_deleted_meanwhile_is_one_line(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, taken = BaseTrainer.train_step, 0

    def train_step(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 3:
            shutil.rmtree(tmp_path / "p")
        return step(*arguments)

    monkeypatch.setattr(BaseTrainer, "train_step", train_step)
    assert_one_line_error(run_program("train.py", *tiny, *KD_RUN), f"cannot write {tmp_path}/p/run/", os.strerror(errno.ENOENT))


def test_a_disk_that_is_read_only_meanwhile_is_one_line_and_the_run_goes_on_later(
    tiny: list[str], tmp_path: Path, forge: Forge
) -> None:
    """As Linux makes a disk with errors."""
    arguments = [*tiny, *KD_RUN]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    plugin = tmp_path / "read_only.py"
    refuse = "raise OSError(30, 'Read-only file system')"
    before, after = f"def refuse(*_, **__):\n    {refuse}\n", "checkpoint.open = Path.unlink = refuse"
    if can_mount():
        before, after = "forge.own_mounts()", f"forge.make_read_only({str(tmp_path)!r})"
    plugin.write_text(
        f"""
import sys
from pathlib import Path
sys.path.append({str(ROOT)!r})
from tests.support import forge
from mdistiller_ext import checkpoint
from mdistiller_ext.trainers import BaseTrainer

{before}
step, taken = BaseTrainer.train_step, 0

def train_step(*arguments):
    global taken
    taken += 1
    if taken == 3:
        {after}
    return step(*arguments)

BaseTrainer.train_step = train_step
"""
    )
    running = forge.start("--plugin", plugin, *arguments).wait()
    assert running.status == 2, running.err
    (line,) = running.err.splitlines()
    assert line.startswith(f"error: cannot write {folder}/student_latest: Read-only file system")
    assert checkpoint.load(folder / "latest")["epoch"] == 1
    resumed = run_program("train.py", "--resume", *arguments)
    assert (resumed.status, resumed.err) == (0, "")
    assert_same_run(folder, never_stopped)
    assert names(tmp_path / "p") == {"run"}


def test_a_second_run_of_a_folder_is_refused_until_the_first_has_ended_even_by_kill_9(
    longer: list[str], tmp_path: Path, forge: Forge, slowly: Callable[[float], list[str]]
) -> None:
    arguments = [*longer, *KD_RUN]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    first = forge.start(*slowly(0.3), *arguments)
    first.wait_for("epoch 1/4")
    for option in ([], ["--resume"], ["--resume=auto"]):
        second = run_program("train.py", *option, *arguments)
        assert_one_line_error(second, f"{folder} is in use by process {first.pid} on {socket.gethostname()}")
    assert not first.ended()
    first.send(signal.SIGKILL)
    first.wait()
    assert checkpoint.load(folder / "latest")["epoch"] >= 1
    assert (tmp_path / "p" / ".run.lock").exists()  # stale, and no obstacle
    resumed = run_program("train.py", "--resume", *arguments)
    assert (resumed.status, resumed.err) == (0, "")
    assert_same_run(folder, never_stopped)
    assert names(tmp_path / "p") == {"run"}


def test_a_run_that_is_refused_a_folder_leaves_the_other_one_undisturbed(
    longer: list[str], tmp_path: Path, forge: Forge, slowly: Callable[[float], list[str]]
) -> None:
    arguments = [*longer, *KD_RUN, "SOLVER.CHECKPOINT_STEPS", "1"]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    first = forge.start(*slowly(0.1), *arguments)
    first.wait_for("run folder")
    refused = forge.start("--resume", "auto", *arguments).wait()
    assert refused.status == 2
    assert "is in use by process" in refused.err
    assert first.wait().status == 0
    assert first.err == ""
    assert_same_run(folder, never_stopped)


@pytest.mark.parametrize("error", [CorruptFileError("an image"), torch.OutOfMemoryError("CUDA out of memory"), KeyError(1)])
def test_whatever_ends_a_run_its_folder_is_unlocked_and_its_curves_are_drawn(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    step = BaseTrainer.train_step

    def train_step(self: BaseTrainer, *batch: Tensor) -> Any:
        if (self.state.epoch, self.state.step) == (1, 1):
            raise error
        return step(self, *batch)

    monkeypatch.setattr(BaseTrainer, "train_step", train_step)
    config = load_config(None, [*tiny, *KD_RUN])
    folder = run_folder(config)
    with pytest.raises(type(error)):
        build_trainer(config, folder).train()
    assert names(tmp_path / "p") == {"run"}
    assert (folder / "curves.png").is_file()


def test_a_run_that_fails_before_it_trains_unlocks_its_folder(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "p" / "run"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    (folder / "train.events").touch()
    failed = run_program("train.py", "--resume", "auto", *tiny)
    assert_one_line_error(failed, "cannot make", "train.events")
    assert names(tmp_path / "p") == {"run"}

    monkeypatch.setattr(BaseTrainer, "train", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_program("train.py", *tiny)
    assert names(tmp_path / "p") == {"run", "run.1"}


WRITTEN = ["latest", "previous", "best", "student_latest", "metrics.csv", "worklog.txt", "summary.json"]
WRITTEN += ["notes.txt", "provenance.json"]


def test_links_in_a_run_folder_are_replaced_and_not_followed(longer: list[str], tmp_path: Path) -> None:
    """A folder may come from elsewhere, with links to files of the user's under the names that a run writes to."""
    folder, mine = tmp_path / "p" / "run", tmp_path / "mine"
    folder.mkdir(parents=True)
    mine.write_text("mine")
    (folder / "config.yaml").write_text("")  # with `auto`, the folder of a run that has saved nothing yet
    for name in WRITTEN:
        (folder / f".{name}.{os.getpid()}.tmp").symlink_to(mine)
        if name not in ("latest", "previous", "best"):  # which would be read first
            (folder / name).symlink_to(mine)
    finished = run_program("train.py", "--resume", "auto", *longer, "SOLVER.EPOCHS", 2)
    assert finished.status == 0, finished.err
    assert mine.read_text() == "mine"
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert (folder / "metrics.csv").read_text().startswith("epoch,")


def test_a_link_in_place_of_the_lock_is_refused(longer: list[str], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / ".run.lock").symlink_to(mine)
    assert_one_line_error(run_program("train.py", *longer), "cannot be made", os.strerror(errno.ELOOP))
    assert mine.read_text() == "mine"


def test_a_link_in_place_of_the_checkpoint_is_read_as_what_it_leads_to(longer: list[str], tmp_path: Path) -> None:
    """Which is no checkpoint: one line, and the file that it leads to stays."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "p" / "run").mkdir(parents=True)
    (tmp_path / "p" / "run" / "latest").symlink_to(mine)
    assert_one_line_error(run_program("train.py", "--resume", *longer), "is a text file, not a checkpoint")
    assert mine.read_text() == "mine"
