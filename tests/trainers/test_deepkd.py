"""DeepKD's official rule against its release, and partial momenta."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mdistiller_ext.trainers import BaseTrainer
from mdistiller_ext.trainers.deepkd import DeepKDTrainer
from mdistiller_ext.trainers.dot import DOTTrainer
from tests.support.trainers import weights


def test_the_official_rule_is_the_steps_of_deepkds_release(double_trainer: Callable[..., BaseTrainer]) -> None:
    """Task and non-target updates first, then the target's, whose weight decay sees the weights that those have moved."""
    options = {"stream_options": {"rule": "official"}, "lr_scheduler": "step"}
    run, reference = (double_trainer("deepkd", **options) for _ in range(2))
    distiller, buffers = reference.distiller.train(), {}
    parameters = list(distiller.learnable_parameters())
    for epoch in (1, 2):
        reference.train_loader.set_epoch(epoch)
        reference.progress.set_epoch(epoch)
        for images, labels in reference.train_loader:
            _, losses = distiller(images, labels, reference.progress)
            gradients = {
                name: torch.autograd.grad(losses[name], parameters, retain_graph=True)
                for name in ("task/ce", "nontarget/nckd", "target/tckd")
            }
            with torch.no_grad():
                for name, momentum in (("task/ce", 0.825), ("nontarget/nckd", 0.975), ("target/tckd", 0.825)):
                    for p, gradient in zip(parameters, gradients[name], strict=True):
                        decayed = gradient + 5e-3 * p if name == "target/tckd" else gradient
                        old = buffers.get((name, p))
                        buffers[name, p] = decayed if old is None else momentum * old + decayed
                        p -= 0.05 * buffers[name, p]
    run.train()
    torch.testing.assert_close(weights(run), weights(reference), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", ["paper", "official"])
def test_a_parameter_of_one_stream_uses_the_mean_of_the_three_deltas_under_either_rule(rule: str) -> None:
    deltas = {"delta_tog": 0.05, "delta_tcg": -0.1, "delta_ncg": 0.08}
    assert DeepKDTrainer.partial_momentum(0.9, **deltas, rule=rule) == pytest.approx(0.9 + 0.03 / 3)
    assert DOTTrainer.partial_momentum(0.9, delta=0.05) == pytest.approx(0.9)
