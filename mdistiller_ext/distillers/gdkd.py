"""GDKD: Rethinking Decoupled Knowledge Distillation. Zheng and Cheng, 2025, https://arxiv.org/abs/2512.04625"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import KLType, gdkd_parts
from ..registry import register_distiller
from .base import Distiller, Output, Weight, paired_logits
from .progress import Progress, warm_up


@register_distiller("GDKD")
class GDKD(Distiller):
    """``ce_weight * CE + warm_up * (w0 * high + w1 * top + w2 * rest)``, split at the teacher's ``topk`` classes.

    Args:
        kl_type: direction of the KL divergences top and rest: ``forward``, ``reverse`` or ``both``; high is always forward.
        warmup: epochs.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        w0: Weight = 1.0,
        w1: Weight = 1.0,
        w2: Weight = 8.0,
        topk: int = 5,
        kl_type: KLType = "forward",
        t: float = 4.0,
        warmup: int = 20,
        standardize: bool = False,
    ) -> None:
        super().__init__(student, teacher)
        self.ce_weight = ce_weight
        self.w0 = w0
        self.w1 = w1
        self.w2 = w2
        self.topk = topk
        self.kl_type = kl_type
        self.t = t
        self.warmup = warmup
        self.standardize = standardize

    def losses(self, student: Output, teacher: Output, labels: Tensor, progress: Progress) -> dict[str, Tensor]:
        s, t = paired_logits(student, teacher, standardized=self.standardize)
        high, top, rest = self.parts(s, t)
        weight = warm_up(progress, self.warmup)
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, labels),
            "target/high": weight * self.w0 * high,
            "nontarget/top": weight * self.w1 * top,
            "nontarget/rest": weight * self.w2 * rest,
        }

    def parts(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The terms (high, top, rest) for logits ``[N, C]``; overridden by GDKD3."""
        return gdkd_parts(student, teacher, topk=self.topk, temperature=self.t, kl_type=self.kl_type)
