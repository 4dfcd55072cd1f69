"""The model zoos: teacher and student networks, built by name.

Every network maps images `[N, 3, H, W]` to `(logits, features)`: `features["feats"]` holds its feature maps,
`["preact_feats"]` the same maps before their last ReLU (MobileNetV2's have none), and `["pooled_feat"]` the
classifier's input. Parameter names are mdistiller's, so its checkpoints load strictly.

A zoo is a folder here; a network is a function ``num_classes -> nn.Module`` under ``@register_model(name, zoo=...)``.
Beside the zoos, `libraries` has the networks of torchvision and timm, whose features are empty.
Weights are not read here. Importing this package imports neither torch nor a network: the registry does that when it is
first asked for one.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import ConfigError, UnknownNameError, did_you_mean
from ..registry import DATASETS, MODELS, OWN, register_model

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "ZOO_NUM_CLASSES",
    "check_model_name",
    "create_model",
    "find_architectures",
    "list_models",
    "pretrained_url",
    "register_model",
]

ZOO_NUM_CLASSES = {"cifar100": 100, "tiny_imagenet": 200, "imagenet": 1000}
ZOO_IMAGE_SIZE = {"cifar100": 32, "tiny_imagenet": 64, "imagenet": 224}  # pixels of an edge
_MARKED_CLASSES = 7919  # a number of classes that marks the entries of the classifier: no layer is as wide
LIBRARIES = ("torchvision/", "timm/")  # how the names of networks outside the zoos begin


def create_model(
    name: str,
    *,
    dataset: str = "cifar100",
    num_classes: int | None = None,
    image_size: int | None = None,
    init: str = "default",
) -> nn.Module:
    """A freshly initialised network for a zoo or a registered data set, in training mode.

    Args:
        name: an architecture, such as "resnet8x4"; `list_models` has them all. Or any classification network of
            torchvision or timm, such as "torchvision/regnet_y_400mf".
        dataset: a zoo ("cifar100", "tiny_imagenet", "imagenet") or a data set, whose ``zoo`` attribute names its zoo.
        num_classes: length of the logits; by default what the zoo or the data set has.
        image_size: pixels of an edge, by default those of the zoo; only for the libraries' networks that are built for
            one size, such as vision transformers. All others take any size.
        init: how weights are initialised: as the network does by itself, or by `layers.init_by_fan_out`.

    Raises:
        UnknownNameError: for a name or data set that nobody registered.
        ConfigError: if the number of classes is not positive, or neither given nor known from the data set; if the size of
            the images is not positive, or a network cannot be built for it; if timm is not installed; for another ``init``.
    """
    if init not in ("default", "fan_out"):
        raise ConfigError(f"the initialisation (DISTILLER.STUDENT_INIT) must be default or fan_out, not '{init}'")
    check_model_name(name, dataset)
    zoo, default_num_classes = _zoo(dataset)
    if num_classes is None:
        num_classes = default_num_classes
    if num_classes is None:
        raise ConfigError(f"data set '{dataset}' has no fixed number of classes; give num_classes")
    for what, number in (("num_classes", num_classes), ("image_size", 1 if image_size is None else image_size)):
        if not isinstance(number, numbers.Integral) or isinstance(number, bool) or number < 1:
            raise ConfigError(f"{what} must be a whole number, at least 1, got {number!r}")
    if name.startswith(LIBRARIES):
        from .libraries import create_library_model

        model = create_library_model(name, num_classes, ZOO_IMAGE_SIZE[zoo] if image_size is None else image_size)
    else:
        model = MODELS.get(f"{zoo}/{name}")(num_classes)
    if init == "fan_out":
        from .layers import init_by_fan_out

        init_by_fan_out(model)
    return model


def check_model_name(name: str, dataset: str) -> None:
    """Raise UnknownNameError, with the nearest known name, unless ``name`` is an architecture for ``dataset``.

    Raises ConfigError for a network of timm where timm is not installed.
    """
    if not isinstance(name, str):
        raise UnknownNameError(f"the name of a model must be text, such as 'resnet8', got {name!r}")
    if name.startswith(LIBRARIES):
        from .libraries import check_library_name

        check_library_name(name)
        _zoo(dataset)  # raises for an unknown data set
        return
    known = list_models(dataset)
    if name not in known:
        near = did_you_mean(name, known)
        raise UnknownNameError(f"unknown model '{name}' for {dataset}{near or '.'} Known: {', '.join(known)}{OWN}")


def list_models(dataset: str = "cifar100") -> list[str]:
    """Names of all architectures for a zoo or a registered data set, sorted; without those of torchvision and timm."""
    zoo, _ = _zoo(dataset)
    return [name.removeprefix(f"{zoo}/") for name in MODELS if name.startswith(f"{zoo}/")]


def find_architectures(state: Mapping[str, Tensor]) -> list[str]:
    """Networks of all zoos, as "zoo/name", whose parameters have the names and shapes of a state_dict, in any order.

    The number of classes does not matter. Takes a second or two, as it builds them all: meant for error messages.
    """
    import torch

    found = []
    for name in MODELS:
        try:
            with torch.device("meta"):  # shapes without memory or random numbers
                own = MODELS.get(name)(_MARKED_CLASSES).state_dict()
        except RuntimeError:  # a plugin's network may need values to be built
            continue
        if own.keys() == state.keys() and _fits(own, state):
            found.append(name)
    return found


def pretrained_url(name: str, dataset: str, weights: str = "") -> str | None:
    """URL of torchvision's ImageNet weights (1000 classes) for a network; None where there are none that load as they are.

    Args:
        name: an architecture of the ImageNet zoo, or ``torchvision/<name>``.
        dataset: a zoo or a registered data set.
        weights: which of several, such as "IMAGENET1K_V2"; by default IMAGENET1K_V1 for the zoo, the teachers of
            mdistiller's benchmarks, and torchvision's best otherwise. Those of ``vit_h_14`` are for 518x518 images.

    Raises UnknownNameError for an unknown network, data set or weights.
    """
    check_model_name(name, dataset)
    from .libraries import ZOO_IN_TORCHVISION, torchvision_weights_url

    if name.startswith("torchvision/"):
        return torchvision_weights_url(name.removeprefix("torchvision/"), weights or "DEFAULT")
    if _zoo(dataset)[0] != "imagenet" or name not in ZOO_IN_TORCHVISION:
        return None
    return torchvision_weights_url(ZOO_IN_TORCHVISION[name], weights or "IMAGENET1K_V1")


def _fits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    """Whether shapes agree, entry by entry, where ``own`` was built for ``_MARKED_CLASSES`` and ``state`` for any number."""
    classes = {state[entry].shape[:1] for entry, value in own.items() if value.shape[:1] == (_MARKED_CLASSES,)}
    if len(classes) != 1:  # the classifier's weight and bias disagree
        return False
    (num_classes,) = classes
    return all(
        state[entry].shape == (num_classes if value.shape[:1] == (_MARKED_CLASSES,) else value.shape[:1]) + value.shape[1:]
        for entry, value in own.items()
    )


def _zoo(dataset: str) -> tuple[str, int | None]:
    """Zoo and default number of classes of a zoo's or a data set's name."""
    if dataset in ZOO_NUM_CLASSES:  # first, so that a network can be built without importing the data sets
        return dataset, ZOO_NUM_CLASSES[dataset]
    entry = DATASETS.get(dataset)
    return entry.zoo, entry.num_classes
