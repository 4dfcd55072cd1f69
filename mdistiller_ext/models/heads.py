"""The head of SimKD's student: a projector of its last map into the teacher's, and the teacher's classifier.

SimKD (Chen et al., CVPR 2022, https://arxiv.org/abs/2203.14001) deploys the student with this head, which is therefore a module
of the student, ``simkd_head`` in its ``state_dict``. Loading such a state_dict attaches the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .layers import Output, conv1x1, conv3x3

HEAD = "simkd_head"


class SimKDHead(nn.Module):
    """``classifier(mean over positions of projector(map))`` of the student's last map ``[N, C, H, W]``.

    Args:
        channels: of the student's map.
        hidden: channels between the projector's convolutions.
        classifier: the teacher's, frozen; its inputs are the channels of the teacher's map.
        size: height and width of the teacher's map; a larger map of the student is pooled to it.
    """

    def __init__(self, channels: int, hidden: int, classifier: nn.Linear, size: tuple[int, int]) -> None:
        super().__init__()
        target = classifier.in_features
        self.projector = nn.Sequential(
            *(conv1x1(channels, hidden), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)),
            *(conv3x3(hidden, hidden), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)),
            *(conv1x1(hidden, target), nn.BatchNorm2d(target), nn.ReLU(inplace=True)),
        )
        self.classifier = nn.Linear(target, classifier.out_features, bias=classifier.bias is not None)
        self.classifier.load_state_dict(classifier.state_dict())
        self.classifier.requires_grad_(False)
        self.size: Tensor
        self.register_buffer("size", torch.tensor(size))  # saved with the head
        self._size = size  # for the forward pass: reading the buffer would synchronise the device

    def forward(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[N, classes]`` and the projected map of a last map."""
        projected = self.projector(pooled_to(last, self._size))
        return self.classifier(projected.mean(dim=(2, 3))), projected


def attach_head(student: nn.Module, head: SimKDHead) -> None:
    """Make a network predict by ``head``; the projected map becomes its feature ``projected``."""
    student.add_module(HEAD, head.train(student.training))
    student.register_forward_hook(_predict_by_head)


def attach_saved_head(student: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Attach an untrained head of the shapes in a student's ``state_dict``, if it has one and the student has none."""
    if hasattr(student, HEAD) or f"{HEAD}.size" not in state:
        return
    hidden, channels = state[f"{HEAD}.projector.0.weight"].shape[:2]
    outputs, inputs = state[f"{HEAD}.classifier.weight"].shape
    classifier = nn.Linear(inputs, outputs, bias=f"{HEAD}.classifier.bias" in state)
    height, width = state[f"{HEAD}.size"].tolist()
    attach_head(student, SimKDHead(channels, hidden, classifier, (height, width)))


def _predict_by_head(student: nn.Module, images: tuple[Tensor], output: Output) -> Output:
    _, features = output
    logits, projected = student.get_submodule(HEAD)(last_map(features))
    return logits, features | {"projected": projected}


def pooled_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Pool maps ``[N, C, H, W]`` that are larger than ``size`` in height or width, to it."""
    height, width = maps.shape[2:]
    if height <= size[0] and width <= size[1]:
        return maps
    return F.adaptive_avg_pool2d(maps, (min(height, size[0]), min(width, size[1])))


# ---- the last map and the classifier of any network ------------------------------------------------------------------


def last_map(features: Mapping[str, Any]) -> Tensor:
    """The map ``[N, C, H, W]`` whose mean over positions is the pooled feature."""
    last: Tensor = features["last_feat"] if "last_feat" in features else features["feats"][-1]
    return last


def check_last_map(features: Mapping[str, Any], network: str) -> None:
    """Raise ConfigError, naming the network, unless its pooled feature is the mean over positions of its last map."""
    last, pooled = last_map(features), features["pooled_feat"]
    if (
        last.ndim != 4
        or last.shape[:2] != pooled.shape
        or not torch.allclose(last.mean(dim=(2, 3)), pooled, rtol=1e-3, atol=1e-4)
    ):
        raise ConfigError(
            f"the last feature of the {network}, {list(last.shape)}, is not the map that it pools for its classifier; name "
            "that module last in DISTILLER.STUDENT_FEATURES or TEACHER_FEATURES, or choose another network"
        )


def classifier_of(model: nn.Module, pooled: Tensor, network: str) -> nn.Linear:
    """The linear layer that maps the pooled feature ``[N, D]`` to logits. Raises ConfigError if there is none."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.in_features == pooled.shape[1]]
    if not layers:
        raise ConfigError(f"the {network} has no linear classifier of its pooled feature; choose another network")
    return layers[-1]
