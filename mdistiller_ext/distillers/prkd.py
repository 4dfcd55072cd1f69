"""PRKD: Progressively Relaxed Knowledge Distillation. Gu, Jin and Li, IJCNN 2024,
https://ieeexplore.ieee.org/document/10650544

No code was released and the paper's settings could not be consulted: all defaults are this project's.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import Correlation, PRKDVariant, prkd_parts
from ..registry import register_distiller
from .base import Distiller, Output, Weight
from .progress import Progress


@register_distiller("PRKD")
class PRKD(Distiller):
    """``ce_weight * CE + kd_weight * (KL + correlation)``, where the KL decreases and the correlation increases over training.

    Args:
        t, final_t: temperature at the start and at the end of training; linear in between.
        variant: ``prkd_a`` (temperature only), ``prkd_b`` (transition from KL to correlation) or ``prkd`` (both).
        correlation: Pearson distance by sample (``inter``), or by sample and by class (``inter+intra``).
        t_squared: multiply both terms by the squared temperature.
        gather: as in DIST, for ``inter+intra``.
        first_epoch: number e of the first epoch: 1 (the last epoch then consists of correlation only) or 0.
        average_last: number I of last epochs whose students are averaged, as ``student_average``; 0 disables averaging.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        kd_weight: Weight = 1.0,
        t: float = 4.0,
        final_t: float = 1.0,
        variant: PRKDVariant = "prkd",
        correlation: Correlation = "inter",
        t_squared: bool = True,
        gather: bool = True,
        first_epoch: int = 1,
        average_last: int = 10,
    ) -> None:
        super().__init__(student, teacher)
        if first_epoch not in (0, 1):
            raise ConfigError(f"PRKD.FIRST_EPOCH must be 0 or 1, not {first_epoch}")
        if not (t > 0 and final_t > 0):
            raise ConfigError(f"PRKD.T and PRKD.FINAL_T must be positive, not {t} and {final_t}")
        if average_last < 0:
            raise ConfigError(f"PRKD.AVERAGE_LAST must not be negative, got {average_last}")
        self.ce_weight = ce_weight
        self.kd_weight = kd_weight
        self.t = t
        self.final_t = final_t
        self.variant: PRKDVariant = variant
        self.correlation: Correlation = correlation
        self.t_squared = t_squared
        self.gather = gather
        self.first_epoch = first_epoch
        self.average_last = average_last

    def losses(self, student: Output, teacher: Output, labels: Tensor, progress: Progress) -> dict[str, Tensor]:
        related = student.logits, teacher.logits
        if self.gather and self.correlation == "inter+intra":
            related = self.whole_batch(student.logits), self.whole_batch(teacher.logits)
        kl, correlation = prkd_parts(
            *related,
            fraction=progress.fraction - (1 - self.first_epoch) / progress.epochs,
            temperature=self.t,
            final_temperature=self.final_t,
            variant=self.variant,
            correlation=self.correlation,
            t_squared=self.t_squared,
        )
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, labels),
            "kd/kl": self.kd_weight * kl,
            "kd/correlation": self.kd_weight * correlation,
        }
