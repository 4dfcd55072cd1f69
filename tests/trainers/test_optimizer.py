"""Settings of a trainer that reach the optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdistiller_ext.distillers import register_distiller
from mdistiller_ext.distillers.none import Vanilla
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.models import create_model
from mdistiller_ext.optim import ComponentSGD
from mdistiller_ext.registry import TRAINERS
from mdistiller_ext.trainers.optimizer import parameter_groups
from tests.support.trainers import make_trainer


def test_nesterov_and_no_decay_reach_the_optimizer(tiny: list[str]) -> None:
    """DIST's ImageNet recipe; of ResNet18's 62 tensors 41 are of batch norms or biases."""
    run = make_trainer(
        [*tiny, "DISTILLER.STUDENT", "ResNet18", "SOLVER.WEIGHT_DECAY", "0.0001"],
        *("SOLVER.NESTEROV", True, "SOLVER.NO_DECAY", "[norm,bias]"),
    )
    assert run.optimizer.nesterov
    groups = [(len(group["params"]), group["weight_decay"]) for group in run.optimizer.param_groups]
    assert groups == [(21, 0.0001), (41, 0.0)]
    assert all(p.ndim > 1 for p in run.optimizer.param_groups[0]["params"])
    with pytest.raises(ConfigError, match=r"SOLVER\.NO_DECAY: unknown kind 'bn'\. Known: norm, bias"):
        make_trainer(tiny, "SOLVER.NO_DECAY", "[bn]")


def test_the_optimizer_is_the_one_of_this_project_for_every_trainer(tiny: list[str]) -> None:
    for trainer in TRAINERS:
        assert type(make_trainer(tiny, "DISTILLER.TYPE", "KD", "SOLVER.TRAINER", trainer).optimizer) is ComponentSGD


class Hinted(Vanilla):
    """Cross-entropy of two classifiers, the second on the pooled feature."""

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        self.lr_scale = {"head": 3.0, "scale": 0.0}

    def setup(self, student: Any, teacher: Any) -> None:
        self.head = nn.Linear(student.features["pooled_feat"].shape[1], 100)
        self.scale = nn.Parameter(torch.ones(()))

    def losses(self, student: Any, teacher: Any, labels: Any, progress: Any) -> dict[str, torch.Tensor]:
        other = F.cross_entropy(self.scale * self.head(student.features["pooled_feat"]), labels)
        return {**super().losses(student, teacher, labels, progress), "kd/head": other}


@pytest.mark.parametrize("schedule", ["step", "cosine", "onecycle"])
def test_own_layers_have_a_multiple_of_the_learning_rate_under_every_schedule(
    tiny: list[str], schedule: str, forget_plugins: None
) -> None:
    register_distiller("HINTED")(Hinted)
    settings = ["DISTILLER.TYPE", "HINTED", "SOLVER.LR_SCHEDULER", schedule, "SOLVER.LR_DECAY_STAGES", "[1]"]
    run = make_trainer(tiny, *settings, "SOLVER.NO_DECAY", "[bias]", "SOLVER.WEIGHT_DECAY", 0.1)
    distiller: Any = run.distiller
    rates = {p: (group["lr"], group["weight_decay"]) for group in run.optimizer.param_groups for p in group["params"]}
    usual, _ = rates[distiller.student.conv1.weight]
    assert rates[distiller.head.weight] == pytest.approx((3 * usual, 0.1))
    assert rates[distiller.head.bias] == pytest.approx((3 * usual, 0.0))
    multiples = [group["lr"] / usual for group in run.optimizer.param_groups]
    run.run_epoch()
    assert distiller.scale.item() == 1
    first = run.optimizer.param_groups[0]["lr"]
    assert first != usual
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([first * each for each in multiples])


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"haed": 2.0}, r"Hinted\.lr_scale names 'haed'; did you mean 'head'\? Own layers: head, scale"),
        ({"student": 2.0}, r"Hinted\.lr_scale names 'student'"),
        ({"head": -1.0}, r"Hinted\.lr_scale\['head'\] must not be negative, not -1\.0"),
    ],
)
def test_an_invalid_lr_scale_is_reported(scale: dict[str, float], message: str) -> None:
    distiller = Hinted(create_model("resnet8"), None)
    distiller.lr_scale = scale
    distiller.prepare((3, 32, 32))
    with pytest.raises(ConfigError, match=message):
        parameter_groups(distiller, (), 0.1)
