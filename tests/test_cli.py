"""``train.py`` and ``eval.py`` from end to end: what a run leaves, exact resumption, and what a user reads after a mistake."""

from __future__ import annotations

import csv
import datetime
import errno
import gc
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, Finished, run_program, spawn_program
from runs import (
    RUNS,
    assert_identical,
    assert_one_line_error,
    assert_same_run,
    names,
    run_never_stopped,
    small_files_only,
    stop_after,
)
from tqdm import tqdm

from mdistiller_ext import checkpoint
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.models import create_model
from mdistiller_ext.registry import DATASETS, DISTILLERS, MODELS, TRAINERS
from mdistiller_ext.run import provenance, run_folder

MAIN_JOB = "configs/glyphs/deepkd/res20_res8.yaml"
ALWAYS = {
    "config.yaml",
    "classes.txt",
    "latest",
    "previous",
    "best",
    "student_latest",
    "student_best",
    "worklog.txt",
    "metrics.csv",
    "train.events",
    "curves.png",
    "summary.json",
    "notes.txt",
    "provenance.json",
}
ONE_START = {"train.events", "notes.txt", "provenance.json"}  # to which every start adds


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


# ---- what a run leaves --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(glyphs_root: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """A finished run of the main job's recipe, made small, and what it printed."""
    prefix = tmp_path_factory.mktemp("done")
    overrides = (
        f"EXPERIMENT.NAME run LOG.PREFIX {prefix} DATASET.ROOT {glyphs_root} DATASET.LIMIT 200 DATASET.TEST.BATCH_SIZE 64"
    )
    overrides += f" DISTILLER.TEACHER resnet8 DISTILLER.TEACHER_CKPT {teacher_file}"
    overrides += " SOLVER.EPOCHS 3 SOLVER.BATCH_SIZE 64 DEEPKD.PHASE_ENDS [1,2] LOG.SAVE_CHECKPOINT_FREQ 2 SOLVER.DEVICE cpu"
    finished = run_program("train.py", "--cfg", MAIN_JOB, *overrides.split())
    return prefix / "glyphs" / "run", finished


def test_a_run_ends_well_and_quietly(done: tuple[Path, Finished]) -> None:
    _, finished = done
    assert (finished.status, finished.err) == (0, "")


def test_a_run_folder_holds_what_is_promised_and_no_more(done: tuple[Path, Finished]) -> None:
    folder, _ = done
    assert names(folder) == ALWAYS | {"epoch_2", "student_2"}
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((folder / "train.events").iterdir())) == 1


def test_what_the_logger_notes_is_kept_without_the_epochs(done: tuple[Path, Finished]) -> None:
    folder, finished = done
    (line,) = (folder / "notes.txt").read_text().splitlines()
    note = line.partition(" ")[2]
    assert note.startswith("teacher: ")
    assert note in finished.out.splitlines()


def test_the_summary_tells_teacher_student_folder_and_what_next(done: tuple[Path, Finished]) -> None:
    folder, finished = done
    summary = json.loads((folder / "summary.json").read_text())
    tail = finished.out[finished.out.index("DEEPKD with trainer 'deepkd' on glyphs") :]
    for part in (
        f"{summary['teacher_top1']:.2f} %",
        f"{summary['best_top1']:.2f} %  best, epoch {summary['best_epoch']}",
        f"{summary['last_top1']:.2f} %  last, epoch 3",
        f"run folder: {folder}",
        f" eval.py -c {folder}",
        " train.py --cfg configs/glyphs/none/resnet8.yaml",
    ):
        assert part in tail
    table = rows(folder)
    top1 = [float(row["test_top1"]) for row in table]
    assert summary["best_top1"] == max(top1)
    assert summary["best_epoch"] == 1 + top1.index(max(top1))
    assert summary["last_top1"] == top1[-1]
    assert summary["epochs"] == 3


def test_metrics_have_a_row_an_epoch_with_every_component(done: tuple[Path, Finished]) -> None:
    table = rows(done[0])
    assert [float(row["epoch"]) for row in table] == [1, 2, 3]
    assert list(table[0]) == [
        "epoch",
        "lr",
        "train_top1",
        "train_loss",
        "task/ce",
        "target/tckd",
        "nontarget/nckd",
        "test_top1",
        "test_top5",
        "test_loss",
    ]


def test_the_worklog_is_in_upstreams_form(done: tuple[Path, Finished]) -> None:
    text = (done[0] / "worklog.txt").read_text()
    rule = "-" * 25
    entries = ("epoch", "lr", "train_acc", "train_loss", "test_acc", "test_acc_top5", "test_loss")
    block = "".join([rf"{rule}\n", *(rf"{entry}: [\d.e-]+\n" for entry in entries), rf"{rule}\n"])
    assert re.fullmatch(rf"({block}){{3}}best_acc\t\d+\.\d\d", text)


def test_tensorboard_has_a_curve_for_every_component(done: tuple[Path, Finished]) -> None:
    content = next((done[0] / "train.events").iterdir()).read_bytes()
    for tag in (b"task/ce", b"target/tckd", b"nontarget/nckd", b"train_acc", b"test_acc_top5", b"test_loss", b"lr"):
        assert content.count(tag) == 3, tag


def test_the_students_file_is_upstreams(done: tuple[Path, Finished]) -> None:
    for name in ("student_best", "student_latest", "student_2"):
        state = torch.load(done[0] / name, weights_only=True)
        assert list(state) == ["model", "data"]  # of which upstream reads the first
        create_model("resnet8", dataset="glyphs").load_state_dict(state["model"], strict=True)


def test_a_checkpoint_holds_all_but_the_teacher(done: tuple[Path, Finished]) -> None:
    folder, _ = done
    state = torch.load(folder / "latest", weights_only=True)
    assert set(state) >= {"epoch", "student", "distiller", "optimizer", "scheduler", "rng", "best", "config"}
    assert state["epoch"] == 3
    assert state["config"] == (folder / "config.yaml").read_text()

    def keys(tree: Any) -> list[str]:
        if not isinstance(tree, dict):
            return []
        return [str(key) for key in tree] + [key for value in tree.values() for key in keys(value)]

    assert [key for key in keys(state) if "teacher" in key] == ["teacher_hash"]
    student_size = sum(v.numel() for v in state["student"].values())
    # The weights and a buffer for each of the two merged streams: a teacher's weights would show.
    buffers = sum(b.numel() for s in state["optimizer"]["state"].values() for b in s["momentum_buffers"].values())
    assert buffers == pytest.approx(2 * student_size, rel=0.02)
    assert_identical(state["student"], torch.load(folder / "student_latest", weights_only=True)["model"])


def test_the_config_in_the_folder_repeats_the_run(done: tuple[Path, Finished]) -> None:
    config = yaml.safe_load((done[0] / "config.yaml").read_text())
    assert config["DISTILLER"]["TYPE"] == "DEEPKD"
    assert config["SOLVER"]["EPOCHS"] == 3
    assert config["EXPERIMENT"]["NAME"] == "run"
    assert config["SOLVER"]["DEEPKD"]["RULE"] == "paper"


def test_the_average_of_the_last_students_is_saved_and_told(tiny: list[str], tmp_path: Path) -> None:
    finished = run_program("train.py", *tiny, "DISTILLER.TYPE", "PRKD", "PRKD.AVERAGE_LAST", 2)
    folder = tmp_path / "p" / "run"
    assert names(folder) == ALWAYS | {"student_average"}
    summary = json.loads((folder / "summary.json").read_text())
    assert f"{summary['average_top1']:.2f} %  average of the last 2 epochs" in finished.out
    evaluated = run_program("eval.py", "-m", "resnet8", "-d", "glyphs", "-c", folder / "student_average", *data_settings(tiny))
    assert f"top-1 {summary['average_top1']:.2f} %" in evaluated.out


def test_a_run_in_a_process_of_its_own_is_quiet_on_stderr_and_the_same(tiny: list[str], tmp_path: Path) -> None:
    arguments = [*tiny, *RUNS["deepkd"].split()]
    spawned = spawn_program("train.py", *arguments)
    assert (spawned.status, spawned.err) == (0, "")
    folder = tmp_path / "p" / "run"
    kept = folder.rename(tmp_path / "spawned")
    run_program("train.py", *arguments)
    assert_same_run(folder, kept)


# ---- eval.py ------------------------------------------------------------------------------------------------------


def data_settings(tiny: list[str]) -> list[str]:
    pairs = zip(tiny[::2], tiny[1::2], strict=True)
    return [part for key, value in pairs if key in ("DATASET.ROOT", "DATASET.LIMIT", "SOLVER.DEVICE") for part in (key, value)]


def test_eval_of_a_run_folder_gives_the_recorded_best(done: tuple[Path, Finished]) -> None:
    folder, _ = done
    best = max(rows(folder), key=lambda row: float(row["test_top1"]))
    finished = run_program("eval.py", "-c", folder)
    assert (finished.status, finished.err) == (0, "")
    first, second = finished.out.splitlines()
    parameters = sum(p.numel() for p in create_model("resnet8", dataset="glyphs").parameters())
    assert first.startswith(f"resnet8 ({parameters:,} parameters) from {folder}")
    assert "200 test images of glyphs" in first
    assert second.startswith(f"top-1 {float(best['test_top1']):.2f} %  top-5 {float(best['test_top5']):.2f} %  loss ")
    assert float(second.split()[-1]) == pytest.approx(float(best["test_loss"]), rel=1e-3)


@pytest.mark.parametrize("name", ["student_best", "student_latest", "student_2"])
def test_eval_of_a_checkpoint_gives_what_was_recorded(done: tuple[Path, Finished], glyphs_root: Path, name: str) -> None:
    folder, _ = done
    table = rows(folder)
    row = {"student_latest": table[-1], "student_2": table[1]}.get(name) or max(table, key=lambda row: float(row["test_top1"]))
    arguments = [
        "-m",
        "resnet8",
        "-c",
        folder / name,
        "-d",
        "glyphs",
        "-bs",
        50,
        "DATASET.ROOT",
        glyphs_root,
        "DATASET.LIMIT",
        200,
    ]
    finished = run_program("eval.py", *arguments)
    assert f"top-1 {float(row['test_top1']):.2f} %  top-5 {float(row['test_top5']):.2f} %" in finished.out


def test_eval_of_a_training_checkpoint_gives_its_student(done: tuple[Path, Finished], glyphs_root: Path) -> None:
    folder, _ = done
    arguments = ["-m", "resnet8", "-c", folder / "latest", "-d", "glyphs", "DATASET.ROOT", glyphs_root, "DATASET.LIMIT", 200]
    assert f"top-1 {float(rows(folder)[-1]['test_top1']):.2f} %" in run_program("eval.py", *arguments).out


def test_eval_of_a_teacher_is_what_training_said_of_it(
    done: tuple[Path, Finished], teacher_file: Path, glyphs_root: Path
) -> None:
    folder, _ = done
    top1 = json.loads((folder / "summary.json").read_text())["teacher_top1"]
    asked = ["-m", "resnet8", "-d", "glyphs", "DATASET.ROOT", glyphs_root, "DATASET.LIMIT", 200]
    assert f"top-1 {top1:.2f} %" in run_program("eval.py", *asked, "-c", teacher_file).out
    pretrained = run_program("eval.py", *asked, "-c", "pretrain", "DISTILLER.TEACHER_CKPT", teacher_file)
    assert f"top-1 {top1:.2f} %" in pretrained.out, pretrained.err


def test_pretrain_is_the_teacher_that_ships(glyphs_root: Path) -> None:
    recorded = ROOT / "teachers" / "glyphs" / "resnet20.pth"
    if not recorded.is_file():
        pytest.skip("no teacher ships yet")
    arguments = ["-m", "resnet20", "-c", "pretrain", "-d", "glyphs", "DATASET.ROOT", glyphs_root, "DATASET.LIMIT", 500]
    finished = run_program("eval.py", *arguments)
    assert finished.status == 0
    assert float(re.search(r"top-1 (\S+) %", finished.out)[1]) > 80  # type: ignore[index]


def test_eval_works_in_a_process_of_its_own(done: tuple[Path, Finished]) -> None:
    finished = spawn_program("eval.py", "-c", done[0])
    assert (finished.status, finished.err) == (0, "")
    assert f"top-1 {json.loads((done[0] / 'summary.json').read_text())['best_top1']:.2f} %" in finished.out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("-c {file}", ["which architecture?", "-m"]),
        ("-m resnet8x -c {file} -d glyphs", ["unknown model 'resnet8x'", "did you mean 'resnet8x4'?"]),
        ("-m resnet8 -c {file} -d glyphz", ["unknown data set 'glyphz'", "did you mean 'glyphs'?"]),
        ("-m resnet8 -c {tmp}/no -d glyphs", ["checkpoint not found: {tmp}/no"]),
        ("-m resnet14 -c {file} -d glyphs", ["{file} does not fit", "missing: ", "layer1.1"]),
        ("-m resnet8x4 -c {file} -d glyphs", ["of another shape: ", "[16, 3, 3, 3] for [32, 3, 3, 3]"]),
        ("-m wrn_40_2 -c pretrain -d glyphs", ["no checkpoint of teacher 'wrn_40_2' for glyphs", "looked for", "train.py"]),
        ("-c {tmp}", ["which architecture?"]),
        ("-c {tmp}/no", ["checkpoint not found: {tmp}/no"]),
        ("-m resnet8 -c {tmp} -d glyphs", ["checkpoint not found: {tmp}/student_best"]),
        ("-m resnet8 -c {file} -d glyphs -bs 0", ["DATASET.TEST.BATCH_SIZE must be at least 1, not 0"]),
        ("-m resnet8 -c {file} DATASET.LIMT 3", ["unknown setting DATASET.LIMT", "did you mean 'DATASET.LIMIT'?"]),
    ],
)
def test_a_mistake_with_eval_is_one_line(
    tmp_path: Path, teacher_file: Path, glyphs_root: Path, arguments: str, parts: list[str]
) -> None:
    places = {"file": teacher_file, "tmp": tmp_path}
    finished = run_program("eval.py", *arguments.format(**places).split(), "DATASET.ROOT", glyphs_root)
    assert_one_line_error(finished, *(part.format(**places) for part in parts))


# ---- the same twice -----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tiny: list[str], tmp_path: Path) -> None:
    folders = []
    for run, seed in (("a", 7), ("b", 7), ("c", 8)):
        finished = run_program("train.py", "--seed", seed, *tiny, *RUNS["deepkd"].split(), "LOG.PREFIX", tmp_path / run)
        assert finished.status == 0
        folders.append(tmp_path / run / "p" / "run")
    assert_same_run(folders[1], folders[0])
    assert (folders[2] / "metrics.csv").read_bytes() != (folders[0] / "metrics.csv").read_bytes()
    assert yaml.safe_load((folders[2] / "config.yaml").read_text())["EXPERIMENT"]["SEED"] == 8


def test_the_seed_option_is_the_setting(tiny: list[str], tmp_path: Path) -> None:
    run_program("train.py", "--seed", 3, *tiny, "LOG.PREFIX", tmp_path / "a", "SOLVER.EPOCHS", 1)
    run_program("train.py", *tiny, "LOG.PREFIX", tmp_path / "b", "SOLVER.EPOCHS", 1, "EXPERIMENT.SEED", 3)
    assert_same_run(tmp_path / "a/p/run", tmp_path / "b/p/run")


@pytest.fixture
def any_kernel() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("any_kernel")
def test_deterministic_is_the_setting_and_changes_nothing_on_a_cpu(tiny: list[str], tmp_path: Path) -> None:
    run_program("train.py", *tiny, *RUNS["deepkd"].split())
    plain = (tmp_path / "p/run").rename(tmp_path / "plain")
    assert not torch.are_deterministic_algorithms_enabled()
    finished = run_program("train.py", "--deterministic", *tiny, *RUNS["deepkd"].split())
    assert finished.status == 0, finished.err
    assert torch.are_deterministic_algorithms_enabled()
    assert_same_run(tmp_path / "p/run", plain)
    assert yaml.safe_load((tmp_path / "p/run/config.yaml").read_text())["EXPERIMENT"]["DETERMINISTIC"] is True


@pytest.mark.usefixtures("any_kernel", "forget_plugins")
def test_what_cannot_be_deterministic_is_refused_in_one_line(tiny: list[str], tmp_path: Path) -> None:
    """A method that uses an operation of which torch has no deterministic form, on CPUs neither."""
    plugin = tmp_path / "unpool.py"
    plugin.write_text(
        """
import torch
import torch.nn.functional as F
from mdistiller_ext.distillers import Distiller, register_distiller

@register_distiller("UNPOOL")
class Unpool(Distiller):
    needs_teacher = False

    def losses(self, student, teacher, labels, progress):
        pooled, where = F.max_pool2d(torch.ones(1, 1, 4, 4), 2, return_indices=True)
        return {"task/ce": F.cross_entropy(student.logits, labels) + F.max_unpool2d(pooled, where, 2).mean()}
"""
    )
    arguments = ["--plugin", plugin, *tiny, "DISTILLER.TYPE", "UNPOOL", "SOLVER.EPOCHS", 1]
    assert_one_line_error(
        run_program("train.py", "--deterministic", *arguments),
        "EXPERIMENT.DETERMINISTIC: max_unpooling2d_forward_out does not have a deterministic implementation",
    )


# ---- provenance ---------------------------------------------------------------------------------------------------


def test_every_start_is_recorded(tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "a b"])
    with monkeypatch.context() as patch:
        stop_after(patch, steps=3)
        run_program("train.py", *tiny)
    run_program("train.py", "--resume", *tiny)
    first, second = json.loads((tmp_path / "p" / "run" / "provenance.json").read_text())
    assert [(start["epoch"], start["step"]) for start in (first, second)] == [(0, 0), (1, 0)]
    assert datetime.datetime.fromisoformat(first["time"]) <= datetime.datetime.fromisoformat(second["time"])
    assert first["command"] == "python train.py 'a b'"
    assert (first["host"], first["directory"], first["processes"]) == (socket.gethostname(), str(ROOT), 1)
    assert first["versions"]["torch"] == importlib.metadata.version("torch")
    assert first["versions"].keys() >= {"mdistiller_ext", "python", "torchvision", "numpy"}
    assert first["hardware"]["cores"] == os.cpu_count()
    assert (first["hardware"]["threads"], first["hardware"]["device"], first["hardware"]["gpus"]) == (1, "cpu", [])


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_commit_is_that_of_a_checkout_of_this_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert provenance._git() is None
    git(tmp_path, "init", "-q")
    (tmp_path / "method.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "run.log").touch()  # not Python
    assert provenance._git() == {"commit": head, "dirty": False}
    (inner / "new.py").touch()
    assert provenance._git() == {"commit": head, "dirty": True}
    (inner / "new.py").unlink()
    (tmp_path / "method.py").write_text("2\n")
    assert provenance._git() == {"commit": head, "dirty": True}
    monkeypatch.setattr(provenance, "_ROOT", inner)  # installed inside another project
    assert provenance._git() is None
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    monkeypatch.setenv("PATH", "")
    assert provenance._git() is None


# ---- exact resumption ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "epochs_done"), [("base", 1), ("base", 2), ("dot", 2), ("deepkd", 1), ("deepkd", 3), ("average", 3)]
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
    resumed = spawn_program("train.py", "--resume", *arguments)
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
    refused = run_program("train.py", "--resume", *tiny, "SOLVER.EPOCHS", 1, "SOLVER.LR", 0.2, "DATASET.LIMIT", 32)
    assert_one_line_error(refused, "SOLVER.LR: 0.05 -> 0.2", "DATASET.LIMIT: 64 -> 32", f"--cfg {folder / 'config.yaml'}")
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


# ---- teachers -----------------------------------------------------------------------------------------------------

DESIGN_CARD = """
EXPERIMENT:
  NAME: ""
  TAG: "deepkd,res32x4,res8x4"
  PROJECT: "cifar100_baselines"
DISTILLER:
  TYPE: "DEEPKD"
  TEACHER: "resnet32x4"
  STUDENT: "resnet8x4"
SOLVER:
  TRAINER: "deepkd"
"""


def test_a_missing_teacher_tells_what_where_and_how_before_any_data_are_fetched(tmp_path: Path) -> None:
    path = ROOT / "configs/cifar100/deepkd/res32x4_res8x4.yaml"
    teacher = "download_ckpts/cifar_teachers/resnet32x4_vanilla/ckpt_epoch_240.pth"
    if not path.is_file():
        path = tmp_path / "card.yaml"
        path.write_text(DESIGN_CARD)
    if (ROOT / teacher).is_file():
        pytest.skip("the teacher is here")
    finished = run_program("train.py", "--cfg", path, "DATASET.ROOT", tmp_path / "data", "LOG.PREFIX", tmp_path)
    assert_one_line_error(
        finished,
        "no checkpoint of teacher 'resnet32x4' for cifar100",
        f"looked for {ROOT / teacher}",
        "https://github.com/megvii-research/mdistiller/releases/download/checkpoints/cifar_teachers.tar",
        " train.py",
        "DISTILLER.TEACHER_CKPT",
    )
    assert not (tmp_path / "data").exists()


def test_the_command_that_trains_a_missing_teacher_works(tiny: list[str], tmp_path: Path) -> None:
    """Copied from the message, but for how long it trains; its run folder is then taken as the teacher."""
    arguments = [
        *tiny,
        "DISTILLER.TYPE",
        "KD",
        "DISTILLER.TEACHER",
        "resnet14",
        "DISTILLER.TEACHER_CKPT",
        "",
        "SOLVER.EPOCHS",
        "1",
    ]
    missing = run_program("train.py", *arguments)
    assert_one_line_error(missing, "no checkpoint of teacher 'resnet14' for glyphs")
    found = re.search(r"To train it: \S*python\S* train\.py (.*?), then name its run folder by DISTILLER\.TEACHER", missing.err)
    assert found is not None, missing.err
    teacher = ["EXPERIMENT.NAME", "teacher", "SOLVER.EPOCHS", "1"]
    keep = ("LOG.PREFIX", "DATASET.ROOT", "DATASET.LIMIT", "SOLVER.DEVICE", "EXPERIMENT.PROJECT")
    small = [part for key, value in zip(tiny[::2], tiny[1::2], strict=True) if key in keep for part in (key, value)]
    trained = run_program("train.py", *found[1].split(), *small, *teacher)
    assert trained.status == 0, trained.err
    assert run_program("train.py", *arguments, "DISTILLER.TEACHER_CKPT", tmp_path / "p" / "teacher").status == 0


def test_a_truncated_teacher_is_reported_as_that(tiny: list[str], teacher_file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "teacher.pth"
    damaged.write_bytes(teacher_file.read_bytes()[:20_000])
    finished = run_program("train.py", *tiny, "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER_CKPT", damaged)
    assert_one_line_error(finished, f"{damaged} (20,000 bytes) is truncated, damaged or not a checkpoint")
    assert names(tmp_path) == {"teacher.pth"}


def test_a_teacher_of_another_architecture_is_told_with_what_differs(tiny: list[str], tmp_path: Path) -> None:
    finished = run_program("train.py", *tiny, "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "resnet14")
    assert_one_line_error(finished, "does not fit", "missing", "layer1.1.")
    assert not (tmp_path / "p").exists()


# ---- mistakes on the command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("SOLVER.LRR 0.1", ["unknown setting SOLVER.LRR in the command line; did you mean 'SOLVER.LR'?"]),
        ("DISTILLER.TYPE DKDD", ["unknown distiller 'DKDD'; did you mean 'DKD'?"]),
        ("SOLVER.TRAINER deepk", ["unknown trainer 'deepk'; did you mean 'deepkd'?"]),
        ("DISTILLER.STUDENT resnt8", ["unknown model 'resnt8' for glyphs; did you mean 'resnet8'?"]),
        ("DATASET.TYPE glyps", ["unknown data set 'glyps'; did you mean 'glyphs'?"]),
        ("SOLVER.EPOCHS many", ["SOLVER.EPOCHS in the command line must be a whole number, not 'many'"]),
        ("SOLVER.EPOCHS", ["pairs", "'SOLVER.EPOCHS'"]),
        ("--seed 1 SOLVER.EPOCHS", ["pairs", "'SOLVER.EPOCHS'"]),
        ("--seed -1", ["SEED", "-1"]),
        ("--seed x", ["argument --seed: invalid int value: 'x'"]),
        ("--cfg configs/glyphs/deepkd/res20_res9.yaml", ["config file not found", "did you mean configs/glyphs/"]),
        ("--cfg configs", ["configs"]),
        ("--cfg {tmp}/typed.yaml", ["SOLVER.LR in {tmp}/typed.yaml must be a number, not 'fast'"]),
        ("--cfg {tmp}/broken.yaml", ["{tmp}/broken.yaml is not readable yaml", "line"]),
        ("--plugin {tmp}/no.py", ["plugin not found: {tmp}/no.py"]),
        ("--plugin {tmp}/typed.yaml", ["typed.yaml is not a Python file"]),
        ("--plugin {tmp}/taken.py", ["distiller 'KD' is already registered by"]),
        ("--plugin {tmp}/nodefault.py DISTILLER.TYPE NODEFAULT", ["argument 'weight' needs a default"]),
        ("DISTILLER.TYPE PRKD PRKD.VARIANT c", ["variant 'c'", "prkd_a, prkd_b, prkd"]),
        ("DISTILLER.TYPE GDKD GDKD.TOPK 100", ["topk", "100"]),
        ("SOLVER.DEVICE cuda:99", ["SOLVER.DEVICE cuda:99 cannot be used"]),
        ("LOG.PREFIX {tmp}/typed.yaml", ["{tmp}/typed.yaml/p/run", "cannot be made"]),
    ],
)
@pytest.mark.usefixtures("forget_plugins")
def test_a_mistake_is_one_line_and_leaves_no_run(tiny: list[str], tmp_path: Path, arguments: str, parts: list[str]) -> None:
    (tmp_path / "typed.yaml").write_text("SOLVER: {LR: fast}\n")
    (tmp_path / "broken.yaml").write_text("SOLVER: {LR: 0.1\n")
    register = "from mdistiller_ext.distillers import Distiller, register_distiller\n"
    (tmp_path / "taken.py").write_text(f"{register}@register_distiller('KD')\nclass Taken(Distiller): ...\n")
    body = "    def __init__(self, student, teacher, *, weight):\n        super().__init__(student, teacher)\n"
    (tmp_path / "nodefault.py").write_text(f"{register}@register_distiller('NODEFAULT')\nclass Mine(Distiller):\n{body}")
    finished = run_program("train.py", *tiny, *arguments.format(tmp=tmp_path).split())
    assert_one_line_error(finished, *(part.format(tmp=tmp_path) for part in parts))
    assert not (tmp_path / "p").exists()


def test_a_mistake_shows_no_traceback_in_a_process_of_its_own() -> None:
    assert_one_line_error(spawn_program("train.py", "SOLVER.LRR", 0.1), "did you mean 'SOLVER.LR'?")
    assert_one_line_error(spawn_program("eval.py", "-c", "nowhere"), f"checkpoint not found: {ROOT / 'nowhere'}")


@pytest.mark.filterwarnings("ignore::mdistiller_ext.errors.ConfigWarning")
def test_a_negative_number_in_any_spelling_is_a_value_not_an_option(tiny: list[str]) -> None:
    for number in ("-0.05", "-5e-2", "-.05"):
        finished = run_program("train.py", *tiny, "SOLVER.EPOCHS", 1, "SOLVER.DEEPKD.DELTA_TCG", number)
        assert finished.status == 0, finished.err


def test_a_run_folder_that_is_a_file_is_told(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "run").write_text("mine")
    assert_one_line_error(run_program("train.py", *tiny), f"the run folder {tmp_path / 'p/run'} cannot be made")
    assert (tmp_path / "p" / "run").read_text() == "mine"


def test_a_run_folder_in_a_read_only_place_is_told(tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "readonly"
    place.mkdir()
    place.chmod(0o555)
    if os.access(place, os.W_OK):  # root may write anywhere
        monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    finished = run_program("train.py", *tiny, "LOG.PREFIX", place)
    place.chmod(0o755)
    assert_one_line_error(finished, f"{place / 'p/run'} cannot be made: Permission denied")


@pytest.mark.parametrize(
    "name", ["..", "../../away", "/away", "a/../../../away", ".", "~", "..\\away", "\x00", "a" * 400, "é/è"]
)
@pytest.mark.parametrize("key", ["EXPERIMENT.NAME", "EXPERIMENT.PROJECT"])
def test_a_run_stays_inside_the_prefix_whatever_its_name(tiny: list[str], tmp_path: Path, key: str, name: str) -> None:
    prefix = tmp_path / "deep" / "inside"
    finished = run_program("train.py", *tiny, "LOG.PREFIX", prefix, "SOLVER.EPOCHS", 1, "DATASET.LIMIT", 2, key, name)
    assert finished.status == 0, finished.err
    (found,) = tmp_path.rglob("student_best")
    assert found.parent.parent.parent == prefix
    assert found.parent != prefix / "p"
    assert names(tmp_path) == {"deep"}
    assert names(tmp_path / "deep") == {"inside"}


# ---- a method of one's own ----------------------------------------------------------------------------------------

PLUGIN = """
import torch.nn.functional as F

from mdistiller_ext.distillers import Distiller, register_distiller


@register_distiller("MYMETHOD")
class MyMethod(Distiller):
    def __init__(self, student, teacher, *, ce_weight=1.0, weight=2.0, layers=(1, 2)):
        super().__init__(student, teacher)
        self.ce_weight, self.weight, self.layers = ce_weight, weight, layers

    def losses(self, student, teacher, labels, progress):
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, labels),
            "kd/mse": self.weight * F.mse_loss(student.logits, teacher.logits),
        }
"""


@pytest.fixture
def plugin(tmp_path: Path, forget_plugins: None) -> Path:
    file = tmp_path / "mine" / "my_method.py"
    file.parent.mkdir()
    file.write_text(PLUGIN)
    (file.parent / "my.yaml").write_text("DISTILLER: {TYPE: MYMETHOD}\nMYMETHOD: {WEIGHT: 0.5, LAYERS: [3]}\n")
    (file.parent / "wrong.yaml").write_text("DISTILLER: {TYPE: MYMETHOD}\nMYMETHOD: {WIEGHT: 0.5}\n")
    return file


def test_a_method_in_the_users_own_file_trains_resumes_and_is_evaluated(tiny: list[str], tmp_path: Path, plugin: Path) -> None:
    arguments = ["--plugin", plugin, "--cfg", plugin.with_name("my.yaml"), *tiny, "SOLVER.EPOCHS", 1, "SOLVER.TRAINER", "dot"]
    finished = run_program("train.py", *arguments, "MYMETHOD.CE_WEIGHT", "2")
    assert (finished.status, finished.err) == (0, "")
    folder = tmp_path / "p" / "run"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["MYMETHOD"] == {"CE_WEIGHT": 2.0, "WEIGHT": 0.5, "LAYERS": [3]}
    assert set(rows(folder)[0]) >= {"task/ce", "kd/mse"}
    assert run_program("train.py", "--resume", *arguments, "MYMETHOD.CE_WEIGHT", "2").status == 0
    DISTILLERS._entries.pop("MYMETHOD")  # as in a process that was not given the plugin
    evaluated = run_program("eval.py", "-c", folder)
    assert (evaluated.status, evaluated.err) == (0, "")


def test_a_wrong_setting_of_ones_own_method_is_told(tiny: list[str], plugin: Path) -> None:
    finished = run_program("train.py", "--plugin", plugin, "--cfg", plugin.with_name("wrong.yaml"), *tiny)
    assert_one_line_error(finished, "unknown setting MYMETHOD.WIEGHT in", "wrong.yaml", "did you mean 'MYMETHOD.WEIGHT'?")


def test_without_its_plugin_a_method_is_unknown_and_the_way_out_is_named(tiny: list[str], plugin: Path) -> None:
    finished = run_program("train.py", "--cfg", plugin.with_name("my.yaml"), *tiny)
    assert_one_line_error(finished, "unknown setting MYMETHOD", "--plugin")


def test_a_plugin_named_like_a_module_in_use_does_not_replace_it(tiny: list[str], tmp_path: Path, plugin: Path) -> None:
    other = plugin.rename(plugin.with_name("random.py"))
    finished = run_program("train.py", "--plugin", other, "--cfg", other.with_name("my.yaml"), *tiny, "SOLVER.EPOCHS", 1)
    assert (finished.status, finished.err) == (0, "")
    import random

    assert hasattr(random, "getstate")


# ---- plug-ins: sources kept, files beside them, names -------------------------------------------------------------------


def test_a_plugin_imports_the_files_beside_it_now_and_later(tiny: list[str], tmp_path: Path, plugin: Path) -> None:
    """What Python calls so wins, as everybody imports it: here random.py, which lies beside the plug-in too."""
    helpers = "import random\nimport weighing\nassert hasattr(random, 'getstate')\n"
    lazily = "import later; return {**later.nothing(), 'kd/mse': weighing.HALF * F.mse_loss(student.logits, teacher.logits), "
    plugin.write_text(helpers + plugin.read_text().replace("return {", lazily))
    for name, code in (("random", "1 / 0"), ("weighing", "HALF = 0.5"), ("later", "def nothing(): return {}")):
        plugin.with_name(f"{name}.py").write_text(code)
    finished = run_program("train.py", "--plugin", plugin, *tiny, "DISTILLER.TYPE", "MYMETHOD", "SOLVER.EPOCHS", 1)
    assert (finished.status, finished.err) == (0, "")
    kept = tmp_path / "p" / "run" / "plugins"
    assert {file.name: file.read_text() for file in kept.iterdir()} == {
        name: plugin.with_name(name).read_text() for name in ("my_method.py", "weighing.py")
    }


@pytest.mark.parametrize("changed", ["my_method.py", "beside.py"])
def test_a_plugin_that_has_changed_is_refused_and_what_it_was_is_kept(
    tiny: list[str], tmp_path: Path, plugin: Path, changed: str
) -> None:
    plugin.with_name("beside.py").write_text("x = 1\n")
    plugin.write_text("import beside\n" + plugin.read_text())
    arguments = ["--plugin", plugin, *tiny, "DISTILLER.TYPE", "MYMETHOD", "SOLVER.EPOCHS", 1]
    assert run_program("train.py", *arguments).status == 0
    file, kept = plugin.with_name(changed), tmp_path / "p/run/plugins" / changed
    source = file.read_text()
    file.write_text(source + "y = 2\n")
    refused = run_program("train.py", "--resume", *arguments)
    assert_one_line_error(refused, f"plugin {changed} is not the one", "SHA-256", f"restore it from {kept}, or start a new run")
    file.write_bytes(kept.read_bytes())
    assert file.read_text() == source
    resumed = run_program("train.py", "--resume", *arguments)
    assert (resumed.status, resumed.err) == (0, "")
    assert "the run began" not in resumed.out


def test_a_plugin_that_comes_or_goes_is_said_and_remembered(
    tiny: list[str], tmp_path: Path, forget_plugins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    for file in (first, second):
        file.write_text("x = 1\n")
    for options, said in (
        (["--plugin", first], None),
        (["--resume"], "the run began with plugin first.py, which is not loaded now\n"),
        (["--resume", "--plugin", first, "--plugin", second], "the run began without plugin second.py\n"),
    ):
        with monkeypatch.context() as patch:
            stop_after(patch, steps=3)  # after an epoch
            stopped = run_program("train.py", *options, *tiny, "SOLVER.EPOCHS", 4)
        assert stopped.status == 130, stopped.err
        assert stopped.out.count("the run began") == (said is not None)
        assert said is None or said in stopped.out
    second.write_text("x = 2\n")
    refused = run_program("train.py", "--resume", "--plugin", second, *tiny, "SOLVER.EPOCHS", 4)
    assert_one_line_error(refused, "plugin second.py is not the one", str(tmp_path / "p/run/plugins/second.py"))


def test_links_in_a_run_folder_are_replaced_by_the_sources_not_followed(tiny: list[str], tmp_path: Path, plugin: Path) -> None:
    arguments = ["--plugin", plugin, *tiny, "DISTILLER.TYPE", "MYMETHOD", "SOLVER.EPOCHS", 1]
    run_program("train.py", *arguments)
    kept, elsewhere = tmp_path / "p/run/plugins", tmp_path / "elsewhere"
    kept.rename(elsewhere)
    kept.symlink_to(elsewhere)
    (elsewhere / "my_method.py").write_text("mine")
    assert run_program("train.py", "--resume", *arguments).status == 0
    assert (elsewhere / "my_method.py").read_text() == "mine"
    assert (kept / "my_method.py").read_bytes() == plugin.read_bytes()


def test_a_plugin_given_twice_is_loaded_once(tiny: list[str], plugin: Path) -> None:
    plugin.write_text("print('loaded')\n" + plugin.read_text())
    again = plugin.parent / ".." / "mine" / plugin.name
    finished = run_program("train.py", "--plugin", plugin, "--plugin", again, "--list", *tiny)
    assert (finished.status, finished.err) == (0, "")
    assert finished.out.count("loaded") == 1


REGISTER = "from mdistiller_ext.distillers import Distiller, register_distiller\n"


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({"a/m.py": "", "b/m.py": "x = 1"}, ["/b/m.py: there is another m.py among the plug-ins"]),
        (
            {"m.py": "@register_distiller('X')\nclass A(Distiller): ...\n" * 2},
            ["distiller 'X' is registered twice in ", "m.py, lines 2 and 4; choose another name for one of them"],
        ),
        (
            {"m.py": "@register_distiller('DKD')\nclass A(Distiller): ..."},
            ["distiller 'DKD' is already registered by mdistiller_ext.distillers.dkd.DKD (built in)", "for plugin_m.A"],
        ),
        (
            {f"{name}.py": "@register_distiller('X')\nclass A(Distiller): ..." for name in "mn"},
            ["distiller 'X' is already registered by plugin_m.A; choose another name for plugin_n.A"],
        ),
    ],
)
def test_names_that_are_taken_are_told_in_one_line(
    tmp_path: Path, forget_plugins: None, files: dict[str, str], parts: list[str]
) -> None:
    options = []
    for name, code in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{REGISTER}{code}\n")
        options += ["--plugin", tmp_path / name]
    assert_one_line_error(run_program("train.py", *options, "--list"), *parts)


def test_a_hyper_parameter_may_be_called_name(tiny: list[str], plugin: Path) -> None:
    plugin.write_text(plugin.read_text().replace("layers=(1, 2)):", "layers=(1, 2), name='huber'):"))
    settings = ["DISTILLER.TYPE", "MYMETHOD", "MYMETHOD.NAME", "mse", "SOLVER.EPOCHS", 1]
    finished = run_program("train.py", "--plugin", plugin, *tiny, *settings)
    assert (finished.status, finished.err) == (0, "")


# ---- a full disk --------------------------------------------------------------------------------------------------


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


def test_a_plugin_may_bring_trainer_model_and_data_set_too(tiny: list[str], tmp_path: Path, forget_plugins: None) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        """
import torch
from torch import nn

from mdistiller_ext.data import InMemoryDataset, random_crop_flip, register_dataset
from mdistiller_ext.models import register_model
from mdistiller_ext.trainers import BaseTrainer, Stream, register_trainer


@register_trainer("calm")
class CalmTrainer(BaseTrainer):
    @staticmethod
    def streams(momentum, *, calm=0.5):
        return [Stream("all", ("task", "target", "nontarget", "kd"), momentum * calm)]


@register_model("linear")
class Linear(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x):
        pooled = x.mean(dim=(2, 3))
        return self.fc(pooled), {"feats": [], "preact_feats": [], "pooled_feat": pooled}


@register_dataset("noise")
class Noise(InMemoryDataset):
    num_classes = 4
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    augment = staticmethod(random_crop_flip)

    def load(self, root):
        images = torch.randint(256, (80, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
        return (images[:60], torch.arange(60) % 4), (images[60:], torch.arange(20) % 4)
"""
    )
    mine = ["DATASET.TYPE", "noise", "DISTILLER.STUDENT", "linear", "SOLVER.TRAINER", "calm", "SOLVER.CALM.CALM", "0.25"]
    done = run_program("train.py", "--plugin", plugin, *tiny, *mine)
    assert done.status == 0, done.err
    state = checkpoint.load(tmp_path / "p/run/latest")
    assert state["optimizer"]["param_groups"][0]["momentum"] == {"all": 0.9 * 0.25}
    evaluated = run_program("eval.py", "--plugin", plugin, "-c", tmp_path / "p/run")
    assert "linear (16 parameters)" in evaluated.out
    assert "20 test images of noise" in evaluated.out
    TRAINERS._entries.pop("calm")  # as in a process that was not given the plugin
    for registry, name, kind in ((MODELS, "cifar100/linear", "model 'linear'"), (DATASETS, "noise", "data set 'noise'")):
        assert run_program("eval.py", "-c", tmp_path / "p/run").status == 0
        entry = registry._entries.pop(name)
        assert_one_line_error(run_program("eval.py", "-c", tmp_path / "p/run"), f"unknown {kind}", "--plugin")
        registry._entries[name] = entry


def test_the_progress_bar_tells_loss_parts_accuracy_and_speed(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    trainer = build_trainer(load_config(None, [*tiny, "SOLVER.EPOCHS", "1"]), run_folder(load_config(None, tiny)))
    monkeypatch.setattr(sys, "stderr", terminal)
    # Shown at once: the two steps of this run are over before the bar would be drawn again.
    show = tqdm.set_postfix
    monkeypatch.setattr(tqdm, "set_postfix", lambda bar, values, refresh: show(bar, values, refresh=True))
    trainer.train()
    for part in ("epoch 1/1", "task/ce=", "top1=", "img/s="):
        assert part in terminal.getvalue()
