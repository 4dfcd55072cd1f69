"""Networks of torchvision and timm under our contract, and our ImageNet zoo against torchvision's."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision.models as torchvision_models
from torch import nn
from torch.testing import assert_close

from mdistiller_ext.distillers import create_distiller
from mdistiller_ext.distillers.progress import Progress
from mdistiller_ext.errors import ConfigError, UnknownNameError
from mdistiller_ext.models import check_model_name, create_model, list_models, pretrained_url
from mdistiller_ext.models.libraries import ZOO_IN_TORCHVISION
from mdistiller_ext.weights import load_weights
from tests.support.golden_weights import golden_state_dict
from tests.support.programs import ROOT, run_program

FAMILIES = [  # one of each; RegNets compute their widths with tensors and so cannot be built on the meta device
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5"),
    *("mobilenet_v2", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t"),
    *("vgg11", "vit_b_32"),
]


def images(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("training", [True, False])
def test_every_family_of_torchvision(name: str, training: bool) -> None:
    with torch.device("meta"):
        model = create_model(f"torchvision/{name}", dataset="imagenet", num_classes=7).train(training)
        logits, features = model(torch.empty(2, 3, 224, 224))
    assert logits.shape == (2, 7)
    if name.startswith("squeezenet"):  # its classifier is a convolution
        assert features == {}
    else:
        classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        assert features["pooled_feat"].shape == (2, classifier.in_features)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("torchvision/regnet_y_400mf", lambda: torchvision_models.regnet_y_400mf(num_classes=10)),
        (
            "timm/mobilenetv3_small_050.lamb_in1k",
            lambda: timm.create_model("mobilenetv3_small_050", num_classes=10),
        ),
    ],
)
def test_parameters_and_logits_are_the_librarys(name: str, reference: Callable[[], nn.Module]) -> None:
    """Also in a deep copy, and after a round trip through a file."""
    network = reference().eval()
    model = create_model(name, num_classes=10).eval()
    assert list(model.state_dict()) == list(network.state_dict())
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    model.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    x = images(32)
    for candidate in (model, copy.deepcopy(model)):
        logits, features = candidate(x)
        assert_close(logits, network(x))
        assert_close(candidate.get_submodule("fc" if "regnet" in name else "classifier")(features["pooled_feat"]), logits)


def test_distils_between_zoo_and_library() -> None:
    student = create_model("torchvision/shufflenet_v2_x0_5")
    distiller = create_distiller("KD", student, create_model("resnet8"))
    _, losses = distiller(images(32), torch.tensor([1, 2]), Progress(1, 240))
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.parametrize("name", ["torchvision/vit_b_16", "timm/vit_tiny_patch16_224"])
@pytest.mark.parametrize(
    ("dataset", "image_size", "patches"), [("cifar100", None, 4), ("tiny_imagenet", None, 16), ("cifar100", 48, 9)]
)
def test_transformers_are_built_for_the_images(name: str, dataset: str, image_size: int | None, patches: int) -> None:
    with torch.device("meta"):
        model = create_model(name, dataset=dataset, image_size=image_size)
    embedding = next(value for entry, value in model.state_dict().items() if entry.endswith(("pos_embedding", "pos_embed")))
    assert embedding.shape[1] == patches + 1  # the class token's


def test_image_size_is_only_for_networks_that_need_one() -> None:
    with torch.device("meta"):
        for name in ("resnet8", "torchvision/resnet18", "timm/resnet18"):
            assert create_model(name, image_size=48)(torch.empty(2, 3, 32, 32))[0].shape == (2, 100)


def test_image_size_that_does_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"maxvit_t cannot be built for 32x32 images: .* Give another image_size"):
        create_model("torchvision/maxvit_t")
    with pytest.raises(ConfigError, match=r"vit_h_14 cannot be built for 64x64 images"):
        create_model("torchvision/vit_h_14", dataset="tiny_imagenet")


@pytest.mark.parametrize(("name", "network"), [("alexnet", "AlexNet"), ("inception_v3", "Inception3")])
def test_images_too_small_for_a_network_are_told_before_training(name: str, network: str) -> None:
    large, small = create_model(f"torchvision/{name}"), create_model("resnet8")
    message = rf"^{network} cannot take 32x32 images: [^\n]+; give another DATASET.IMAGE_SIZE .* or another model$"
    for student, teacher in ((large, small), (small, large)):
        with pytest.raises(ConfigError, match=message):
            create_distiller("KD", student, teacher).component_names((3, 32, 32))


def test_images_too_small_for_a_network_are_told_before_it_is_evaluated(glyphs_root: Path, tmp_path: Path) -> None:
    torch.save(create_model("torchvision/alexnet").state_dict(), tmp_path / "weights")
    options = ("-m", "torchvision/alexnet", "-c", tmp_path / "weights", "-d", "glyphs", "DATASET.ROOT", glyphs_root)
    finished = run_program("eval.py", *options)
    assert finished.status == 2
    assert finished.err.startswith("error: AlexNet cannot take 32x32 images: ")
    assert finished.err.count("\n") == 1


def test_names_are_checked() -> None:
    check_model_name("torchvision/swin_t", "cifar100")
    check_model_name("timm/resnet50.a1_in1k", "imagenet")
    with pytest.raises(UnknownNameError, match="'regnet_y_400' of torchvision; did you mean 'regnet_y_400mf'"):
        check_model_name("torchvision/regnet_y_400", "cifar100")
    with pytest.raises(UnknownNameError, match="'efficientnet_b00' of timm; did you mean 'efficientnet_b0'"):
        create_model("timm/efficientnet_b00")
    with pytest.raises(UnknownNameError, match=r"'resnet50\.a1_in2k' of timm"):  # no such weights
        check_model_name("timm/resnet50.a1_in2k", "imagenet")
    with pytest.raises(UnknownNameError, match="fcn_resnet50"):  # it segments
        check_model_name("torchvision/fcn_resnet50", "cifar100")
    with pytest.raises(UnknownNameError, match="unknown data set 'cifar'"):
        check_model_name("torchvision/swin_t", "cifar")
    assert not any("/" in name for name in list_models("imagenet"))


def test_timm_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"needs the package timm: pip install .*\[timm\]"):
        create_model("timm/resnet18")


def test_libraries_are_imported_when_asked_for() -> None:
    code = (
        "import sys; from mdistiller_ext.models import create_model; create_model('ResNet18', dataset='imagenet');"
        "assert not {'torchvision', 'timm'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(("name", "torchvision_name"), ZOO_IN_TORCHVISION.items())
def test_imagenet_zoo_equals_torchvision(name: str, torchvision_name: str) -> None:
    """The weights that `pretrained_url` names fit: same entries in the same order, same logits."""
    network = torchvision_models.get_model(torchvision_name, weights=None).double().eval()
    network.load_state_dict(golden_state_dict(network, seed=1))
    model = create_model(name, dataset="imagenet").double().eval()
    assert list(model.state_dict()) == list(network.state_dict())
    model.load_state_dict(network.state_dict(), strict=True)
    x = images(64).double()
    with torch.no_grad():
        assert_close(model(x)[0], network(x), rtol=1e-6, atol=1e-6)


def test_pretrained_url() -> None:
    v1, v2 = (getattr(torchvision_models.ResNet50_Weights, version).url for version in ("IMAGENET1K_V1", "IMAGENET1K_V2"))
    assert pretrained_url("ResNet50", "imagenet") == v1
    assert pretrained_url("ResNet50", "imagenet", "IMAGENET1K_V2") == v2
    assert pretrained_url("torchvision/resnet50", "cifar100") == v2
    assert pretrained_url("torchvision/resnet50", "cifar100", "IMAGENET1K_V1") == v1
    assert pretrained_url("MobileNetV2", "imagenet") == torchvision_models.MobileNet_V2_Weights.IMAGENET1K_V1.url
    for name, dataset in (
        ("MobileNetV1", "imagenet"),
        ("ResNet50", "cifar100"),  # another network than ImageNet's
        ("MobileNetV2", "tiny_imagenet"),
        ("timm/resnet50", "imagenet"),
        ("torchvision/densenet121", "imagenet"),
        ("torchvision/googlenet", "imagenet"),
    ):
        assert pretrained_url(name, dataset) is None
    with pytest.raises(UnknownNameError, match=r"IMAGENET1K_V3.*Known: IMAGENET1K_V1, IMAGENET1K_V2"):
        pretrained_url("ResNet50", "imagenet", "IMAGENET1K_V3")
    with pytest.raises(UnknownNameError, match="unknown model 'ResNet51'"):
        pretrained_url("ResNet51", "imagenet")


def test_all_but_a_few_have_a_pretrained_url() -> None:
    """The zoo's IMAGENET1K_V1 exist, too: a name that torchvision dropped would raise."""
    assert all(pretrained_url(name, "imagenet") for name in ZOO_IN_TORCHVISION)
    urls = {
        name: pretrained_url(f"torchvision/{name}", "imagenet")
        for name in torchvision_models.list_models(module=torchvision_models)
    }
    without = sorted(name for name, url in urls.items() if url is None)
    assert without == ["densenet121", "densenet161", "densenet169", "densenet201", "googlenet", "inception_v3"]


@pytest.mark.parametrize("name", ["mnasnet0_5", "vit_b_16"])
def test_networks_that_have_changed_load_what_they_saved(name: str, tmp_path: Path) -> None:
    """They look at the version saved beside the weights; torchvision's files of vit_b_16 hold the names of an earlier one."""
    first, second = (create_model(f"torchvision/{name}", num_classes=5, image_size=32) for _ in range(2))
    state = first.state_dict()
    if name == "vit_b_16":
        for key in [key for key in state if ".mlp." in key]:
            state[key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")] = state.pop(key)
        for module, metadata in state._metadata.items():
            metadata["version"] = 1 if module.endswith(".mlp") else metadata["version"]
    torch.save({"model": state}, tmp_path / "weights")
    load_weights(second, tmp_path / "weights")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
