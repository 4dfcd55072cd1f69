"""Features of any network, by the paths of its modules."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdistiller_ext.errors import ConfigError, UnknownNameError
from mdistiller_ext.models import create_model
from mdistiller_ext.models.features import return_modules

SETTING = "DISTILLER.STUDENT_FEATURES"


def images(size: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "paths", "shapes"),
    [
        ("torchvision/resnet18", ["layer1", "layer2", "layer3.1.relu"], [(64, 8, 8), (128, 4, 4), (256, 2, 2)]),
        ("torchvision/mobilenet_v3_small", ["features.1", "features.12"], [(16, 8, 8), (576, 1, 1)]),
        ("timm/resnet10t", ["layer1", "layer4"], [(64, 8, 8), (512, 1, 1)]),
        ("resnet8", ["layer1.0.conv1", "layer3.0"], [(16, 32, 32), (64, 8, 8)]),  # blocks, of which a stage returns two values
    ],
)
def test_modules_named_by_path_are_the_feats_in_that_order(name: str, paths: list[str], shapes: list[tuple[int, ...]]) -> None:
    model = create_model(name).eval()
    before = model(images())[0]
    names = list(model.state_dict())
    return_modules(model, paths, SETTING)
    assert list(model.state_dict()) == names
    for network in (model, copy.deepcopy(model)):
        logits, features = network(images())
        assert torch.equal(logits, before)
        assert [tuple(each.shape[1:]) for each in features["feats"]] == shapes
        assert "preact_feats" not in features
        assert features["pooled_feat"].ndim == 2


def test_a_feature_is_the_modules_output_whatever_works_in_place_on_it_later() -> None:
    """torchvision's blocks add the shortcut to the last batch norm's output and rectify it, in place."""
    model = create_model("torchvision/resnet18").eval()
    return_modules(model, ["layer1.0.bn2", "layer1.0.relu", "layer1.0"], SETTING)
    normed, rectified, block = model(images())[1]["feats"]
    assert normed.min() < 0
    assert torch.equal(rectified, block)  # of the two runs of the shared ReLU, the last
    assert not torch.equal(normed.relu(), block)


def test_features_carry_gradients_and_a_deep_copy_has_records_of_its_own() -> None:
    model = create_model("torchvision/resnet18")
    return_modules(model, ["layer2"], SETTING)
    twin = copy.deepcopy(model)
    _, features = model(images(64))
    twin(images(64))
    features["feats"][0].sum().backward()
    assert model.conv1.weight.grad is not None
    assert twin.conv1.weight.grad is None


def test_the_classifiers_input_is_the_pooled_feature() -> None:
    model = create_model("torchvision/mobilenet_v3_small").eval()
    logits, features = model(images())
    assert torch.equal(F.linear(features["pooled_feat"], *model.classifier[-1].parameters()), logits)


def test_a_network_that_returns_logits_alone_needs_no_more_than_paths() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(10))
    model(images())
    return_modules(model, ["0", "2"], SETTING)
    logits, features = model(images())
    assert [each.shape for each in features["feats"]] == [(2, 4, 30, 30), (2, 10)]
    assert torch.equal(features["feats"][1], logits)


def test_an_unknown_path_is_answered_by_the_nearest() -> None:
    model = create_model("torchvision/resnet18")
    with pytest.raises(UnknownNameError) as caught:
        return_modules(model, ["layer1", "layer3.2.relu"], SETTING)
    assert str(caught.value) == (
        "DISTILLER.STUDENT_FEATURES: ResNet has no module 'layer3.2.relu'; did you mean 'layer3.1.relu'? "
        "At the top: conv1, bn1, relu, maxpool, layer1, layer2, layer3, layer4, avgpool, fc"
    )


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("torchvision/vit_b_32", "encoder.layers.encoder_layer_0", r"gives \[2, 2, 768\]; features are maps \[N, C, H, W\]"),
        ("resnet8", "layer1", "gives tuple; features are maps"),
        ("torchvision/vit_b_32", "encoder.layers.encoder_layer_0.self_attention.out_proj", "does not run in the forward pass"),
    ],
)
def test_modules_that_give_no_feature_are_reported(name: str, path: str, message: str) -> None:
    model = create_model(name).eval()
    return_modules(model, [path], SETTING)
    with pytest.raises(ConfigError, match=rf"^DISTILLER\.STUDENT_FEATURES: module '{path}' .*{message}"):
        model(images())
