"""REVIEWKD: Distilling Knowledge via Knowledge Review. Chen et al., CVPR 2021, https://arxiv.org/abs/2104.09044"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import hcl_loss
from ..registry import register_distiller
from .adapters import BatchNorm
from .base import Distiller, Weight
from .maps import Pair, feature_maps, last_pairs
from .outputs import Batch, Output
from .progress import Progress, warm_up


@register_distiller("REVIEWKD")
class ReviewKD(Distiller):
    """``ce_weight * CE + warm_up * reviewkd_weight * sum of hcl_loss`` over levels.

    The teacher's levels are ``preact_feats`` without the stem (``feats``, of a network without them) and the pooled features as
    a map of 1x1, the student's as many of the last maps. From the last level to the first, a student's map is fused with what
    the level before passed on, and taken to the teacher's channels and size. All of these are derived from the features, where
    mdistiller needs settings for each pair of networks (SHAPES, OUT_SHAPES, IN_CHANNELS, OUT_CHANNELS).

    Args:
        warmup_epochs: epochs in which the weight rises to ``reviewkd_weight``.
        stu_preact: take the student's maps before their last ReLU, as for ImageNet.
        max_mid_channel: most channels of the fused maps, of which there are as many as the student's pooled features otherwise.
            mdistiller has this setting but always uses 512. The authors use 256 for MobileNetV1 on ImageNet.

    Raises ConfigError unless ``max_mid_channel`` is positive.
    """

    config_keys: ClassVar[dict[str, str]] = {}
    fusions: nn.ModuleList

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        reviewkd_weight: Weight = 1.0,
        warmup_epochs: int = 20,
        stu_preact: bool = False,
        max_mid_channel: int = 512,
    ) -> None:
        super().__init__(student, teacher)
        if max_mid_channel < 1:
            raise ConfigError(f"REVIEWKD.MAX_MID_CHANNEL must be at least 1, not {max_mid_channel}")
        self.ce_weight = ce_weight
        self.reviewkd_weight = reviewkd_weight
        self.warmup_epochs = warmup_epochs
        self.stu_preact = stu_preact
        self.max_mid_channel = max_mid_channel

    def setup(self, student: Output, teacher: Output) -> None:
        channels = [(s.shape[1], t.shape[1]) for s, t in self._levels(student, teacher)]
        mid_channels = min(self.max_mid_channel, channels[0][0])
        self.fusions = nn.ModuleList(
            AttentionFusion(s_channels, mid_channels, t_channels, first=level == 0)
            for level, (s_channels, t_channels) in enumerate(channels)
        )

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        losses, passed_on = [], None
        for fusion, (s, t) in zip(self.fusions, self._levels(student, teacher), strict=True):
            fused, passed_on = fusion(s, passed_on, t.shape[2:])
            losses.append(hcl_loss(fused, t))
        weight = warm_up(progress, self.warmup_epochs) * self.reviewkd_weight
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/hcl": weight * torch.stack(losses).sum(),
        }

    def _levels(self, student: Output, teacher: Output) -> list[Pair]:
        """(student, teacher) maps of the levels, from the pooled features to the first stage."""
        s_maps = feature_maps(student, "student", "preact_feats" if self.stu_preact else "feats")
        t_maps = feature_maps(teacher, "teacher", "preact_feats" if "preact_feats" in teacher.features else "feats")[1:]
        s_pooled, t_pooled = (output.features["pooled_feat"][:, :, None, None] for output in (student, teacher))
        return last_pairs([*s_maps, s_pooled], [*t_maps, t_pooled])[::-1]


class AttentionFusion(nn.Module):
    """The paper's ABF: fuses a map with that of the level before, weighted by attention at each position.

    Args:
        first: Whether there is no level before.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, *, first: bool) -> None:
        super().__init__()
        self.enter = _convolution(in_channels, mid_channels, kernel_size=1)
        self.attention = None if first else nn.Sequential(nn.Conv2d(2 * mid_channels, 2, kernel_size=1), nn.Sigmoid())
        self.leave = _convolution(mid_channels, out_channels, kernel_size=3)

    def forward(self, x: Tensor, before: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """The fused map ``[N, C_out, *size]``, and what the next level is to be fused with, ``[N, C_mid, *size]``.

        Args:
            x: the student's map ``[N, C_in, H, W]``.
            before: what the level before passed on, of any size.
            size: of the teacher's map.
        """
        x = self.enter(x)
        if self.attention is not None:
            assert before is not None
            before = F.interpolate(before, x.shape[2:], mode="nearest")
            weights = self.attention(torch.cat([x, before], dim=1))
            x = x * weights[:, :1] + before * weights[:, 1:]
        if x.shape[2:] != size:
            x = F.interpolate(x, size, mode="nearest")
        return self.leave(x), x


def _convolution(in_channels: int, channels: int, kernel_size: int) -> nn.Sequential:
    """Convolution that keeps the size, and batch norm."""
    convolution = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, BatchNorm(channels))
