"""VGG with batch norm and a single linear layer on globally pooled features.

Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015, table 1, https://arxiv.org/abs/1409.1556.
vgg8 is mdistiller's smallest: one convolution per block.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import register_model
from ..layers import Output, init_convolutions

WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Five blocks of 3x3 convolutions; ``depths`` counts the convolutions in each."""

    def __init__(self, depths: tuple[int, int, int, int, int], num_classes: int) -> None:
        super().__init__()
        self.stage_channels = list(WIDTHS)
        self.block0 = _block(3, WIDTHS[0], depths[0])
        self.block1 = _block(WIDTHS[0], WIDTHS[1], depths[1])
        self.block2 = _block(WIDTHS[1], WIDTHS[2], depths[2])
        self.block3 = _block(WIDTHS[2], WIDTHS[3], depths[3])
        self.block4 = _block(WIDTHS[3], WIDTHS[4], depths[4])
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        init_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def get_stage_channels(self) -> list[int]:
        """Channels of each map in ``feats``."""
        return self.stage_channels

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The batch norm before the last ReLU of every block but the first (as upstream)."""
        blocks = (self.block1, self.block2, self.block3, self.block4)
        return [cast(nn.BatchNorm2d, block[-1]) for block in blocks]

    def forward(self, x: Tensor) -> Output:
        """Logits `[N, num_classes]` and features of images `[N, 3, H, W]`."""
        f0 = F.relu(self.block0(x), inplace=True)
        preact1 = self.block1(F.max_pool2d(f0, 2))
        f1 = F.relu(preact1)
        preact2 = self.block2(F.max_pool2d(f1, 2))
        f2 = F.relu(preact2)
        preact3 = self.block3(F.max_pool2d(f2, 2))
        f3 = F.relu(preact3)
        # The last two blocks share a size, 4x4 for 32x32 images; only Tiny-ImageNet's 64x64 are halved once more.
        preact4 = self.block4(F.max_pool2d(f3, 2) if x.shape[2] == 64 else f3)
        f4 = F.relu(preact4)
        pooled = f4.mean(dim=(2, 3))
        return self.classifier(pooled), {
            "feats": [f0, f1, f2, f3, f4],
            "preact_feats": [f0, preact1, preact2, preact3, preact4],  # upstream gives f0 after its ReLU in both
            "pooled_feat": pooled,
        }


def _block(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    """``depth`` times convolution, batch norm and ReLU, without the last ReLU."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        convolution = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1)  # with bias, as in the checkpoints
        layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        in_channels = channels
    return nn.Sequential(*layers[:-1])


@register_model("vgg8")
def vgg8(num_classes: int) -> VGG:
    """VGG-8."""
    return VGG((1, 1, 1, 1, 1), num_classes)


@register_model("vgg11")
def vgg11(num_classes: int) -> VGG:
    """VGG-11, the paper's A."""
    return VGG((1, 1, 2, 2, 2), num_classes)


@register_model("vgg13")
def vgg13(num_classes: int) -> VGG:
    """VGG-13, the paper's B."""
    return VGG((2, 2, 2, 2, 2), num_classes)


@register_model("vgg16")
def vgg16(num_classes: int) -> VGG:
    """VGG-16, the paper's D."""
    return VGG((2, 2, 3, 3, 3), num_classes)


@register_model("vgg19")
def vgg19(num_classes: int) -> VGG:
    """VGG-19, the paper's E."""
    return VGG((2, 2, 4, 4, 4), num_classes)
