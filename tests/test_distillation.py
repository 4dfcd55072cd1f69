"""A training loop of one's own trains the weights of ``train.py``, with any networks, and goes on bit for bit."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdistiller_ext import Distillation
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.config.schema import names_of_arguments
from mdistiller_ext.errors import ConfigError, DivergedError, Note, UnknownNameError, UserError
from mdistiller_ext.models import create_model
from mdistiller_ext.registry import DISTILLERS
from mdistiller_ext.rng import seed_generators
from mdistiller_ext.trainers.streams import fitting_trainers
from mdistiller_ext.weights import load_weights
from tests.support.distillers import COMPONENTS
from tests.support.programs import ROOT, spawn_program
from tests.support.runs import assert_identical

SMALL: dict[str, dict[str, Any]] = {
    "CRD": {"k": 20, "dim": 8},
    "RKD": {"distance_weight": 0.1, "angle_weight": 0.2},
    "PRKD": {"correlation": "inter+intra"},
    "DEEPKD": {"phase_ends": [1, 2]},
}
SCHEDULES: list[dict[str, Any]] = [
    {"lr_decay_stages": [1], "amp": "bf16"},
    {"lr_scheduler": "cosine", "warmup_epochs": 1},
    {"lr_scheduler": "onecycle", "no_decay": ["norm"], "nesterov": True},
]


class Head(nn.Module):
    """A small network of one's own, which returns its logits by ``form``."""

    def __init__(self, form: Callable[[Tensor], Any] = lambda logits: logits, channels: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, channels, 3, stride=2), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.extra = nn.Linear(channels, channels)
        self.fc = nn.Linear(channels, 10)
        self.form = form

    def forward(self, images: Tensor) -> Any:
        return self.form(self.fc(self.extra(self.body(images).mean(dim=(2, 3)))))


@dataclasses.dataclass
class Logits:
    logits: Tensor


def networks(form: Callable[[Tensor], Any] = lambda logits: logits) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    return Head(form), Head(form, channels=9)


def batches(count: int = 4, size: int = 8, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, 8, 8, generator=generator), torch.randint(10, (size,), generator=generator)) for _ in range(count)
    ]


def weights_after(distillation: Distillation, given: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    for images, labels in given:
        distillation.step(images, labels)
    return {name: value.clone() for name, value in distillation.student.state_dict().items()}


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


@pytest.mark.parametrize(
    "form",
    [lambda logits: {"logits": logits, "loss": None}, Logits, lambda logits: (logits, {})],
    ids=["mapping", "dataclass", "logits and features"],
)
def test_logits_may_come_in_any_usual_form(form: Callable[[Tensor], Any]) -> None:
    plain, other = (
        weights_after(Distillation("RKD", *networks(each), steps_per_epoch=2, lr=0.1, **SMALL["RKD"]), batches())
        for each in (lambda logits: logits, form)
    )
    assert_identical(plain, other)


def test_features_are_named_by_path_and_the_networks_stay_as_they_are() -> None:
    student, teacher = networks()
    images, labels = batches(1)[0]
    before = student.eval()(images)
    own = Distillation(
        *("FITNET", student, teacher),
        steps_per_epoch=0,
        hint_layer=1,
        student_features=["body.1", "body.2"],
        teacher_features=["body.1", "body.2"],
    )
    assert own.step(images, labels)["kd/hint"] > 0
    assert isinstance(before, Tensor)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())
    assert student.training
    assert not teacher.training


def test_a_method_that_changes_the_student_predicts_by_its_head() -> None:
    student, teacher = networks()
    student.extra, teacher.extra = nn.Identity(), nn.Identity()  # the map is pooled for the classifier
    own = Distillation(
        "SIMKD", student, teacher, student_features=["body"], teacher_features=["body"], steps_per_epoch=0, factor=3
    )
    images, labels = batches(1)[0]
    own.step(images, labels)
    by_its_classifier = student.eval()(images)
    assert isinstance(by_its_classifier, Tensor)
    assert not torch.allclose(own.predict(images), by_its_classifier)
    assert own.predict(images).shape == (8, 10)


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


def wrong(**arguments: Any) -> Callable[[], Any]:
    student, teacher = networks()
    given: dict[str, Any] = {"method": "KD", "student": student, "teacher": teacher, "steps_per_epoch": 0} | arguments
    return lambda: Distillation(**given).step(*batches(1)[0])


@pytest.mark.parametrize(
    ("mistake", "error", "text"),
    [
        (wrong(method="KDD"), UnknownNameError, "unknown distiller 'KDD'; did you mean 'KD'"),
        (wrong(trainer="depkd"), UnknownNameError, "did you mean 'deepkd'"),
        (
            wrong(temprature=3),
            UnknownNameError,
            "KD with trainer 'base' has no setting 'temprature'; did you mean 'temperature'",
        ),
        (wrong(lr=-1), ConfigError, "SOLVER.LR must be a positive number"),
        (wrong(temperature="warm"), ConfigError, "KD.TEMPERATURE in the command line must be a number"),
        (wrong(trainer="deepkd", rule="official"), ConfigError, "'rule' is a setting of the method and of the trainer"),
        (wrong(teacher=None), ConfigError, "KD needs a teacher"),
        (wrong(student="resnet8"), ConfigError, "the student must be a torch.nn.Module, not str"),
        (wrong(student=nn.DataParallel(nn.Linear(1, 1))), ConfigError, "wrapped in DataParallel"),
        (wrong(student=Head(lambda logits: [logits])), ConfigError, "Head returns list; it must return logits"),
        (wrong(student=Head(lambda logits: logits[:, :9])), ConfigError, "the student has 9 classes and the teacher 10"),
        (wrong(method="AT"), ConfigError, "reads the features 'feats' of the student"),
        (
            wrong(student_features=["bodi"]),
            UnknownNameError,
            "student_features: Head has no module 'bodi'; did you mean 'body'",
        ),
        (wrong(param_groups=[{"params": nn.Linear(1, 1).parameters()}]), ConfigError, r"param_groups\[0\]: params must be"),
        (wrong(param_groups=[{"params": [], "momentum": 0}]), ConfigError, "has the key 'momentum'"),
        (wrong(method="CRD"), ConfigError, r"CRD needs the positions of the images .*: step\(images, labels, index\)"),
        (
            wrong(method="CRD", image_shape=(3, 8, 8)),
            ConfigError,
            "CRD needs the labels of the training set: give train_labels",
        ),
        (wrong(lr_scheduler="onecycle"), ConfigError, "give steps_per_epoch"),
        (lambda: Distillation("KD", *networks()).optimizer, ConfigError, "nothing is built before the first step"),
        (lambda: Distillation("KD", *networks()).load_state_dict({}), ConfigError, "not a state of Distillation"),
    ],
)
def test_mistakes_are_named(mistake: Callable[[], Any], error: type[UserError], text: str) -> None:
    with pytest.raises(error, match=text):
        mistake()


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (torch.zeros(8, 2, 3, 8, 8), torch.zeros(8).long(), r"KD takes images \[N, 3, H, W\], not \[8, 2, 3, 8, 8\]"),
        (torch.zeros(0, 3, 8, 8), torch.zeros(0).long(), r"not \[0, 3, 8, 8\]"),
        (torch.zeros(8, 3), torch.zeros(8).long(), r"KD takes images \[N, 3, H, W\], not \[8, 3\]"),
        ({"pixel_values": 1}, [1], r"step\(images, labels\) takes tensors, not dict and list"),
        (torch.zeros(8, 3, 8, 8), torch.zeros(8, 10), r"labels must be int64 \[8\], one for each image, not float32 \[8, 10\]"),
        (torch.zeros(8, 3, 8, 8), torch.full((8,), 10), r"labels must lie in 0\.\.9, the student's classes, not 10 to 10"),
    ],
)
def test_batches_of_another_form_are_named(images: Tensor, labels: Tensor, text: str) -> None:
    own = Distillation("KD", *networks(), steps_per_epoch=0)
    with pytest.raises(ConfigError, match=text):
        own.step(images, labels)


def test_another_state_is_refused() -> None:
    own = Distillation("KD", *networks(), steps_per_epoch=0, image_shape=(3, 8, 8))
    other = Distillation("KD", *networks(), steps_per_epoch=0, temperature=2.0)
    with pytest.raises(ConfigError, match=r"with other settings: KD.TEMPERATURE: 4.0 -> 2.0"):
        other.load_state_dict(own.state_dict())


def test_two_processes_train_the_weights_of_one(tmp_path: Path) -> None:
    """Under torchrun, by a script of one's own with accelerate: unequal parts of a batch, losses that relate samples."""
    script = tmp_path / "loop.py"
    script.write_text(LOOP)
    student, teacher = networks()
    student.body[1].eval()
    expected = weights_after(Distillation("RKD", student, teacher, steps_per_epoch=4, **SMALL["RKD"]), batches(8, size=7))
    done = spawn_program(script, tmp_path / "weights", processes=2, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.status == 0, done.err
    for found in (torch.load(tmp_path / f"weights{rank}") for rank in range(2)):
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


LOOP = """
import sys, torch
from accelerate import Accelerator
from mdistiller_ext import Distillation
from tests.test_distillation import SMALL, batches, networks

accelerator = Accelerator(cpu=True)
rank, ranks = accelerator.process_index, accelerator.num_processes
assert ranks == 2
student, teacher = networks()
student.body[1].eval()  # batch norm computes its statistics over the images of a process
distillation = Distillation("RKD", student, teacher, steps_per_epoch=4, **SMALL["RKD"])
for images, labels in batches(8, size=7):
    distillation.step(images[rank::ranks], labels[rank::ranks])
torch.save(student.state_dict(), sys.argv[1] + str(rank))
accelerator.end_training()
"""
