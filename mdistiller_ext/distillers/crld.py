"""CRLD: Cross-View Consistency Regularisation for Knowledge Distillation. Zhang et al., ACM Multimedia 2024,
https://arxiv.org/abs/2412.16493
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import CRLDRule, Scalar, crld_parts
from ..registry import register_distiller
from .base import Distiller, Weight
from .outputs import Batch, Output
from .progress import Progress, warm_up

Pair = tuple[Output, Output]


@register_distiller("CRLD")
class CRLD(Distiller):
    """``ce_weight * (CE(weak) + CE(strong)) + wv_weight * within-view KL + cv_weight * cross-view KL``; see :func:`crld_parts`.

    Each KL is split into its target and non-target parts, which add up to it exactly. The ``deepkd`` trainer separates them.

    Args:
        alpha, beta: DKD's weights of the target and the non-target parts, for the rule ``deepkd`` only.
        warmup: epochs in which both grow linearly, for the rule ``deepkd`` only.
        tau_w: least confidence of the teacher in the weak view for a sample to count within views.
        tau_s: likewise in the strong view, across views.
        rule: ``paper``, or ``deepkd`` for the loss of the DeepKD release with its trainer.
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
        alpha: Weight = 1.0,
        beta: Weight = 8.0,
        warmup: int = 20,
        rule: CRLDRule = "paper",
    ) -> None:
        super().__init__(student, teacher)
        if rule not in ("paper", "deepkd"):
            raise ConfigError(f"CRLD.RULE must be paper or deepkd, not '{rule}'")
        self.ce_weight = ce_weight
        self.wv_weight = wv_weight
        self.cv_weight = cv_weight
        self.temperature = temperature
        self.tau_w = tau_w
        self.tau_s = tau_s
        self.alpha = alpha
        self.beta = beta
        self.warmup = warmup
        self.rule = rule

    def losses(self, student: Pair, teacher: Pair, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        s, t = ((weak.logits, strong.logits) for weak, strong in (student, teacher))
        target_within, nontarget_within, target_cross, nontarget_cross = crld_parts(
            s,
            t,
            batch.labels,
            temperature=self.temperature,
            tau_w=self.tau_w,
            tau_s=self.tau_s,
            rule=self.rule,
            whole=(self.whole_batch(t[0]), self.whole_batch(t[1])) if self.rule == "deepkd" else None,
        )
        target: Scalar = 1.0
        nontarget: Scalar = 1.0
        if self.rule == "deepkd":
            weight = warm_up(progress, self.warmup)
            target, nontarget = weight * self.alpha, weight * self.beta
        return {
            "task/ce": self.ce_weight * (F.cross_entropy(s[0], batch.labels) + F.cross_entropy(s[1], batch.labels)),
            "target/within": target * self.wv_weight * target_within,
            "target/cross": target * self.cv_weight * target_cross,
            "nontarget/within": nontarget * self.wv_weight * nontarget_within,
            "nontarget/cross": nontarget * self.cv_weight * nontarget_cross,
        }
