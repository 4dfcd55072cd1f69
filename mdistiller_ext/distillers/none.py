"""Training without distillation: the baseline, also used to train teachers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..registry import register_distiller
from .base import Distiller, Output
from .progress import Progress


@register_distiller("NONE")
class Vanilla(Distiller):
    """Cross-entropy with the labels."""

    needs_teacher = False

    def losses(self, student: Output, teacher: Output, labels: Tensor, progress: Progress) -> dict[str, Tensor]:
        return {"task/ce": F.cross_entropy(student.logits, labels)}
