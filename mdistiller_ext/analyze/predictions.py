"""Comparisons of predictions image by image, and means over the images of a class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import pearson_distance


def kl_rows(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) in nats of the softmax of logits ``[N, C]``, per image ``[N]``."""
    return F.kl_div(student.log_softmax(dim=1), teacher.log_softmax(dim=1), reduction="none", log_target=True).sum(dim=1)


def correlation_rows(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation over the classes of ``[N, C]``, per image ``[N]``; 0 with a constant row."""
    return 1 - pearson_distance(a, b, dim=1)


def without_class(values: Tensor, classes: Tensor) -> Tensor:
    """Values ``[N, C]`` without one class of each row (``[N]``): ``[N, C - 1]``."""
    kept = torch.ones_like(values, dtype=torch.bool).scatter_(1, classes[:, None], False)
    return values[kept].view(len(values), -1)


def class_means(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean of the rows of each class: ``[N, ...]`` -> ``[classes, ...]``; NaN for a class without images."""
    sums = values.new_zeros(classes, *values.shape[1:]).index_add_(0, labels, values)
    counts = labels.bincount(minlength=classes).to(values.dtype)
    return sums / counts.view(-1, *[1] * (values.ndim - 1))
