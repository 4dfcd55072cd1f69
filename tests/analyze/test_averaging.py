"""Averages of the last students."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from mdistiller_ext.analyze.__main__ import main
from mdistiller_ext.analyze.averaging import Averages, average_of, averaging, between, spread
from mdistiller_ext.analyze.partial import Partial
from mdistiller_ext.analyze.runs import TrainedRun, open_runs
from mdistiller_ext.analyze.weight_space import recompute_batch_norm, weights_of
from mdistiller_ext.errors import ConfigError, MissingFileError
from tests.support.programs import run_main

QUICK = {"limit": 32, "bn_images": 32, "points": 3}


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).double()


def test_students_on_a_line_have_a_known_spread() -> None:
    students = [{"a": torch.tensor([3.0, 4.0 + shift]), "b": torch.zeros(1)} for shift in (-1.0, 0.0, 1.0)]
    assert spread(students) == pytest.approx({"to_mean": 2 / 3 / 5, "between": 4 / 3 / 5})


def test_the_average_of_identical_students_is_that_student() -> None:
    student, images = network(), torch.randn(20, 3, 3, 3, dtype=torch.float64)
    average = average_of([student] * 3, images).eval()
    recompute_batch_norm(student, images)
    assert torch.allclose(average(images), student.eval()(images))


def test_the_average_of_two_is_the_middle_of_the_line() -> None:
    first, second, images = network(), network(), torch.randn(20, 3, 3, 3, dtype=torch.float64)
    average, middle = average_of([first, second], images), between(copy.deepcopy(first), second, 0.5, images)
    assert all(torch.allclose(a, b) for a, b in zip(average.state_dict().values(), middle.state_dict().values(), strict=True))


def test_the_barrier_is_the_excess_over_the_line_and_zero_on_a_convex_loss() -> None:
    parabola = [{"loss": float((position - 1) ** 2)} for position in range(5)]  # its chord from 1 to 9 is 3, 5, 7 within
    found = Averages(0, averages={}, singles={}, lines={1: parabola}, spread={})
    assert (found.barrier, found.dip) == (0, 4)
    hill = [{"loss": loss} for loss in (1.0, 2.0, 6.0, 4.0, 5.0)]
    both = Averages(0, averages={}, singles={}, lines={1: parabola, 2: hill}, spread={})
    assert (both.barrier, both.dip) == (3, 2)


def test_of_a_run_with_an_average_it_is_that_and_a_second_call_computes_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [trained / "prkd0", trained / "prkd1", trained / "alone0"]
    found = averaging(runs, partial=Partial(tmp_path / "x.jsonl"), **QUICK)
    (run,) = open_runs(runs[:1])[0].runs
    ours, own = weights_of(average_of([run.student(2), run.student(3)], torch.randn(8, 3, 32, 32))), run.student("average")
    assert all(torch.allclose(ours[name], weight) for name, weight in weights_of(own).items())
    of_one = {row["what"]: row for row in found.rows if row["seed"] == 0 and row["method"] == "PRKD" and row["students"] == 1}
    assert of_one["average"]["loss"] == of_one["single"]["loss"]  # of the last student
    assert {row["students"] for row in found.rows if row["what"] == "average"} == {1, 2, 3}
    lines = [row for row in found.rows if row["what"] == "line"]
    assert [(row["epoch"], row["position"]) for row in lines] == [(e, t) for e in (1, 2) for t in (0.0, 0.5, 1.0)] * 3
    assert all(row["excess"] == 0 for row in lines if row["position"] in (0, 1))
    monkeypatch.setattr(TrainedRun, "student", None)
    assert averaging(runs, partial=Partial(tmp_path / "x.jsonl"), **QUICK).rows == found.rows


def test_missing_epochs_are_named_with_the_remedy(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained / "kd0", tmp_path / "run")
    (run / "student_2").unlink()
    with pytest.raises(MissingFileError, match=r"no student_2: it keeps epochs 1, 3; LOG\.SAVE_CHECKPOINT_FREQ 1"):
        averaging([run], **QUICK)
    with pytest.raises(ConfigError, match="got 3, 3, 2, 500") as error:
        averaging([trained / "kd0"], points=2)
    assert "\n" not in str(error.value)


def test_from_the_command_line_it_writes_numbers_and_pictures(trained: Path, tmp_path: Path) -> None:
    options = ["--last", 2, "--points", 3, "--limit", 16, "--bn-images", 16, "--device", "cpu", "--out", tmp_path]
    done = run_main(main, "analyze", "averaging", trained / "kd0", *options)
    assert (done.status, done.err) == (0, "")
    assert "over all weights" in " ".join(done.out.split())
    assert {file.name for file in tmp_path.iterdir()} == {
        *("averaging.csv", "averaging.png", "averaging.svg", "averaging.partial.jsonl")
    }
    assert (tmp_path / "averaging.csv").read_text().startswith("method,seed,what,epoch,students,top1,top5,loss,position,excess")
    refused = run_main(main, "analyze", "averaging", trained / "kd0", "--last", 1, "--out", tmp_path)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
