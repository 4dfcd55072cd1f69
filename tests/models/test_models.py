"""The three zoos: equality with upstream's networks, and what distillers rely on."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mdistiller_ext.models as zoos
from mdistiller_ext.errors import ConfigError, UnknownNameError
from mdistiller_ext.models import create_model, find_architectures, list_models
from mdistiller_ext.registry import MODELS
from tests.support.golden_weights import golden_images, golden_state_dict
from tests.support.programs import GOLDEN, ROOT

CASES = json.loads((GOLDEN / "models_a.json").read_text())
GOLDEN_SEED = 1
ZOOS = ("cifar100", "tiny_imagenet", "imagenet")
NETWORKS = [f"{zoo}/{name}" for zoo in ZOOS for name in list_models(zoo)]
TRAINED_HERE = [network for network in NETWORKS if not network.endswith(("ResNet101", "ResNet152"))]  # only deeper ResNet50s
WRN = [name for name in NETWORKS if "/wrn" in name]
RELU_AFTER_PREACT = ("resnet", "ResNet", "vgg", "ShuffleV1", "MobileNetV1")

# Upstream reports the same channels for every depth; they are wrong for these, whose blocks do not widen.
CORRECTED_STAGE_CHANNELS = {"ResNet18": [64, 128, 256, 512], "ResNet34": [64, 128, 256, 512]}


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


def create(network: str, num_classes: int | None = None) -> nn.Module:
    """A network of any zoo by "zoo/name"."""
    zoo, name = network.split("/")
    return create_model(name, dataset=zoo, num_classes=num_classes)


def images(size: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def small_images(network: str) -> torch.Tensor:
    """Images that are cheap and large enough for what a network does in any size: two pixels at the end of the 32-fold."""
    return images(64 if network.startswith("imagenet") else 32)


def assert_same_moments(feature: torch.Tensor, expected: dict[str, object]) -> None:
    assert list(feature.shape) == expected["shape"]
    moments = [feature.mean().item(), feature.std().item()]
    # Means of signed maps lose digits by cancellation, hence the absolute part, on the scale of the values.
    assert moments == pytest.approx([expected["mean"], expected["std"]], rel=1e-9, abs=1e-12 * moments[1])


def test_zoos_are_complete() -> None:
    assert len(CASES) == 31
    assert set(NETWORKS) == CASES.keys() | {"imagenet/ResNet152", "imagenet/MobileNetV2"}  # compared with torchvision's


@pytest.mark.parametrize("network", sorted(CASES))
def test_equals_upstream(network: str, golden_arrays: dict[str, np.ndarray]) -> None:
    """Parameter names, shapes and order; logits and features in eval mode and float64."""
    golden = CASES[network]
    model = create(network)
    shapes = [(entry, list(value.shape)) for entry, value in model.state_dict().items()]
    assert shapes == list(golden["state_dict"].items())
    assert sum(parameter.numel() for parameter in model.parameters()) == golden["params"]

    model.double().eval().load_state_dict(golden_state_dict(model, GOLDEN_SEED), strict=True)
    with torch.no_grad():
        logits, features = model(golden_images(golden["input"], GOLDEN_SEED))
    for output, key in ((logits, "logits"), (features["pooled_feat"], "pooled_feat")):
        expected = golden_arrays[f"{network}/{key}"]
        np.testing.assert_allclose(output.numpy(), expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())
    assert features.keys() - {"last_feat"} == golden["features"].keys()
    assert_same_moments(features["pooled_feat"], golden["features"]["pooled_feat"])
    if network != "tiny_imagenet/MobileNetV2":  # its classifier is a convolution, after a pooling to one pixel
        last = features["last_feat"] if "last_feat" in features else features["feats"][-1]
        torch.testing.assert_close(last.mean(dim=(2, 3)), features["pooled_feat"])
    for key in golden["features"].keys() - {"pooled_feat"}:
        for feature, expected in zip(features[key], golden["features"][key], strict=True):
            assert_same_moments(feature, expected)


@pytest.mark.parametrize("network", sorted(CASES))
def test_helpers_of_feature_methods(network: str) -> None:
    golden = CASES[network]
    model = create(network)
    if golden["stage_channels"] is None:
        assert not hasattr(model, "get_stage_channels")
    else:
        assert model.get_stage_channels() == CORRECTED_STAGE_CHANNELS.get(network.split("/")[1], golden["stage_channels"])
        feature_channels = [feature["shape"][1] for feature in golden["features"]["feats"]]
        stages = len(model.get_stage_channels())
        assert model.get_stage_channels() == feature_channels[-stages:]
    if golden["bn_before_relu_channels"] is None:
        assert not hasattr(model, "get_bn_before_relu")
    else:
        batch_norms = model.get_bn_before_relu()
        assert all(isinstance(bn, nn.BatchNorm2d) for bn in batch_norms)
        assert [bn.num_features for bn in batch_norms] == golden["bn_before_relu_channels"]


def test_imagenet_mobilenetv2_has_a_map_of_each_size() -> None:
    model = create("imagenet/MobileNetV2").eval()
    with torch.no_grad():
        feats = model(images(224))[1]["feats"]
    assert [feature.shape[2] for feature in feats] == [112, 56, 28, 14, 7]
    assert [feature.shape[1] for feature in feats] == model.get_stage_channels() == [32, 24, 32, 96, 320]
    assert [bn.num_features for bn in model.get_bn_before_relu()] == [24, 32, 96, 320]


@pytest.mark.parametrize("network", TRAINED_HERE)
def test_training_step_reaches_every_parameter(network: str) -> None:
    model = create(network, num_classes=7)
    logits, _ = model(small_images(network))
    assert logits.shape == (2, 7)
    F.cross_entropy(logits, torch.tensor([0, 3])).backward()
    unreached = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert unreached == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("network", TRAINED_HERE)
def test_gradients_flow_through_all_features(network: str) -> None:
    """In-place operations must neither break autograd nor reach what is returned."""
    model = create(network)
    _, features = model(small_images(network))
    maps = [*features["feats"], *features.get("preact_feats", []), features["pooled_feat"]]
    sum(feature.square().mean() for feature in maps).backward()
    if network.split("/")[1].startswith(RELU_AFTER_PREACT):
        for feature, preact in zip(features["feats"][1:], features["preact_feats"][1:], strict=True):
            assert preact.min() < 0
            assert torch.equal(feature, F.relu(preact))


@pytest.mark.parametrize("network", WRN)
def test_wrn_preact_feats_are_normalised_feats(network: str) -> None:
    model = create(network)
    _, features = model(images())
    maps = zip(features["feats"][1:], features["preact_feats"][1:], strict=True)
    for bn, (feature, preact) in zip(model.get_bn_before_relu(), maps, strict=True):
        torch.testing.assert_close(preact, F.batch_norm(feature, None, None, bn.weight, bn.bias, training=True))


@pytest.mark.parametrize("network", TRAINED_HERE)
def test_running_statistics_after_one_step(network: str) -> None:
    """One update per batch norm and step, but two for those that upstream's WRN runs twice."""
    model = create(network)
    model(small_images(network))
    twice = set(model.get_bn_before_relu()) if network in WRN else set()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == (2 if module in twice else 1)


def test_wrn_updates_running_mean_twice() -> None:
    model = create_model("wrn_16_1")
    _, features = model(images())
    batch_mean = features["feats"][-1].mean(dim=(0, 2, 3))
    torch.testing.assert_close(model.bn1.running_mean, (1 - 0.9**2) * batch_mean)


@pytest.mark.parametrize(
    "network",
    [
        *(f"cifar100/{name}" for name in ("resnet8", "ResNet18", "wrn_16_1", "vgg8", "MobileNetV2")),
        *(f"imagenet/{name}" for name in ("ResNet18", "ResNet50", "MobileNetV2")),
    ],
)
def test_initialisation(network: str) -> None:
    """He's fan-out rule for convolutions, seen on the largest one; of its 36,864 weights or more, 2 % is 5 sigma."""
    torch.manual_seed(0)
    model = create(network)
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


@pytest.mark.parametrize(
    "network",
    [f"cifar100/{name}" for name in ("resnet8x4", "ResNet18", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2")]
    + [f"tiny_imagenet/{name}" for name in ("ResNet18", "MobileNetV2", "ShuffleV2")]
    + [f"imagenet/{name}" for name in ("ResNet18", "ResNet50", "MobileNetV1", "MobileNetV2")],
)
def test_other_image_sizes(network: str) -> None:
    model = create(network, num_classes=200).eval()
    with torch.no_grad():
        small, small_features = model(images(32))
        large, large_features = model(images(64))
    assert small.shape == large.shape == (2, 200)
    assert large_features["pooled_feat"].shape == small_features["pooled_feat"].shape
    if network == "cifar100/vgg8":  # 64x64 images are pooled once more before the last block (upstream)
        assert large_features["feats"][-1].shape[2:] == small_features["feats"][-1].shape[2:]


def test_number_of_classes() -> None:
    x = images()
    assert create_model("resnet8")(x)[0].shape == (2, 100)
    assert create_model("resnet8", num_classes=11)(x)[0].shape == (2, 11)
    assert create("imagenet/MobileNetV1", num_classes=12)(x)[0].shape == (2, 12)  # upstream's always has 1000
    assert create_model("resnet8", num_classes=np.int64(11)).fc.out_features == 11


@pytest.mark.parametrize("number", [0, -1, "10", 10.0, True, [10]])
def test_numbers_that_are_none_are_refused(number: Any) -> None:
    for name in ("num_classes", "image_size"):
        with pytest.raises(ConfigError, match=rf"^{name} must be a whole number, at least 1, got"):
            create_model("torchvision/vit_b_16", **{name: number})


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
    for name in (None, 8, ["resnet8"]):
        with pytest.raises(UnknownNameError, match="must be text, such as 'resnet8', got"):
            create_model(name)  # type: ignore[arg-type]


def test_importing_the_package_imports_no_network() -> None:
    """A command line that fails over a typing error should do so at once."""
    code = "import sys, mdistiller_ext.models; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_one_function_serves_two_zoos() -> None:
    for name in ("ResNet18", "ShuffleV2"):
        assert MODELS.get(f"tiny_imagenet/{name}") is MODELS.get(f"cifar100/{name}")


def test_equal_seeds_give_what_they_gave() -> None:
    """Runs of earlier versions can be repeated: the order in which layers are made, and so draw, is part of a network."""
    sums = {"resnet8": 165.924513, "ResNet18": 1954.137197, "ResNet50": 10496.502115}
    for name, expected in sums.items():
        torch.manual_seed(0)
        weights = torch.cat([parameter.detach().double().flatten() for parameter in create_model(name).parameters()])
        order = torch.arange(1, len(weights) + 1, dtype=torch.float64) / len(weights)
        assert (weights @ order).item() == pytest.approx(expected, rel=1e-6), name


@pytest.mark.parametrize("network", ["imagenet/ResNet50", "tiny_imagenet/MobileNetV2"])
def test_architecture_is_found_from_weights(network: str) -> None:
    """With any number of classes, and the entries in any order."""
    state = create(network, num_classes=3).state_dict()
    assert find_architectures(dict(sorted(state.items()))) == [network]


def test_architectures_that_do_not_fit_are_not_found() -> None:
    state = create_model("ResNet18", num_classes=3).state_dict()
    assert find_architectures(state) == ["cifar100/ResNet18", "tiny_imagenet/ResNet18"]
    assert find_architectures(state | {"linear.bias": torch.zeros(4)}) == []  # a bias for 4 classes, weights for 3
    assert find_architectures(state | {"bn1.weight": torch.zeros(65)}) == []
    assert find_architectures(state | {"more": torch.zeros(1)}) == []


def test_architectures_are_sought_past_plugins_that_need_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def drop_path(num_classes: int) -> nn.Module:
        return nn.Dropout(torch.linspace(0, 0.1, 2)[1].item())

    monkeypatch.setitem(MODELS._entries, "cifar100/drop_path", drop_path)
    assert find_architectures(create_model("resnet8").state_dict()) == ["cifar100/resnet8"]
