"""GDKD3's formula."""

from __future__ import annotations

import pytest

from mdistiller_ext import losses as L
from tests.support.distillers import close, cross_entropy, make_logits, sum_of


@pytest.mark.parametrize(("epoch", "weight"), [(1, 0.05), (10, 0.5), (30, 1.0)])
def test_gdkd3_is_its_weighted_loss(epoch, weight):
    student, teacher, _ = make_logits()
    gdkd3 = L.gdkd3_loss(student, teacher, w0=0.5, w1=2.0, w2=6.0, topk=3, temperature=2.0)
    total = sum_of("GDKD3", epoch=epoch, ce_weight=0.7, w0=0.5, w1=2.0, w2=6.0, topk=3, t=2.0)
    close(total, 0.7 * cross_entropy() + weight * gdkd3)
