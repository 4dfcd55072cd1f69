"""Networks of torchvision and timm, as students or teachers: ``torchvision/regnet_y_400mf``, ``timm/efficientnet_b0``.

They keep their library's parameter names and return no features, so they serve the methods that compare logits. Both
libraries are imported when first asked for a network, as either takes longer to import than torch; timm is optional.
"""

from __future__ import annotations

import types
from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError, UnknownNameError, did_you_mean
from .layers import Output

# The ImageNet zoo's networks under torchvision's names; MobileNetV1 is not there.
ZOO_IN_TORCHVISION = {
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    "MobileNetV2": "mobilenet_v2",
}
# Torchvision loads these files by code of its own: it renames entries, or drops the auxiliary heads and changes the
# normalisation of the images.
NOT_PLAIN_WEIGHTS = ("densenet", "googlenet", "inception_v3")


def check_library_name(name: str) -> None:
    """Raise UnknownNameError, with the nearest known name, unless ``library/network`` exists; ConfigError without timm."""
    library, _, network = name.partition("/")
    if library == "timm":
        timm = _import_timm()
        known = timm.list_models()
        if network in known or network in timm.list_pretrained():  # the latter with a tag, as in resnet50.a1_in1k
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
    """A library's network with random weights, whose forward returns ``(logits, {})``.

    Args:
        name: ``library/network``, known to exist (see `check_library_name`).
        image_size: pixels of an edge, for networks that are built for one size, such as vision transformers.

    Raises:
        ConfigError: if such a network cannot be built for ``image_size``.
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
    # A hook rather than a wrapping module, which would prefix the names of all parameters.
    model.register_forward_hook(_with_features)
    return model


def torchvision_weights_url(network: str, weights: str) -> str | None:
    """URL of the ImageNet weights called ``weights`` of torchvision's ``network``; None if they need code to be loaded.

    Raises UnknownNameError that lists the known weights.
    """
    from torchvision.models import get_model_weights

    known = get_model_weights(network).__members__  # by name, and once more the best of them as DEFAULT
    if weights not in known:
        near = did_you_mean(weights, known)
        raise UnknownNameError(f"unknown weights '{weights}' of torchvision/{network}{near or '.'} Known: {', '.join(known)}")
    return None if network.startswith(NOT_PLAIN_WEIGHTS) else str(known[weights].url)


def _torchvision_names() -> list[str]:
    """Names of all of torchvision's classification networks, sorted."""
    from torchvision import models

    return list(models.list_models(module=models))  # those of its subpackages detect, segment, or classify videos


def _torchvision_model(network: str, num_classes: int, image_size: int) -> nn.Module:
    from torchvision.models import get_model

    options: dict[str, Any] = {}
    if network.startswith("vit_"):
        options["image_size"] = image_size
    elif network.startswith("maxvit_"):
        options["input_size"] = (image_size, image_size)
    elif network in ("googlenet", "inception_v3"):
        # Auxiliary heads would train with no loss. Torchvision warns unless told whether to initialise.
        options.update(aux_logits=False, init_weights=True)
    model: nn.Module = get_model(network, weights=None, num_classes=num_classes, **options)
    return model


def _timm_model(network: str, num_classes: int, image_size: int) -> nn.Module:
    timm = _import_timm()
    needs_size = timm.get_pretrained_cfg(network).fixed_input_size
    options = {"img_size": image_size} if needs_size else {}
    model: nn.Module = timm.create_model(network, pretrained=False, num_classes=num_classes, **options)
    return model


def _import_timm() -> types.ModuleType:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ConfigError("timm/... needs the package timm: pip install timm") from error
    return timm


def _with_features(module: nn.Module, images: tuple[Tensor], logits: Tensor) -> Output:
    """Forward hook: the output of a library's network as that of a zoo's."""
    return logits, {}
