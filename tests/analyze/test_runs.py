"""Finished runs, opened."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from mdistiller_ext.analyze.objective import Objective
from mdistiller_ext.analyze.runs import first_teacher, open_runs
from mdistiller_ext.errors import ConfigError, CorruptFileError, MissingFileError
from mdistiller_ext.evaluate import evaluate


def test_groups_hold_the_seeds_and_students_have_the_recorded_accuracy(trained: Path) -> None:
    groups = open_runs([trained])
    assert [len(group.runs) for group in groups] == [2, 2, 2, 2, 2]
    for run in (group.runs[1] for group in groups):
        assert run.kept_epochs() == [1, 2, 3]
        for epoch in (2, 3):
            found = evaluate(run.student(epoch), run.images("test"))
            assert found["top1"] == pytest.approx(run.record.history[epoch - 1]["test_top1"])
            assert found["loss"] == pytest.approx(run.record.history[epoch - 1]["test_loss"], rel=1e-5)


def test_training_images_are_in_order_and_not_augmented(trained: Path) -> None:
    (run, *_) = open_runs([trained / "kd0"])[0].runs
    first, second = ([batch[0] for batch in run.images("train", limit=20)] for _ in range(2))
    assert sum(map(len, first)) == 20
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert run.images("train", limit=20) is run.images("train", limit=20)
    assert run.images("train", limit=1000).num_images == 64  # those that it was trained on


def test_the_objective_is_zero_for_the_teacher_and_agrees_with_evaluate(trained: Path) -> None:
    run = first_teacher(open_runs([trained]))
    objective = Objective(run.images("test"), run.teacher())
    assert objective(run.teacher())["distillation"] == pytest.approx(0, abs=1e-6)
    found = evaluate(run.student(), run.images("test"))
    assert objective(run.student())["task"] == pytest.approx(found["loss"], rel=1e-6)
    assert objective(run.student())["top1"] == pytest.approx(found["top1"])


def test_what_cannot_be_opened_is_refused(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained / "prkd0", tmp_path / "run")
    opened = open_runs([run])[0].runs[0]
    with pytest.raises(MissingFileError, match="student_7: it keeps epochs 1, 2, 3"):
        opened.student(7)
    shutil.copy(trained.parent / "runs" / "prkd0" / "metrics.csv", run / "student_latest")
    with pytest.raises(CorruptFileError):
        opened.student()
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("STUDENT: resnet8", "STUDENT: resnet14"))
    with pytest.raises(CorruptFileError, match="resnet8"):
        open_runs([run])[0].runs[0].student("average")
    (run / "summary.json").unlink()
    with pytest.raises(ConfigError, match="unfinished, after 3 of 3 epochs"):
        open_runs([run])
    with pytest.raises(ConfigError, match="no run has one"):
        first_teacher(open_runs([trained / "alone0"]))
