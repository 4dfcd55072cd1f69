"""Checks and pairs of feature maps."""

from __future__ import annotations

import pytest

from mdistiller_ext.distillers import Output
from mdistiller_ext.distillers.maps import feature_maps, last_pairs, stage_pairs
from mdistiller_ext.errors import ConfigError
from tests.support.maps import LARGE, SMALL, random_maps, random_output


def test_stages_are_paired_in_order_without_the_stem_and_the_rest_of_the_deeper_network():
    student, teacher = random_output(SMALL), random_output((*LARGE, (3, 8, 2, 2)))
    expected = list(zip(student.features["feats"][1:], teacher.features["feats"][1:4], strict=True))
    for pairs, shallow_first in ((stage_pairs(student, teacher), True), (stage_pairs(teacher, student), False)):
        assert len(pairs) == 3
        for pair, wanted in zip(pairs, expected, strict=True):
            assert all(a is b for a, b in zip(pair if shallow_first else pair[::-1], wanted, strict=True))


def test_items_are_paired_from_the_last_one_backwards():
    assert last_pairs([1, 2, 3], "ab") == [(2, "a"), (3, "b")]
    assert last_pairs([3], "ab") == [(3, "b")]
    assert last_pairs([], "ab") == []


@pytest.mark.parametrize(("stages", "least"), [(1, 1), (2, 2)])
def test_too_few_stages_are_an_error(stages, least):
    message = rf"at least {least} of the stages after the stem, feats\[1:\]; the student has {stages - 1} and the teacher 3"
    with pytest.raises(ConfigError, match=message):
        stage_pairs(random_output(SMALL[:stages]), random_output(LARGE), least=least)


def test_features_that_are_no_maps_are_an_error_with_the_remedy():
    tokens = Output(None, {"feats": [*random_maps(SMALL[:2]), *random_maps([(3, 5, 7)])]})
    message = r"feats\[2\] of the teacher is \[3, 5, 7\]: name other modules in DISTILLER\.TEACHER_FEATURES"
    with pytest.raises(ConfigError, match=message):
        feature_maps(tokens, "teacher")
