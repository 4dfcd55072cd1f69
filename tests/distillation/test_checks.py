"""Wrong networks, arguments, batches and states are named in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdistiller_ext import Distillation
from mdistiller_ext.errors import ConfigError, UnknownNameError, UserError
from tests.support.own_loop import Head, batches, networks


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
        (wrong(temperature="warm"), ConfigError, "KD.TEMPERATURE in the call must be a number"),
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
        (wrong(steps_per_epoch=2.5), ConfigError, r"steps_per_epoch must be the number of batches of an epoch, or 0, not 2\.5"),
        (wrong(image_shape=(8, 8)), ConfigError, r"image_shape must be \(channels, height, width\), not \(8, 8\)"),
        (wrong(train_labels=[1, 2]), ConfigError, r"train_labels must be a tensor, int64 \[images\], not list"),
        (wrong(param_groups=["fc"]), ConfigError, r"param_groups\[0\] must be a dictionary with params"),
        (wrong(lr_scheduler="onecycle"), ConfigError, "give steps_per_epoch"),
        (lambda: Distillation("KD", *networks()).optimizer, ConfigError, "nothing is built before the first step"),
    ],
)
def test_mistakes_are_named(mistake: Callable[[], Any], error: type[UserError], text: str) -> None:
    with pytest.raises(error, match=text):
        mistake()


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (torch.zeros(8, 2, 3, 8, 8), torch.zeros(8).long(), r"KD takes images \[N, 3, H, W\], not \[8, 2, 3, 8, 8\]"),
        (torch.zeros(0, 3, 8, 8), torch.zeros(0).long(), "the batch has no images"),
        (
            torch.zeros(8, 3, 8, 8).byte(),
            torch.zeros(8).long(),
            "images must be float32, as the student's weights, and .* uint8",
        ),
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


def test_an_index_of_another_form_is_named() -> None:
    own = Distillation("CRD", *networks(), steps_per_epoch=0, train_labels=torch.arange(10).repeat(4), k=20, dim=8)
    images, labels = batches(1)[0]
    for index, text in (
        (torch.arange(7), r"index must be int64 \[8\], one for each image, not int64 \[7\]"),
        (torch.arange(33, 41), r"index must lie in 0\.\.39, the images of train_labels, not 33 to 40"),
    ):
        with pytest.raises(ConfigError, match=text):
            own.step(images, labels, index)


def test_networks_that_share_a_layer_are_refused() -> None:
    student, teacher = networks()
    teacher.extra = student.extra
    with pytest.raises(ConfigError, match="student and teacher share parameters"):
        Distillation("KD", student, teacher)


def test_another_state_is_refused_before_anything_is_loaded() -> None:
    def begin(student: nn.Module, **settings: Any) -> Distillation:
        given: dict[str, Any] = {"steps_per_epoch": 3, "image_shape": (3, 8, 8), "lr": 0.1} | settings
        return Distillation("KD", student, networks()[1], **given)

    def head() -> list[dict[str, Any]]:
        return [{"params": student.fc.parameters(), "lr": 0.5}]

    student = networks()[0]
    own = begin(student)
    own.step(*batches(1)[0])
    state = own.state_dict()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    for other, text in (
        (begin(student, temperature=2.0), r"other settings: KD\.TEMPERATURE: 4\.0 -> 2\.0"),
        (begin(student, steps_per_epoch=4), "other settings: steps_per_epoch: 3 -> 4"),
        (begin(student, lr_scheduler=None), "other settings: own_schedule: False -> True"),
        (begin(student, param_groups=head()), r"other groups of parameters: 8 at 0\.1 .*; now 6 at 0\.1 .*, 2 at 0\.5"),
        (begin(Head(channels=7)), r"the state is of another student; .* body\.0\.weight"),
    ):
        with pytest.raises(ConfigError, match=text):
            other.load_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    for wrong_state in (None, {}):
        with pytest.raises(ConfigError, match="not a state of Distillation"):
            own.load_state_dict(wrong_state)
