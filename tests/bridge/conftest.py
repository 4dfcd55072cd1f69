"""Fixtures: a small checkout of upstream, forgotten after each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdistiller_ext.config.schema import GROUPS
from mdistiller_ext.registry import DISTILLERS
from tests.support.upstream_package import forget_upstream, write_upstream


@pytest.fixture
def new_process() -> Iterator[None]:
    """Forget the checkout that the test imports, its methods and its settings."""
    list(DISTILLERS)
    entries, groups, path = dict(DISTILLERS._entries), dict(GROUPS), list(sys.path)
    yield
    forget_process(entries, groups)
    sys.path[:] = path


def forget_process(entries: dict[str, object], groups: dict[str, object]) -> None:
    forget_upstream()
    DISTILLERS._entries = entries
    for name in set(GROUPS) - set(groups):
        del GROUPS[name]


@pytest.fixture
def checkout(tmp_path: Path, new_process: None) -> Path:
    return write_upstream(tmp_path / "fork")
