"""Runs that meet kill -9, signals, damaged files, full disks and losses that are not finite, and end as if nothing had been."""

from __future__ import annotations

import collections
import errno
import fcntl
import json
import math
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mdistiller_ext import checkpoint
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.errors import CorruptFileError
from mdistiller_ext.registry import DISTILLERS
from mdistiller_ext.run import logger, run_folder
from mdistiller_ext.trainers import BaseTrainer, averaging, base
from mdistiller_ext.trainers import step as training_step
from mdistiller_ext.trainers.epoch import EpochLoop
from mdistiller_ext.trainers.shutdown import shutdown_request
from tests.support.forge import Forge, can_mount
from tests.support.programs import ROOT, run_program
from tests.support.runs import (
    RUNS,
    assert_identical,
    assert_one_line_error,
    assert_same_run,
    drawn_quickly,
    names,
    run_never_stopped,
    stop_after,
)

Figures = collections.Counter[str]
SMALL = ["DATASET.LIMIT", "16", "SOLVER.BATCH_SIZE", "8"]
KD_RUN = RUNS["base"].split()
SEAL_BYTES = len(checkpoint._SEAL) + 64


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    forge = Forge(tmp_path_factory.mktemp("forge"))
    yield forge
    forge.close()


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the processes that the forge starts."""
    monkeypatch.setattr(logger, "draw_curves", drawn_quickly)


@pytest.fixture
def tiny(tiny: list[str]) -> list[str]:
    """The tiny run with even smaller batches."""
    return [*tiny, *SMALL]


@pytest.fixture
def longer(tiny: list[str]) -> list[str]:
    """With 4 epochs of 4 steps."""
    return [*tiny, "DATASET.LIMIT", "32", "SOLVER.EPOCHS", "4"]


@pytest.fixture
def slowly(tmp_path: Path) -> Callable[[float], list[str]]:
    """``slowly(seconds)``: options that make every step take so long, so that a moment can be met."""

    def options(seconds: float) -> list[str]:
        plugin = tmp_path / "slowly.py"
        plugin.write_text(
            f"""
import time
from mdistiller_ext.trainers import BaseTrainer

step = BaseTrainer.train_step

def train_step(*arguments):
    time.sleep({seconds})
    return step(*arguments)

BaseTrainer.train_step = train_step
"""
        )
        return ["--plugin", str(plugin)]

    return options


def checkpoints(folder: Path) -> list[Path]:
    """All files of weights in a run folder, whole or not."""
    whole = (path for path in folder.iterdir() if not path.name.startswith("."))
    return [path for path in whole if path.name.startswith(("latest", "previous", "best", "student_", "epoch_"))]


def contents(folder: Path) -> dict[str, bytes]:
    """All that is in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_previous(folder: Path, expected: Path) -> None:
    a, b = (checkpoint.load(where / "previous") for where in (folder, expected))
    other = {"seconds": 0, "config": "", "plugins": {}}
    assert_identical({**a, **other}, {**b, **other}, "previous")


# ---- kill -9 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("run", "every"), [("base", 1), ("dot", 3), ("deepkd", 1), ("average", 0)])
def test_a_run_killed_at_random_moments_ends_as_the_run_never_stopped(
    longer: list[str],
    tmp_path: Path,
    forge: Forge,
    slowly: Callable[[float], list[str]],
    soak: bool,
    figures: Figures,
    run: str,
    every: int,
) -> None:
    arguments = [*longer, *RUNS[run].split(), "SOLVER.CHECKPOINT_STEPS", str(every)]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    slow, moments, kills, ended = slowly(0.03), random.Random(), 0, 0
    wanted = 13 if soak else 1
    while True:
        running = forge.start("--resume", "auto", *slow, *arguments)
        if kills < wanted:
            if moments.random() < 0.75:
                running.wait_for("run folder")
            time.sleep(moments.uniform(0, 1))
            running.send(signal.SIGKILL)
        if running.wait().status == -signal.SIGKILL:
            kills += 1
            for file in checkpoints(folder) if folder.exists() else []:
                checkpoint.load(file)
            continue
        assert running.status == 0, running.err
        assert_same_run(folder, never_stopped)
        assert_same_previous(folder, never_stopped)
        assert not list(folder.glob(".*"))
        if kills == wanted:
            break
        ended += 1
        folder.rename(tmp_path / f"ended_{ended}")
    assert names(tmp_path / "p") == {"run"}  # nothing was moved aside
    figures["kills survived"] += kills


def test_a_program_killed_while_it_starts_does_no_harm(tiny: list[str], tmp_path: Path, soak: bool, figures: Figures) -> None:
    """From the first moment of the interpreter on."""
    arguments = [*tiny, *KD_RUN]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    for _ in range(5 if soak else 1):
        with subprocess.Popen([sys.executable, "train.py", "--resume", "auto", *arguments], cwd=ROOT) as program:
            time.sleep(random.uniform(0.5, 4))
            program.kill()
        figures["kills survived"] += 1
    ended = run_program("train.py", "--resume", "auto", *arguments)
    assert (ended.status, ended.err) == (0, "")
    assert_same_run(folder, never_stopped)
    assert names(tmp_path / "p") == {"run"}


@pytest.mark.parametrize("left", [[".config.yaml.7.tmp"], ["config.yaml", "train.events", ".student_latest.7.tmp"]])
def test_auto_goes_on_in_the_folder_of_a_run_killed_before_its_first_save(
    tiny: list[str], tmp_path: Path, left: list[str]
) -> None:
    arguments = [*tiny, *KD_RUN]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    folder.mkdir()
    for name in left:
        if name == "train.events":
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(b"half")
    started = run_program("train.py", "--resume", "auto", *arguments)
    assert (started.status, started.err) == (0, "")
    assert names(tmp_path / "p") == {"run"}
    assert_same_run(folder, never_stopped)


def test_auto_starts_where_nothing_is_and_leaves_a_finished_run_as_it_is(tiny: list[str], tmp_path: Path) -> None:
    arguments = ["--resume", "auto", *tiny, *RUNS["average"].split()]
    assert run_program("train.py", *arguments).status == 0
    before = contents(tmp_path / "p")
    again = run_program("train.py", *arguments)
    assert (again.status, again.err) == (0, "")
    after = contents(tmp_path / "p")
    assert {name for name in after if after[name] != before.get(name)} == {"run/notes.txt", "run/provenance.json"}
    assert before.keys() == after.keys()


def test_a_run_killed_before_latest_of_its_only_epoch_has_one_in_the_end(tiny: list[str], tmp_path: Path) -> None:
    arguments = [*tiny, *KD_RUN, "SOLVER.EPOCHS", "1"]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    shutil.copytree(never_stopped, folder)
    (folder / "latest").unlink()  # `best` is written first
    assert run_program("train.py", "--resume", "auto", *arguments).status == 0
    assert_same_run(folder, never_stopped)


# ---- stop and go on -----------------------------------------------------------------------------------------------


def assert_stopped_well(status: int | None, err: str, *where: str) -> None:
    assert status == 75, err
    assert len(err.splitlines()) == 1, err
    for part in ("stopped ", *where, "--resume goes on there"):
        assert part in err


@pytest.mark.parametrize("run", RUNS)
def test_a_run_stopped_by_signals_at_random_moments_ends_as_the_run_never_stopped(
    longer: list[str],
    tmp_path: Path,
    forge: Forge,
    slowly: Callable[[float], list[str]],
    soak: bool,
    figures: Figures,
    run: str,
) -> None:
    arguments = [*longer, *RUNS[run].split()]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    slow, stops = slowly(0.03), 0
    resume: list[str] = []
    for _ in range(8 if soak else 1):
        running = forge.start(*resume, *slow, *arguments)
        running.wait_for("teacher: ")
        time.sleep(random.uniform(0, 0.5))
        running.send(random.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))
        running.wait()
        if running.status == 0 or "test top-1:" in running.out:  # a signal after the end is the interpreter's
            break
        assert_stopped_well(running.status, running.err)
        assert not list(folder.glob(".*"))
        stops, resume = stops + 1, ["--resume"]
    ended = run_program("train.py", "--resume", *arguments)
    assert (ended.status, ended.err) == (0, "")
    assert_same_run(folder, never_stopped)
    figures["stops survived"] += stops


def test_a_run_whose_terminal_is_closed_is_saved(
    longer: list[str], tmp_path: Path, forge: Forge, slowly: Callable[[float], list[str]]
) -> None:
    """What it prints then has nowhere to go: an error by itself."""
    arguments = [*longer, *KD_RUN]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    terminal, of_run = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # without a width there is no progress bar
    plugin = tmp_path / "terminal.py"
    plugin.write_text(
        f"""
import os

os.setsid()
terminal = os.open({os.ttyname(of_run)!r}, os.O_RDWR)  # from now on this session's
for number in (0, 1, 2):
    os.dup2(terminal, number)
os.close(terminal)
"""
    )
    running = forge.start("--plugin", plugin, *slowly(0.1), *arguments)
    shown = b""
    while b" 0/4 [" not in shown:  # of the progress bar
        assert select.select([terminal], [], [], 60)[0], shown
        shown += os.read(terminal, 1000)
    for descriptor in (of_run, terminal):
        os.close(descriptor)
    assert running.wait().status == 75
    state = checkpoint.load(folder / "latest")
    assert (state["epoch"] * 4 + state["step"]) in range(1, 16)
    assert names(tmp_path / "p") == {"run"}
    assert run_program("train.py", "--resume", *arguments).status == 0
    assert_same_run(folder, never_stopped)


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    """nohup starts its command so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with shutdown_request() as wish:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not wish.made
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def signal_during(monkeypatch: pytest.MonkeyPatch, place: str, turn: int) -> None:
    """SIGTERM to this process in the ``turn``-th call of a function of the loop, from 0."""
    module = next(module for module in (base, training_step, averaging) if place in vars(module))
    function, calls = getattr(module, place), 0

    def signalling(*arguments: Any) -> Any:
        nonlocal calls
        if calls == turn:
            os.kill(os.getpid(), signal.SIGTERM)
        calls += 1
        return function(*arguments)

    monkeypatch.setattr(module, place, signalling)


PASSES = [
    ("evaluate", 0, "before the first step"),  # of the teacher
    ("evaluate", 1, "in epoch 1, step 2 of 2"),
    ("evaluate", 3, "in epoch 3, step 2 of 2"),
    ("top_k_hits", 2, "in epoch 2, step 1 of 2"),  # in training
    ("update_bn", 0, "after epoch 3"),  # for the average of the students
]


@pytest.mark.parametrize("run", RUNS)
def test_a_run_stopped_in_any_of_its_passes_goes_on_exactly(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    arguments = [*tiny, *RUNS[run].split()]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    for place, turn, where in PASSES if run == "average" else PASSES[:-1]:
        with monkeypatch.context() as patch:
            signal_during(patch, place, turn)
            stopped = run_program("train.py", *arguments)
        assert_stopped_well(stopped.status, stopped.err, where)
        resumed = run_program("train.py", "--resume", *arguments)
        assert (resumed.status, resumed.err) == (0, "")
        assert_same_run(folder, never_stopped)
        folder.rename(tmp_path / f"{place}_{turn}")


def test_a_second_ctrl_c_ends_the_run_at_once(
    tiny: list[str], forge: Forge, slowly: Callable[[float], list[str]], tmp_path: Path
) -> None:
    running = forge.start(*slowly(600), *tiny, *KD_RUN)
    running.wait_for("teacher: ")
    time.sleep(0.2)
    running.send(signal.SIGINT)
    time.sleep(0.3)
    assert not running.ended()  # the step in progress comes to its end
    running.send(signal.SIGINT)
    assert running.wait(10).status == 130
    assert running.err == ""
    assert not list((tmp_path / "p").glob(".*"))  # the lock is free


# ---- between epochs' ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("run", "every"), [("base", 1), ("deepkd", 3)])
def test_a_run_goes_on_exactly_from_every_step(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soak: bool, run: str, every: int
) -> None:
    arguments = [*longer, *RUNS[run].split(), "SOLVER.EPOCHS", "2", "SOLVER.CHECKPOINT_STEPS", str(every)]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    for steps in range(1, 8) if soak or every == 1 else (2, 6):
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            assert run_program("train.py", *arguments).status == 130
        if steps >= every:
            state = checkpoint.load(folder / "latest")
            epoch, step = divmod(steps, 4)
            assert (state["epoch"], state["step"]) == (epoch, step - step % every)
        assert run_program("train.py", "--resume", "auto", *arguments).status == 0
        assert_same_run(folder, never_stopped)
        assert_same_previous(folder, never_stopped)
        folder.rename(tmp_path / f"after_{steps}")


# ---- damaged checkpoints ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped_and_whole(
    glyphs_root: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path, Path]:
    """Settings, the folder of a run stopped after a step of its third epoch, and that of the run never stopped."""
    settings = (
        "EXPERIMENT.PROJECT p EXPERIMENT.NAME run DATASET.TYPE glyphs DISTILLER.STUDENT resnet8 "
        "DISTILLER.TEACHER resnet8 SOLVER.EPOCHS 3 SOLVER.DEVICE cpu SOLVER.CHECKPOINT_STEPS 1 "
        f"LOG.SAVE_CHECKPOINT_FREQ 1 DATASET.ROOT {glyphs_root} DISTILLER.TEACHER_CKPT {teacher_file}"
    )
    arguments = [*settings.split(), *SMALL, *KD_RUN]
    places = []
    with pytest.MonkeyPatch.context() as patch:
        for steps in (99, 5):
            place = tmp_path_factory.mktemp("damage")
            patch.setattr(logger, "draw_curves", drawn_quickly)
            stop_after(patch, steps)
            run_program("train.py", *arguments, "LOG.PREFIX", place)
            places.append(place / "p" / "run")
            patch.undo()
    return arguments, places[1], places[0]


@pytest.fixture
def stopped(stopped_and_whole: tuple[list[str], Path, Path], tmp_path: Path) -> tuple[list[str], Path, Path]:
    """The same, in a copy that may be spoilt."""
    arguments, folder, whole = stopped_and_whole
    copy = tmp_path / "p" / "run"
    shutil.copytree(folder, copy)
    return [*arguments, "LOG.PREFIX", str(tmp_path)], copy, whole


def flipped(content: bytes, count: int) -> bytes:
    """With so many bytes changed, the seal's tag apart: without it a file is one of before there were seals."""
    changed = bytearray(content)
    for place in random.sample(range(len(content) - SEAL_BYTES), count):
        changed[place] ^= random.randrange(1, 256)
    return bytes(changed)


def zeroed(content: bytes) -> bytes:
    """A page of zeros, as a file system leaves them after a power cut."""
    pages = [page for page in range(0, len(content), 4096) if content[page : page + 4096].strip(b"\0")]
    page = random.choice(pages)
    return content[:page] + bytes(len(content[page : page + 4096])) + content[page + 4096 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: random.randrange(1, len(content) - SEAL_BYTES)],
    "a byte": lambda content: flipped(content, 1),
    "some bytes": lambda content: flipped(content, random.randrange(2, 50)),
    "a page": zeroed,
    "all zero": lambda content: bytes(len(content)),
    "empty": lambda content: b"",
    "garbage": lambda content: random.randbytes(random.randrange(1, len(content))),
}


def damage(file: Path, how: str) -> bytes:
    content = DAMAGES[how](file.read_bytes())
    file.write_bytes(content)
    return content


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.filterwarnings("always::mdistiller_ext.errors.Note")
def test_a_damaged_latest_is_kept_and_the_run_goes_on_from_the_one_before(
    stopped: tuple[list[str], Path, Path], tmp_path: Path, how: str, soak: bool, figures: Figures
) -> None:
    arguments, folder, whole = stopped
    before = folder.rename(tmp_path / "before")
    for _ in range(8 if soak else 1):
        shutil.copytree(before, folder)
        content = damage(folder / "latest", how)
        resumed = run_program("train.py", "--resume", *arguments)
        assert resumed.status == 0
        assert resumed.err.startswith(f"note: {folder / 'latest'} ("), resumed.err
        assert len(resumed.err.splitlines()) == 1
        assert f"kept as {folder / 'latest.damaged'}; going on after epoch 2: {folder / 'previous'}\n" in resumed.err
        assert (folder / "latest.damaged").read_bytes() == content
        (folder / "latest.damaged").unlink()
        assert_same_run(folder, whole)
        shutil.rmtree(folder)
        figures["damaged checkpoints survived"] += 1


@pytest.mark.parametrize(
    ("damaged", "used"),
    [
        (["latest", "previous"], "epoch_2"),
        (["latest", "previous", "epoch_2"], "epoch_1"),
        (["latest", "previous", "epoch_2", "epoch_1"], "best"),
    ],
)
@pytest.mark.filterwarnings("always::mdistiller_ext.errors.Note")
def test_with_several_damaged_the_newest_whole_checkpoint_is_used(
    stopped: tuple[list[str], Path, Path], damaged: list[str], used: str
) -> None:
    arguments, folder, whole = stopped
    for name in damaged:
        damage(folder / name, "a page")
    resumed = run_program("train.py", "--resume", *arguments)
    assert resumed.status == 0
    lines = resumed.err.splitlines()
    assert len(lines) == len(damaged)
    assert all(line.startswith("note: ") and line.endswith(str(folder / used)) for line in lines)
    for name in damaged:
        (folder / f"{name}.damaged").unlink()
    for name in names(whole) - names(folder):  # what was damaged, of epochs that were not trained again
        assert name in damaged
        shutil.copy(whole / name, folder)
    assert_same_run(folder, whole)


@pytest.mark.parametrize("how", ["--resume", "--resume=auto"])
def test_with_all_checkpoints_damaged_nothing_is_changed(stopped: tuple[list[str], Path, Path], how: str) -> None:
    arguments, folder, _ = stopped
    for name in ("latest", "previous", "epoch_1", "epoch_2", "best"):
        damage(folder / name, "a byte")
    before = contents(folder.parent)
    assert_one_line_error(run_program("train.py", how, *arguments), f"{folder / 'latest'} (", "checksum")
    assert contents(folder.parent) == before


def test_without_latest_the_one_before_is_used_without_a_word(stopped: tuple[list[str], Path, Path]) -> None:
    """A kill between two renames leaves that."""
    arguments, folder, whole = stopped
    (folder / "latest").rename(folder / ".latest.7.tmp")
    resumed = run_program("train.py", "--resume", *arguments)
    assert (resumed.status, resumed.err) == (0, "")
    assert_same_run(folder, whole)


@pytest.mark.filterwarnings("always::mdistiller_ext.errors.Note")
def test_what_was_found_damaged_is_not_looked_at_again(stopped: tuple[list[str], Path, Path]) -> None:
    arguments, folder, whole = stopped
    for name in ("latest", "previous", "epoch_2"):
        damage(folder / name, "a page")
    assert run_program("train.py", "--resume", *arguments).status == 0
    for name in ("latest", "previous"):
        damage(folder / name, "a page")
    resumed = run_program("train.py", "--resume", *arguments)
    assert (resumed.status, len(resumed.err.splitlines())) == (0, 2), resumed.err
    assert {path.name for path in folder.glob("*.damaged")} == {"latest.damaged", "previous.damaged", "epoch_2.damaged"}
    for file in folder.glob("*.damaged"):
        file.unlink()
    shutil.copy(whole / "previous", folder)  # the run was over: nothing was saved any more
    assert_same_run(folder, whole)


def test_every_byte_that_changes_is_found_or_harmless(
    stopped_and_whole: tuple[list[str], Path, Path], tmp_path: Path, soak: bool, figures: Figures
) -> None:
    content = (stopped_and_whole[1] / "latest").read_bytes()
    expected, file = checkpoint.load(stopped_and_whole[1] / "latest"), tmp_path / "file"
    tag = range(len(content) - SEAL_BYTES, len(content) - SEAL_BYTES + len(checkpoint._SEAL))
    ends = [*range(40), *range(len(content) - SEAL_BYTES - 30, len(content))]
    for place in [*ends, *random.sample(range(len(content)), 5000 if soak else 100)]:
        file.write_bytes(content[:place] + bytes([content[place] ^ random.randrange(1, 256)]) + content[place + 1 :])
        try:
            found = checkpoint.load(file)
        except CorruptFileError:
            figures["bytes changed and found"] += 1
        else:
            assert_identical(found, expected)
            assert place in tag, place
            figures["bytes changed and harmless"] += 1
    file.write_bytes(content)
    assert_identical(checkpoint.load(file), expected)


# ---- disk and folder ----------------------------------------------------------------------------------------------


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


# ---- a folder from a stranger -------------------------------------------------------------------------------------

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


# ---- a loss that is not finite ------------------------------------------------------------------------------------


class InfiniteGradient(torch.autograd.Function):
    """A finite loss with a gradient that is not."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.inf


SPOILS: dict[str, Callable[[Tensor], Tensor]] = {
    "loss": lambda loss: loss * math.nan,
    "gradient": InfiniteGradient.apply,
}


def spoil(monkeypatch: pytest.MonkeyPatch, bad: set[tuple[int, int]], how: str = "loss") -> None:
    """Let KD's task loss be not finite in these (epoch, step), counted from 1, as often as they are tried."""
    method, step, now = DISTILLERS.get("KD"), BaseTrainer.train_step, (0, 0)
    losses = method.losses

    def train_step(self: BaseTrainer, *batch: Tensor) -> Any:
        nonlocal now
        now = (self.state.epoch + 1, self.state.step + 1)
        try:
            return step(self, *batch)
        finally:
            now = (0, 0)

    def spoilt(self: Any, *arguments: Any) -> dict[str, Tensor]:
        parts = losses(self, *arguments)
        return parts | {"task/ce": SPOILS[how](parts["task/ce"])} if now in bad else parts

    monkeypatch.setattr(BaseTrainer, "train_step", train_step)
    monkeypatch.setattr(method, "losses", spoilt)


def jump_over(monkeypatch: pytest.MonkeyPatch, bad: set[tuple[int, int]]) -> None:
    """A trainer that does not even look at these batches."""
    train = EpochLoop._train_batch

    def train_batch(self: EpochLoop, *step_and_batch: Any) -> None:
        if (self.state.epoch + 1, self.state.step + 1) not in bad:
            train(self, *step_and_batch)
            return
        self.state.step += 1
        if self.step_scheduler:
            self.state.scheduler.step()

    monkeypatch.setattr(EpochLoop, "_train_batch", train_batch)


SKIP = ["SOLVER.ON_NAN", "skip"]
KINDS = {
    "base": "DISTILLER.TYPE KD SOLVER.TRAINER base SOLVER.LR_DECAY_STAGES [1,3]",
    "onecycle": "DISTILLER.TYPE KD SOLVER.TRAINER base SOLVER.LR_SCHEDULER onecycle",
    "deepkd": "DISTILLER.TYPE KD SOLVER.TRAINER deepkd SOLVER.LR_SCHEDULER cosine",
}


@pytest.mark.parametrize("how", SPOILS)
@pytest.mark.parametrize("every", [0, 1])
def test_a_loss_that_is_not_finite_stops_the_run_and_the_batch_is_kept(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, every: int
) -> None:
    arguments = [*longer, *KD_RUN, "SOLVER.CHECKPOINT_STEPS", str(every)]
    folder = tmp_path / "p" / "run"
    spoil(monkeypatch, {(2, 3)}, how)
    finished = run_program("train.py", *arguments)
    component = "task/ce = nan" if how == "loss" else "its gradient"
    file = folder / "not_finite_2_3"
    assert_one_line_error(finished, "not finite in epoch 2, step 3", component, str(file), "SOLVER.ON_NAN skip")
    kept = checkpoint.load(file)
    assert kept.keys() == {"epoch", "step", "components", "images", "labels", "student"}
    assert (kept["epoch"], kept["step"]) == (2, 3)
    assert kept["images"].shape == (8, 3, 32, 32)
    assert kept["labels"].shape == (8,)
    assert file.stat().st_size < 1_000_000  # a batch, and not what it was cut from
    (components,) = kept["components"]
    assert [name for name, value in components.items() if not math.isfinite(value)] == ["task/ce"] * (how == "loss")
    latest = checkpoint.load(folder / "latest")
    assert (latest["epoch"], latest["step"]) == (1, 2)
    assert all(value.isfinite().all() for state in (latest, kept) for value in state["student"].values())
    assert_identical(kept["student"], latest["student"])  # the student that met the batch

    monkeypatch.undo()
    spoil(monkeypatch, {(2, 3)}, how)
    resumed = run_program("train.py", "--cfg", folder / "config.yaml", "--resume", *SKIP)
    assert (resumed.status, resumed.err) == (0, "")
    folder.rename(tmp_path / "resumed")
    assert run_program("train.py", *arguments, *SKIP).status == 0
    assert_same_run(tmp_path / "resumed", folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Detected call of")  # where the first batch is jumped over
def test_a_batch_left_out_changes_nothing(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, soak: bool
) -> None:
    bad = {(1, 1), (2, 3), (2, 4), (4, 4)}
    arguments = [*longer, *KINDS[kind].split(), *SKIP]
    folder = tmp_path / "p" / "run"
    with monkeypatch.context() as patch:
        jump_over(patch, bad)
        assert run_program("train.py", *arguments).status == 0
    expected = folder.rename(tmp_path / "expected")
    ways = [(how, every) for how in SPOILS for every in (0, 1, 3)]
    for how, every in ways if soak else [("loss", 0), ("gradient", 1), ("loss", 3)]:
        with monkeypatch.context() as patch:
            spoil(patch, bad, how)
            finished = run_program("train.py", *arguments, "SOLVER.CHECKPOINT_STEPS", every)
        assert (finished.status, finished.err) == (0, "")
        assert finished.out.count("; the batch is left out\n") == len(bad)
        assert json.loads((folder / "summary.json").read_text())["skipped_batches"] == len(bad)
        kept = {f"not_finite_{where}" for where in ("1_1", "2_3", "2_4")}  # three, no more
        assert names(folder) == names(expected) | kept
        assert (folder / "metrics.csv").read_bytes() == (expected / "metrics.csv").read_bytes()
        skipped, jumped = (checkpoint.load(where / "latest") for where in (folder, expected))
        assert skipped["skipped"] == len(bad)
        left_out = {"skipped": 0, "seconds": 0, "config": ""}
        assert_identical(skipped | left_out, jumped | left_out)
        folder.rename(tmp_path / f"{how}_{every}")


@pytest.mark.parametrize("every", [0, 1])
def test_a_run_stopped_around_a_batch_left_out_goes_on_exactly(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, soak: bool
) -> None:
    arguments = [*longer, *KD_RUN, *SKIP, "SOLVER.EPOCHS", "2", "SOLVER.CHECKPOINT_STEPS", str(every)]
    spoil(monkeypatch, {(1, 3), (2, 1)})
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    for steps in range(1, 10) if soak else (3, 5, 7):
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            assert run_program("train.py", *arguments).status == 130
        assert run_program("train.py", "--resume", "auto", *arguments).status == 0
        assert_same_run(folder, never_stopped)
        folder.rename(tmp_path / f"after_{steps}")


@pytest.mark.parametrize("every", [0, 1])
def test_ten_batches_in_a_row_stop_the_run(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    spoil(monkeypatch, {(epoch, step) for epoch in (1, 2, 3, 4) for step in (1, 2, 3, 4)} - {(1, 1), (1, 2)})
    finished = run_program("train.py", *longer, *KD_RUN, *SKIP, "SOLVER.CHECKPOINT_STEPS", every)
    assert_one_line_error(finished, "not finite in epoch 3, step 4: task/ce = nan, as in 10 batches in a row")
    folder = tmp_path / "p" / "run"
    assert {path.name for path in folder.glob("not_finite_*")} == {f"not_finite_{where}" for where in ("1_3", "1_4", "2_1")}


@pytest.mark.parametrize("every", [0, 1])
def test_ten_batches_that_are_not_in_a_row_do_not_stop_the_run(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    spoil(monkeypatch, {(epoch, step) for epoch in range(1, 7) for step in (1, 3)})
    finished = run_program("train.py", *longer, *KD_RUN, *SKIP, "SOLVER.EPOCHS", 6, "SOLVER.CHECKPOINT_STEPS", every)
    assert (finished.status, finished.err) == (0, "")
    assert json.loads((tmp_path / "p" / "run" / "summary.json").read_text())["skipped_batches"] == 12


def test_an_epoch_of_which_every_batch_is_left_out_can_be_recorded(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, {(2, step) for step in (1, 2, 3, 4)})
    arguments = [*longer, *KD_RUN, *SKIP]
    finished = run_program("train.py", *arguments)
    assert (finished.status, finished.err) == (0, "")
    assert run_program("train.py", "--resume", *arguments).status == 0


# ---- the teacher --------------------------------------------------------------------------------------------------


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
