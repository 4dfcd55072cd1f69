"""The commit that a run records."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mdistiller_ext.run import provenance


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_commit_is_that_of_a_checkout_of_this_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert provenance._git() is None
    git(tmp_path, "init", "-q")
    (tmp_path / "method.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "run.log").touch()  # not Python
    assert provenance._git() == {"commit": head, "dirty": False}
    (inner / "new.py").touch()
    assert provenance._git() == {"commit": head, "dirty": True}
    (inner / "new.py").unlink()
    (tmp_path / "method.py").write_text("2\n")
    assert provenance._git() == {"commit": head, "dirty": True}
    monkeypatch.setattr(provenance, "_ROOT", inner)  # installed inside another project
    assert provenance._git() is None
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    monkeypatch.setenv("PATH", "")
    assert provenance._git() is None
