"""Cross-entropy alone."""

from __future__ import annotations

from tests.support.distillers import close, cross_entropy, sum_of


def test_none_is_cross_entropy():
    close(sum_of("NONE"), cross_entropy())
