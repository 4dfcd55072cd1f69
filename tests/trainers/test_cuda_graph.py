"""Captured steps train as plain ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mdistiller_ext.trainers import BaseTrainer
from mdistiller_ext.trainers import cuda_graph as graphs
from tests.support.trainers import trainer_for


class Recorded:
    """A stand-in for a CUDA graph: what runs under it is kept as a function and run again by ``replay``."""

    def __init__(self) -> None:
        self.replays = 0
        self.function: Callable[[], None] | None = None

    def replay(self) -> None:
        assert self.function is not None
        self.replays += 1
        self.function()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(step: graphs.GraphedStep, device: torch.device) -> None:
        for _ in range(3):
            step.compute(step.batch)
        step.graph = Recorded()  # type: ignore[assignment]
        step.graph.function = lambda: step.compute(step.batch)  # type: ignore[attr-defined]

    monkeypatch.setattr(graphs.GraphedStep, "_capture", capture)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)


def capture_steps(trainer: BaseTrainer) -> graphs.CapturedStep:
    """Let a trainer on the CPU capture its steps."""
    trainer.captures = True
    trainer.record_to(trainer.recorder)
    assert isinstance(trainer.fast_step, graphs.CapturedStep)
    return trainer.fast_step


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("schedule", ["step", "onecycle"])
def test_the_captured_step_trains_as_the_plain_one(tiny: list[str], schedule: str) -> None:
    """Trial steps leave no trace, the rate follows the schedule, and a smaller last batch is trained as it is."""
    settings = ["DATASET.LIMIT", 40, "SOLVER.BATCH_SIZE", 16, "SOLVER.LR_SCHEDULER", schedule, "SOLVER.LR_DECAY_STAGES", "[1]"]
    plain, captured = trainer_for(tiny, *settings), trainer_for(tiny, *settings)
    step = capture_steps(captured)
    plain.train()
    captured.train()
    assert step.graph is not None
    assert step.graph.graph.replays == 1 + 5  # one to check; of 3 epochs of 2 whole batches all but the very first
    for row, expected in zip(captured.history, plain.history, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    for a, b in zip(captured.distiller.student.parameters(), plain.distiller.student.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("recorded")
def test_a_replay_that_does_something_else_is_not_used(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorded, "replay", lambda self: None)
    trainer = trainer_for(tiny, "DATASET.LIMIT", 48)
    notes: list[str] = []
    monkeypatch.setattr(trainer.recorder, "note", notes.append)
    step = capture_steps(trainer)
    plain = trainer_for(tiny, "DATASET.LIMIT", 48)
    plain.train()
    trainer.train()
    assert step.graph is None
    assert [note for note in notes if note.startswith("no CUDA graph: its replay ends 1.0e+00 of the step's length")] == notes[
        1:
    ]
    assert trainer.history == plain.history


def test_on_a_cpu_nothing_is_captured(tiny: list[str]) -> None:
    trainer = trainer_for(tiny)
    assert trainer.fast_step is trainer.plain_step
