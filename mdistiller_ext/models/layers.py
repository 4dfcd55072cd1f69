"""Building blocks that several networks share; what only one network needs stays in that network's file."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Output = tuple[Tensor, dict[str, Any]]  # logits [N, C] and the features described in the package's docstring


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """1x1 convolution; no bias, as batch norm follows."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, groups=groups, bias=False)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """3x3 convolution that keeps the size at stride 1; no bias, as batch norm follows."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Shortcut of a residual block: the identity where the shapes agree, else a 1x1 convolution with batch norm."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class Stage(nn.Sequential):
    """A row of residual blocks that leave their last ReLU to the stage, so that both sides of it can be returned."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the last block `[N, C, H, W]`, after and before its ReLU."""
        for block in self:
            preact = block(x)
            x = F.relu(preact)  # not in place: `preact` is returned
        return x, preact


def init_convolutions(model: nn.Module) -> None:
    """He initialisation by fan-out, biases 0, for every convolution (batch norm starts at 1 and 0 by itself)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_by_fan_out(model: nn.Module) -> None:
    """Initialisation of DIST's repository for MobileNetV1, from TensorFlow's: convolutions as in `init_convolutions`, linear
    layers uniform within 1 / sqrt(number of outputs), biases 0.
    """
    init_convolutions(model)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            bound = module.out_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
