"""SP: Similarity-Preserving Knowledge Distillation. Tung and Mori, ICCV 2019, https://arxiv.org/abs/1907.09682"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import sp_loss
from ..registry import register_distiller
from .base import Distiller, Weight
from .outputs import Batch, Output
from .progress import Progress


@register_distiller("SP")
class SP(Distiller):
    """``ce_weight * CE + feat_weight * SP`` of the last feature maps, over the pairs of samples of the whole batch."""

    config_keys: ClassVar[dict[str, str]] = {"ce_weight": "LOSS.CE_WEIGHT", "feat_weight": "LOSS.FEAT_WEIGHT"}

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, ce_weight: Weight = 1.0, feat_weight: Weight = 3000.0
    ) -> None:
        super().__init__(student, teacher)
        self.ce_weight = ce_weight
        self.feat_weight = feat_weight

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        features = (self.whole_batch(output.features["feats"][-1]) for output in (student, teacher))
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/sp": self.feat_weight * sp_loss(*features),
        }
