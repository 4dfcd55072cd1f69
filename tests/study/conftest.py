"""A quick stand-in for train.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mdistiller_ext.study import plan
from mdistiller_ext.study.local import LocalExecutor
from tests.support import study


@pytest.fixture
def quick_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in in place of ``train.py``; returns the folder of a study."""
    file = tmp_path / "train.py"
    file.write_text(study.TRAIN)
    monkeypatch.setattr(plan, "program_words", lambda program: [sys.executable, str(file)])
    monkeypatch.setattr(LocalExecutor, "interval", 0.02)
    return tmp_path / "out" / "s"
