"""SimKD: Knowledge Distillation with the Reused Teacher Classifier. Chen et al., CVPR 2022, https://arxiv.org/abs/2203.14001"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..models.heads import SimKDHead, attach_head, check_last_map, classifier_of, last_map, pooled_to
from ..registry import register_distiller
from .base import Batch, Distiller, Output, Weight
from .progress import Progress


@register_distiller("SIMKD")
class SimKD(Distiller):
    """``ce_weight * CE + feat_weight * MSE(projected student map, teacher map)``, of the last maps before pooling.

    The student predicts by the teacher's frozen classifier on the projected map. Projector and classifier become part of the
    student, in its checkpoints and wherever it is evaluated, and count among its parameters; its own classifier is not used.
    The larger of the two maps is pooled to the smaller.

    Args:
        ce_weight: 0 in the paper.
        factor: the projector's hidden channels are the teacher's divided by it.

    Raises ConfigError unless ``factor`` is positive and divides the teacher's channels.
    """

    config_keys: ClassVar[dict[str, str]] = {"ce_weight": "LOSS.CE_WEIGHT", "feat_weight": "LOSS.FEAT_WEIGHT"}

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, ce_weight: Weight = 0.0, feat_weight: Weight = 1.0, factor: int = 2
    ) -> None:
        super().__init__(student, teacher)
        self.ce_weight = ce_weight
        self.feat_weight = feat_weight
        self.factor = factor

    def setup(self, student: Output, teacher: Output) -> None:
        assert self.teacher is not None
        for network, output in (("student", student), ("teacher", teacher)):
            check_last_map(output.features, network)
        source, target = last_map(student.features), last_map(teacher.features)
        if self.factor < 1 or target.shape[1] % self.factor:
            raise ConfigError(
                f"SIMKD.FACTOR must divide the {target.shape[1]} channels of the teacher's last map, not {self.factor}"
            )
        classifier = classifier_of(self.teacher, teacher.features["pooled_feat"], "teacher")
        head = SimKDHead(source.shape[1], target.shape[1] // self.factor, classifier, (target.shape[2], target.shape[3]))
        attach_head(self.student, head)

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        projected = student.features["projected"]
        target = pooled_to(last_map(teacher.features), (projected.shape[2], projected.shape[3]))
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/feat": self.feat_weight * F.mse_loss(projected, target),
        }
