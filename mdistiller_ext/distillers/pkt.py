"""PKT: Learning Deep Representations with Probabilistic Knowledge Transfer. Passalis and Tefas, ECCV 2018,
https://arxiv.org/abs/1803.10837
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import pkt_loss
from ..registry import register_distiller
from .base import Distiller, Weight
from .outputs import Batch, Output
from .progress import Progress


@register_distiller("PKT")
class PKT(Distiller):
    """``ce_weight * CE + feat_weight * PKT`` of the pooled features, over the pairs of samples of the whole batch.

    The loss is a mean over all pairs, as in the official code, hence the large weight.
    """

    config_keys: ClassVar[dict[str, str]] = {"ce_weight": "LOSS.CE_WEIGHT", "feat_weight": "LOSS.FEAT_WEIGHT"}

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, ce_weight: Weight = 1.0, feat_weight: Weight = 30000.0
    ) -> None:
        super().__init__(student, teacher)
        self.ce_weight = ce_weight
        self.feat_weight = feat_weight

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        features = (self.whole_batch(output.features["pooled_feat"]) for output in (student, teacher))
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/pkt": self.feat_weight * pkt_loss(*features),
        }
