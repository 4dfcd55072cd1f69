"""A loss that is not finite stops the run, or its batch changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mdistiller_ext import checkpoint
from mdistiller_ext.registry import DISTILLERS
from mdistiller_ext.trainers import BaseTrainer
from mdistiller_ext.trainers.epoch import EpochLoop
from tests.support.faults import KD_RUN
from tests.support.programs import run_program
from tests.support.runs import assert_identical, assert_one_line_error, assert_same_run, names, run_never_stopped, stop_after


class InfiniteGradient(torch.autograd.Function):
    """A finite loss with a gradient that is not."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.inf


SPOILS: dict[str, Callable[[Tensor], Tensor]] = {"loss": lambda loss: loss * math.nan, "gradient": InfiniteGradient.apply}


def spoil(monkeypatch: pytest.MonkeyPatch, bad: set[tuple[int, int]], how: str = "loss") -> None:
    """Let KD's task loss be not finite in these (epoch, step), counted from 1, as often as they are tried."""
    method, step, now = DISTILLERS.get("KD"), BaseTrainer.train_step, (0, 0)
    losses = method.losses

    def train_step(self: BaseTrainer, *batch: Tensor) -> Any:
        nonlocal now
        now = (self.state.epoch + 1, self.state.step + 1)
        try:
            return step(self, *batch)
        finally:
            now = (0, 0)

    def spoilt(self: Any, *arguments: Any) -> dict[str, Tensor]:
        parts = losses(self, *arguments)
        return parts | {"task/ce": SPOILS[how](parts["task/ce"])} if now in bad else parts

    monkeypatch.setattr(BaseTrainer, "train_step", train_step)
    monkeypatch.setattr(method, "losses", spoilt)


def jump_over(monkeypatch: pytest.MonkeyPatch, bad: set[tuple[int, int]]) -> None:
    """A trainer that does not even look at these batches."""
    train = EpochLoop._train_batch

    def train_batch(self: EpochLoop, *step_and_batch: Any) -> None:
        if (self.state.epoch + 1, self.state.step + 1) not in bad:
            train(self, *step_and_batch)
            return
        self.state.step += 1
        if self.step_scheduler:
            self.state.scheduler.step()

    monkeypatch.setattr(EpochLoop, "_train_batch", train_batch)


SKIP = ["SOLVER.ON_NAN", "skip"]
KINDS = {
    "base": "DISTILLER.TYPE KD SOLVER.TRAINER base SOLVER.LR_DECAY_STAGES [1,3]",
    "onecycle": "DISTILLER.TYPE KD SOLVER.TRAINER base SOLVER.LR_SCHEDULER onecycle",
    "deepkd": "DISTILLER.TYPE KD SOLVER.TRAINER deepkd SOLVER.LR_SCHEDULER cosine",
}


@pytest.mark.parametrize("how", SPOILS)
@pytest.mark.parametrize("every", [0, 1])
def test_a_loss_that_is_not_finite_stops_the_run_and_the_batch_is_kept(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, every: int
) -> None:
    arguments = [*longer, *KD_RUN, "SOLVER.CHECKPOINT_STEPS", str(every)]
    folder = tmp_path / "p" / "run"
    spoil(monkeypatch, {(2, 3)}, how)
    finished = run_program("train.py", *arguments)
    component = "task/ce = nan" if how == "loss" else "its gradient"
    file = folder / "not_finite_2_3"
    assert_one_line_error(finished, "not finite in epoch 2, step 3", component, str(file), "SOLVER.ON_NAN skip", status=3)
    kept = checkpoint.load(file)
    assert kept.keys() == {"epoch", "step", "components", "images", "labels", "student"}
    assert (kept["epoch"], kept["step"]) == (2, 3)
    assert kept["images"].shape == (8, 3, 32, 32)
    assert kept["labels"].shape == (8,)
    assert file.stat().st_size < 1_000_000  # a batch, and not what it was cut from
    (components,) = kept["components"]
    assert [name for name, value in components.items() if not math.isfinite(value)] == ["task/ce"] * (how == "loss")
    latest = checkpoint.load(folder / "latest")
    assert (latest["epoch"], latest["step"]) == (1, 2)
    assert all(value.isfinite().all() for state in (latest, kept) for value in state["student"].values())
    assert_identical(kept["student"], latest["student"])  # the student that met the batch

    monkeypatch.undo()
    spoil(monkeypatch, {(2, 3)}, how)
    resumed = run_program("train.py", "--cfg", folder / "config.yaml", "--resume", *SKIP)
    assert (resumed.status, resumed.err) == (0, "")
    folder.rename(tmp_path / "resumed")
    assert run_program("train.py", *arguments, *SKIP).status == 0
    assert_same_run(tmp_path / "resumed", folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Detected call of")  # where the first batch is jumped over
def test_a_batch_left_out_changes_nothing(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, soak: bool
) -> None:
    bad = {(1, 1), (2, 3), (2, 4), (4, 4)}
    arguments = [*longer, *KINDS[kind].split(), *SKIP]
    folder = tmp_path / "p" / "run"
    with monkeypatch.context() as patch:
        jump_over(patch, bad)
        assert run_program("train.py", *arguments).status == 0
    expected = folder.rename(tmp_path / "expected")
    ways = [(how, every) for how in SPOILS for every in (0, 1, 3)]
    for how, every in ways if soak else [("loss", 0), ("gradient", 1), ("loss", 3)]:
        with monkeypatch.context() as patch:
            spoil(patch, bad, how)
            finished = run_program("train.py", *arguments, "SOLVER.CHECKPOINT_STEPS", every)
        assert (finished.status, finished.err) == (0, "")
        assert finished.out.count("; the batch is left out\n") == len(bad)
        assert json.loads((folder / "summary.json").read_text())["skipped_batches"] == len(bad)
        kept = {f"not_finite_{where}" for where in ("1_1", "2_3", "2_4")}  # three, no more
        assert names(folder) == names(expected) | kept
        assert (folder / "metrics.csv").read_bytes() == (expected / "metrics.csv").read_bytes()
        skipped, jumped = (checkpoint.load(where / "latest") for where in (folder, expected))
        assert skipped["skipped"] == len(bad)
        left_out = {"skipped": 0, "seconds": 0, "cost": {}, "config": ""}
        assert_identical(skipped | left_out, jumped | left_out)
        folder.rename(tmp_path / f"{how}_{every}")


@pytest.mark.parametrize("every", [0, 1])
def test_a_run_stopped_around_a_batch_left_out_goes_on_exactly(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, soak: bool
) -> None:
    arguments = [*longer, *KD_RUN, *SKIP, "SOLVER.EPOCHS", "2", "SOLVER.CHECKPOINT_STEPS", str(every)]
    spoil(monkeypatch, {(1, 3), (2, 1)})
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    for steps in range(1, 10) if soak else (3, 5, 7):
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            assert run_program("train.py", *arguments).status == 130
        assert run_program("train.py", "--resume", "auto", *arguments).status == 0
        assert_same_run(folder, never_stopped)
        folder.rename(tmp_path / f"after_{steps}")


@pytest.mark.parametrize("every", [0, 1])
def test_ten_batches_in_a_row_stop_the_run(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    spoil(monkeypatch, {(epoch, step) for epoch in (1, 2, 3, 4) for step in (1, 2, 3, 4)} - {(1, 1), (1, 2)})
    finished = run_program("train.py", *longer, *KD_RUN, *SKIP, "SOLVER.CHECKPOINT_STEPS", every)
    assert_one_line_error(finished, "not finite in epoch 3, step 4: task/ce = nan, as in 10 batches in a row", status=3)
    folder = tmp_path / "p" / "run"
    assert {path.name for path in folder.glob("not_finite_*")} == {f"not_finite_{where}" for where in ("1_3", "1_4", "2_1")}


@pytest.mark.parametrize("every", [0, 1])
def test_ten_batches_that_are_not_in_a_row_do_not_stop_the_run(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    spoil(monkeypatch, {(epoch, step) for epoch in range(1, 7) for step in (1, 3)})
    finished = run_program("train.py", *longer, *KD_RUN, *SKIP, "SOLVER.EPOCHS", 6, "SOLVER.CHECKPOINT_STEPS", every)
    assert (finished.status, finished.err) == (0, "")
    assert json.loads((tmp_path / "p" / "run" / "summary.json").read_text())["skipped_batches"] == 12


def test_an_epoch_of_which_every_batch_is_left_out_can_be_recorded(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, {(2, step) for step in (1, 2, 3, 4)})
    arguments = [*longer, *KD_RUN, *SKIP]
    finished = run_program("train.py", *arguments)
    assert (finished.status, finished.err) == (0, "")
    assert run_program("train.py", "--resume", *arguments).status == 0
