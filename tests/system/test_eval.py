"""``eval.py`` from end to end: run folders, checkpoints, teachers, and mistakes in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mdistiller_ext.models import create_model
from tests.support.programs import ROOT, Finished, run_program, spawn_program
from tests.support.runs import (
    assert_one_line_error,
    rows,
)


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
