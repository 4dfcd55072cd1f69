"""What compared runs have in common, and warnings where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext.reporting.groups import make_groups
from mdistiller_ext.reporting.records import read_records
from mdistiller_ext.study.report.provenance import collect_facts, fact_rows, fact_warnings
from tests.support.studies import DATA, START, write_run


def facts(folder: Path) -> dict[str, dict[str, list[str]]]:
    return collect_facts(make_groups(read_records([folder]).runs, []))


def test_runs_of_one_kind_differ_in_nothing(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, "KD", seed)
    write_run(tmp_path, "NONE", 0, start={"teacher_sha256": None})
    found = facts(tmp_path)
    assert fact_warnings(found) == []
    rows = {what: (value, runs) for what, value, runs in fact_rows(found)}
    assert rows["commit"] == ("d" * 12, "all 3")
    assert rows["teacher (resnet20 on glyphs)"] == ("SHA-256 cccccccccccc", "all 2")
    assert rows["accuracy of the teacher (resnet20 on glyphs)"] == ("94.00 %", "all 2")
    assert rows["version of torch"] == ("2.6.0", "all 3")
    assert rows["hardware"] == ("a CPU, 2 cores, 1 threads", "all 3")
    assert rows["data (glyphs)"][0].startswith("100 classes; train 10000 images, SHA-256 aaaaaaaaaaaa; test 4000 images")


@pytest.mark.parametrize(
    ("start", "fact"),
    [
        (
            {"teacher_sha256": "f" * 64},
            "teacher (resnet20 on glyphs): SHA-256 ffffffffffff (DKD, seed 0); SHA",
        ),
        ({"data": DATA | {"test": {"images": 9, "sha256": "9" * 64}}}, "data (glyphs): "),
        ({"versions": START["versions"] | {"torch": "2.7.0"}}, "version of torch: 2.7.0 (DKD, seed 0); 2.6.0 (KD, seed 0)"),
        (
            {"git": {"commit": "d" * 40, "dirty": True}},
            "commit: dddddddddddd, with changed Python files (DKD, seed",
        ),
        ({"hardware": START["hardware"] | {"gpus": [{"name": "a GPU"}]}}, "hardware: "),
        ({"processes": 2}, "number of processes: "),
    ],
)
def test_runs_that_differ_in_a_fact_are_warned_of(tmp_path: Path, start: dict[str, Any], fact: str) -> None:
    write_run(tmp_path, "KD", 0)
    write_run(tmp_path, "DKD", 0, start=start)
    (warning,) = fact_warnings(facts(tmp_path))
    assert warning.startswith(f"Not all runs have the same {fact}")


def test_what_was_not_recorded_is_shown_and_differs_from_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, "KD", 0)
    (write_run(tmp_path, "KD", 1) / "provenance.json").unlink()
    found = facts(tmp_path)
    assert fact_warnings(found) == []
    assert ("commit", "–", "KD, seed 1") in fact_rows(found)
