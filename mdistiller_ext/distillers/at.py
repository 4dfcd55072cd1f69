"""AT: Paying More Attention to Attention. Zagoruyko and Komodakis, ICLR 2017, https://arxiv.org/abs/1612.03928"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import at_loss
from ..registry import register_distiller
from .base import Distiller, Weight
from .maps import stage_pairs
from .outputs import Batch, Output
from .progress import Progress


@register_distiller("AT")
class AT(Distiller):
    """``ce_weight * CE + feat_weight * sum of at_loss`` over the stages, ``feats`` without the stem.

    Args:
        p: power of the activations in an attention map.

    Raises ConfigError unless ``p`` is positive.
    """

    config_keys: ClassVar[dict[str, str]] = {"ce_weight": "LOSS.CE_WEIGHT", "feat_weight": "LOSS.FEAT_WEIGHT"}

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        feat_weight: Weight = 1000.0,
        p: int = 2,
    ) -> None:
        super().__init__(student, teacher)
        if p < 1:
            raise ConfigError(f"AT.P must be at least 1, not {p}")
        self.ce_weight = ce_weight
        self.feat_weight = feat_weight
        self.p = p

    def setup(self, student: Output, teacher: Output) -> None:
        stage_pairs(student, teacher)  # raises ConfigError

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        losses = [at_loss(s, t, p=self.p) for s, t in stage_pairs(student, teacher)]
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/attention": self.feat_weight * torch.stack(losses).sum(),
        }
