"""PRKD's formula."""

from __future__ import annotations

import pytest

from mdistiller_ext import losses as L
from tests.support.distillers import close, cross_entropy, make_distiller, make_logits, sum_of


@pytest.mark.parametrize("variant", ["prkd_a", "prkd_b", "prkd"])
@pytest.mark.parametrize("epoch", [1, 60, 240])
def test_prkd_is_its_weighted_loss_at_the_fraction_of_training_done(epoch, variant):
    student, teacher, _ = make_logits()
    prkd = L.prkd_loss(student, teacher, fraction=epoch / 240, temperature=4.0, final_temperature=2.0, variant=variant)
    close(
        sum_of("PRKD", epoch=epoch, variant=variant, final_t=2.0, ce_weight=0.5, kd_weight=3.0),
        0.5 * cross_entropy() + 3 * prkd,
    )


def test_prkd_counting_epochs_from_zero_starts_as_kd_and_does_not_reach_the_end():
    student, teacher, _ = make_logits()
    kd = L.kd_loss(student, teacher, temperature=4.0)
    close(sum_of("PRKD", epoch=1, first_epoch=0), cross_entropy() + kd)
    close(sum_of("PRKD", epoch=240, first_epoch=0), sum_of("PRKD", epoch=239, first_epoch=1))


def test_prkd_passes_its_options_on():
    student, teacher, _ = make_logits()
    options = {"correlation": "inter+intra", "t_squared": False}
    prkd = L.prkd_loss(student, teacher, fraction=0.5, temperature=4.0, final_temperature=1.0, **options)
    close(sum_of("PRKD", epoch=120, **options), cross_entropy() + prkd)
    assert make_distiller("PRKD").average_last == 10
    assert make_distiller("PRKD", average_last=3).average_last == 3
