"""KD: Distilling the Knowledge in a Neural Network. Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import non_target_mass, tckd_nckd
from ..registry import register_distiller
from .base import Distiller, Output, Weight, paired_logits
from .progress import Progress


@register_distiller("KD")
class KD(Distiller):
    """``ce_weight * CE + kd_weight * T^2 KL(teacher || student)``, the KL as the sum of two parts.

    The parts are TCKD and (1 - p_t) NCKD per sample, whose sum is exactly the KL (DKD, CVPR 2022, eq. 6). The DeepKD trainer
    separates them; other trainers add them.

    Args:
        standardize: standardise the logits per sample (LSKD, CVPR 2024).
        rule: ``paper``, or ``official`` for the loss of the DeepKD release with its trainer: both parts have weight 1
            instead of ``kd_weight``, and the product of the batch means of 1 - p_t and NCKD replaces the mean of the products.
    """

    config_keys: ClassVar[dict[str, str]] = {"ce_weight": "LOSS.CE_WEIGHT", "kd_weight": "LOSS.KD_WEIGHT"}

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        temperature: float = 4.0,
        ce_weight: Weight = 0.1,
        kd_weight: Weight = 0.9,
        standardize: bool = False,
        rule: Literal["paper", "official"] = "paper",
    ) -> None:
        super().__init__(student, teacher)
        if rule not in ("paper", "official"):
            raise ConfigError(f"KD.RULE must be paper or official, not '{rule}'")
        self.temperature = temperature
        self.ce_weight = ce_weight
        self.kd_weight = kd_weight
        self.standardize = standardize
        self.rule = rule

    def losses(self, student: Output, teacher: Output, labels: Tensor, progress: Progress) -> dict[str, Tensor]:
        s, t = paired_logits(student, teacher, standardized=self.standardize)
        tckd, nckd = tckd_nckd(s, t, labels, temperature=self.temperature)
        non_target = non_target_mass(t, labels, temperature=self.temperature)
        if self.rule == "official":
            target, nontarget = tckd.mean(), self.whole_batch(non_target).mean() * nckd.mean()
        else:
            target, nontarget = self.kd_weight * tckd.mean(), self.kd_weight * (non_target * nckd).mean()
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, labels),
            "target/tckd": target,
            "nontarget/nckd": nontarget,
        }
