"""OFD: A Comprehensive Overhaul of Feature Distillation. Heo et al., ICCV 2019, https://arxiv.org/abs/1904.01866"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..evaluate import network_name
from ..losses import mean_pool, negative_mean, ofd_loss
from ..registry import register_distiller
from .adapters import BatchNorm
from .base import Distiller, Weight
from .maps import Pair, feature_maps, last_pairs
from .outputs import Batch, Output
from .progress import Progress


@register_distiller("OFD")
class OFD(Distiller):
    """``ce_weight * CE + feat_weight * sum of ofd_loss / 2^(n - 1 - i)`` over n stages i, on maps before their last ReLU.

    A convolution and a batch norm take the student's map to the teacher's channels; the teacher's map is averaged to the
    student's size. The margin of a channel is its mean negative response, computed from the batch norm that ends the stage.
    Stages are paired from the last one backwards, as many as the teacher names batch norms for.

    mdistiller cannot run ImageNet's ResNet34 and ResNet18, for which it assumes other channels; here they are those of the
    maps. A student that returns no ``preact_feats`` is distilled at its ``feats``: those of MobileNetV2 are the outputs of
    linear bottlenecks, which end in no ReLU.

    Args:
        kernel_size: of the connectors; odd.
        teacher_mode: ``eval``: the teacher normalises by its running statistics, as in all other methods. ``train``: by the
            statistics of each rank's batch, as in the authors' code and in mdistiller. Their teacher's running statistics drift
            meanwhile, but do not affect the training; here they are not updated. The teacher runs neither folded nor compiled.

    Raises ConfigError for other arguments and, from ``setup``, for a teacher without ``get_bn_before_relu()``.
    """

    config_keys: ClassVar[dict[str, str]] = {
        "ce_weight": "LOSS.CE_WEIGHT",
        "feat_weight": "LOSS.FEAT_WEIGHT",
        "kernel_size": "CONNECTOR.KERNEL_SIZE",
    }
    teacher: nn.Module
    connectors: nn.ModuleList

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        feat_weight: Weight = 0.001,
        kernel_size: int = 1,
        teacher_mode: Literal["eval", "train"] = "eval",
    ) -> None:
        super().__init__(student, teacher)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigError(f"OFD.CONNECTOR.KERNEL_SIZE must be odd and positive, not {kernel_size}")
        if teacher_mode not in ("eval", "train"):
            raise ConfigError(f"OFD.TEACHER_MODE must be eval or train, not '{teacher_mode}'")
        self.ce_weight = ce_weight
        self.feat_weight = feat_weight
        self.kernel_size = kernel_size
        self.teacher_mode = teacher_mode

    def setup(self, student: Output, teacher: Output) -> None:
        get_batch_norms = getattr(self.teacher, "get_bn_before_relu", None)
        if get_batch_norms is None:
            raise ConfigError(
                "OFD computes its margins from the batch norms that the teacher's get_bn_before_relu() returns, and "
                f"{network_name(self.teacher)} has no such method: choose another teacher"
            )
        stages = last_pairs(_stages(student, teacher), get_batch_norms())
        if not stages:
            raise ConfigError("OFD compares stages after the stem, preact_feats[1:], and the networks have no two of them")
        self.connectors = nn.ModuleList(Connector(s.shape[1], batch_norm, self.kernel_size) for (s, _), batch_norm in stages)

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        n = len(self.connectors)
        losses = []
        for i, (module, (s, t)) in enumerate(zip(self.connectors, _stages(student, teacher)[-n:], strict=True)):
            connector = cast(Connector, module)
            losses.append(ofd_loss(connector(s), mean_pool(t, (s.shape[2], s.shape[3])), connector.margin) / 2 ** (n - 1 - i))
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/ofd": self.feat_weight * torch.stack(losses).sum(),
        }

    def inference_network(self) -> nn.Module:
        """The teacher itself in ``teacher_mode`` train: copies prepared for inference have fixed statistics."""
        return self.teacher if self.teacher_mode == "train" else super().inference_network()

    def train(self, mode: bool = True) -> OFD:
        """Set the mode of the student, of the connectors and, in ``teacher_mode`` train, of the teacher's batch norms."""
        super().train(mode)
        if self.teacher_mode == "train":
            for module in self.teacher.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.track_running_stats = False  # do not update them
                    module.train(mode)
        return self


class Connector(nn.Sequential):
    """Convolution and batch norm from the student's map to the teacher's channels, and the ``margin`` ``[C]`` of these."""

    margin: Tensor

    def __init__(self, in_channels: int, teacher: nn.BatchNorm2d, kernel_size: int) -> None:
        channels = teacher.num_features
        convolution = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
        super().__init__(convolution, BatchNorm(channels))
        mean, std = (parameter.detach().cpu().double() for parameter in (teacher.bias, teacher.weight))
        self.register_buffer("margin", negative_mean(mean, std).to(teacher.weight))


def _stages(student: Output, teacher: Output) -> list[Pair]:
    """(student, teacher) maps before their last ReLU, without the stem."""
    name = "preact_feats" if "preact_feats" in student.features else "feats"
    return last_pairs(
        feature_maps(student, "student", name)[1:],
        feature_maps(teacher, "teacher", "preact_feats")[1:],
    )
