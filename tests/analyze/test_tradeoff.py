"""Task loss against distillation loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistiller_ext.analyze.partial import Partial
from mdistiller_ext.analyze.runs import open_runs
from mdistiller_ext.analyze.tradeoff import tradeoff
from mdistiller_ext.errors import ConfigError, MissingFileError


def test_test_losses_are_those_of_training_and_values_are_kept(trained: Path, tmp_path: Path) -> None:
    groups = open_runs([trained])
    analysis = tradeoff(groups, limit=0, every=2, partial=Partial(tmp_path / "values"))
    assert {row["epoch"] for row in analysis.rows} == {1, 3}
    assert len(analysis.rows) == sum(len(group.runs) for group in groups) * 2 * 2  # epochs, parts
    history = {(group.name, run.seed): run.record.history for group in groups for run in group.runs}
    for row in analysis.rows:
        if row["part"] == "test":
            recorded = history[row["method"], row["seed"]][row["epoch"] - 1]
            assert row["task"] == pytest.approx(recorded["test_loss"], rel=1e-5)
            assert row["top1"] == pytest.approx(recorded["test_top1"])
    assert [table.title.rpartition(": ")[2] for table in analysis.tables[1:]] == [
        "difference from student alone",
        "difference from KD",
    ]
    again = tradeoff([str(trained)], limit=0, every=2, partial=Partial(tmp_path / "values"))
    assert again.rows == analysis.rows
    assert len((tmp_path / "values").read_text().splitlines()) == len(analysis.rows)


def test_a_temperature_of_zero_is_refused(trained: Path) -> None:
    with pytest.raises(ConfigError, match="positive, got 0"):
        tradeoff([trained / "kd0"], limit=40, temperature=0)


def test_a_run_without_kept_epochs_is_refused(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for file in (trained / "kd0").iterdir():
        if not file.name.startswith("student_"):
            (run / file.name).symlink_to(file)
    with pytest.raises(MissingFileError, match="SAVE_CHECKPOINT_FREQ 1"):
        tradeoff([run])
