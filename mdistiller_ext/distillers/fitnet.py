"""FITNET: FitNets: Hints for Thin Deep Nets. Romero et al., ICLR 2015, https://arxiv.org/abs/1412.6550"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..registry import register_distiller
from .adapters import BatchNorm
from .base import Distiller, Weight
from .maps import feature_maps
from .outputs import Batch, Output
from .progress import Progress


@register_distiller("FITNET")
class FitNet(Distiller):
    """``ce_weight * CE + feat_weight * MSE`` of one of the teacher's maps and what a convolution predicts from the student's.

    As in RepDistiller and mdistiller, both losses are trained together; the paper trains on the hint first. The sizes of the
    maps determine the kind of convolution, for images of any size: mdistiller's setting INPUT_SIZE has no counterpart.

    Args:
        hint_layer: position of the maps in ``feats``; 0 is the stem.

    Raises ConfigError, from ``setup``, if a network has no such map, or no convolution leads from the one size to the other.
    """

    config_keys: ClassVar[dict[str, str]] = {"ce_weight": "LOSS.CE_WEIGHT", "feat_weight": "LOSS.FEAT_WEIGHT"}
    regressor: nn.Module

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        feat_weight: Weight = 100.0,
        hint_layer: int = 2,
    ) -> None:
        super().__init__(student, teacher)
        self.ce_weight = ce_weight
        self.feat_weight = feat_weight
        self.hint_layer = hint_layer

    def setup(self, student: Output, teacher: Output) -> None:
        shapes = []
        for role, output in (("student", student), ("teacher", teacher)):
            maps = feature_maps(output, role)
            if not 0 <= self.hint_layer < len(maps):
                raise ConfigError(f"FITNET.HINT_LAYER must be in [0, {len(maps) - 1}] for the {role}, not {self.hint_layer}")
            shapes.append(maps[self.hint_layer].shape[1:])
        self.regressor = nn.Sequential(joining_convolution(*shapes), BatchNorm(shapes[1][0]), nn.ReLU())

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        guess = self.regressor(student.features["feats"][self.hint_layer])
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/hint": self.feat_weight * F.mse_loss(guess, teacher.features["feats"][self.hint_layer]),
        }


def joining_convolution(student: torch.Size, teacher: torch.Size) -> nn.Conv2d | nn.ConvTranspose2d:
    """A convolution from maps of one shape ``[C, H, W]`` to another: strided, transposed, or over all windows that fit.

    Raises ConfigError where none of them leads to the teacher's size.
    """
    (s_channels, *s_size), (t_channels, *t_size) = student, teacher
    if s_size == [2 * length for length in t_size]:
        return nn.Conv2d(s_channels, t_channels, kernel_size=3, stride=2, padding=1)
    if t_size == [2 * length for length in s_size]:
        return nn.ConvTranspose2d(s_channels, t_channels, kernel_size=4, stride=2, padding=1)
    window = (s_size[0] - t_size[0] + 1, s_size[1] - t_size[1] + 1)
    if min(window) < 1:
        raise ConfigError(
            f"FITNET has no convolution from the student's map [C, H, W] = {list(student)} to the teacher's {list(teacher)}, "
            "which may be as large, smaller, or twice as large: choose another FITNET.HINT_LAYER"
        )
    return nn.Conv2d(s_channels, t_channels, kernel_size=window)
