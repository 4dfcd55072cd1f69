"""MobileNetV2 for 32x32 images, at half width: the student of the CIFAR-100 benchmarks.

Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, https://arxiv.org/abs/1801.04381.
Against the paper's table 2 the 24-channel stage keeps its size, so that five halvings become four.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from ...registry import register_model
from ..layers import Output, conv1x1, conv3x3, init_convolutions

# Per stage: channels at full width, number of blocks, stride of the first block.
STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
FEATURE_STAGES = (1, 2, 4, 6)  # the last stage at each image size; their outputs are returned as features
HEAD_CHANNELS = 1280  # not narrowed by the width multiplier (paper, section 4)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise and linear 1x1 convolution; with a shortcut where the shapes agree."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            *_bn_relu(conv1x1(in_channels, hidden)),
            *_bn_relu(conv3x3(hidden, hidden, stride, groups=hidden)),
            conv1x1(hidden, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, H, W]` to `[N, C, H/stride, W/stride]`; no ReLU follows."""
        out = self.conv(x)
        if self.has_shortcut:
            out += x
        return out


class MobileNetV2(nn.Module):
    """MobileNetV2 with an expansion factor and a width multiplier. It has no ``preact_feats`` (as upstream)."""

    def __init__(self, expansion: int, width: float, num_classes: int) -> None:
        super().__init__()
        in_channels = stem_channels = int(32 * width)
        self.conv1 = nn.Sequential(*_bn_relu(conv3x3(3, stem_channels, stride=2)))
        self.blocks = nn.ModuleList()
        for index, (full_channels, num_blocks, stride) in enumerate(STAGES):
            channels = int(full_channels * width)
            stage_expansion = 1 if index == 0 else expansion
            blocks = [InvertedResidual(in_channels, channels, stride, stage_expansion)]
            blocks += [InvertedResidual(channels, channels, 1, stage_expansion) for _ in range(num_blocks - 1)]
            self.blocks.append(nn.Sequential(*blocks))
            in_channels = channels
        self.conv2 = nn.Sequential(*_bn_relu(conv1x1(in_channels, HEAD_CHANNELS)))
        classifier = nn.Linear(HEAD_CHANNELS, num_classes)
        self.classifier = nn.Sequential(classifier)  # the checkpoints call it classifier.0
        self.stage_channels = [stem_channels, *(int(STAGES[index][0] * width) for index in FEATURE_STAGES)]
        init_convolutions(self)
        nn.init.normal_(classifier.weight, std=0.01)
        nn.init.zeros_(classifier.bias)

    def get_stage_channels(self) -> list[int]:
        """Channels of each map in ``feats``."""
        return self.stage_channels

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The batch norm that ends each returned stage (upstream's name; no ReLU follows linear bottlenecks)."""
        last_blocks = [cast(nn.Sequential, self.blocks[index])[-1] for index in FEATURE_STAGES]
        return [cast(nn.BatchNorm2d, cast(InvertedResidual, block).conv[-1]) for block in last_blocks]

    def forward(self, x: Tensor) -> Output:
        """Logits `[N, num_classes]` and features of images `[N, 3, H, W]`."""
        x = self.conv1(x)
        feats = [x]
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in FEATURE_STAGES:
                feats.append(x)
        last = self.conv2(x)
        pooled = last.mean(dim=(2, 3))
        return self.classifier(pooled), {"feats": feats, "pooled_feat": pooled, "last_feat": last}


def _bn_relu(convolution: nn.Conv2d) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU]:
    """The convolution followed by batch norm and ReLU (ReLU, not the paper's ReLU6, as upstream)."""
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)


@register_model("MobileNetV2")
def mobilenetv2(num_classes: int) -> MobileNetV2:
    """MobileNetV2 with expansion 6 at half width."""
    return MobileNetV2(expansion=6, width=0.5, num_classes=num_classes)
