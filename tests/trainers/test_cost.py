"""Images per second and peak memory of a run."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest
import torch

from mdistiller_ext import checkpoint
from mdistiller_ext.trainers.cost import Cost, peak_memory
from tests.support.programs import run_program
from tests.support.runs import stop_after

CPU = torch.device("cpu")


def test_speed_is_the_median_over_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.accumulate([0, 10, 0, 1, 0, 2])  # seconds: passes of 10, 1 and 2
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    cost = Cost(CPU)
    for _ in range(3):
        with cost.measure("train", 100):
            pass
    assert cost.summary()["images_per_second"] == 50.0
    assert "test_images_per_second" not in cost.summary()


def test_a_pass_that_fails_or_has_no_images_is_not_counted() -> None:
    cost = Cost(CPU)
    with pytest.raises(KeyError), cost.measure("train", 100):
        raise KeyError
    assert cost.summary() == {}
    with cost.measure("test", 0):
        pass
    assert set(cost.summary()) == {"peak_memory_mib"}


def test_peak_memory_on_a_cpu_holds_what_was_allocated() -> None:
    before = peak_memory(CPU)
    assert before is not None
    block = torch.ones(int(before + 64) * 2**18)  # of 4 bytes
    after = peak_memory(CPU)
    assert after is not None
    assert after >= len(block) * 4 / 2**20


def test_a_resumed_run_counts_the_passes_and_the_memory_of_its_earlier_processes(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, steps=4)
        assert run_program("train.py", *tiny).status == 130
    latest = tmp_path / "p" / "run" / "latest"
    state = checkpoint.load(latest)
    assert len(state["cost"]["speeds"]["train"]) == 2
    checkpoint.save(latest, state | {"cost": state["cost"] | {"peak": 1e6}})
    assert run_program("train.py", "--resume", *tiny).status == 0
    assert len(checkpoint.load(latest)["cost"]["speeds"]["train"]) == 3
    summary = json.loads((tmp_path / "p" / "run" / "summary.json").read_text())
    assert summary["peak_memory_mib"] == 1e6
    assert min(summary["images_per_second"], summary["test_images_per_second"]) > 0


def test_a_run_of_an_earlier_version_can_be_resumed(tiny: list[str], tmp_path: Path) -> None:
    assert run_program("train.py", *tiny).status == 0
    latest = tmp_path / "p" / "run" / "latest"
    state = checkpoint.load(latest)
    del state["cost"]
    checkpoint.save(latest, state)
    assert run_program("train.py", "--resume", *tiny).status == 0
    assert "images_per_second" not in json.loads((tmp_path / "p" / "run" / "summary.json").read_text())
