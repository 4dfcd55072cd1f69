"""NST."""

from __future__ import annotations

import pytest

from mdistiller_ext import losses as L
from mdistiller_ext.errors import ConfigError
from tests.support.distillers import close
from tests.support.maps import LARGE, SMALL, gradients, losses_of, random_output, set_up


def test_the_loss_is_the_weighted_sum_over_the_stages():
    student, teacher = random_output(SMALL), random_output(LARGE, 1)
    losses = losses_of(set_up("NST", student, teacher, feat_weight=7.0), student, teacher)
    assert list(losses) == ["task/ce", "kd/nst"]
    maps = zip(student.features["feats"][1:], teacher.features["feats"][1:], strict=True)
    close(losses["kd/nst"], 7 * sum(L.nst_loss(s, t) for s, t in maps))
    assert [g is None for g in gradients(losses["kd/nst"], student)] == [True, False, False, False]


def test_networks_of_equal_features_have_no_loss():
    student, teacher = random_output(SMALL), random_output(SMALL)
    assert abs(losses_of(set_up("NST", student, teacher), student, teacher)["kd/nst"]) < 1e-12


def test_networks_without_stages_are_refused():
    with pytest.raises(ConfigError, match="the student has 3 and the teacher 0"):
        set_up("NST", random_output(SMALL), random_output(LARGE[:1]))
