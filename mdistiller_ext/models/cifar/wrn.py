"""Wide residual networks wrn_<depth>_<width>: pre-activation blocks in three groups; depth 6n + 4.

Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016, https://arxiv.org/abs/1605.07146.
Without dropout, as in mdistiller.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import register_model
from ..layers import Output, conv1x1, conv3x3, init_convolutions


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; the shortcut is projected where the width changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.convShortcut = None if in_channels == channels else conv1x1(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, H, W]` to `[N, C, H/stride, W/stride]`."""
        activated = F.relu(self.bn1(x), inplace=True)
        out = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        out = self.conv2(out)
        out += x if self.convShortcut is None else self.convShortcut(activated)
        return out


class Group(nn.Module):
    """Sequence of blocks; the first changes width and resolution."""

    def __init__(self, in_channels: int, channels: int, num_blocks: int, stride: int) -> None:
        super().__init__()
        first = PreActBlock(in_channels, channels, stride)
        rest = (PreActBlock(channels, channels, stride=1) for _ in range(num_blocks - 1))
        self.layer = nn.Sequential(first, *rest)

    @property
    def first_bn(self) -> nn.BatchNorm2d:
        """The batch norm at the input of the group."""
        return cast(PreActBlock, self.layer[0]).bn1

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, H, W]` to `[N, C, H/stride, W/stride]`."""
        return self.layer(x)


class WideResNet(nn.Module):
    """WRN-``depth``-``width``: widths 16, 16k, 32k and 64k for the stem and the three groups."""

    def __init__(self, depth: int, width: int, num_classes: int) -> None:
        super().__init__()
        num_blocks = (depth - 4) // 6
        self.stage_channels = [16, 16 * width, 32 * width, 64 * width]
        c0, c1, c2, c3 = self.stage_channels
        self.conv1 = conv3x3(3, c0)
        self.block1 = Group(c0, c1, num_blocks, stride=1)
        self.block2 = Group(c1, c2, num_blocks, stride=2)
        self.block3 = Group(c2, c3, num_blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(c3)
        self.fc = nn.Linear(c3, num_classes)
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def get_stage_channels(self) -> list[int]:
        """Channels of each map in ``feats``."""
        return self.stage_channels

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The batch norm that follows each group, before its ReLU."""
        return [self.block2.first_bn, self.block3.first_bn, self.bn1]

    def forward(self, x: Tensor) -> Output:
        """Logits `[N, num_classes]` and features of images `[N, 3, H, W]`; ``feats`` are taken before batch norm."""
        f0 = self.conv1(x)
        f1 = self.block1(f0)
        f2 = self.block2(f1)
        f3 = self.block3(f2)
        last = F.relu(self.bn1(f3), inplace=True)
        pooled = last.mean(dim=(2, 3))
        # These three batch norms have run once above. Upstream runs them a second time here, so that a training step
        # updates their running statistics twice. Kept: one run would be cheaper, but would train a network whose
        # running statistics, and thus whose accuracy, differ from upstream's.
        preact_feats = [bn(f) for bn, f in zip(self.get_bn_before_relu(), (f1, f2, f3), strict=True)]
        return self.fc(pooled), {
            "feats": [f0, f1, f2, f3],
            "preact_feats": [f0, *preact_feats],
            "pooled_feat": pooled,
            "last_feat": last,
        }


@register_model("wrn_16_1")
def wrn_16_1(num_classes: int) -> WideResNet:
    """WRN-16-1."""
    return WideResNet(16, 1, num_classes)


@register_model("wrn_16_2")
def wrn_16_2(num_classes: int) -> WideResNet:
    """WRN-16-2."""
    return WideResNet(16, 2, num_classes)


@register_model("wrn_40_1")
def wrn_40_1(num_classes: int) -> WideResNet:
    """WRN-40-1."""
    return WideResNet(40, 1, num_classes)


@register_model("wrn_40_2")
def wrn_40_2(num_classes: int) -> WideResNet:
    """WRN-40-2."""
    return WideResNet(40, 2, num_classes)
