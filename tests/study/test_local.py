"""Slots of a study on this machine: how many, with how many threads, on which GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mdistiller_ext.errors import ConfigError
from mdistiller_ext.study import local
from mdistiller_ext.study.local import LocalExecutor
from mdistiller_ext.study.plan import Study, plan_study
from mdistiller_ext.study.record import Record
from tests.support.study import CFG, run_study, starts


def executor(study: Study, jobs: int | None = None) -> LocalExecutor:
    return LocalExecutor(Record(study, ""), study.runs, jobs)


@pytest.mark.parametrize(
    ("cores", "gpus", "runs", "jobs", "expected"),
    [
        (4, 0, 8, None, (4, 1)),
        (64, 0, 100, None, (8, 8)),
        (64, 0, 3, None, (3, 21)),
        (2, 0, 8, 4, (4, 1)),
        (64, 4, 100, None, (4, 16)),
        (64, 4, 3, None, (3, 21)),
        (64, 4, 100, 8, (8, 8)),
    ],
)
def test_cores_are_divided_among_the_slots(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    gpus: int,
    runs: int,
    jobs: int | None,
    expected: tuple[int, int],
) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    study = plan_study(None, [CFG], seeds=range(runs), out=str(tmp_path / "s"))
    found = executor(study, jobs)
    assert (found.jobs, found.threads) == expected


@pytest.mark.parametrize(("visible", "expected"), [(None, {"0", "1"}), ("5,7", {"5", "7"})])
def test_each_run_has_a_gpu_and_its_share_of_the_threads(
    quick_train: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: set[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(local, "usable_cores", lambda: 6)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    words = ["--cfg", CFG, "--out", quick_train, "--set", "EXPERIMENT.NAME=a,b,c", "SOLVER.EPOCHS=6"]
    assert run_study(*words).status == 0
    ((_, _, threads, first),), ((_, _, _, second),), _ = (starts(quick_train / name) for name in "abc")
    assert threads == "3"
    assert {first, second} == expected


def test_runs_on_the_cpu_take_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(local, "usable_cores", lambda: 4)
    study = plan_study(None, [CFG], seeds=range(8), settings=["SOLVER.DEVICE=cpu"], out=str(tmp_path / "s"))
    assert executor(study).jobs == 4


def test_no_jobs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--jobs must be at least 1, not 0"):
        executor(plan_study(None, [CFG], out=str(tmp_path / "s")), 0)
