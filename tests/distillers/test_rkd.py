"""RKD's weights and settings."""

from __future__ import annotations

import pytest

from mdistiller_ext import losses as L
from mdistiller_ext.errors import ConfigError
from tests.support.distillers import close, cross_entropy, make_distiller
from tests.support.features import feature_losses, pooled_features


def test_rkd_is_its_weighted_loss_on_pooled_features():
    losses = feature_losses("RKD")
    close(losses["task/ce"], cross_entropy())
    close(losses["kd/distance"] + losses["kd/angle"], L.rkd_loss(*pooled_features()))


def test_rkd_weighs_each_component():
    losses = feature_losses(
        "RKD", ce_weight=0.5, feat_weight=2.0, distance_weight=3.0, angle_weight=4.0, squared=True, epsilon=8.0
    )
    distance, angle = L.rkd_parts(*pooled_features(), squared=True, epsilon=8.0)
    close(losses["task/ce"], 0.5 * cross_entropy())
    close(losses["kd/distance"], 6 * distance)
    close(losses["kd/angle"], 8 * angle)
    assert (distance - L.rkd_parts(*pooled_features(), squared=True)[0]).abs() > 1e-6  # epsilon is not idle


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_a_bound_that_is_not_positive_is_refused(epsilon):
    with pytest.raises(ConfigError, match=rf"^RKD\.PDIST\.EPSILON must be positive, not {epsilon}$"):
        make_distiller("RKD", epsilon=epsilon)
