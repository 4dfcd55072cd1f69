"""CIFAR ResNets: three stages at 32x32, 16x16 and 8x8; depth 6n + 2.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2, https://arxiv.org/abs/1512.03385.
The x4 networks have four times the paper's widths (twice in the stem).
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import register_model
from ..blocks import BasicBlock, residual_stage
from ..layers import Output, Stage, conv3x3, init_convolutions

WIDTHS = (16, 16, 32, 64)  # stem, then the three stages
WIDTHS_X4 = (32, 64, 128, 256)


class ResNet(nn.Module):
    """ResNet of ``depth`` 6n + 2 with n blocks per stage; ``widths`` are those of the stem and the three stages."""

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int) -> None:
        super().__init__()
        num_blocks = (depth - 2) // 6
        self.stage_channels = list(widths)
        self.conv1 = conv3x3(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[1], num_blocks, stride=1)
        self.layer2 = _stage(widths[1], widths[2], num_blocks, stride=2)
        self.layer3 = _stage(widths[2], widths[3], num_blocks, stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        init_convolutions(self)

    def get_stage_channels(self) -> list[int]:
        """Channels of each map in ``feats``."""
        return self.stage_channels

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The batch norm that ends the residual branch before the last ReLU of each stage."""
        return [cast(BasicBlock, stage[-1]).last_bn for stage in (self.layer1, self.layer2, self.layer3)]

    def forward(self, x: Tensor) -> Output:
        """Logits `[N, num_classes]` and features of images `[N, 3, H, W]`."""
        f0 = F.relu(self.bn1(self.conv1(x)), inplace=True)
        f1, preact1 = self.layer1(f0)
        f2, preact2 = self.layer2(f1)
        f3, preact3 = self.layer3(f2)
        pooled = f3.mean(dim=(2, 3))
        return self.fc(pooled), {
            "feats": [f0, f1, f2, f3],
            "preact_feats": [f0, preact1, preact2, preact3],  # upstream gives the stem after its ReLU in both lists
            "pooled_feat": pooled,
        }


def _stage(in_channels: int, channels: int, num_blocks: int, stride: int) -> Stage:
    return residual_stage(BasicBlock, in_channels, channels, num_blocks, stride=stride, shortcut_name="downsample")


@register_model("resnet8")
def resnet8(num_classes: int) -> ResNet:
    """ResNet-8."""
    return ResNet(8, WIDTHS, num_classes)


@register_model("resnet14")
def resnet14(num_classes: int) -> ResNet:
    """ResNet-14."""
    return ResNet(14, WIDTHS, num_classes)


@register_model("resnet20")
def resnet20(num_classes: int) -> ResNet:
    """ResNet-20."""
    return ResNet(20, WIDTHS, num_classes)


@register_model("resnet32")
def resnet32(num_classes: int) -> ResNet:
    """ResNet-32."""
    return ResNet(32, WIDTHS, num_classes)


@register_model("resnet44")
def resnet44(num_classes: int) -> ResNet:
    """ResNet-44."""
    return ResNet(44, WIDTHS, num_classes)


@register_model("resnet56")
def resnet56(num_classes: int) -> ResNet:
    """ResNet-56."""
    return ResNet(56, WIDTHS, num_classes)


@register_model("resnet110")
def resnet110(num_classes: int) -> ResNet:
    """ResNet-110."""
    return ResNet(110, WIDTHS, num_classes)


@register_model("resnet8x4")
def resnet8x4(num_classes: int) -> ResNet:
    """ResNet-8, four times as wide."""
    return ResNet(8, WIDTHS_X4, num_classes)


@register_model("resnet32x4")
def resnet32x4(num_classes: int) -> ResNet:
    """ResNet-32, four times as wide."""
    return ResNet(32, WIDTHS_X4, num_classes)
