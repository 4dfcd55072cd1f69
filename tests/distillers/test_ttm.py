"""TTM's and WTTM's weights."""

from __future__ import annotations

import pytest

from mdistiller_ext import losses as L
from mdistiller_ext.errors import ConfigError
from tests.support.distillers import close, cross_entropy, make_distiller, make_logits
from tests.support.features import feature_losses


@pytest.mark.parametrize(("name", "beta", "loss"), [("TTM", 100, L.ttm_loss), ("WTTM", 3, L.wttm_loss)])
def test_the_method_is_its_weighted_loss(name, beta, loss):
    student, teacher, _ = make_logits()
    losses = feature_losses(name)
    close(losses["task/ce"], cross_entropy())
    close(losses[f"kd/{name.lower()}"], beta * loss(student, teacher, gamma=0.1))
    losses = feature_losses(name, ce_weight=0.5, beta=7.0, gamma=0.4)
    close(losses["task/ce"], 0.5 * cross_entropy())
    close(losses[f"kd/{name.lower()}"], 7 * loss(student, teacher, gamma=0.4))


@pytest.mark.parametrize("name", ["TTM", "WTTM"])
def test_an_exponent_that_is_not_positive_is_refused_before_training(name):
    with pytest.raises(ConfigError, match=rf"^{name}: gamma must be positive, not 0$"):
        make_distiller(name, gamma=0).component_names((3, 2, 2))
