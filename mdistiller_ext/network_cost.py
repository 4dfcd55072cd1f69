"""Parameters, operations and size of the student and the teacher of a configuration, without data or weights."""

from __future__ import annotations

import contextlib
import functools
import io
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from yacs.config import CfgNode

from .config import hyper_parameters
from .distillers import Distiller, create_distiller
from .errors import UserError
from .evaluate import eval_mode
from .models import ZOO_NUM_CLASSES, create_model
from .networks import create_network, image_size
from .registry import DATASETS, DISTILLERS


@dataclass(frozen=True)
class NetworkCost:
    """Cost of a network.

    Attributes:
        parameters: number of parameters, of layers that a method adds to a student too.
        flops: floating-point operations for one image, as ``torch.utils.flop_counter`` counts them: those of convolutions and
            matrix products, a multiplication with its addition as two.
        size: bytes of the file that ``torch.save`` makes of the ``state_dict`` in float32.
    """

    parameters: int
    flops: int
    size: int


@dataclass(frozen=True)
class Pair:
    """The networks of a run, and what they cost.

    Attributes:
        dataset: name of the data set.
        classes: number of classes.
        image_size: edge of an image in pixels.
        student: architecture; with the method's name where the method adds layers to it, as SimKD does.
        teacher: architecture; empty without a teacher.
        teacher_cost: None without a teacher, or for one that is not known.
    """

    dataset: str
    classes: int
    image_size: int
    student: str
    teacher: str
    student_cost: NetworkCost
    teacher_cost: NetworkCost | None

    def __str__(self) -> str:
        networks = f"{self.teacher} → {self.student}" if self.teacher else self.student
        return f"{networks}, {self.dataset} ({self.image_size}×{self.image_size}, {self.classes} classes)"


def find_pair(config: CfgNode, data: dict[str, Any] | None = None) -> Pair | None:
    """The networks of a run and their costs; None for a data set or a student that is not known.

    A method that is not known, or cannot be built, counts as one that adds no layers to the student.

    Args:
        data: fingerprint of the run's data, which has the number of classes.
    """
    settings, dataset = config.DISTILLER, config.DATASET.TYPE
    if dataset not in DATASETS:
        return None
    classes, size = classes_and_size(config, data)
    method = DISTILLERS.get(settings.TYPE) if settings.TYPE in DISTILLERS else None
    student, name = _cost(settings.STUDENT, dataset, classes, size), settings.STUDENT
    teacher = settings.TEACHER if method is None or method.needs_teacher else ""
    teacher_cost = _cost(teacher, dataset, classes, size) if teacher else None
    if student is None:
        return None
    if method is not None and method.setup is not Distiller.setup:  # which may add layers to the student
        with contextlib.suppress(UserError, RuntimeError):
            with_layers = _measure(create_networks(config, data)[0], size)
            if with_layers != student:
                student, name = with_layers, f"{name} ({settings.TYPE})"
    return Pair(dataset, classes, size, name, teacher, student, teacher_cost)


def classes_and_size(config: CfgNode, data: dict[str, Any] | None = None) -> tuple[int, int]:
    """Number of classes, and edge of an image in pixels, as far as settings and fingerprint tell; else those of the zoo."""
    settings, entry = config.DATASET, DATASETS.get(config.DATASET.TYPE)
    known = (data or {}).get("classes") or settings.NUM_CLASSES or getattr(entry, "num_classes", None)
    return known or ZOO_NUM_CLASSES[entry.zoo], image_size(config)


def create_networks(config: CfgNode, data: dict[str, Any] | None = None) -> tuple[nn.Module, nn.Module | None]:
    """Student and teacher of a configuration, randomly initialised, in eval mode, with the layers that the method adds.

    Raises UserError if they cannot be built.
    """
    name = config.DISTILLER.TYPE
    classes, size = classes_and_size(config, data)
    student = create_network(config, "STUDENT", classes, size).eval()
    teacher = create_network(config, "TEACHER", classes, size).eval() if DISTILLERS.get(name).needs_teacher else None
    method = create_distiller(name, student, teacher, **hyper_parameters(config, name))
    if method.needs_index:
        method.train_labels = torch.arange(classes)
    method.prepare((3, size, size))
    return student.eval(), teacher


@functools.cache
def _cost(name: str, dataset: str, classes: int, size: int) -> NetworkCost | None:
    """Cost of an architecture; None for one that is not known."""
    for device in ("meta", "cpu"):  # meta: shapes only, which is not enough for some networks of plug-ins
        with contextlib.suppress(UserError, RuntimeError), torch.device(device):
            return _measure(create_model(name, dataset=dataset, num_classes=classes, image_size=size), size)
    return None


def _measure(network: nn.Module, size: int) -> NetworkCost:
    """Cost of a network for images of ``size`` pixels; the values of its weights are lost."""
    device = next(network.parameters()).device
    with torch.no_grad(), eval_mode(network), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, size, size, device=device))
    file = _Length()
    torch.save(network.to_empty(device="cpu").float().state_dict(), file)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return NetworkCost(parameters, counter.get_total_flops(), file.length)


class _Length(io.BytesIO):
    """A file that keeps nothing of what is written but its length."""

    length = 0

    def write(self, content: Any) -> int:
        self.length += len(content)
        return len(content)
