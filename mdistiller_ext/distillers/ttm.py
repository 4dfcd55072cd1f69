"""TTM and WTTM: Knowledge Distillation Based on Transformed Teacher Matching. Zheng and Yang, ICLR 2024,
https://arxiv.org/abs/2402.11148
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import ttm_loss, wttm_loss
from ..registry import register_distiller
from .base import Distiller, Weight
from .outputs import Batch, Output
from .progress import Progress


@register_distiller("TTM")
class TTM(Distiller):
    """``ce_weight * CE + beta * KL(p^gamma / sum p^gamma || student)``, p the teacher's distribution; the student at T = 1.

    The defaults are the paper's for resnet32x4 -> resnet8x4 on CIFAR-100 (table 8). The paper tunes both for each pair:
    gamma from 0.1 to 0.4, beta from 7 to 101.

    Args:
        gamma: exponent, 1 / T of the teacher.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, ce_weight: Weight = 1.0, beta: Weight = 100.0, gamma: float = 0.1
    ) -> None:
        super().__init__(student, teacher)
        self.ce_weight = ce_weight
        self.beta = beta
        self.gamma = gamma

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/ttm": self.beta * ttm_loss(student.logits, teacher.logits, gamma=self.gamma),
        }


@register_distiller("WTTM")
class WTTM(Distiller):
    """TTM with each sample's divergence multiplied by the power sum ``sum p^gamma`` of the teacher, largest where it is unsure.

    The defaults are the paper's for resnet32x4 -> resnet8x4 on CIFAR-100 (table 8). The paper tunes both for each pair:
    gamma from 0.1 to 0.4 (0.7 and 0.8 on ImageNet), beta from 1.4 to 16.

    Args:
        gamma: exponent, 1 / T of the teacher.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, ce_weight: Weight = 1.0, beta: Weight = 3.0, gamma: float = 0.1
    ) -> None:
        super().__init__(student, teacher)
        self.ce_weight = ce_weight
        self.beta = beta
        self.gamma = gamma

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/wttm": self.beta * wttm_loss(student.logits, teacher.logits, gamma=self.gamma),
        }
