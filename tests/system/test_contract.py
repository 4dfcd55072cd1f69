"""A method of one's own that uses the whole contract: views, index, layers built from features, buffers, learning rates."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistiller_ext import checkpoint
from tests.support.programs import run_program, spawn_program
from tests.support.runs import assert_same_run, run_never_stopped, stop_after

pytestmark = pytest.mark.usefixtures("forget_plugins")

PLUGIN = """
import torch
import torch.nn.functional as F
from torch import nn
from mdistiller_ext.distillers import Distiller, register_distiller


@register_distiller("EVERYTHING")
class Everything(Distiller):
    needs_index = True
    views = ("weak", "strong")
    lr_scale = {"join": 0.5}

    def setup(self, student, teacher):
        channels = [outputs[0].features["feats"][-1].shape[1] for outputs in (student, teacher)]
        self.join = nn.Sequential(nn.Conv2d(*channels, 1), nn.BatchNorm2d(channels[1]))
        self.shift = nn.Parameter(torch.zeros(()))
        self.register_buffer("memory", torch.zeros(len(self.train_labels), 100))

    def losses(self, student, teacher, batch, progress):
        assert (self.train_labels.to(batch.labels.device)[batch.index] == batch.labels).all() or not self.training
        weak, strong = student
        logits = self.whole_batch(weak.logits)
        index = self.whole_batch(batch.index)
        remembered = self.memory[index].clone()
        if self.training:
            self.memory[index] = logits.detach()
        maps = self.join(strong.features["feats"][-1]) - teacher[1].features["feats"][-1]
        return {
            "task/ce": F.cross_entropy(weak.logits, batch.labels) + F.cross_entropy(strong.logits, batch.labels),
            "kd/memory": 0.1 * (logits + self.shift - remembered).square().mean(),
            "kd/maps": maps.square().mean(),
        }
"""


@pytest.fixture
def arguments(tiny: list[str], tmp_path: Path) -> list[str]:
    plugin = tmp_path / "everything.py"
    plugin.write_text(PLUGIN)
    return [
        *tiny,
        "--plugin",
        str(plugin),
        "DISTILLER.TYPE",
        "EVERYTHING",
        "SOLVER.EPOCHS",
        "4",
        "SOLVER.LR_SCHEDULER",
        "cosine",
    ]


def test_a_run_stopped_and_resumed_is_the_run_never_stopped(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*arguments, "SOLVER.TRAINER", "dot"]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    own = checkpoint.load(never_stopped / "latest")["distiller"]
    assert (own["memory"].abs().sum(dim=1) > 0).all()  # every image was seen, at its own place
    assert own["shift"] != 0
    with monkeypatch.context() as patch:
        stop_after(patch, steps=5)
        assert run_program("train.py", *arguments).status == 130
    resumed = run_program("train.py", "--resume", *arguments)
    assert (resumed.status, resumed.err) == (0, "")
    assert_same_run(folder, never_stopped)


def test_it_trains_in_two_processes(arguments: list[str], tmp_path: Path) -> None:
    finished = spawn_program("train.py", *arguments, "SOLVER.BATCH_SIZE", 17, "SOLVER.EPOCHS", 1, processes=2)
    assert (finished.status, finished.err) == (0, "")
    own = checkpoint.load(tmp_path / "p" / "run" / "latest")["distiller"]
    assert (own["memory"].abs().sum(dim=1) > 0).all()  # also the images of the other process


def test_between_networks_of_different_families(arguments: list[str], tmp_path: Path, teacher_file: Path) -> None:
    """Features by module path, of a student of torchvision that returns none itself."""
    student = ["DISTILLER.STUDENT", "torchvision/mobilenet_v3_small", "DISTILLER.STUDENT_FEATURES", "[features.0,features.1]"]
    teacher = ["DISTILLER.TEACHER_FEATURES", "[layer1.0.conv1,layer3.0]"]
    finished = run_program("train.py", *arguments, *student, *teacher, "SOLVER.EPOCHS", 1)
    assert (finished.status, finished.err) == (0, "")
    assert checkpoint.load(tmp_path / "p" / "run" / "latest")["distiller"]["join.0.weight"].shape == (64, 16, 1, 1)
