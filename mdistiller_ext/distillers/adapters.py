"""Layers that the adapters of several methods share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics where each channel has a single value.

    One value has no variance, and :class:`torch.nn.BatchNorm2d` raises an error: a last batch of one sample would end a run
    whose adapter sees 1x1 maps.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to the same shape."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)
