"""Teachers that are missing, damaged or of another architecture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.programs import ROOT, run_program
from tests.support.runs import (
    assert_one_line_error,
    names,
)

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
