"""ShuffleNet for 32x32 images: grouped 1x1 convolutions with a channel shuffle between them; 3 groups.

Zhang et al., ShuffleNet, CVPR 2018, https://arxiv.org/abs/1707.01083. The paper's strided stem and max pool become a
1x1 convolution. Weights keep PyTorch's default initialisation, as upstream.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import register_model
from ..layers import Output, Stage, conv1x1, conv3x3

GROUPS = 3
STEM_CHANNELS = 24


class ShuffleUnit(nn.Module):
    """Grouped 1x1, depthwise 3x3 and grouped 1x1 convolution (paper, figure 2); the stage applies the last ReLU.

    With stride 2 the pooled input is appended to the channels instead of being added.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        branch_channels = channels - in_channels if stride == 2 else channels
        mid_channels = branch_channels // 4
        # The stem has too few channels to be grouped (paper, section 3.3).
        self.groups = 1 if in_channels == STEM_CHANNELS else GROUPS
        self.conv1 = conv1x1(in_channels, mid_channels, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(mid_channels)
        self.conv2 = conv3x3(mid_channels, mid_channels, stride, groups=mid_channels)
        self.bn2 = nn.BatchNorm2d(mid_channels)
        self.conv3 = conv1x1(mid_channels, branch_channels, groups=GROUPS)
        self.bn3 = nn.BatchNorm2d(branch_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, H, W]` to pre-activations `[N, C, H/stride, W/stride]`."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        if self.groups > 1:
            out = torch.channel_shuffle(out, self.groups)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)  # the paper has no ReLU here; upstream has
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
        out += x
        return out


class ShuffleNet(nn.Module):
    """ShuffleNet with three stages of ``widths`` channels and ``num_blocks`` units."""

    def __init__(self, widths: tuple[int, int, int], num_blocks: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(3, STEM_CHANNELS)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.layer1 = _stage(STEM_CHANNELS, widths[0], num_blocks[0])
        self.layer2 = _stage(widths[0], widths[1], num_blocks[1])
        self.layer3 = _stage(widths[1], widths[2], num_blocks[2])
        self.linear = nn.Linear(widths[2], num_classes)

    def forward(self, x: Tensor) -> Output:
        """Logits `[N, num_classes]` and features of images `[N, 3, H, W]`."""
        f0 = F.relu(self.bn1(self.conv1(x)), inplace=True)
        f1, preact1 = self.layer1(f0)
        f2, preact2 = self.layer2(f1)
        f3, preact3 = self.layer3(f2)
        pooled = f3.mean(dim=(2, 3))
        return self.linear(pooled), {
            "feats": [f0, f1, f2, f3],
            "preact_feats": [f0, preact1, preact2, preact3],
            "pooled_feat": pooled,
        }


def _stage(in_channels: int, channels: int, num_blocks: int) -> Stage:
    first = ShuffleUnit(in_channels, channels, stride=2)
    return Stage(first, *(ShuffleUnit(channels, channels, stride=1) for _ in range(num_blocks - 1)))


@register_model("ShuffleV1")
def shufflenetv1(num_classes: int) -> ShuffleNet:
    """ShuffleNet 1x with 3 groups."""
    return ShuffleNet((240, 480, 960), (4, 8, 4), num_classes)
