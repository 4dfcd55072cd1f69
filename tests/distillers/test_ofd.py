"""OFD."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mdistiller_ext import losses as L
from mdistiller_ext.distillers import Progress, create_distiller
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.models import create_model
from tests.support.distillers import TinyModel, close, make_distiller
from tests.support.maps import LARGE, SMALL, NamedNorms, assert_upstreams, detached, losses_of, random_output, set_up


@pytest.mark.parametrize(("key", "kernel_size"), [("ofd", 1), ("ofd3", 3)])
def test_loss_and_gradients_are_upstreams(key, kernel_size):
    assert_upstreams(key, "OFD", SMALL, LARGE, "preact_feats", kernel_size=kernel_size)


def test_margins_are_constants_of_the_teachers_batch_norms():
    distiller = set_up("OFD", random_output(SMALL), random_output(LARGE))
    for connector, norm in zip(distiller.connectors, distiller.teacher.norms, strict=True):
        close(connector.margin, L.negative_mean(norm.bias, norm.weight))
        assert "margin" not in dict(connector.named_parameters())


def test_a_student_without_maps_before_their_relu_is_distilled_at_its_maps():
    student, teacher = random_output(SMALL, preact=False), random_output(LARGE, 1)
    same = random_output(SMALL)
    same.features["preact_feats"] = same.features["feats"]
    losses = [losses_of(set_up("OFD", s, teacher), s, teacher)["kd/ofd"] for s in (student, same)]
    assert losses[0] == losses[1] > 0


def test_stages_are_the_last_ones_with_a_batch_norm():
    """ImageNet's ResNets name those of three of their four stages."""
    student, teacher = random_output(SMALL), random_output(LARGE, 1)
    distiller = create_distiller("OFD", TinyModel(), NamedNorms([6, 7]))
    distiller.setup(detached(student), detached(teacher))
    assert [connector[0].in_channels for connector in distiller.connectors] == [5, 6]
    assert losses_of(distiller.double(), student, teacher)["kd/ofd"] > 0


def test_a_teacher_that_names_no_batch_norms_is_refused():
    distiller = create_distiller("OFD", TinyModel(), nn.Linear(3, 10))
    with pytest.raises(ConfigError, match=r"the teacher's get_bn_before_relu\(\) returns, and Linear has no such method"):
        distiller.setup(random_output(SMALL), random_output(LARGE))


def test_networks_without_stages_are_refused():
    with pytest.raises(ConfigError, match=r"OFD compares stages after the stem, preact_feats\[1:\]"):
        set_up("OFD", random_output(SMALL[:1]), random_output(LARGE))


def test_arguments_out_of_range_are_refused():
    for size in (0, 2):
        with pytest.raises(ConfigError, match=rf"OFD\.CONNECTOR\.KERNEL_SIZE must be odd and positive, not {size}"):
            make_distiller("OFD", kernel_size=size)
    with pytest.raises(ConfigError, match=r"OFD\.TEACHER_MODE must be eval or train, not 'both'"):
        make_distiller("OFD", teacher_mode="both")


# ---- the teacher on batch statistics ------------------------------------------------------------------------------


def zoo_distiller(mode):
    student, teacher = (create_model(name, num_classes=10) for name in ("resnet8", "resnet14"))
    distiller = create_distiller("OFD", student, teacher, teacher_mode=mode)
    distiller.prepare((3, 16, 16))
    return distiller.train()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_teacher_is_left_as_it_is_and_normalises_as_its_mode_says(mode):
    distiller = zoo_distiller(mode)
    before = {name: value.clone() for name, value in distiller.teacher.state_dict().items()}
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    _, losses = distiller(images, torch.arange(8), Progress(1, 240))
    assert losses["kd/ofd"] > 0
    assert all(torch.equal(value, before[name]) for name, value in distiller.teacher.state_dict().items())
    preact = distiller.teacher(images)[1]["preact_feats"][1]
    reference = create_model("resnet14", num_classes=10)
    reference.load_state_dict(before)
    close(preact, reference.train(mode == "train")(images)[1]["preact_feats"][1], 1e-5)


def test_the_teacher_is_in_eval_mode_while_the_method_is():
    distiller = zoo_distiller("train")
    assert any(module.training for module in distiller.teacher.modules())
    distiller.eval()
    assert not any(module.training for module in distiller.teacher.modules())


def test_a_copy_of_the_teacher_with_fixed_statistics_is_used_in_eval_mode_only():
    copy = nn.Identity()
    for mode in ("eval", "train"):
        distiller = make_distiller("OFD", teacher_mode=mode)
        distiller.inference_path = lambda: copy
        assert distiller.inference_network() is (copy if mode == "eval" else distiller.teacher)
