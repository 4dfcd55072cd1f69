"""CAT-KD: Class Attention Transfer Based Knowledge Distillation. Guo et al., CVPR 2023, https://arxiv.org/abs/2304.12777"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import cat_loss
from ..models.heads import check_last_map, classifier_of, last_map
from ..registry import register_distiller
from .base import Batch, Distiller, Output, Weight
from .progress import Progress


@register_distiller("CATKD")
class CATKD(Distiller):
    """``ce_weight * CE + cat_loss_weight * CAT``, the squared difference of the class activation maps of both networks.

    A class activation map is the classifier applied at each position of the last map. As in the release, the biases of the
    classifiers have no part in it, and the student is trained without its own, which is set to zero and frozen. The release
    turns both classifiers into 1x1 convolutions, which changes the names in checkpoints; here the student stays the network of
    the zoo, with the same predictions.

    Args:
        cam_resolution: height and width to which the maps are pooled.
        if_normalize: normalise each map of a class by its L2 norm.
    """

    config_keys: ClassVar[dict[str, str]] = {
        "ce_weight": "LOSS.CE_WEIGHT",
        "cat_loss_weight": "LOSS.CAT_LOSS_WEIGHT",
        "cam_resolution": "LOSS.CAM_RESOLUTION",
    }

    classifiers: tuple[nn.Linear, ...]

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        cat_loss_weight: Weight = 400.0,
        cam_resolution: int = 2,
        if_normalize: bool = True,
    ) -> None:
        super().__init__(student, teacher)
        if cam_resolution < 1:
            raise ConfigError(f"CATKD.LOSS.CAM_RESOLUTION must be at least 1, not {cam_resolution}")
        self.ce_weight = ce_weight
        self.cat_loss_weight = cat_loss_weight
        self.cam_resolution = cam_resolution
        self.if_normalize = if_normalize

    def setup(self, student: Output, teacher: Output) -> None:
        assert self.teacher is not None
        layers = []
        for network, model, output in (("student", self.student, student), ("teacher", self.teacher, teacher)):
            check_last_map(output.features, network)
            layers.append(classifier_of(model, output.features["pooled_feat"], network))
        self.classifiers = tuple(layers)  # not registered: they are modules of the networks
        if layers[0].bias is not None:
            nn.init.zeros_(layers[0].bias).requires_grad_(False)

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        maps = [
            F.conv2d(last_map(output.features), classifier.weight[:, :, None, None])
            for classifier, output in zip(self.classifiers, (student, teacher), strict=True)
        ]
        cat = cat_loss(*maps, resolution=self.cam_resolution, normalize=self.if_normalize)
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/cat": self.cat_loss_weight * cat,
        }
