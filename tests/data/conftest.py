"""Fixtures of the tests of data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.images import write_classes


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """3 classes, 5 + 2 images of each, in train/ and val/."""
    write_classes(tmp_path / "train", dict.fromkeys("abc", 5))
    write_classes(tmp_path / "val", dict.fromkeys("abc", 2))
    return tmp_path
