"""The estimate of a step's memory against known values and a measured peak, and the memory that is available."""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.common import our_loader, random_split
from benchmarks.deepkd_step import networks, our_trainer
from benchmarks.growth import tensor_peak
from benchmarks.method_cost import step_of
from mdistiller_ext import memory
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.distillers import create_distiller

CPU = torch.device("cpu")


class Small(nn.Module):
    """A convolution, a ReLU and a linear layer, whose saved tensors can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.linear = nn.Linear(5 * 8 * 8, 10, bias=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        activation = self.conv(images).relu()
        self.last = weakref.ref(activation)
        return self.linear(activation.flatten(1)), {}


def test_the_floor_is_that_of_a_count_by_hand() -> None:
    distiller = create_distiller("NONE", Small(), None)
    weights, images, relu, logits = 3 * 5 * 9 + 5 * 64 * 10, 3 * 8 * 8, 5 * 8 * 8, 10
    needed = {
        (batch, streams): memory.step_floor(distiller, (3, 8, 8), batch, streams) for batch in (64, 128) for streams in (1, 2)
    }
    assert needed[64, 2] - needed[64, 1] == pytest.approx(4 * weights, abs=2)
    # Of each image: pixels, result of the ReLU, logarithms of the softmax, and the label.
    assert needed[128, 1] - needed[64, 1] == pytest.approx(64 * (4 * (images + relu + logits) + 8), abs=2)


def test_a_method_whose_steps_change_values_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    student = Small()
    distiller = create_distiller("NONE", student, None)
    monkeypatch.setattr(memory, "available_bytes", lambda _: 1)
    assert memory.shortage(distiller, (3, 8, 8), 64, 1)
    del student.last
    monkeypatch.setattr(type(distiller), "can_be_captured", False)
    assert memory.shortage(distiller, (3, 8, 8), 64, 1) == []
    assert not hasattr(student, "last")


@pytest.mark.parametrize(
    ("method", "settings"), [("kd", {}), ("deepkd", {"SOLVER.AMP": "bf16"}), ("reviewkd", {}), ("crld", {})]
)
def test_the_peak_is_near_the_floor(method: str, settings: dict[str, Any]) -> None:
    loader = our_loader(random_split(32), training=False, batch_size=32)
    trainer = our_trainer(networks("resnet8", "resnet20", loader), loader, loader, settings, method=method)
    before = copy.deepcopy(trainer.distiller.state_dict())
    sizes = (3, 32, 32), 32, len(trainer.active_streams)
    floor = memory.step_floor(trainer.distiller, *sizes)
    assert floor <= memory.step_floor(trainer.distiller, *sizes, enough=math.inf)
    after = trainer.distiller.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    step = step_of(trainer, loader)
    step()
    assert 1 < tensor_peak(trainer, step) / floor < 1.7


def test_random_numbers_are_not_used_up() -> None:
    distiller = create_distiller("NONE", Small(), None)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    memory.step_floor(distiller, (3, 8, 8), 8, 1)
    assert torch.equal(torch.rand(3), expected)


def test_the_trial_leaves_nothing_in_memory() -> None:
    student = Small()
    memory.step_floor(create_distiller("NONE", student, None), (3, 8, 8), 8, 1)
    gc.collect()
    assert student.last() is None


def test_too_little_memory_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    distiller = create_distiller("NONE", Small(), None)
    monkeypatch.setattr(memory, "available_bytes", lambda _: 2 * 10**9)
    assert memory.shortage(distiller, (3, 8, 8), 1000, 1) == []
    (note,) = memory.shortage(distiller, (3, 8, 8), 1_000_000, 1)
    assert note.startswith("a step on 1000000 images needs about 3.1 GB of memory, and 2.0 GB are available on this cpu: ")
    monkeypatch.setattr(memory, "available_bytes", lambda _: math.inf)
    assert memory.shortage(distiller, (3, 8, 8), 1_000_000, 1) == []


def test_a_run_says_so_before_its_first_step(
    glyphs_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda _: 10**7)
    data = ["DATASET.TYPE", "glyphs", "DATASET.ROOT", str(glyphs_root), "DATASET.LIMIT", 100]
    with contextlib.closing(build_trainer(load_config(None, [*data, "DISTILLER.STUDENT", "resnet8"]), tmp_path / "run")):
        assert "a step on 64 images needs about 0.1 GB of memory, and 0.0 GB are available" in capsys.readouterr().out


def test_memory_that_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    there = memory.available_bytes(CPU)
    if there == math.inf:
        pytest.skip("this system does not tell")
    assert 10**8 < there < 10**14
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory.available_bytes(CPU) < there / 3


@pytest.mark.parametrize(
    ("limit", "usage", "cache"),
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_limits_of_a_control_group(tmp_path: Path, limit: str, usage: str, cache: str) -> None:
    assert memory._available_to(tmp_path) is None
    (tmp_path / limit).write_text("8000\n")
    (tmp_path / usage).write_text("5000\n")
    (tmp_path / "memory.stat").write_text(f"anon 1000\n{cache} 3000\n")
    assert memory._available_to(tmp_path) == 6000
    (tmp_path / limit).write_text("max\n")
    assert memory._available_to(tmp_path) is None
