"""PKT's weights."""

from __future__ import annotations

from mdistiller_ext import losses as L
from tests.support.distillers import close, cross_entropy
from tests.support.features import feature_losses, pooled_features


def test_pkt_is_its_weighted_loss():
    loss = L.pkt_loss(*pooled_features())
    for options, ce_weight, weight in (({}, 1, 30000), ({"ce_weight": 0.5, "feat_weight": 7.0}, 0.5, 7)):
        losses = feature_losses("PKT", **options)
        close(losses["task/ce"], ce_weight * cross_entropy())
        close(losses["kd/pkt"], weight * loss)
