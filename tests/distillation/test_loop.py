"""A training loop of one's own trains the weights of ``train.py``, and goes on bit for bit."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mdistiller_ext import Distillation
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.config.schema import names_of_arguments
from mdistiller_ext.errors import ConfigError, DivergedError, Note
from mdistiller_ext.models import create_model
from mdistiller_ext.registry import DISTILLERS
from mdistiller_ext.rng import seed_generators
from mdistiller_ext.trainers.streams import fitting_trainers
from mdistiller_ext.weights import load_weights
from tests.support.distillers import COMPONENTS
from tests.support.own_loop import RKD, batches, networks, weights_after
from tests.support.programs import ROOT, spawn_program
from tests.support.runs import assert_identical

SMALL: dict[str, dict[str, Any]] = {
    "CRD": {"k": 20, "dim": 8},
    "RKD": RKD,
    "PRKD": {"correlation": "inter+intra"},
    "DEEPKD": {"phase_ends": [1, 2]},
}
SCHEDULES: list[dict[str, Any]] = [
    {"lr_decay_stages": [1], "amp": "bf16"},
    {"lr_scheduler": "cosine", "warmup_epochs": 1},
    {"lr_scheduler": "onecycle", "no_decay": ["norm"], "nesterov": True},
]


@pytest.mark.parametrize("method", list(COMPONENTS))
def test_a_loop_of_ones_own_trains_the_bits_of_train_py(method: str, tiny: list[str], teacher_file: Path) -> None:
    """Each method with its trainers in turn, and each schedule with a third of them."""
    number = list(COMPONENTS).index(method)
    trainers = fitting_trainers({name.split("/")[0] for name in COMPONENTS[method]})
    trainer, settings = trainers[number % len(trainers)], SMALL.get(method, {}) | SCHEDULES[number % len(SCHEDULES)]
    names = names_of_arguments(method, trainer)
    overrides = [part for name, value in settings.items() for part in (names[name][0], value)]
    overrides += ["SOLVER.EPOCHS", 2, "DISTILLER.TYPE", method, "SOLVER.TRAINER", trainer]
    reference = build_trainer(load_config(None, [*tiny, *overrides]))
    loader, given = reference.train_loader, []
    for epoch in (1, 2):
        loader.set_epoch(epoch)
        given += list(loader)
    reference.train()

    seed_generators(0)
    student = create_model("resnet8", dataset="glyphs")
    teacher = create_model("resnet8", dataset="glyphs") if DISTILLERS.get(method).needs_teacher else None
    if teacher is not None:
        load_weights(teacher, teacher_file)
    own = Distillation(
        *(method, student, teacher),
        trainer=trainer,
        steps_per_epoch=len(loader),
        image_shape=loader.image_shape,
        train_labels=loader.labels if DISTILLERS.get(method).needs_index else None,
        **{names[name][0]: value for name, value in settings.items()} | {"epochs": 2},
    )
    for inputs in given:
        losses = own.step(*inputs)
    found, expected = own.state_dict(), reference.state.state_dict()
    assert list(losses) == COMPONENTS[method]
    for part in ("distiller", "optimizer", "scheduler", "epoch", "rng"):
        assert_identical(found[part], expected[part])
    trained = reference.distiller.student.state_dict()
    assert_identical(dict(student.state_dict()), {name: trained[name] for name in student.state_dict()})


@pytest.mark.parametrize("settings", [{"lr_scheduler": "onecycle"}, {"lr_scheduler": "cosine"}])
def test_a_saved_state_goes_on_bit_for_bit(settings: dict[str, Any]) -> None:
    """In the middle of an epoch, before the first step of the new object, with a network that draws numbers."""

    def begin() -> Distillation:
        student, teacher = networks()
        student.fc = nn.Sequential(nn.Dropout(0.5), student.fc)
        return Distillation("DKD", student, teacher, trainer="dot", steps_per_epoch=3, epochs=4, **settings)

    given = batches(9)
    whole = begin()
    torch.manual_seed(0)
    expected = weights_after(whole, given)
    first = begin()
    torch.manual_seed(0)
    weights_after(first, given[:5])
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    second = begin()
    torch.rand(7)
    saved.seek(0)
    second.load_state_dict(torch.load(saved, weights_only=True))
    rest = weights_after(second, given[5:])
    assert_identical(rest, expected)
    assert second.epoch == whole.epoch == 4
    assert second.scheduler.get_last_lr() == whole.scheduler.get_last_lr()


def test_groups_of_parameters_have_their_own_rate_and_decay() -> None:
    student, teacher = networks()
    groups = [{"params": student.fc.parameters(), "lr": 0.0, "weight_decay": 0.0}, {"params": student.extra.weight, "lr": 0.5}]
    before = {name: value.clone() for name, value in student.state_dict().items()}
    own = Distillation("KD", student, teacher, steps_per_epoch=2, lr=0.1, param_groups=groups, lr_decay_stages=[1])
    after = weights_after(own, batches(2))
    assert torch.equal(before["fc.weight"], after["fc.weight"])
    assert not torch.equal(before["extra.weight"], after["extra.weight"])
    assert [group["lr"] for group in own.optimizer.param_groups] == pytest.approx([0.01, 0.0, 0.05])


def test_a_schedule_of_the_loop_is_not_disturbed(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("SOLVER: {LR: 0.1, LR_SCHEDULER: onecycle, WARMUP_EPOCHS: 2}")
    own = Distillation("KD", *networks(), cfg=recipe, steps_per_epoch=1, lr_scheduler=None, image_shape=(3, 8, 8))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(own.optimizer, T_max=4)
    rates = []
    for images, labels in batches(4):
        rates += [group["lr"] for group in own.optimizer.param_groups]
        own.step(images, labels)
        schedule.step()
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)])
    with pytest.raises(ConfigError, match="the schedule is the loop's own"):
        own.scheduler  # noqa: B018


def test_the_teacher_stays_in_eval_mode_when_a_module_that_holds_both_is_trained() -> None:
    student, teacher = networks()
    own = Distillation("KD", student, teacher, steps_per_epoch=0, fold_teacher=False)
    both = nn.ModuleList([student, teacher])
    statistics = teacher.body[1].running_mean.clone()
    for images, labels in batches(2):
        both.train()
        own.step(images, labels)
    assert torch.equal(teacher.body[1].running_mean, statistics)
    assert student.training


def test_epochs_end_by_their_number_of_steps_or_by_a_call() -> None:
    by_number = Distillation("DKD", *networks(), steps_per_epoch=2, warmup=3, lr_decay_stages=[1])
    by_call = Distillation("DKD", *networks(), steps_per_epoch=0, warmup=3, lr_decay_stages=[1])
    for count, (images, labels) in enumerate(batches(4), start=1):
        by_number.step(images, labels)
        by_call.step(images, labels)
        if count % 2 == 0:
            by_call.end_epoch()
    assert by_number.epoch == by_call.epoch == 3
    assert_identical(dict(by_number.student.state_dict()), dict(by_call.student.state_dict()))
    unknown = Distillation("DKD", *networks())
    with pytest.warns(Note, match="stay as in epoch 1 until"):
        unknown.step(*batches(1)[0])


def test_frozen_batch_norms_stay_frozen() -> None:
    student, teacher = networks()
    student.body[1].eval()
    mean = student.body[1].running_mean.clone()
    own = Distillation("KD", student, teacher, steps_per_epoch=0)
    own.step(*batches(1)[0])
    assert torch.equal(student.body[1].running_mean, mean)
    student.eval()
    own.step(*batches(1)[0])
    assert not torch.equal(student.body[1].running_mean, mean)


def test_a_loss_that_is_not_finite_is_an_error_that_says_so() -> None:
    own = Distillation("KD", *networks(), steps_per_epoch=0)
    images, labels = batches(1)[0]
    with pytest.raises(DivergedError, match=r"not finite in epoch 1 \(task/ce = nan"):
        own.step(images * float("nan"), labels)


def test_accelerate_prepares_the_loader() -> None:
    accelerate = pytest.importorskip("accelerate")
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*map(torch.cat, zip(*batches(4), strict=True))), batch_size=8
    )
    accelerator = accelerate.Accelerator(cpu=True)
    student, teacher = networks()
    own = Distillation("DKD", student.to(accelerator.device), teacher, trainer="deepkd", steps_per_epoch=len(loader))
    found = weights_after(own, list(accelerator.prepare(loader)))
    plain = Distillation("DKD", *networks(), trainer="deepkd", steps_per_epoch=4)
    assert_identical(found, weights_after(plain, list(loader)))


def test_two_processes_train_the_weights_of_one(tmp_path: Path) -> None:
    """Under torchrun, by a script of one's own with accelerate: unequal parts of a batch, losses that relate samples."""
    script = tmp_path / "loop.py"
    script.write_text(LOOP)
    student, teacher = networks()
    student.body[1].eval()
    expected = weights_after(Distillation("RKD", student, teacher, steps_per_epoch=4, **RKD), batches(8, size=7))
    done = spawn_program(script, tmp_path / "weights", processes=2, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.status == 0, done.err
    for found in (torch.load(tmp_path / f"weights{rank}") for rank in range(2)):
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


LOOP = """
import sys, torch
from accelerate import Accelerator
from mdistiller_ext import Distillation
from tests.support.own_loop import RKD, batches, networks

accelerator = Accelerator(cpu=True)
rank, ranks = accelerator.process_index, accelerator.num_processes
assert ranks == 2
student, teacher = networks()
student.body[1].eval()  # batch norm computes its statistics over the images of a process
distillation = Distillation("RKD", student, teacher, steps_per_epoch=4, **RKD)
for images, labels in batches(8, size=7):
    distillation.step(images[rank::ranks], labels[rank::ranks])
torch.save(student.state_dict(), sys.argv[1] + str(rank))
accelerator.end_training()
"""
