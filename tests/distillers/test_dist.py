"""DIST's formula."""

from __future__ import annotations

import pytest

from mdistiller_ext import losses as L
from tests.support.distillers import close, cross_entropy, losses_of, make_logits, sum_of


def test_dist_is_its_weighted_loss():
    student, teacher, labels = make_logits()
    close(sum_of("DIST"), cross_entropy() + L.dist_loss(student, teacher, beta=2.0, gamma=2.0, temperature=4.0))
    losses = losses_of("DIST", student, teacher, labels, ce_weight=0.5, beta=3.0, gamma=0.25, t=1.0)
    inter, intra = L.dist_parts(student, teacher, temperature=1.0)
    close(losses["task/ce"], 0.5 * cross_entropy())
    close(losses["kd/inter"], 3 * inter)
    close(losses["kd/intra"], 0.25 * intra)


@pytest.mark.parametrize("parts", [2, 3])
def test_dist_in_parts_is_the_mean_over_parts_of_the_batch(parts):
    """What processes compute that each relate their own samples; more parts than samples are as many as there are."""
    student, teacher, labels = make_logits()
    pairs = zip(student.tensor_split(parts), teacher.tensor_split(parts), strict=True)
    apart = [L.dist_loss(s, t, beta=2.0, gamma=2.0, temperature=4.0) for s, t in pairs]
    close(sum_of("DIST", parts=parts), cross_entropy() + sum(apart) / parts)
    close(sum_of("DIST", parts=10_000), sum_of("DIST", parts=len(labels)))
