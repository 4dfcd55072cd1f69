"""KD's formula."""

from __future__ import annotations

from mdistiller_ext import losses as L
from tests.support.distillers import close, cross_entropy, losses_of, make_logits, sum_of


def test_kd_is_weighted_cross_entropy_and_kl():
    student, teacher, _ = make_logits()
    kd = L.kd_loss(student, teacher, temperature=4.0)
    close(sum_of("KD"), 0.1 * cross_entropy() + 0.9 * kd)
    other = 0.5 * cross_entropy() + 2.0 * L.kd_loss(student, teacher, temperature=1.0)
    close(sum_of("KD", temperature=1.0, ce_weight=0.5, kd_weight=2.0), other)


def test_kd_by_the_official_rule_has_weight_one_and_multiplies_batch_means():
    """What DeepKD's release computes with its trainer."""
    student, teacher, labels = make_logits()
    losses = losses_of("KD", student, teacher, labels, kd_weight=0.9, rule="official")
    tckd, nckd = L.tckd_nckd(student, teacher, labels, temperature=4.0)
    mass = L.non_target_mass(teacher, labels, temperature=4.0)
    close(losses["task/ce"], 0.1 * cross_entropy())
    close(losses["target/tckd"], tckd.mean())
    close(losses["nontarget/nckd"], mass.mean() * nckd.mean())
