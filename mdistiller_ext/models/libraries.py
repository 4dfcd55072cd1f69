"""Networks of torchvision and timm as students or teachers: ``torchvision/regnet_y_400mf``, ``timm/efficientnet_b0``.

They have the parameter names of their library, and return the input of their classifier as ``pooled_feat``; ``feats`` are
modules that the user names (`features.py`). Each library is imported on first use, since it takes longer to import than torch;
timm is optional.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import ConfigError, UnknownNameError, did_you_mean
from ..extras import optional
from .features import return_classifier_input

# Names of the ImageNet zoo's networks in torchvision, which does not have MobileNetV1.
ZOO_IN_TORCHVISION = {
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    "MobileNetV2": "mobilenet_v2",
}
# Weights that torchvision does not load unchanged: it renames entries, or drops auxiliary heads and changes the normalisation
# of the images.
NOT_PLAIN_WEIGHTS = ("densenet", "googlenet", "inception_v3")


def check_library_name(name: str) -> None:
    """Raise UnknownNameError, with the closest known name, unless ``library/network`` exists; ConfigError without timm."""
    library, _, network = name.partition("/")
    if library == "timm":
        timm = optional("timm", "timm")
        known = timm.list_models()
        if network in known or network in timm.list_pretrained():  # with a tag, such as resnet50.a1_in1k
            return
        listing = f"Known: the {len(known)} names of timm.list_models()."
    else:
        known = _torchvision_names()
        if network in known:
            return
        listing = f"Known: {', '.join(known)}"
    near = did_you_mean(network, known)
    raise UnknownNameError(f"unknown model '{network}' of {library}{near or '.'} {listing}")


def create_library_model(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Create a library's network with random weights, with the outputs of `features.return_classifier_input`.

    Args:
        name: ``library/network``, checked by `check_library_name`.
        image_size: edge length in pixels, for networks that are built for one size, such as vision transformers.

    Raises:
        ConfigError: the network does not support ``image_size``.
    """
    library, _, network = name.partition("/")
    build = _timm_model if library == "timm" else _torchvision_model
    try:
        model = build(network, num_classes, image_size)
    except (AssertionError, ValueError) as error:
        reason = str(error).split("\n")[0].rstrip(".!")
        raise ConfigError(
            f"{name} cannot be built for {image_size}x{image_size} images: {reason}. Give another image_size, or another model"
        ) from error
    return_classifier_input(model, num_classes)
    return model


def torchvision_weights_url(network: str, weights: str) -> str | None:
    """URL of the ImageNet weights ``weights`` of torchvision's ``network``; None if they do not load unchanged.

    Raises UnknownNameError that lists the known weights.
    """
    from torchvision.models import get_model_weights

    known = get_model_weights(network).__members__  # DEFAULT is an alias of the best
    if weights not in known:
        near = did_you_mean(weights, known)
        raise UnknownNameError(f"unknown weights '{weights}' of torchvision/{network}{near or '.'} Known: {', '.join(known)}")
    return None if network.startswith(NOT_PLAIN_WEIGHTS) else str(known[weights].url)


def _torchvision_names() -> list[str]:
    """Sorted names of torchvision's classification networks."""
    from torchvision import models

    return list(models.list_models(module=models))  # its subpackages are for detection, segmentation and video


def _torchvision_model(network: str, num_classes: int, image_size: int) -> nn.Module:
    from torchvision.models import get_model

    options: dict[str, Any] = {}
    if network.startswith("vit_"):
        options["image_size"] = image_size
    elif network.startswith("maxvit_"):
        options["input_size"] = (image_size, image_size)
    elif network in ("googlenet", "inception_v3"):
        # No loss would train auxiliary heads. Without init_weights, torchvision warns.
        options.update(aux_logits=False, init_weights=True)
    model: nn.Module = get_model(network, weights=None, num_classes=num_classes, **options)
    return model


def _timm_model(network: str, num_classes: int, image_size: int) -> nn.Module:
    timm = optional("timm", "timm")
    needs_size = timm.get_pretrained_cfg(network).fixed_input_size
    options = {"img_size": image_size} if needs_size else {}
    model: nn.Module = timm.create_model(network, pretrained=False, num_classes=num_classes, **options)
    return model
