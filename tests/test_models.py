"""The CIFAR zoo: equality with upstream's networks, and what distillers rely on."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_weights import golden_images, golden_state_dict
from torch import nn

import mdistiller_ext.models as zoos
from mdistiller_ext.errors import ConfigError, UnknownNameError
from mdistiller_ext.models import create_model, list_models

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "models_a.json").read_text())
GOLDEN_SEED = 1
CIFAR_MODELS = sorted(name.removeprefix("cifar100/") for name in CASES if name.startswith("cifar100/"))
WRN = [name for name in CIFAR_MODELS if name.startswith("wrn")]
RELU_AFTER_PREACT = [name for name in CIFAR_MODELS if name.startswith(("resnet", "ResNet", "vgg", "ShuffleV1"))]

# Upstream reports the same channels for every depth; they are wrong for ResNet18, whose blocks do not widen.
CORRECTED_STAGE_CHANNELS = {"ResNet18": [64, 128, 256, 512]}


@pytest.fixture(scope="module", autouse=True)
def single_thread() -> Iterator[None]:
    """Maps this small gain nothing from threads; on a busy machine, waiting for them takes twenty times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def golden_arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "models_a.npz") as arrays:
        return dict(arrays)


def images(size: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def assert_same_moments(feature: torch.Tensor, expected: dict[str, object]) -> None:
    assert list(feature.shape) == expected["shape"]
    moments = [feature.mean().item(), feature.std().item()]
    # Means of signed maps lose digits by cancellation, hence the absolute part, on the scale of the values.
    assert moments == pytest.approx([expected["mean"], expected["std"]], rel=1e-9, abs=1e-12 * moments[1])


def test_zoo_is_complete() -> None:
    assert len(CIFAR_MODELS) == 23
    assert set(CIFAR_MODELS) <= set(list_models("cifar100"))


@pytest.mark.parametrize("name", CIFAR_MODELS)
def test_equals_upstream(name: str, golden_arrays: dict[str, np.ndarray]) -> None:
    """Parameter names, shapes and order; logits and features in eval mode and float64."""
    golden = CASES[f"cifar100/{name}"]
    model = create_model(name)
    shapes = [(entry, list(value.shape)) for entry, value in model.state_dict().items()]
    assert shapes == list(golden["state_dict"].items())
    assert sum(parameter.numel() for parameter in model.parameters()) == golden["params"]

    model.double().eval().load_state_dict(golden_state_dict(model, GOLDEN_SEED), strict=True)
    with torch.no_grad():
        logits, features = model(golden_images(golden["input"], GOLDEN_SEED))
    for output, key in ((logits, "logits"), (features["pooled_feat"], "pooled_feat")):
        expected = golden_arrays[f"cifar100/{name}/{key}"]
        np.testing.assert_allclose(output.numpy(), expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())
    assert list(features) == list(golden["features"])
    assert_same_moments(features["pooled_feat"], golden["features"]["pooled_feat"])
    for key in features.keys() - {"pooled_feat"}:
        for feature, expected in zip(features[key], golden["features"][key], strict=True):
            assert_same_moments(feature, expected)


@pytest.mark.parametrize("name", CIFAR_MODELS)
def test_helpers_of_feature_methods(name: str) -> None:
    golden = CASES[f"cifar100/{name}"]
    model = create_model(name)
    if golden["stage_channels"] is None:
        assert not hasattr(model, "get_stage_channels")
    else:
        assert model.get_stage_channels() == CORRECTED_STAGE_CHANNELS.get(name, golden["stage_channels"])
        feature_channels = [feature["shape"][1] for feature in golden["features"]["feats"]]
        stages = len(model.get_stage_channels())
        assert model.get_stage_channels() == feature_channels[-stages:]
    if golden["bn_before_relu_channels"] is None:
        assert not hasattr(model, "get_bn_before_relu")
    else:
        batch_norms = model.get_bn_before_relu()
        assert all(isinstance(bn, nn.BatchNorm2d) for bn in batch_norms)
        assert [bn.num_features for bn in batch_norms] == golden["bn_before_relu_channels"]


@pytest.mark.parametrize("name", CIFAR_MODELS)
def test_training_step_reaches_every_parameter(name: str) -> None:
    model = create_model(name, num_classes=7)
    logits, _ = model(images())
    assert logits.shape == (2, 7)
    F.cross_entropy(logits, torch.tensor([0, 3])).backward()
    unreached = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert unreached == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", CIFAR_MODELS)
def test_gradients_flow_through_all_features(name: str) -> None:
    """In-place operations must neither break autograd nor reach what is returned."""
    model = create_model(name)
    _, features = model(images())
    maps = [*features["feats"], *features.get("preact_feats", []), features["pooled_feat"]]
    sum(feature.square().mean() for feature in maps).backward()
    if name in RELU_AFTER_PREACT:
        for feature, preact in zip(features["feats"][1:], features["preact_feats"][1:], strict=True):
            assert preact.min() < 0
            assert torch.equal(feature, F.relu(preact))


@pytest.mark.parametrize("name", WRN)
def test_wrn_preact_feats_are_normalised_feats(name: str) -> None:
    model = create_model(name)
    _, features = model(images())
    maps = zip(features["feats"][1:], features["preact_feats"][1:], strict=True)
    for bn, (feature, preact) in zip(model.get_bn_before_relu(), maps, strict=True):
        torch.testing.assert_close(preact, F.batch_norm(feature, None, None, bn.weight, bn.bias, training=True))


@pytest.mark.parametrize("name", CIFAR_MODELS)
def test_running_statistics_after_one_step(name: str) -> None:
    """One update per batch norm and step, but two for those that upstream's WRN runs twice."""
    model = create_model(name)
    model(images())
    twice = set(model.get_bn_before_relu()) if name in WRN else set()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == (2 if module in twice else 1)


def test_wrn_updates_running_mean_twice() -> None:
    model = create_model("wrn_16_1")
    _, features = model(images())
    batch_mean = features["feats"][-1].mean(dim=(0, 2, 3))
    torch.testing.assert_close(model.bn1.running_mean, (1 - 0.9**2) * batch_mean)


@pytest.mark.parametrize("name", ["resnet8", "ResNet18", "wrn_16_1", "vgg8", "MobileNetV2"])
def test_initialisation(name: str) -> None:
    """He's fan-out rule for convolutions, seen on the largest one; of its 36,864 weights or more, 2 % is 5 sigma."""
    torch.manual_seed(0)
    model = create_model(name)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    convolution = max(convolutions, key=lambda module: module.weight.numel())
    fan_out = convolution.out_channels * math.prod(convolution.kernel_size)
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)


@pytest.mark.parametrize("name", ["vgg8", "MobileNetV2"])
def test_small_initial_classifier(name: str) -> None:
    torch.manual_seed(0)
    linear = next(module for module in create_model(name).modules() if isinstance(module, nn.Linear))
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert linear.bias.count_nonzero() == 0


@pytest.mark.parametrize("name", ["resnet8x4", "ResNet18", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_other_image_sizes(name: str) -> None:
    model = create_model(name, num_classes=200).eval()
    with torch.no_grad():
        small, small_features = model(images(32))
        large, large_features = model(images(64))
    assert small.shape == large.shape == (2, 200)
    assert large_features["pooled_feat"].shape == small_features["pooled_feat"].shape
    if name == "vgg8":  # 64x64 images are pooled once more before the last block (upstream)
        assert large_features["feats"][-1].shape[2:] == small_features["feats"][-1].shape[2:]


def test_number_of_classes() -> None:
    x = images()
    assert create_model("resnet8")(x)[0].shape == (2, 100)
    assert create_model("resnet8", num_classes=11)(x)[0].shape == (2, 11)
    with pytest.raises(ConfigError, match="at least 1"):
        create_model("resnet8", num_classes=0)


def test_data_set_names_its_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    class Digits:
        zoo = "cifar100"
        num_classes = 10

    class Folder:
        zoo = "cifar100"
        num_classes = None

    monkeypatch.setattr(zoos, "DATASETS", {"digits": Digits, "folder": Folder})
    assert create_model("resnet8", dataset="digits").fc.out_features == 10
    assert create_model("resnet8", dataset="folder", num_classes=3).fc.out_features == 3
    assert list_models("digits") == list_models("cifar100")
    with pytest.raises(ConfigError, match="give num_classes"):
        create_model("resnet8", dataset="folder")


def test_unknown_name_is_answered_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"model 'resnet9' for cifar100; did you mean 'resnet8'\?.* Known: "):
        create_model("resnet9")
    with pytest.raises(UnknownNameError, match="did you mean 'ResNet18'"):
        create_model("ResNet118")


def test_importing_the_package_imports_no_network() -> None:
    """A command line that fails over a typing error should do so at once."""
    code = "import sys, mdistiller_ext.models; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
