"""Pictures of a report."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from mdistiller_ext.study.report.content import make_report
from mdistiller_ext.study.report.figures import Picture, pictures
from tests.support.studies import write_run


def drawn(folder: Path) -> list[Picture]:
    return pictures(make_report([folder]).comparisons, "last")


def test_each_student_has_three_pictures_of_valid_svg_in_the_colours_of_the_page(tmp_path: Path) -> None:
    for method in ("KD", "DKD", "NONE"):
        for seed in (0, 1, 2):
            write_run(tmp_path, method, seed, 70 + seed / 4)
    write_run(tmp_path, "KD", 0, 70.0, "DISTILLER.STUDENT", "resnet14")
    found = drawn(tmp_path)
    assert [picture.title.split(":")[0] for picture in found] == [
        "Accuracy of resnet14 on glyphs",
        "Test accuracy of resnet14 on glyphs by epoch",
        "Accuracy of resnet8 on glyphs",
        "Paired differences of resnet8 on glyphs",
        "Test accuracy of resnet8 on glyphs by epoch",
    ]
    for picture in found:
        ET.fromstring(picture.svg)
        assert "currentColor" in picture.svg
        assert "var(--line)" in picture.svg
        assert not re.search(r"#0102|<metadata|\d{4}-\d\d-\d\d", picture.svg)
    assert "KD (STUDENT resnet8" in found[2].alt
    assert "70.25 ± 0.25" in found[2].alt


def test_names_are_text_and_no_formula_or_markup(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "KD", 0)
    (report,) = make_report([folder]).comparisons
    name = r"$\frac{ <script> & ガ"
    renamed = type(report.group)(name, name, report.group.settings, report.group.runs)
    (dots, curves) = pictures([type(report)(renamed, renamed, None)], "last")
    for picture in (dots, curves):
        text = "".join(ET.fromstring(picture.svg).itertext())
        assert r"$\frac{ <script> & ガ" in text.replace("\n", " ")


def test_runs_without_metrics_or_with_few_epochs_are_drawn(tmp_path: Path) -> None:
    (write_run(tmp_path, "KD", 0) / "metrics.csv").unlink()
    assert len(drawn(tmp_path)) == 1
    write_run(tmp_path, "KD", 1, [70.0], "SOLVER.EPOCHS", 8)
    assert len(drawn(tmp_path)) == 2
    write_run(tmp_path, "DKD", 2, [1.0], finished=False)
    assert len(drawn(tmp_path)) == 2
