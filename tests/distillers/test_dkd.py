"""DKD's formula and warm-up."""

from __future__ import annotations

import pytest

from mdistiller_ext import losses as L
from tests.support.distillers import close, cross_entropy, losses_of, make_logits, sum_of


@pytest.mark.parametrize(("epoch", "weight"), [(1, 0.05), (10, 0.5), (20, 1.0), (30, 1.0), (240, 1.0)])
def test_dkd_warms_up_linearly_over_twenty_epochs(epoch, weight):
    student, teacher, labels = make_logits()
    dkd = L.dkd_loss(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0)
    close(sum_of("DKD", epoch=epoch), cross_entropy() + weight * dkd)


def test_dkd_weighs_each_component():
    student, teacher, labels = make_logits()
    tckd, nckd = (part.mean() for part in L.tckd_nckd(student, teacher, labels, temperature=2.0))
    losses = losses_of("DKD", student, teacher, labels, epoch=5, ce_weight=3.0, alpha=0.5, beta=2.0, t=2.0, warmup=10)
    close(losses["task/ce"], 3.0 * cross_entropy())
    close(losses["target/tckd"], 0.5 * 0.5 * tckd)
    close(losses["nontarget/nckd"], 0.5 * 2.0 * nckd)


@pytest.mark.parametrize("name", ["DKD", "GDKD", "GDKD3", "DEEPKD"])
def test_no_warm_up_epochs_mean_full_weight_at_once(name):
    close(sum_of(name, epoch=1, warmup=0), sum_of(name, epoch=1, warmup=1))
    assert sum_of(name, epoch=1, warmup=0) > sum_of(name, epoch=1, warmup=2) + 0.1
