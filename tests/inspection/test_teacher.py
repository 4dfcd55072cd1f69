"""The teacher of a run, or why there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mdistiller_ext.data import create_plain_loader
from mdistiller_ext.inspection.teacher import NO_TEACHER, Teacher, open_teacher
from mdistiller_ext.models import create_model
from mdistiller_ext.weights import load_weights


def open_of(folder: Path, glyphs_root: Path, settings: str, *overrides: object) -> Teacher:
    folder.joinpath("config.yaml").write_text(f"DATASET: {{TYPE: glyphs}}\nSOLVER: {{LR: 0.2}}\n{settings}")
    loader = create_plain_loader("glyphs", root=glyphs_root, limit=2, batch_size=2)
    return open_teacher(folder / "config.yaml", overrides, loader)


def taught_by(file: object, method: str = "KD") -> str:
    return f"DISTILLER: {{TYPE: {method}, STUDENT: resnet8, TEACHER: resnet8, TEACHER_CKPT: '{file}'}}"


def test_the_teacher_is_opened_with_its_weights(glyphs_root: Path, teacher_file: Path, tmp_path: Path) -> None:
    teacher = open_of(tmp_path, glyphs_root, taught_by(teacher_file))
    assert (teacher.name, teacher.note) == (f"resnet8 from {teacher_file}", "")
    assert teacher.network is not None
    assert not teacher.network.training
    same = create_model("resnet8", dataset="glyphs").eval()
    load_weights(same, teacher_file)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(teacher.network(images)[0], same(images)[0])


def test_another_file_than_that_of_training_is_noted(glyphs_root: Path, teacher_file: Path, tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text(json.dumps([{"teacher_sha256": "0" * 64}]))
    teacher = open_of(tmp_path, glyphs_root, taught_by(tmp_path / "gone"), "DISTILLER.TEACHER_CKPT", str(teacher_file))
    assert teacher.network is not None
    assert teacher.note.startswith(f"{teacher_file} is not the file that taught this run (SHA-256 ")
    assert teacher.note.endswith(", then 000000000000...)")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (taught_by("gone"), "no checkpoint of teacher 'resnet8' for glyphs"),
        (taught_by("gone", "MINE"), "unknown distiller 'MINE'"),
    ],
)
def test_what_cannot_be_opened_is_a_note(glyphs_root: Path, tmp_path: Path, settings: str, reason: str) -> None:
    teacher = open_of(tmp_path, glyphs_root, settings)
    assert teacher.network is None
    assert teacher.note.startswith(f"not compared with the teacher: {reason}")


def test_runs_without_a_teacher(glyphs_root: Path, tmp_path: Path) -> None:
    assert open_of(tmp_path, glyphs_root, "DISTILLER: {TYPE: NONE}") == NO_TEACHER
    assert open_teacher(None, (), create_plain_loader("glyphs", root=glyphs_root, limit=1, batch_size=1)) == NO_TEACHER
