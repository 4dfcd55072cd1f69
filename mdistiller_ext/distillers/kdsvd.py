"""KDSVD: Self-supervised Knowledge Distillation Using Singular Value Decomposition. Lee et al., ECCV 2018,
https://arxiv.org/abs/1807.06819"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import SVDRule, kdsvd_loss
from ..registry import register_distiller
from .base import Distiller, Weight
from .maps import stage_pairs
from .outputs import Batch, Output
from .progress import Progress


@register_distiller("KDSVD")
class KDSVD(Distiller):
    """``ce_weight * CE + feat_weight * kdsvd_loss`` of the stages, ``feats`` without the stem.

    The gradient is finite also for repeated singular values, as those of two dead channels, where mdistiller's is NaN. A step
    cannot be captured in a CUDA graph, since the SVD synchronises the device.

    Args:
        k: number of the teacher's singular vectors.
        rule: ``paper``: vectors over channels, of matrices with a row for each position, as in RepDistiller; stages must have
            equally many channels in both networks. ``mdistiller``: vectors over the columns of the image, as mdistiller's
            reshape gives; stages must have maps of equal width.

    Raises ConfigError unless ``k`` is positive and, from ``setup``, for stages that cannot be compared.
    """

    config_keys: ClassVar[dict[str, str]] = {"ce_weight": "LOSS.CE_WEIGHT", "feat_weight": "LOSS.FEAT_WEIGHT"}

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        feat_weight: Weight = 1.0,
        k: int = 1,
        rule: SVDRule = "paper",
    ) -> None:
        super().__init__(student, teacher)
        if rule not in ("paper", "mdistiller"):
            raise ConfigError(f"KDSVD.RULE must be paper or mdistiller, not '{rule}'")
        if k < 1:
            raise ConfigError(f"KDSVD.K must be at least 1, not {k}")
        self.ce_weight = ce_weight
        self.feat_weight = feat_weight
        self.k = k
        self.rule: SVDRule = rule

    def setup(self, student: Output, teacher: Output) -> None:
        for pair in stage_pairs(student, teacher, least=2):
            shapes = [list(maps.shape[1:]) for maps in pair]
            # Rows and columns of the matrices, see kdsvd_loss.
            sizes = [(h * w, c) if self.rule == "paper" else (c * h, w) for c, h, w in shapes]
            what = "channels" if self.rule == "paper" else "width"
            if sizes[0][1] != sizes[1][1]:
                raise ConfigError(
                    f"KDSVD with RULE {self.rule} compares maps [C, H, W] of equal {what}, and a stage has {shapes[0]} in the "
                    f"student and {shapes[1]} in the teacher: choose other networks"
                )
            most = min(min(size) for size in sizes)
            if self.k > most:
                raise ConfigError(f"KDSVD.K must be at most {most}, the smallest rank of a stage's maps, not {self.k}")

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        s, t = zip(*stage_pairs(student, teacher), strict=True)
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/svd": self.feat_weight * kdsvd_loss(s, t, k=self.k, rule=self.rule),
        }
