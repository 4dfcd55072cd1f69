"""Methods on features between networks of different families and sizes: features named by module path, layers derived."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from mdistiller_ext.distillers import Progress, create_distiller
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.models import create_model
from mdistiller_ext.models.features import return_modules

ON_FEATURES = ("AT", "CRD", "FITNET", "NST", "OFD", "PKT", "REVIEWKD", "RKD", "SP", "VID")
# What no rule of the method covers, with the beginning of the message.
IMPOSSIBLE = {
    ("OFD", "timm/resnet10t"): "OFD computes its margins from the batch norms that the teacher's get_bn_before_relu",
}
WITHOUT_A_MAP_TO_POOL = ("SIMKD", "CATKD")  # a linear layer precedes the classifier of MobileNetV3

create = functools.partial(create_model, dataset="imagenet", num_classes=10)


def make(method: str, teacher: str) -> Any:
    torch.manual_seed(0)
    student, taught_by = create("torchvision/mobilenet_v3_small"), create(teacher)
    modules = ["features.0", "features.1", "features.3", "features.8", "features.12"]
    return_modules(student, modules, "DISTILLER.STUDENT_FEATURES")
    if teacher.startswith("timm/"):
        return_modules(taught_by, ["maxpool", "layer1", "layer2", "layer3", "layer4"], "DISTILLER.TEACHER_FEATURES")
    distiller = create_distiller(method, student, taught_by)
    distiller.train_labels = torch.arange(32) % 10
    return distiller


@pytest.mark.parametrize("teacher", ["ResNet34", "timm/resnet10t"])
@pytest.mark.parametrize("method", ON_FEATURES)
def test_a_method_on_features_trains_between_families(method: str, teacher: str) -> None:
    distiller = make(method, teacher)
    if (method, teacher) in IMPOSSIBLE:
        with pytest.raises(ConfigError, match=f"^{IMPOSSIBLE[method, teacher]}"):
            distiller.prepare((3, 64, 64))
        return
    distiller.prepare((3, 64, 64))
    distiller.train()
    index = torch.arange(4) if distiller.needs_index else None
    _, losses = distiller(torch.randn(4, 3, 64, 64), torch.arange(4), Progress(20, 240), index)
    loss = next(value for name, value in losses.items() if name.startswith("kd/"))
    loss.backward()
    reached = [p for p in distiller.learnable_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    own = [p for name, p in distiller.named_parameters() if name.split(".")[0] not in ("student", "teacher")]
    stem = next(module for module in distiller.student.modules() if isinstance(module, nn.Conv2d))
    assert {stem.weight, *own} <= set(reached)


@pytest.mark.parametrize("method", WITHOUT_A_MAP_TO_POOL)
def test_methods_that_need_the_map_that_is_pooled_say_so(method: str) -> None:
    with pytest.raises(ConfigError, match=r"the last feature of the student, \[2, 576, 2, 2\], is not the map that it pools"):
        make(method, "ResNet34").prepare((3, 64, 64))
