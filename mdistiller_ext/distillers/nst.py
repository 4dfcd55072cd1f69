"""NST: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. Huang and Wang, 2017,
https://arxiv.org/abs/1707.01219"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import nst_loss
from ..registry import register_distiller
from .base import Distiller, Weight
from .maps import stage_pairs
from .outputs import Batch, Output
from .progress import Progress


@register_distiller("NST")
class NST(Distiller):
    """``ce_weight * CE + feat_weight * sum of nst_loss`` over the stages, ``feats`` without the stem.

    The kernel is the polynomial one of degree 2. The loss is mdistiller's, without its intermediate tensor of
    ``N * C * C * H * W`` numbers.
    """

    config_keys: ClassVar[dict[str, str]] = {"ce_weight": "LOSS.CE_WEIGHT", "feat_weight": "LOSS.FEAT_WEIGHT"}

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        feat_weight: Weight = 50.0,
    ) -> None:
        super().__init__(student, teacher)
        self.ce_weight = ce_weight
        self.feat_weight = feat_weight

    def setup(self, student: Output, teacher: Output) -> None:
        stage_pairs(student, teacher)  # raises ConfigError

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        losses = [nst_loss(s, t) for s, t in stage_pairs(student, teacher)]
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/nst": self.feat_weight * torch.stack(losses).sum(),
        }
