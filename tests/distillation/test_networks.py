"""Any two networks: outputs of any usual form, features by path, a head of the method; the networks stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdistiller_ext import Distillation
from mdistiller_ext.acceleration import InferenceNetwork
from mdistiller_ext.models import create_model
from mdistiller_ext.models.adapter import Adapter
from tests.support.own_loop import RKD, Logits, batches, networks, weights_after
from tests.support.runs import assert_identical


@pytest.mark.parametrize(
    "form",
    [lambda logits: {"logits": logits, "loss": None}, Logits, lambda logits: (logits, {})],
    ids=["mapping", "dataclass", "logits and features"],
)
def test_logits_may_come_in_any_usual_form(form: Callable[[Tensor], Any]) -> None:
    plain, other = (
        weights_after(Distillation("RKD", *networks(each), steps_per_epoch=2, lr=0.1, **RKD), batches())
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


def test_the_pooled_feature_is_the_input_of_the_layer_that_gives_the_logits() -> None:
    """Not of an auxiliary head, which runs after it; a network whose logits are computed on has none."""
    student, _ = networks()
    student.form = lambda logits: (nn.Linear(6, 10)(torch.zeros(len(logits), 6)), logits)[1]
    images, _ = batches(1)[0]
    _, features = Adapter(student)(images)
    logits, _ = Adapter(student)(images)
    torch.testing.assert_close(student.fc(features["pooled_feat"]), logits)
    student.form = lambda logits: 2 * logits
    assert "pooled_feat" not in Adapter(student)(images)[1]


def test_state_dicts_have_the_names_of_the_network() -> None:
    """So that a network of one's own, and the zoos, load the student of a saved state; those of a head stay beside them."""
    student = create_model("resnet8")
    adapter = Adapter(student)
    assert_identical(dict(adapter.state_dict()), dict(student.state_dict()))
    adapter.head = nn.Linear(2, 2)
    state = {name: value + 1 if value.is_floating_point() else value for name, value in adapter.state_dict().items()}
    adapter.load_state_dict(state)
    assert_identical(dict(adapter.state_dict()), state)
    create_model("resnet8").load_state_dict({name: value for name, value in state.items() if "head" not in name})


def test_the_teacher_is_folded_whatever_its_outputs_are() -> None:
    _, teacher = networks()
    images, _ = batches(1)[0]
    adapter = Adapter(teacher.eval().requires_grad_(False))
    folded = InferenceNetwork(adapter, images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    for found, expected in zip(folded(images), adapter(images), strict=True):
        torch.testing.assert_close(found, expected)


def test_networks_may_be_in_float64() -> None:
    losses = []
    for kind in (torch.float32, torch.float64):
        student, teacher = (network.to(kind) for network in networks())
        own = Distillation("DKD", student, teacher, trainer="deepkd", steps_per_epoch=0)
        images, labels = batches(1)[0]
        losses.append({name: float(value) for name, value in own.step(images.to(kind), labels).items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
