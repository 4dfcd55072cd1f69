"""Evaluation leaves the network as it was."""

from __future__ import annotations

import torch

from mdistiller_ext.evaluate import evaluate
from mdistiller_ext.models import create_model


def test_evaluation_leaves_a_frozen_batch_norm_frozen() -> None:
    model = create_model("resnet8")
    model.bn1.eval()
    evaluate(model, [(torch.randn(4, 3, 32, 32), torch.arange(4))])
    assert model.training
    assert not model.bn1.training
