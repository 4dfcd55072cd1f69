"""DKD: Decoupled Knowledge Distillation. Zhao et al., CVPR 2022, https://arxiv.org/abs/2203.08679"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import tckd_nckd
from ..registry import register_distiller
from .base import Distiller, Output, Weight, paired_logits
from .progress import Progress, warm_up


@register_distiller("DKD")
class DKD(Distiller):
    """``ce_weight * CE + warm_up * (alpha * TCKD + beta * NCKD)``; ``warmup`` in epochs."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        alpha: Weight = 1.0,
        beta: Weight = 8.0,
        t: float = 4.0,
        warmup: int = 20,
        standardize: bool = False,
    ) -> None:
        super().__init__(student, teacher)
        self.ce_weight = ce_weight
        self.alpha = alpha
        self.beta = beta
        self.t = t
        self.warmup = warmup
        self.standardize = standardize

    def losses(self, student: Output, teacher: Output, labels: Tensor, progress: Progress) -> dict[str, Tensor]:
        s, t = paired_logits(student, teacher, standardized=self.standardize)
        tckd, nckd = tckd_nckd(s, t, labels, temperature=self.t)
        weight = warm_up(progress, self.warmup)
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, labels),
            "target/tckd": weight * self.alpha * tckd.mean(),
            "nontarget/nckd": weight * self.beta * nckd.mean(),
        }
