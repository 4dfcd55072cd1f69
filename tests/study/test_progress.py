"""The display of a study: what it says of the study and of each running run."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from mdistiller_ext.study.plan import plan_study
from mdistiller_ext.study.progress import LiveProgress, Pace, Progress, clock_time
from mdistiller_ext.study.record import Record
from tests.support.study import CFG


@pytest.fixture
def record(tmp_path: Path) -> Record:
    settings = ["EXPERIMENT.NAME=a,b,c,d", "SOLVER.EPOCHS=4"]
    return Record(plan_study(None, [CFG], settings=settings, out=str(tmp_path / "s")), "")


def advance(record: Record, name: str, epochs: int) -> None:
    folder = record.study.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{epoch},{epoch + 0.5}\n" for epoch in range(1, epochs + 1))
    (folder / "metrics.csv").write_text(f"epoch,test_top1\n{rows}")


def test_the_pace_of_runs_and_of_the_study(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    advance(record, "a", 2)  # in an earlier call
    pace = Pace(record)
    assert (pace.done, pace.left, pace.seconds_left()) == (2, 14, None)
    for at, epochs in ((1010.0, 3), (1014.0, 4)):
        now = at
        advance(record, "a", epochs)
        advance(record, "b", epochs - 2)
        pace.measure()
    assert (pace.runs["a"].epoch, pace.runs["a"].top1, pace.runs["a"].seconds_per_epoch) == (4, 4.5, 4.0)
    assert (pace.done, pace.left) == (6, 10)
    assert pace.seconds_left() == 10 * 14 / 4  # four epochs in 14 seconds
    record.entries["d"].state = "failed"
    pace.measure()
    assert pace.left == 6


def test_the_live_display(record: Record) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, height=20, color_system=None, highlight=False)
    record.entries["a"].state = record.entries["b"].state = "running"
    with LiveProgress(record, screen) as progress:
        advance(record, "a", 2)
        record.entries["c"].state, record.entries["c"].error = "failed", "no [such] teacher"
        progress.refresh()
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    assert "failed    c (no [such] teacher)" in shown
    assert "s: 0/4 runs finished, 2 running, 1 failed, epoch 2/12, expected end " in shown
    lines = [line for line in shown.splitlines() if "epoch " in line]
    assert any(line.startswith("a ") and "epoch 2/4" in line and "2.50 %" in line for line in lines)
    assert any(line.startswith("b ") and "epoch 0/4" in line and "%" not in line for line in lines)
    assert not any(line.startswith(("c ", "d ")) for line in lines)


def test_without_a_terminal_each_start_and_end_is_a_line(record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(record) as progress:
        for state in ("waiting", "running", "running", "finished"):
            record.entries["a"].state = state
            advance(record, "a", 2)
            progress.refresh()
    assert capsys.readouterr().out == "running   a\nfinished  a: last 2.50 %, best 2.50 %\n"


def test_an_end_on_another_day_has_a_date() -> None:
    assert len(clock_time(3 * 86400)) > len("12:34")
