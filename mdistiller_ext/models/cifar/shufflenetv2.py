"""ShuffleNetV2 for 32x32 images: units that pass half of the channels unchanged and shuffle the halves.

Ma et al., ShuffleNet V2, ECCV 2018, https://arxiv.org/abs/1807.11164. The paper's strided stem and max pool become a
1x1 convolution. Weights keep PyTorch's default initialisation, as upstream.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import register_model
from ..layers import Output, conv1x1, conv3x3

STEM_CHANNELS = 24


class BasicUnit(nn.Module):
    """Stride-1 unit (paper, figure 3c) without its last ReLU and shuffle, which the stage applies."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv3x3(half, half, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[N, C, H, W]` to the unchanged half and the pre-activations of the other, each `[N, C/2, H, W]`."""
        untouched, out = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(out)), inplace=True)
        out = self.bn2(self.conv2(out))
        return untouched, self.bn3(self.conv3(out))


class DownUnit(nn.Module):
    """Stride-2 unit (paper, figure 3d): both halves are computed from all channels."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv3x3(in_channels, in_channels, stride=2, groups=in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = conv1x1(in_channels, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(in_channels, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv3x3(half, half, stride=2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, H, W]` to `[N, C, H/2, W/2]`."""
        left = self.bn1(self.conv1(x))
        left = F.relu(self.bn2(self.conv2(left)), inplace=True)
        right = F.relu(self.bn3(self.conv3(x)), inplace=True)
        right = self.bn4(self.conv4(right))
        right = F.relu(self.bn5(self.conv5(right)), inplace=True)
        return _join(left, right)


class ShuffleStage(nn.Sequential):
    """One `DownUnit` and several `BasicUnit`."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the last unit `[N, C, H, W]`, after and before its ReLU; the latter unshuffled, as upstream."""
        down, *units = self
        x = down(x)
        for unit in units:
            untouched, preact = unit(x)
            x = _join(untouched, F.relu(preact))
        return x, torch.cat([untouched, preact], dim=1)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 with ``widths`` of three stages and the head, and ``num_units`` stride-1 units per stage."""

    def __init__(self, widths: tuple[int, int, int, int], num_units: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        c1, c2, c3, head_channels = widths
        self.stage_channels = [STEM_CHANNELS, c1, c2, c3]
        self.conv1 = conv1x1(3, STEM_CHANNELS)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.layer1 = _stage(STEM_CHANNELS, c1, num_units[0])
        self.layer2 = _stage(c1, c2, num_units[1])
        self.layer3 = _stage(c2, c3, num_units[2])
        self.conv2 = conv1x1(c3, head_channels)
        self.bn2 = nn.BatchNorm2d(head_channels)
        self.linear = nn.Linear(head_channels, num_classes)

    def get_stage_channels(self) -> list[int]:
        """Channels of each map in ``feats``."""
        return self.stage_channels

    def forward(self, x: Tensor) -> Output:
        """Logits `[N, num_classes]` and features of images `[N, 3, H, W]`."""
        f0 = F.relu(self.bn1(self.conv1(x)), inplace=True)
        f1, preact1 = self.layer1(f0)
        f2, preact2 = self.layer2(f1)
        f3, preact3 = self.layer3(f2)
        out = F.relu(self.bn2(self.conv2(f3)), inplace=True)
        pooled = out.mean(dim=(2, 3))  # upstream pools 4x4 windows, which fails on any image but 32x32
        return self.linear(pooled), {
            "feats": [f0, f1, f2, f3],
            "preact_feats": [f0, preact1, preact2, preact3],
            "pooled_feat": pooled,
            "last_feat": out,
        }


def _join(left: Tensor, right: Tensor) -> Tensor:
    """Two halves `[N, C/2, H, W]` with their channels interleaved `[N, C, H, W]`."""
    return torch.channel_shuffle(torch.cat([left, right], dim=1), 2)


def _stage(in_channels: int, channels: int, num_units: int) -> ShuffleStage:
    return ShuffleStage(DownUnit(in_channels, channels), *(BasicUnit(channels) for _ in range(num_units)))


@register_model("ShuffleV2", zoo="tiny_imagenet")
@register_model("ShuffleV2")
def shufflenetv2(num_classes: int) -> ShuffleNetV2:
    """ShuffleNetV2 1x."""
    return ShuffleNetV2((116, 232, 464, 1024), (3, 7, 3), num_classes)
