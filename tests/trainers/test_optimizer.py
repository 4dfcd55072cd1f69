"""Settings of a trainer that reach the optimizer."""

from __future__ import annotations

import pytest

from mdistiller_ext.errors import ConfigError
from mdistiller_ext.optim import ComponentSGD
from mdistiller_ext.registry import TRAINERS
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
