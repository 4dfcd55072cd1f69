"""Model zoos: teacher and student networks, created by name.

Every network maps images `[N, 3, H, W]` to `(logits, features)`: `features["feats"]` holds its feature maps,
`["preact_feats"]` the same maps before their last ReLU (not for MobileNetV2), and `["pooled_feat"]` the classifier's input, the
mean over positions of `["last_feat"]`, which is returned where it is not the last of ``feats``.
Parameter names are mdistiller's, so its checkpoints load strictly.

Each zoo is a subpackage; each network is a function ``num_classes -> nn.Module`` under ``@register_model(name, zoo=...)``.
`libraries` adds the networks of torchvision and timm, and `features` makes any network return those of modules by name.
Weights are loaded elsewhere (`weights.py`).
Importing this package imports neither torch nor a network; the registry imports them on its first look-up.
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
_MARKED_CLASSES = 7919  # identifies the classifier's entries by their shape: no layer has this width
LIBRARIES = ("torchvision/", "timm/")  # prefixes of the names of networks outside the zoos


def create_model(
    name: str,
    *,
    dataset: str = "cifar100",
    num_classes: int | None = None,
    image_size: int | None = None,
    init: str = "default",
) -> nn.Module:
    """Create a randomly initialised network for a zoo or a registered data set, in training mode.

    Args:
        name: an architecture, such as "resnet8x4" (see `list_models`), or any classification network of torchvision or timm,
            such as "torchvision/regnet_y_400mf".
        dataset: a zoo ("cifar100", "tiny_imagenet", "imagenet") or a data set, whose ``zoo`` attribute names its zoo.
        num_classes: number of logits. Default: that of the zoo or the data set.
        image_size: edge length in pixels, for networks of the libraries that are built for one size, such as vision
            transformers; all others accept any size. Default: that of the zoo.
        init: initialisation of the weights: ``default`` (the network's own) or ``fan_out`` (`layers.init_by_fan_out`).

    Raises:
        UnknownNameError: the name or data set is not registered.
        ConfigError: the number of classes is not positive, or neither given nor known from the data set; the image size is
            not positive or not supported by the network; timm is not installed; ``init`` is invalid.
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
    """Raise UnknownNameError, with the closest known name, unless ``name`` is an architecture for ``dataset``.

    Raises ConfigError for a network of timm if timm is not installed.
    """
    if not isinstance(name, str):
        raise UnknownNameError(f"the name of a model must be text, such as 'resnet8', got {name!r}")
    if name.startswith(LIBRARIES):
        from .libraries import check_library_name

        check_library_name(name)
        _zoo(dataset)  # raises for an unknown data set
        return
    zoo, _ = _zoo(dataset)
    if f"{zoo}/{name}" not in MODELS:
        known = list_models(dataset)
        near = did_you_mean(name, known)
        raise UnknownNameError(f"unknown model '{name}' for {dataset}{near or '.'} Known: {', '.join(known)}{OWN}")


def list_models(dataset: str = "cifar100") -> list[str]:
    """Sorted names of all architectures for a zoo or a registered data set, without those of torchvision and timm."""
    zoo, _ = _zoo(dataset)
    return [name.removeprefix(f"{zoo}/") for name in MODELS.names() if name.startswith(f"{zoo}/")]


def find_architectures(state: Mapping[str, Tensor]) -> list[str]:
    """Networks of all zoos, as "zoo/name", whose entries have the names and shapes of a state_dict, for any number of classes.

    Takes one to two seconds, since it builds all networks: for error messages only.
    """
    import torch

    found = []
    for name in MODELS:
        try:
            with torch.device("meta"):  # shapes only: no memory, no random numbers
                own = MODELS.get(name)(_MARKED_CLASSES).state_dict()
        except RuntimeError:  # the constructor of a plug-in's network may need values
            continue
        if own.keys() == state.keys() and _fits(own, state):
            found.append(name)
    return found


def pretrained_url(name: str, dataset: str, weights: str = "") -> str | None:
    """URL of torchvision's ImageNet weights (1000 classes) for a network; None if there are none that load unchanged.

    Args:
        name: an architecture of the ImageNet zoo, or ``torchvision/<name>``.
        dataset: a zoo or a registered data set.
        weights: name of the weights, such as "IMAGENET1K_V2". Default: IMAGENET1K_V1 for the zoo, the teachers of
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
    """Whether all shapes agree, for ``own`` built with ``_MARKED_CLASSES`` classes and ``state`` with any number."""
    classes = {state[entry].shape[:1] for entry, value in own.items() if value.shape[:1] == (_MARKED_CLASSES,)}
    if len(classes) != 1:  # the classifier's weight and bias disagree
        return False
    (num_classes,) = classes
    return all(
        state[entry].shape == (num_classes if value.shape[:1] == (_MARKED_CLASSES,) else value.shape[:1]) + value.shape[1:]
        for entry, value in own.items()
    )


def _zoo(dataset: str) -> tuple[str, int | None]:
    """Zoo and default number of classes for the name of a zoo or a data set."""
    if dataset in ZOO_NUM_CLASSES:  # first: does not import the data sets
        return dataset, ZOO_NUM_CLASSES[dataset]
    entry = DATASETS.get(dataset)
    return entry.zoo, entry.num_classes
