"""CRLD's weights."""

from __future__ import annotations

import pytest
import torch.nn.functional as F

from mdistiller_ext import losses as L
from mdistiller_ext.distillers import Progress
from mdistiller_ext.errors import ConfigError
from tests.support.distillers import close, make_distiller
from tests.support.features import make_views


def test_crld_is_its_weighted_parts():
    outputs, logits, labels = make_views()
    for options, weights, taus in (
        ({}, (1.0, 2.0, 0.5, 4.0), (0.9, 0.2)),
        ({"ce_weight": 0.5, "wv_weight": 3.0, "cv_weight": 7.0, "temperature": 2.0, "tau_w": 0.3, "tau_s": 0.6},
         (0.5, 3.0, 7.0, 2.0), (0.3, 0.6)),
    ):  # fmt: skip
        ce_weight, wv_weight, cv_weight, temperature = weights
        losses = make_distiller("CRLD", **options).losses(*outputs, Progress(20, 240))
        parts = L.crld_parts(*logits, labels, temperature=temperature, tau_w=taus[0], tau_s=taus[1])
        close(losses["task/ce"], ce_weight * sum(F.cross_entropy(view, labels) for view in logits[0]))
        close(losses["target/within"], wv_weight * parts[0])
        close(losses["nontarget/within"], wv_weight * parts[1])
        close(losses["target/cross"], cv_weight * parts[2])
        close(losses["nontarget/cross"], cv_weight * parts[3])


@pytest.mark.parametrize(("epoch", "weight"), [(5, 0.25), (20, 1.0), (200, 1.0)])
def test_by_deepkds_rule_the_parts_have_dkds_weights(epoch, weight):
    outputs, logits, labels = make_views()
    distiller = make_distiller("CRLD", rule="deepkd", alpha=1.5, beta=3.0, tau_w=0.5, tau_s=0.7)
    losses = distiller.losses(*outputs, Progress(epoch, 240))
    parts = L.crld_parts(*logits, labels, temperature=4.0, tau_w=0.5, tau_s=0.7, rule="deepkd")
    close(losses["target/within"], 2 * 1.5 * weight * parts[0])
    close(losses["nontarget/within"], 2 * 3 * weight * parts[1])
    close(losses["target/cross"], 0.5 * 1.5 * weight * parts[2])
    close(losses["nontarget/cross"], 0.5 * 3 * weight * parts[3])


def test_an_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match=r"^CRLD\.RULE must be paper or deepkd, not 'release'$"):
        make_distiller("CRLD", rule="release")
