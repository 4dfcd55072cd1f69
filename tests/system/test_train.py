"""``train.py`` from end to end: the files of a run, equal seeds, and mistakes in one line."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import io
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tqdm import tqdm

from mdistiller_ext import checkpoint
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.models import create_model
from mdistiller_ext.run import logger, run_folder
from mdistiller_ext.run.curves import draw_curves
from tests.support.programs import ROOT, Finished, run_program, spawn_program
from tests.support.runs import (
    ALWAYS,
    RUNS,
    assert_identical,
    assert_one_line_error,
    assert_same_run,
    names,
    rows,
    stop_after,
)


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


def test_a_run_in_a_process_of_its_own_is_quiet_on_stderr_and_the_same(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "draw_curves", draw_curves)
    arguments = [*tiny, *RUNS["deepkd"].split()]
    spawned = spawn_program("train.py", *arguments)
    assert (spawned.status, spawned.err) == (0, "")
    folder = tmp_path / "p" / "run"
    kept = folder.rename(tmp_path / "spawned")
    run_program("train.py", *arguments)
    assert_same_run(folder, kept)


def data_settings(tiny: list[str]) -> list[str]:
    pairs = zip(tiny[::2], tiny[1::2], strict=True)
    return [part for key, value in pairs if key in ("DATASET.ROOT", "DATASET.LIMIT", "SOLVER.DEVICE") for part in (key, value)]


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
        run_program("train.py", *tiny, "DISTILLER.TYPE", "KD")
    run_program("train.py", "--resume", *tiny, "DISTILLER.TYPE", "KD")
    first, second = json.loads((tmp_path / "p" / "run" / "provenance.json").read_text())
    assert [(start["epoch"], start["step"]) for start in (first, second)] == [(0, 0), (1, 0)]
    assert datetime.datetime.fromisoformat(first["time"]) <= datetime.datetime.fromisoformat(second["time"])
    assert first["command"] == "python train.py 'a b'"
    assert (first["host"], first["directory"], first["processes"]) == (socket.gethostname(), str(ROOT), 1)
    data = checkpoint.load(tmp_path / "p" / "run" / "latest")["data"]
    assert first["data"] == data | {"classes": len(data["classes"])}
    teacher = Path(tiny[tiny.index("DISTILLER.TEACHER_CKPT") + 1])
    assert first["teacher_sha256"] == hashlib.sha256(teacher.read_bytes()).hexdigest()
    assert first["versions"]["torch"] == importlib.metadata.version("torch")
    assert first["versions"].keys() >= {"mdistiller_ext", "python", "torchvision", "numpy"}
    assert first["hardware"]["cores"] == os.cpu_count()
    assert (first["hardware"]["threads"], first["hardware"]["device"], first["hardware"]["gpus"]) == (1, "cpu", [])


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
