"""The model zoos: teacher and student networks, built by name.

Every network maps images `[N, 3, H, W]` to `(logits, features)`: `features["feats"]` holds its feature maps,
`["preact_feats"]` the same maps before their last ReLU (MobileNetV2's have none), and `["pooled_feat"]` the
classifier's input. Parameter names are mdistiller's, so its checkpoints load strictly.

A zoo is a folder here; a network is a function ``num_classes -> nn.Module`` under ``@register_model(name, zoo=...)``.
Weights are not read here. Importing this package imports neither torch nor a network: the registry does that when it is
first asked for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError, UnknownNameError, did_you_mean
from ..registry import DATASETS, MODELS, register_model

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ZOO_NUM_CLASSES", "check_model_name", "create_model", "list_models", "register_model"]

ZOO_NUM_CLASSES = {"cifar100": 100, "tiny_imagenet": 200, "imagenet": 1000}


def create_model(name: str, *, dataset: str = "cifar100", num_classes: int | None = None) -> nn.Module:
    """A freshly initialised network for a zoo or a registered data set, in training mode.

    Args:
        name: an architecture, such as "resnet8x4"; `list_models` has them all.
        dataset: a zoo ("cifar100", "tiny_imagenet", "imagenet") or a data set, whose ``zoo`` attribute names its zoo.
        num_classes: length of the logits; by default what the zoo or the data set has.

    Raises:
        UnknownNameError: for a name or data set that nobody registered.
        ConfigError: if the number of classes is not positive, or neither given nor known from the data set.
    """
    check_model_name(name, dataset)
    zoo, default_num_classes = _zoo(dataset)
    if num_classes is None:
        num_classes = default_num_classes
    if num_classes is None:
        raise ConfigError(f"data set '{dataset}' has no fixed number of classes; give num_classes")
    if num_classes < 1:
        raise ConfigError(f"num_classes must be at least 1, got {num_classes}")
    model: nn.Module = MODELS.get(f"{zoo}/{name}")(num_classes)
    return model


def check_model_name(name: str, dataset: str) -> None:
    """Raise UnknownNameError, with the nearest known name, unless ``name`` is an architecture for ``dataset``."""
    known = list_models(dataset)
    if name not in known:
        near = did_you_mean(name, known)
        raise UnknownNameError(f"unknown model '{name}' for {dataset}{near or '.'} Known: {', '.join(known)}")


def list_models(dataset: str = "cifar100") -> list[str]:
    """Names of all architectures for a zoo or a registered data set, sorted."""
    zoo, _ = _zoo(dataset)
    return [name.removeprefix(f"{zoo}/") for name in MODELS if name.startswith(f"{zoo}/")]


def _zoo(dataset: str) -> tuple[str, int | None]:
    """Zoo and default number of classes of a zoo's or a data set's name."""
    if dataset in ZOO_NUM_CLASSES:  # first, so that a network can be built without importing the data sets
        return dataset, ZOO_NUM_CLASSES[dataset]
    entry = DATASETS.get(dataset)
    return entry.zoo, entry.num_classes
