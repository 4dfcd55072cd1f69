"""Phase ends from accuracy curves whose break points are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mdistiller_ext.errors import ConfigError
from mdistiller_ext.study import __main__ as program
from mdistiller_ext.study.phases import find_phases
from tests.support.programs import Finished, run_main
from tests.support.studies import write_run

EPOCHS = np.arange(1, 241)
KINKED = np.interp(EPOCHS, [1, 60, 180, 240], [0.0, 67.0, 90.0, 100.0])
STEPS = np.select(
    [EPOCHS < 40, EPOCHS < 150, EPOCHS < 180], [EPOCHS / 2.0, 50.0, 72.0], 74.0
)  # learning rate decays at 150, 180


def phases(*arguments: Any) -> Finished:
    """``python -m mdistiller_ext.study phases`` in this process."""
    return run_main(program.main, "study", "phases", *arguments)


def test_the_ends_are_where_the_two_parts_of_the_gain_are_reached() -> None:
    found = find_phases([KINKED.tolist()])
    assert found.smooth == KINKED.tolist()  # a rising curve is not smoothed
    assert found.ends == (60, 180)
    assert [found.phase(epoch) for epoch in (1, 60, 61, 180, 181)] == ["easy", "easy", "transition", "transition", "hard"]
    assert find_phases([STEPS.tolist()]).ends == (40, 150)
    assert find_phases([STEPS.tolist()], (0.5, 1.0)).ends == (40, 180)
    assert find_phases([[1.0, 2.0]]).ends == (2, 2)


def test_ends_depend_neither_on_scale_nor_on_spikes_and_are_those_of_the_mean() -> None:
    assert find_phases([(10 + 0.5 * KINKED).tolist()]).ends == (60, 180)
    spiked = KINKED.copy()
    spiked[[20, 21, 100]] = [99.0, 98.0, 5.0]
    assert find_phases([spiked.tolist()]).ends == (60, 180)
    swing = 10 * np.sin(EPOCHS)
    assert find_phases([(KINKED + swing).tolist(), (KINKED - swing).tolist()]).ends == (60, 180)


@pytest.mark.parametrize(
    ("curves", "gains", "message"),
    [
        ([[3.0, 2.0]], (0.5, 0.9), "the last is not above that of the first"),
        ([[3.0]], (0.5, 0.9), "no phases in 1 epochs"),
        ([[]], (0.5, 0.9), "no phases in 0 epochs"),
        ([[1.0, 2.0], [1.0]], (0.5, 0.9), "not of 1, 2 epochs"),
        ([[1.0, 2.0]], (0.9, 0.5), "in rising order, not 0.9, 0.5"),
        ([[1.0, 2.0]], (0.0, 0.5), r"in \(0, 1\]"),
    ],
)
def test_curves_without_phases_are_refused(curves: list[list[float]], gains: tuple[float, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_phases(curves, gains)


def test_the_command_prints_the_line_and_writes_table_and_picture(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "runs", "DEEPKD", seed, (KINKED - seed).tolist(), "SOLVER.EPOCHS", 240)
    finished = phases(tmp_path / "runs", "--out", tmp_path / "out")
    assert (finished.status, finished.err) == (0, "")
    assert yaml.safe_load(finished.out.split("\n\n")[1]) == {"DEEPKD": {"PHASE_ENDS": [60, 180]}}
    assert "mean test accuracy of 2 runs of 240 epochs: -0.50 % to 99.50 %" in finished.out
    lines = (tmp_path / "out" / "phases.csv").read_text().splitlines()
    assert lines[0] == "epoch,test_top1,smoothed_top1,phase"
    assert (lines[60], lines[61].split(",")[-1], lines[240]) == ("60,66.5,66.5,easy", "transition", "240,99.5,99.5,hard")
    assert (tmp_path / "out" / "phases.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "out" / "phases.svg").read_text()
    assert all(f">{text}<" in svg for text in ("end of easy phase: 60", "end of transition: 180", "epoch", "test top-1 / %"))


def test_bad_input_ends_in_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "KD", 0)
    unfinished = write_run(tmp_path / "b", "KD", 1, finished=False)
    write_run(tmp_path / "c", "DKD", 0)
    (tmp_path / "d").mkdir()
    for words, message in (
        (["a", "b"], f"not finished, or without metrics.csv: {unfinished}"),
        (["a", "c"], "name runs that differ in their seed alone, not of KD, DKD"),
        (["d"], "no run in"),
        (["e"], "no such folder"),
    ):
        finished = phases(*(tmp_path / word for word in words))
        assert finished.status == 2
        (line,) = finished.err.splitlines()
        assert message in line
    assert not list(tmp_path.rglob("phases.*"))
