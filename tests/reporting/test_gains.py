"""Rows, table and picture of gains."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree
from pathlib import Path

import pytest

from mdistiller_ext.compression.files import show
from mdistiller_ext.errors import CorruptFileError
from mdistiller_ext.network_cost import NetworkCost, Pair
from mdistiller_ext.reporting.drawing import style, svg_text
from mdistiller_ext.reporting.gains import (
    Gain,
    about,
    cost_gains,
    draw_gains,
    gain_rows,
    gains_text,
    read_gains,
    share_teachers,
)

SMALL, LARGE = NetworkCost(1000, 2_500_000, 4321), NetworkCost(4000, 5_000_000_000, 1_234_567)
PAIR = Pair("glyphs", 100, 32, "small", "large", SMALL, LARGE)
NAME = "DKD (TEMPERATURE 4.0, WARMUP 20, a_long_name_without_spaces_to_wrap_at_all)"
MEASURED = {"n": 20, "measured_on": "a CPU, 2 cores"}


def latency(batch_size: int, teacher: float, student: float) -> Gain:
    values = {
        f"{role}{end}": value for role, value in (("teacher", teacher), ("student", student)) for end in ("", "_q1", "_q3")
    }
    ratio = dict.fromkeys(("ratio", "ratio_q1", "ratio_q3"), teacher / student)
    return Gain(networks=str(PAIR), quantity="latency", unit="ms", batch_size=batch_size, **values, **ratio, **MEASURED)


def top1(method: str, seed: int, student: float) -> Gain:
    return Gain(
        networks=str(PAIR), quantity="top-1", unit="%", method=method, seed=seed, teacher=90.0, student=student, **MEASURED
    )


GAINS = [
    *cost_gains(PAIR),
    latency(1, 12.3456, 4.0),
    latency(64, 98765.4, 12345.6),
    latency(9, 999.9, 9.999),
    top1(NAME, 0, 80.0),
    top1(NAME, 1, 82.0),
]


def test_cells_of_the_table() -> None:
    assert gain_rows(GAINS) == [
        ["parameters", "4,000", "1,000", "4.00"],
        ["FLOPs", "5.00 G", "2.50 M", "2000"],
        ["size", "1.23 MB", "4.32 kB", "286"],
        ["batch 1, ms", "12.3 [12.3, 12.3]", "4.00 [4.00, 4.00]", "3.09 [3.09, 3.09]"],
        ["batch 64, ms", "98765 [98765, 98765]", "12346 [12346, 12346]", "8.00 [8.00, 8.00]"],
        ["batch 9, ms", "1000 [1000, 1000]", "10.0 [10.0, 10.0]", "100 [100, 100]"],
        [f"top-1 %, {NAME}", "90.00", "81.00 ± 1.41", "-9.00 points"],
    ]


def test_printed_lines_have_up_to_80_columns() -> None:
    lines = show(GAINS).splitlines()
    assert max(map(len, lines)) <= 80
    assert "98765 [98765, 98765]" in "".join(lines)


def test_rows_survive_the_file(tmp_path: Path) -> None:
    (tmp_path / "gains.csv").write_text(gains_text(GAINS), encoding="utf-8")
    assert read_gains(tmp_path / "gains.csv") == GAINS


@pytest.mark.parametrize("text", ["method,top1\nKD,80\n", "\0", 'a"b,"c', gains_text(GAINS).replace("12345.6", "many")])
def test_another_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "gains.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CorruptFileError, match="damaged or of another version"):
        read_gains(tmp_path / "gains.csv")


def test_a_student_alone_stands_beside_the_teacher_of_the_same_student() -> None:
    alone = dataclasses.replace(PAIR, teacher="", teacher_cost=None)
    other = dataclasses.replace(alone, student="other")
    assert share_teachers([alone, PAIR, other]) == [PAIR, PAIR, other]
    assert [row[1:4:2] for row in gain_rows(cost_gains(alone))] == [["–", "–"]] * 3


def test_the_picture_says_the_ratios_and_the_lost_points() -> None:
    with style():
        figure = draw_gains(GAINS)
        assert figure is not None
        texts = {element.text for element in xml.etree.ElementTree.fromstring(svg_text(figure)).iter()}
    assert {
        "4.00×",
        "2000×",
        "286×",
        "3.09×",
        "8.00×",
        "-9.0",
        "latency, batch 64",
        "large → small, glyphs (32×32, 100 classes)",
    } <= texts
    assert draw_gains(cost_gains(dataclasses.replace(PAIR, teacher="", teacher_cost=None))) is None


def test_a_student_alone_is_legible_and_no_teacher_is_named() -> None:
    alone = [dataclasses.replace(top1("student alone", 0, 80.0), teacher=None, networks="torchvision/" + str(PAIR))]
    with style():
        figure = draw_gains(alone)
        assert figure is not None
        figure.draw_without_rendering()
    (axes,), (legend,) = figure.axes, figure.legends
    panel, below = axes.get_tightbbox(), legend.get_window_extent()
    assert panel is not None
    assert panel.y0 >= below.y1  # its tick labels and the name of its axis are above the legend
    assert below.y0 >= 0
    assert axes.get_window_extent().height > 0.2 * figure.dpi
    assert axes.get_xlabel() == "top-1 / %"
    text = " ".join(about([*alone, dataclasses.replace(latency(1, 2.0, 1.0), teacher=None)])).partition("–:")[0]
    assert "top-1: of student (a CPU, 2 cores) on 20 test images, measured in float32." in text
    assert "teacher" not in text
