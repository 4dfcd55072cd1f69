"""Logit standardisation."""

from __future__ import annotations

import inspect

import pytest

from mdistiller_ext.registry import DISTILLERS
from tests.support.distillers import close, losses_of, make_logits

# MLKD, which standardises a part only, has a test of its own.
STANDARDIZING = [n for n in DISTILLERS if n != "MLKD" and "standardize" in inspect.signature(DISTILLERS.get(n)).parameters]


@pytest.mark.parametrize("name", STANDARDIZING)
def test_standardisation_acts_on_both_sides_of_the_distillation_and_not_on_cross_entropy(name):
    student, teacher, labels = make_logits()
    plain = losses_of(name, student, teacher, labels)
    scores = [(z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True, correction=1) for z in (student, teacher)]
    standardized = losses_of(name, student, teacher, labels, standardize=True)
    for key, expected in losses_of(name, *scores, labels).items():
        if key == "task/ce":
            close(standardized[key], plain[key])
        else:
            close(standardized[key], expected, 1e-6)
            assert (standardized[key] - plain[key]).abs() > 1e-3


def test_logit_standardisation_is_offered_for_the_kl_methods():
    assert {"KD", "DKD", "GDKD", "GDKD3", "DEEPKD"} <= set(STANDARDIZING)
