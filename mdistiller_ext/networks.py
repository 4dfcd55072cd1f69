"""The networks that a configuration names, with random weights."""

from __future__ import annotations

from typing import Literal

from torch import nn
from yacs.config import CfgNode

from .data import dataset_entry
from .models import ZOO_IMAGE_SIZE, create_model
from .models.features import return_modules


def image_size(config: CfgNode) -> int:
    """Edge in pixels of the images of a run, as far as its settings tell; else that of the data set's zoo."""
    entry = dataset_entry(config.DATASET.TYPE)
    size: int = config.DATASET.IMAGE_SIZE or getattr(entry, "image_size", ZOO_IMAGE_SIZE[entry.zoo])
    return size


def create_network(config: CfgNode, role: Literal["STUDENT", "TEACHER"], num_classes: int, size: int) -> nn.Module:
    """The student or teacher of a configuration, which returns the features that it names.

    Loading a student's weights attaches what a method adds to it. Raises as `create_model` and `return_modules`.
    """
    settings = config.DISTILLER
    init = settings.STUDENT_INIT if role == "STUDENT" else "default"
    network = create_model(settings[role], dataset=config.DATASET.TYPE, num_classes=num_classes, image_size=size, init=init)
    if settings[f"{role}_FEATURES"]:
        return_modules(network, settings[f"{role}_FEATURES"], f"DISTILLER.{role}_FEATURES")
    return network
