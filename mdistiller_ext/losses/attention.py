"""Losses on class activation maps: CAT-KD. Conventions: :mod:`mdistiller_ext.losses`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cat_loss(student: Tensor, teacher: Tensor, *, resolution: int, normalize: bool) -> Tensor:
    """Compute CAT-KD's loss: the mean squared difference of class activation maps, pooled (Guo et al., CVPR 2023, eq. 6 and 7).

    Args:
        student, teacher: maps ``[N, classes, H, W]``; heights and widths may differ.
        resolution: height and width after average pooling.
        normalize: divide each pooled map of a class by its L2 norm.
    """
    student, teacher = (F.adaptive_avg_pool2d(maps, resolution) for maps in (student, teacher))
    if normalize:
        student, teacher = (F.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))
    return F.mse_loss(student, teacher)
