"""Long lists and values in messages."""

from __future__ import annotations

from mdistiller_ext.errors import listing, shown


def test_long_lists_and_values_are_abridged() -> None:
    assert listing(["a", "b"]) == "a, b"
    assert listing([]) == ""
    assert listing(["abc"] * 5, limit=8) == "abc, abc and 3 more"
    assert listing(["abcdefghij", "b"], limit=3) == "abcdefghij and 1 more"
    assert shown("fast") == "'fast'"
    assert len(shown("x" * 1000)) < 150
