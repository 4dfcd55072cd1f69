"""Recorded gradients are those that train, and recording them changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from mdistiller_ext import checkpoint
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.models import register_model
from mdistiller_ext.trainers import BaseTrainer
from tests.support.runs import assert_identical, stop_after

DEEPKD = ["DISTILLER.TYPE", "DEEPKD", "SOLVER.TRAINER", "deepkd", "SOLVER.DEEPKD.DELTA_NCG", "0.05", "SOLVER.BATCH_SIZE", "16"]
RECORD = ["SOLVER.RECORD", "[gsnr, conflict]", "SOLVER.RECORD_EVERY", "2", "SOLVER.RECORD_WINDOW", "4"]


class Dropping(nn.Module):
    """A network with batch norm and dropout."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.Dropout(0.3)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        pooled = self.drop(self.norm(self.conv(images)).relu().mean(dim=(2, 3)))
        return self.fc(pooled), {"feats": [], "pooled_feat": pooled}


@pytest.fixture
def dropping(forget_plugins: None) -> str:
    """Name of the registered network ``Dropping``."""
    register_model("dropping", zoo="cifar100")(Dropping)
    return "dropping"


def state_of(trainer: BaseTrainer) -> dict[str, Any]:
    """All that training has made, without the records and times."""
    state = trainer.state.state_dict()
    return {name: value for name, value in state.items() if name not in ("records", "seconds", "cost")}


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_training_is_bit_identical_with_and_without_records(tiny: list[str], dropping: str, amp: str) -> None:
    states = []
    for record in (RECORD, []):
        trainer = build_trainer(load_config(None, [*tiny, *DEEPKD, "DISTILLER.STUDENT", dropping, "SOLVER.AMP", amp, *record]))
        trainer.train()
        states.append(state_of(trainer))
        if record:
            assert trainer.state.records is not None
            assert trainer.state.records.state_dict()["windows"]["samples"].tolist() == [4, 2]
    assert_identical(*states)


def test_a_run_stopped_within_an_epoch_and_window_records_the_same(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*tiny, *DEEPKD, *RECORD, "SOLVER.CHECKPOINT_STEPS", "1", "SOLVER.RECORD_WINDOW", "5"]
    whole = build_trainer(load_config(None, arguments), tmp_path / "whole")
    whole.train()
    stopped = build_trainer(load_config(None, arguments), tmp_path / "stopped")
    with monkeypatch.context() as patch:
        stop_after(patch, steps=7)
        with pytest.raises(KeyboardInterrupt):
            stopped.train()
    saved = checkpoint.load(tmp_path / "stopped" / "latest")
    assert (saved["epoch"], saved["step"]) == (1, 3)
    assert saved["records"]["windows"]["samples"].tolist() == []
    assert saved["records"]["open"]["sample_step"].tolist() == [0, 2, 4, 6]
    build_trainer(load_config(None, arguments), tmp_path / "stopped", resume=True).train()
    ends = [checkpoint.load(tmp_path / name / "latest") for name in ("stopped", "whole")]
    assert_identical(ends[0]["records"], ends[1]["records"])
    assert ends[0]["records"]["windows"]["samples"].tolist() == [5]
