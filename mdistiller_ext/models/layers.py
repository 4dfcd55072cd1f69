"""Layers and initialisation shared by several networks."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Output = tuple[Tensor, dict[str, Any]]  # logits [N, C] and the features described in the package's docstring


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """1x1 convolution; no bias, as batch norm follows."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, groups=groups, bias=False)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """3x3 convolution, padded to keep the resolution at stride 1; no bias, as batch norm follows."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Shortcut of a residual block: the identity if the shapes agree, else a 1x1 convolution with batch norm."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class Stage(nn.Sequential):
    """Residual blocks followed by a ReLU each, so that the output before and after the last ReLU can be returned."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the last block `[N, C, H, W]`, after and before its ReLU."""
        for block in self:
            preact = block(x)
            x = F.relu(preact)  # not in place: `preact` is returned
        return x, preact


def init_convolutions(model: nn.Module) -> None:
    """He initialisation by fan-out of every convolution; biases are set to 0. Batch norm keeps its default, 1 and 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_by_fan_out(model: nn.Module) -> None:
    """Initialisation of MobileNetV1 in DIST's repository, after TensorFlow: convolutions as in `init_convolutions`, linear
    layers uniform within 1 / sqrt(number of outputs), biases 0.
    """
    init_convolutions(model)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            bound = module.out_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
