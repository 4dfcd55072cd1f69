"""Batches of a single image."""

from __future__ import annotations

import math

import pytest

from mdistiller_ext.errors import TrainingError
from mdistiller_ext.registry import DISTILLERS
from tests.support.trainers import make_trainer


@pytest.mark.parametrize("method", list(DISTILLERS))
def test_a_last_batch_of_one_image_is_trained_on(tiny: list[str], method: str) -> None:
    run = make_trainer(tiny, "DISTILLER.TYPE", method, "DATASET.LIMIT", 33, "SOLVER.EPOCHS", 1, "SOLVER.LR", 0.01)
    run.train()
    assert all(math.isfinite(value) for value in run.history[0].values())


def test_a_batch_of_one_that_batch_norm_cannot_train_on_is_explained(tiny: list[str]) -> None:
    """Where the last feature map is a single pixel; upstream keeps the last, smaller batch too."""
    network = "torchvision/shufflenet_v2_x0_5"
    run = make_trainer(tiny, "DISTILLER.TYPE", "NONE", "DISTILLER.STUDENT", network, "DATASET.LIMIT", 5, "SOLVER.BATCH_SIZE", 4)
    with pytest.raises(TrainingError, match=r"a batch of a single image.*SOLVER\.BATCH_SIZE"):
        run.train()
