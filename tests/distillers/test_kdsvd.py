"""KDSVD."""

from __future__ import annotations

import pytest

from mdistiller_ext import losses as L
from mdistiller_ext.errors import ConfigError
from tests.support.distillers import close, make_distiller
from tests.support.maps import LARGE, SMALL, gradients, losses_of, random_output, set_up

EQUAL_CHANNELS = ((3, 3, 9, 9), (3, 4, 9, 9), (3, 5, 7, 7), (3, 6, 3, 3))
EQUAL_WIDTHS = ((3, 8, 8, 8), (3, 8, 8, 8), (3, 8, 6, 4), (3, 9, 2, 2))


@pytest.mark.parametrize(("rule", "shapes"), [("paper", EQUAL_CHANNELS), ("mdistiller", EQUAL_WIDTHS)])
def test_the_loss_is_that_of_the_stages(rule, shapes):
    student, teacher = random_output(SMALL), random_output(shapes, 1)
    losses = losses_of(set_up("KDSVD", student, teacher, feat_weight=7.0, k=2, rule=rule), student, teacher)
    assert list(losses) == ["task/ce", "kd/svd"]
    expected = L.kdsvd_loss(student.features["feats"][1:], teacher.features["feats"][1:], k=2, rule=rule)
    close(losses["kd/svd"], 7 * expected)
    assert [g is None for g in gradients(losses["kd/svd"], student)] == [True, False, False, False]


@pytest.mark.parametrize(
    ("rule", "what", "shapes"),
    [
        ("paper", "channels", r"\[4, 8, 8\] in the student and \[5, 8, 8\]"),
        ("mdistiller", "width", r"\[5, 4, 4\] .* \[6, 8, 8\]"),
    ],
)
def test_stages_that_cannot_be_compared_are_an_error_that_names_both(rule, what, shapes):
    with pytest.raises(ConfigError, match=rf"KDSVD with RULE {rule} compares maps \[C, H, W\] of equal {what}.*{shapes}"):
        set_up("KDSVD", random_output(SMALL), random_output(LARGE), rule=rule)


def test_a_single_stage_has_no_relation():
    with pytest.raises(ConfigError, match="at least 2 of the stages after the stem"):
        set_up("KDSVD", random_output(SMALL[:2]), random_output(EQUAL_CHANNELS))


def test_more_vectors_than_a_map_has_are_refused():
    with pytest.raises(ConfigError, match=r"KDSVD\.K must be at most 4, the smallest rank of a stage's maps, not 5"):
        set_up("KDSVD", random_output(SMALL), random_output(SMALL), k=5)


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"KDSVD\.K must be at least 1, not 0"):
        make_distiller("KDSVD", k=0)
    with pytest.raises(ConfigError, match=r"KDSVD\.RULE must be paper or mdistiller, not 'official'"):
        make_distiller("KDSVD", rule="official")
