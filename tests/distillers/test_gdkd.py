"""GDKD's formula and defaults."""

from __future__ import annotations

import pytest

from mdistiller_ext import losses as L
from tests.support.distillers import close, cross_entropy, losses_of, make_logits, sum_of


@pytest.mark.parametrize(("epoch", "weight"), [(1, 0.05), (10, 0.5), (30, 1.0)])
@pytest.mark.parametrize("kl_type", ["forward", "reverse", "both"])
def test_gdkd_is_its_weighted_loss(kl_type, epoch, weight):
    student, teacher, _ = make_logits()
    gdkd = L.gdkd_loss(student, teacher, w0=0.5, w1=2.0, w2=6.0, topk=3, temperature=2.0, kl_type=kl_type)
    total = sum_of("GDKD", epoch=epoch, ce_weight=0.7, w0=0.5, w1=2.0, w2=6.0, topk=3, t=2.0, kl_type=kl_type)
    close(total, 0.7 * cross_entropy() + weight * gdkd)


def test_gdkd_and_gdkd3_have_the_releases_defaults():
    student, teacher, _ = make_logits()
    weights = {"w0": 1.0, "w1": 1.0, "w2": 8.0, "temperature": 4.0}
    close(sum_of("GDKD"), cross_entropy() + L.gdkd_loss(student, teacher, topk=5, **weights))
    close(sum_of("GDKD3"), cross_entropy() + L.gdkd3_loss(student, teacher, topk=4, **weights))


def test_each_gdkd_component_has_its_own_weight():
    student, teacher, labels = make_logits()
    high, top, rest = L.gdkd_parts(student, teacher, topk=5, temperature=4.0)
    losses = losses_of("GDKD", student, teacher, labels, w0=2.0, w1=3.0, w2=5.0)
    close(losses["target/high"], 2 * high)
    close(losses["nontarget/top"], 3 * top)
    close(losses["nontarget/rest"], 5 * rest)
