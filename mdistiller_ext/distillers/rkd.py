"""RKD: Relational Knowledge Distillation. Park et al., CVPR 2019, https://arxiv.org/abs/1904.05068"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import rkd_parts
from ..registry import register_distiller
from .base import Distiller, Weight
from .outputs import Batch, Output
from .progress import Progress


@register_distiller("RKD")
class RKD(Distiller):
    """``ce_weight * CE + feat_weight * (distance_weight * distance + angle_weight * angle)`` of the pooled features.

    Distances between all pairs and angles between all triples of samples, of the whole batch also with several processes.
    Differs from mdistiller's where samples coincide: the angle at a sample does not count another with the same features,
    while mdistiller multiplies its gradient by 1e12.

    Args:
        epsilon: lower bound of the squared distances.
        squared: compare squared distances.

    Raises ConfigError unless ``epsilon`` is positive.
    """

    config_keys: ClassVar[dict[str, str]] = {
        "ce_weight": "LOSS.CE_WEIGHT",
        "feat_weight": "LOSS.FEAT_WEIGHT",
        "epsilon": "PDIST.EPSILON",
        "squared": "PDIST.SQUARED",
    }

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        feat_weight: Weight = 1.0,
        distance_weight: Weight = 25.0,
        angle_weight: Weight = 50.0,
        epsilon: float = 1e-12,
        squared: bool = False,
    ) -> None:
        super().__init__(student, teacher)
        if not epsilon > 0:
            raise ConfigError(f"RKD.PDIST.EPSILON must be positive, not {epsilon}")
        self.ce_weight = ce_weight
        self.distance_weight = feat_weight * distance_weight
        self.angle_weight = feat_weight * angle_weight
        self.epsilon = epsilon
        self.squared = squared

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        features = (self.whole_batch(output.features["pooled_feat"]) for output in (student, teacher))
        distance, angle = rkd_parts(*features, squared=self.squared, epsilon=self.epsilon)
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/distance": self.distance_weight * distance,
            "kd/angle": self.angle_weight * angle,
        }
