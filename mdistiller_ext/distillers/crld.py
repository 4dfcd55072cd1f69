"""CRLD: Cross-View Consistency Regularisation for Knowledge Distillation. Zhang et al., ACM Multimedia 2024,
https://arxiv.org/abs/2412.16493
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import crld_parts
from ..registry import register_distiller
from .base import Distiller, Progress, Weight
from .outputs import Batch, Output

Pair = tuple[Output, Output]


@register_distiller("CRLD")
class CRLD(Distiller):
    """``ce_weight * (CE(weak) + CE(strong)) + wv_weight * within-view KL + cv_weight * cross-view KL``; see :func:`crld_parts`.

    Each KL is split into its target and non-target parts, which add up to it exactly. The ``deepkd`` trainer separates them.

    Args:
        tau_w: least confidence of the teacher in the weak view for a sample to count within views.
        tau_s: likewise in the strong view, across views.
    """

    views = ("weak", "strong")

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        wv_weight: Weight = 2.0,
        cv_weight: Weight = 0.5,
        temperature: float = 4.0,
        tau_w: float = 0.9,
        tau_s: float = 0.2,
    ) -> None:
        super().__init__(student, teacher)
        self.ce_weight = ce_weight
        self.wv_weight = wv_weight
        self.cv_weight = cv_weight
        self.temperature = temperature
        self.tau_w = tau_w
        self.tau_s = tau_s

    def losses(self, student: Pair, teacher: Pair, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        s, t = ((weak.logits, strong.logits) for weak, strong in (student, teacher))
        target_within, nontarget_within, target_cross, nontarget_cross = crld_parts(
            s, t, batch.labels, temperature=self.temperature, tau_w=self.tau_w, tau_s=self.tau_s
        )
        return {
            "task/ce": self.ce_weight * (F.cross_entropy(s[0], batch.labels) + F.cross_entropy(s[1], batch.labels)),
            "target/within": self.wv_weight * target_within,
            "target/cross": self.cv_weight * target_cross,
            "nontarget/within": self.wv_weight * nontarget_within,
            "nontarget/cross": self.cv_weight * nontarget_cross,
        }
