"""DIST: Knowledge Distillation from A Stronger Teacher. Huang et al., NeurIPS 2022, https://arxiv.org/abs/2205.10536"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import dist_parts
from ..registry import register_distiller
from .base import Distiller, Output, Weight
from .progress import Progress


@register_distiller("DIST")
class DIST(Distiller):
    """``ce_weight * CE + beta * inter + gamma * intra``: Pearson distances to the teacher by sample and by class.

    Args:
        gather: with several processes, compute the relations within the whole batch (the loss of a single process) rather
            than within the samples of each rank.
        parts: split the batch into this many equal parts, compute the relations within each part and average, as DIST's
            repository does with one part on each of 8 GPUs.

    Raises ConfigError unless ``parts`` is positive.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        beta: Weight = 2.0,
        gamma: Weight = 2.0,
        t: float = 4.0,
        gather: bool = True,
        parts: int = 1,
    ) -> None:
        super().__init__(student, teacher)
        if parts < 1:
            raise ConfigError(f"DIST.PARTS must be at least 1, not {parts}")
        self.ce_weight = ce_weight
        self.beta = beta
        self.gamma = gamma
        self.t = t
        self.gather = gather
        self.parts = parts

    def losses(self, student: Output, teacher: Output, labels: Tensor, progress: Progress) -> dict[str, Tensor]:
        related = student.logits, teacher.logits
        if self.gather:
            related = self.whole_batch(student.logits), self.whole_batch(teacher.logits)
        splits = (logits.tensor_split(min(self.parts, len(logits))) for logits in related)
        losses = [dist_parts(*part, temperature=self.t) for part in zip(*splits, strict=True)]
        inter, intra = (torch.stack(values).mean() for values in zip(*losses, strict=True))
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, labels),
            "kd/inter": self.beta * inter,
            "kd/intra": self.gamma * intra,
        }
