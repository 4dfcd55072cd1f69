"""Curvature of the losses at the students of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistiller_ext.analyze.curvature import curvature
from mdistiller_ext.analyze.partial import Partial
from mdistiller_ext.analyze.runs import TrainedRun
from mdistiller_ext.errors import ConfigError


def test_every_run_has_falling_eigenvalues_and_a_second_call_computes_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, options = [trained / "kd0"], {"limit": 8, "eigenvalues": 2, "vectors": 2}
    found = curvature(runs, partial=Partial(tmp_path / "x.jsonl"), **options)
    assert [(row["method"], row["seed"], row["loss"]) for row in found.rows] == [("KD", 0, "task"), ("KD", 0, "distillation")]
    for row in found.rows:
        assert row["eigenvalue_1"] >= row["eigenvalue_2"] > 0
    monkeypatch.setattr(TrainedRun, "student", None)
    assert curvature(runs, partial=Partial(tmp_path / "x.jsonl"), **options).rows == found.rows


def test_impossible_options_are_refused(trained: Path) -> None:
    with pytest.raises(ConfigError, match="--vectors at least 2, --seed not negative; got 3, 1, 0"):
        curvature([trained / "kd0"], vectors=1)
