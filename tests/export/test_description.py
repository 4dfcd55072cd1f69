"""A file and the description beside it belong together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdistiller_ext.export.__main__ import main
from mdistiller_ext.export.description import beside, sha256_of
from tests.support.configs import write
from tests.support.programs import run_main


@pytest.mark.parametrize(
    ("content", "description", "error"),
    [
        ("a", {}, ""),
        ("b", {}, "is not the file that student.pth.json describes (SHA-256 3e23e8160039..., not ca978112ca1b...)"),
        ("a", {"format": "onxx"}, "unknown format 'onxx'; did you mean 'onnx'?"),
        ("a", {"architecture": None}, "student.pth.json is no description of an exported student"),
        ("a", None, "student.pth.json is no description of an exported student"),
    ],
)
def test_check(tmp_path: Path, content: str, description: dict[str, str | None] | None, error: str) -> None:
    file = write(tmp_path / "student.pth", "a")
    own = {"format": "state_dict", "sha256": sha256_of(file), "architecture": "resnet8", "dataset": "glyphs"}
    changed = {key: value for key, value in (own | (description or {})).items() if value is not None}
    write(beside(file), "[]" if description is None else json.dumps(changed))
    write(file, content)
    finished = run_main(main, "export", "--check", file)
    assert finished.status == (2 if error else 0)
    assert error in finished.err
    assert ("is as exported: resnet8 for glyphs" in finished.out) == (not error)


def test_check_of_a_file_alone(tmp_path: Path) -> None:
    finished = run_main(main, "export", "--check", write(tmp_path / "student.pth", "a"))
    assert (finished.status, finished.out) == (2, "")
    assert "student.pth.json does not exist" in finished.err
