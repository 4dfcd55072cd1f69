"""A run's student is opened from its folder alone, as it was evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.data.rendering import CHARACTERS
from mdistiller_ext.deployment import open_student
from mdistiller_ext.errors import MissingFileError


@pytest.mark.parametrize("method", ["KD", "SIMKD"])
def test_the_student_of_a_run_predicts_as_it_was_evaluated(tiny: list[str], tmp_path: Path, method: str) -> None:
    config = load_config(None, [*tiny, "DISTILLER.TYPE", method, "SOLVER.EPOCHS", "1"])
    trainer = build_trainer(config, tmp_path / "run")
    trainer.train()
    student = open_student(tmp_path / "run")
    images, _ = next(iter(trainer.test_loader))
    with torch.no_grad():
        expected, _ = trainer.distiller.student.eval()(images)
        torch.testing.assert_close(student.classifier(images), expected)
    assert student.classes == tuple(CHARACTERS)
    assert (student.name, student.preprocessing.crop, student.weights.name) == ("resnet8", 32, "student_best")


def test_a_folder_without_a_student_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"it has no config\.yaml"):
        open_student(tmp_path)
    (tmp_path / "config.yaml").write_text("DATASET: {TYPE: glyphs}")
    with pytest.raises(MissingFileError, match=r"student_best does not exist; a run saves"):
        open_student(tmp_path)
    (tmp_path / "student_3").touch()
    with pytest.raises(MissingFileError, match=r"that folder has student_3$"):
        open_student(tmp_path)
