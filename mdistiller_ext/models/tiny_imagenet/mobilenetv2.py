"""MobileNetV2 for 64x64 images, at full width: a student of the Tiny-ImageNet benchmarks.

Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, https://arxiv.org/abs/1801.04381.
It shares no layer with the CIFAR zoo's: its convolutions have biases, its activation is the paper's ReLU6, the stem is a
padded 1x1 convolution, the classifier a convolution. Weights keep PyTorch's default initialisation, as upstream.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import register_model
from ..layers import Output

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise and linear 1x1 convolution; with a shortcut where the shapes agree."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == channels
        self.residual = nn.Sequential(
            *_bn_relu6(nn.Conv2d(in_channels, hidden, kernel_size=1)),
            *_bn_relu6(nn.Conv2d(hidden, hidden, kernel_size=3, stride=stride, padding=1, groups=hidden)),
            nn.Conv2d(hidden, channels, kernel_size=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, H, W]` to `[N, C, H/stride, W/stride]`; no ReLU follows."""
        out = self.residual(x)
        if self.has_shortcut:
            out += x
        return out


class MobileNetV2(nn.Module):
    """MobileNetV2 with three halvings. It has no ``preact_feats`` and no helpers for feature methods (as upstream)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        # The padding frames the image with a border of biases: 64x64 images give 66x66 maps.
        self.pre = nn.Sequential(*_bn_relu6(nn.Conv2d(3, STEM_CHANNELS, kernel_size=1, padding=1)))
        self.stage1 = InvertedResidual(STEM_CHANNELS, 16, stride=1, expansion=1)
        self.stage2 = _stage(16, 24, num_blocks=2, stride=2)
        self.stage3 = _stage(24, 32, num_blocks=3, stride=2)
        self.stage4 = _stage(32, 64, num_blocks=4, stride=2)
        self.stage5 = _stage(64, 96, num_blocks=3, stride=1)
        self.stage6 = _stage(96, 160, num_blocks=3, stride=1)  # the paper halves here (table 2); upstream does not
        self.stage7 = InvertedResidual(160, 320, stride=1, expansion=6)
        self.conv1 = nn.Sequential(*_bn_relu6(nn.Conv2d(320, HEAD_CHANNELS, kernel_size=1)))
        self.conv2 = nn.Conv2d(HEAD_CHANNELS, num_classes, kernel_size=1)

    def forward(self, x: Tensor) -> Output:
        """Logits `[N, num_classes]` and features of images `[N, 3, H, W]`; ``pooled_feat`` is `[N, 1280, 1, 1]`."""
        f0 = self.pre(x)
        f1 = self.stage2(self.stage1(f0))
        f2 = self.stage3(f1)
        f3 = self.stage4(f2)
        f4 = self.conv1(self.stage7(self.stage6(self.stage5(f3))))
        pooled = F.adaptive_avg_pool2d(f4, 1)
        return self.conv2(pooled).flatten(1), {"feats": [f0, f1, f2, f3, f4], "pooled_feat": pooled}


def _stage(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = InvertedResidual(in_channels, channels, stride, expansion=6)
    return nn.Sequential(first, *(InvertedResidual(channels, channels, 1, expansion=6) for _ in range(num_blocks - 1)))


def _bn_relu6(convolution: nn.Conv2d) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU6]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU6(inplace=True)


@register_model("MobileNetV2", zoo="tiny_imagenet")
def mobilenetv2(num_classes: int) -> MobileNetV2:
    """MobileNetV2 with expansion 6 at full width."""
    return MobileNetV2(num_classes)
