"""AT."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mdistiller_ext import losses as L
from mdistiller_ext.errors import ConfigError
from tests.support.distillers import close, make_distiller
from tests.support.maps import LARGE, SMALL, gradients, losses_of, random_output, set_up


def test_the_loss_is_the_weighted_sum_over_the_stages():
    student, teacher = random_output(SMALL), random_output(LARGE, 1)
    losses = losses_of(set_up("AT", student, teacher, ce_weight=3.0, feat_weight=7.0, p=4), student, teacher)
    assert list(losses) == ["task/ce", "kd/attention"]
    close(losses["task/ce"], 3 * F.cross_entropy(student.logits, torch.tensor([0, 1, 2])))
    maps = zip(student.features["feats"][1:], teacher.features["feats"][1:], strict=True)
    close(losses["kd/attention"], 7 * sum(L.at_loss(s, t, p=4) for s, t in maps))
    assert [g is None for g in gradients(losses["kd/attention"], student)] == [True, False, False, False]


def test_networks_of_equal_features_have_no_loss():
    student, teacher = random_output(SMALL), random_output(SMALL)
    assert losses_of(set_up("AT", student, teacher), student, teacher)["kd/attention"] == 0


def test_networks_without_stages_are_refused():
    with pytest.raises(ConfigError, match="the student has 0 and the teacher 3"):
        set_up("AT", random_output(SMALL[:1]), random_output(LARGE))


def test_a_power_below_one_is_refused():
    with pytest.raises(ConfigError, match=r"AT\.P must be at least 1, not 0"):
        make_distiller("AT", p=0)
