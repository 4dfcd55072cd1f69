"""Tables of quantities of runs."""

from __future__ import annotations

from mdistiller_ext.analyze.runs import RunGroup
from mdistiller_ext.analyze.seeds import Quantity, mean_std, paired, paired_tables


def test_mean_std_and_paired_differences() -> None:
    assert mean_std([1, 2, 3]) == "2.00 ± 1.00"
    assert mean_std([1.5], 1) == "1.5"
    assert paired({0: 1.0, 1: 3.0, 5: 9.0}, {1: 1.0, 0: 2.0, 2: 7.0}, 1) == "+0.5 (-1.0, +2.0)"
    assert paired({0: 1.0}, {1: 1.0}) == mean_std([]) == "–"


def test_differences_are_from_the_student_alone_and_from_kd() -> None:
    groups = [RunGroup(name, place, []) for place, name in enumerate(["student alone", "KD", "DKD"])]
    quantity = Quantity("loss", {"student alone": {0: 3.0}, "KD": {0: 2.0}, "DKD": {0: 1.5}}, 1)
    alone, kd = paired_tables("losses", groups, [quantity])
    assert alone.rows == [["KD", "-1.0 (-1.0)"], ["DKD", "-1.5 (-1.5)"]]
    assert kd.rows == [["student alone", "+1.0 (+1.0)"], ["DKD", "-0.5 (-0.5)"]]
