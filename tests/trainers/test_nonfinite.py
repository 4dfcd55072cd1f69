"""Losses that are not finite stop the run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from mdistiller_ext import checkpoint
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.errors import DivergedError
from mdistiller_ext.run import run_folder


def all_finite(state: Any) -> bool:
    return all(bool(v.isfinite().all()) for v in state.values())


@pytest.mark.parametrize("limit", [32, 64, 320])
def test_a_loss_that_is_not_finite_stops_the_run_and_no_checkpoint_is_of_it(
    tiny: list[str], tmp_path: Path, limit: int
) -> None:
    config = load_config(None, [*tiny, "DATASET.LIMIT", str(limit), "SOLVER.LR", "1e30"])
    folder = run_folder(config)
    with pytest.raises(DivergedError) as caught:
        build_trainer(config, folder).train()
    text = str(caught.value)
    assert "not finite" in text
    assert "Checkpoints hold epoch 0" in text  # the very first epoch broke the weights
    assert "SOLVER.LR" in text
    if (folder / "latest").exists():  # from before that step
        state = checkpoint.load(folder / "latest")
        assert state["epoch"] == 0
        assert all_finite(state["student"])
    assert not (folder / "student_best").exists()


def test_after_a_loss_that_is_not_finite_checkpoints_hold_the_last_good_epoch(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(None, [*tiny, "DISTILLER.TYPE", "KD", "SOLVER.EPOCHS", "4"])
    folder = run_folder(config)
    run = build_trainer(config, folder)
    losses = run.distiller.losses

    def broken(student: Any, teacher: Any, labels: Tensor, progress: Any) -> dict[str, Tensor]:
        parts = losses(student, teacher, labels, progress)
        if progress.epoch == 3:
            parts["target/tckd"] = parts["target/tckd"] * math.nan
        return parts

    monkeypatch.setattr(run.distiller, "losses", broken)
    with pytest.raises(DivergedError, match=r"not finite in epoch 3.*target/tckd = nan.*Checkpoints hold epoch 2"):
        run.train()
    state = checkpoint.load(folder / "latest")
    assert state["epoch"] == 2
    assert all_finite(state["student"])
    assert all_finite(checkpoint.load(folder / "student_latest")["model"])
    assert len((folder / "metrics.csv").read_text().splitlines()) == 1 + 2
