"""SP's weights."""

from __future__ import annotations

from mdistiller_ext import losses as L
from tests.support.distillers import close, cross_entropy
from tests.support.features import feature_losses, make_outputs


def test_sp_is_its_weighted_loss():
    loss = L.sp_loss(*(output.features["feats"][-1] for output in make_outputs()[:2]))
    for options, ce_weight, weight in (({}, 1, 3000), ({"ce_weight": 0.5, "feat_weight": 7.0}, 0.5, 7)):
        losses = feature_losses("SP", **options)
        close(losses["task/ce"], ce_weight * cross_entropy())
        close(losses["kd/sp"], weight * loss)
