"""Residual blocks of the ResNets, with the parameter names of each network's checkpoints.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016, figure 5, https://arxiv.org/abs/1512.03385.
"""

from __future__ import annotations

from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Stage, conv1x1, conv3x3, projection


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, whose attribute is ``shortcut_name``; the stage applies the last ReLU."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut_name: str) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut_name = shortcut_name
        self.add_module(shortcut_name, projection(in_channels, channels, stride))

    @property
    def last_bn(self) -> nn.BatchNorm2d:
        """The batch norm that ends the residual branch."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, H, W]` to pre-activations `[N, C, H/stride, W/stride]`."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += getattr(self, self.shortcut_name)(x)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and widening 1x1 convolution and a shortcut, as in `BasicBlock`; the stage applies the last ReLU."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut_name: str) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut_name = shortcut_name
        self.add_module(shortcut_name, projection(in_channels, out_channels, stride))

    @property
    def last_bn(self) -> nn.BatchNorm2d:
        """The batch norm that ends the residual branch."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, H, W]` to pre-activations `[N, 4C, H/stride, W/stride]`."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out += getattr(self, self.shortcut_name)(x)
        return out


Block: TypeAlias = BasicBlock | Bottleneck


def residual_stage(
    block: type[Block], in_channels: int, out_channels: int, num_blocks: int, *, stride: int, shortcut_name: str
) -> Stage:
    """Stage of ``num_blocks`` blocks; the first changes the number of channels and the resolution."""
    channels = out_channels // block.expansion
    first = block(in_channels, channels, stride, shortcut_name)
    return Stage(first, *(block(out_channels, channels, 1, shortcut_name) for _ in range(num_blocks - 1)))
