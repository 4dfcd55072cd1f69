"""Parameters and operations of a student, from its configuration alone."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from yacs.config import CfgNode

from ...errors import UserError
from ...evaluate import eval_mode
from ...models import ZOO_IMAGE_SIZE, ZOO_NUM_CLASSES, create_model
from ...registry import DATASETS


def student_cost(config: CfgNode, data: dict[str, Any] | None) -> tuple[int, int] | None:
    """Number of parameters of a run's student, and floating-point operations for one image; None for an unknown network.

    Args:
        data: fingerprint of the run's data.
    """
    dataset, settings = config.DATASET.TYPE, config.DATASET
    if dataset not in DATASETS:
        return None
    entry = DATASETS.get(dataset)
    classes = (data or {}).get("classes") or getattr(entry, "num_classes", None) or ZOO_NUM_CLASSES[entry.zoo]
    size = settings.IMAGE_SIZE or getattr(entry, "image_size", ZOO_IMAGE_SIZE[entry.zoo])
    return _cost(config.DISTILLER.STUDENT, dataset, classes, size)


@functools.cache
def _cost(name: str, dataset: str, classes: int, size: int) -> tuple[int, int] | None:
    """As :func:`student_cost`. A multiplication with its addition counts as two operations."""
    try:
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:  # shapes only
            model = create_model(name, dataset=dataset, num_classes=classes, image_size=size)
            with eval_mode(model):
                model(torch.empty(1, 3, size, size))
    except (UserError, RuntimeError):  # a network of a plug-in, or one that needs values
        return None
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops()
