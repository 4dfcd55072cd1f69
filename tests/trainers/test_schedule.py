"""Learning rate schedules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.trainers import make_trainer


def rates(tiny: list[str], monkeypatch: pytest.MonkeyPatch, *overrides: Any) -> list[float]:
    """Learning rate of each epoch, of a run whose steps and tests do nothing."""
    run = make_trainer(tiny, "DISTILLER.TYPE", "NONE", *overrides)
    zero = torch.zeros(())

    def no_step(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        run.optimizer.step()
        if run.scheduler_steps_each_batch:
            run.scheduler.step()
        return torch.zeros(len(labels), 100), {"task/ce": zero}

    monkeypatch.setattr(run, "train_step", no_step)
    monkeypatch.setattr("mdistiller_ext.trainers.base.evaluate", lambda *_: {"top1": 0.0, "top5": 0.0, "loss": 0.0})
    run.train()
    return [row["lr"] for row in run.history]


def test_step_lowers_the_rate_after_each_stage(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lr = rates(tiny, monkeypatch, "SOLVER.EPOCHS", 240, "DATASET.LIMIT", 2)
    assert len(lr) == 240
    for first, last, rate in ((1, 150, 0.05), (151, 180, 0.005), (181, 210, 0.0005), (211, 240, 0.00005)):
        assert lr[first - 1 : last] == pytest.approx([rate] * (last - first + 1))


def test_cosine_falls_from_the_full_rate_towards_zero(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lr = rates(tiny, monkeypatch, "SOLVER.EPOCHS", 10, "SOLVER.LR_SCHEDULER", "cosine", "DATASET.LIMIT", 2)
    assert lr == pytest.approx([0.05 * (1 + math.cos(math.pi * epoch / 10)) / 2 for epoch in range(10)])


def test_onecycle_spans_all_steps_and_peaks_at_the_rate(tiny: list[str]) -> None:
    run = make_trainer(tiny, "DISTILLER.TYPE", "NONE", "SOLVER.LR_SCHEDULER", "onecycle", "SOLVER.LR", 0.1, "DATASET.LIMIT", 35)
    seen: list[float] = []
    step = run.train_step

    def watched(images: Tensor, labels: Tensor) -> Any:
        seen.append(run.optimizer.param_groups[0]["lr"])
        return step(images, labels)

    run.train_step = watched  # type: ignore[method-assign]
    run.train()
    assert len(run.train_loader) == 3
    assert run.scheduler.total_steps == len(seen) == 3 * 3
    assert max(seen) == pytest.approx(0.1, rel=0.1)
    assert seen[-1] < 1e-4
    assert run.optimizer.param_groups[0]["momentum"] == {"all": 0.9}
