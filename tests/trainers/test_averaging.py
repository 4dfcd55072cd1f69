"""The average of the last students."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mdistiller_ext import checkpoint
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.evaluate import evaluate
from mdistiller_ext.models import create_model
from mdistiller_ext.run import run_folder
from tests.support.trainers import make_trainer


def test_the_average_is_the_mean_of_the_last_students_with_batch_norm_of_its_own(tiny: list[str], tmp_path: Path) -> None:
    more = "DISTILLER.TYPE PRKD PRKD.AVERAGE_LAST 2 SOLVER.EPOCHS 4 LOG.SAVE_CHECKPOINT_FREQ 1 SOLVER.LR 0.05"
    config = load_config(None, [*tiny, *more.split()])
    folder = run_folder(config)
    run = build_trainer(config, folder)
    summary = run.train()
    last = [checkpoint.load(folder / f"student_{epoch}")["model"] for epoch in (3, 4)]
    expected = create_model("resnet8", dataset="glyphs")
    names = {name for name, _ in expected.named_parameters()}
    expected.load_state_dict({k: (last[0][k] + last[1][k]) / 2 if k in names else v for k, v in last[1].items()})
    found = checkpoint.load(folder / "student_average")["model"]
    for name in names:
        torch.testing.assert_close(found[name], expected.state_dict()[name], rtol=1e-6, atol=1e-7)

    # Batch norm: the plain mean over the batches of the training images, one pass.
    norms = [module for module in expected.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    expected.train()
    run.train_loader.set_epoch(config.SOLVER.EPOCHS)
    with torch.no_grad():
        for images, _ in run.train_loader:
            expected(images)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert summary["average_epochs"] == 2
    assert summary["average_top1"] == evaluate(expected, run.test_loader)["top1"]
    assert not torch.equal(found["conv1.weight"], last[1]["conv1.weight"])


@pytest.mark.parametrize(("average_last", "averaged"), [(0, None), (1, 1), (10, 3)])
def test_no_more_epochs_are_averaged_than_there_are(tiny: list[str], average_last: int, averaged: int | None) -> None:
    summary = make_trainer(tiny, "DISTILLER.TYPE", "PRKD", "PRKD.AVERAGE_LAST", average_last).train()
    assert summary.get("average_epochs") == averaged
    assert ("average_top1" in summary) == (averaged is not None)
