"""ImageNet ResNets: a 7x7 convolution and a max pool, then four stages. Parameter names are torchvision's.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016, table 1, https://arxiv.org/abs/1512.03385.
As in torchvision, the 3x3 convolution of a bottleneck has its stride; the paper gives it to the 1x1 convolution before.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import register_model
from ..blocks import BasicBlock, Block, Bottleneck, residual_stage
from ..layers import Output, Stage, init_convolutions


class ResNet(nn.Module):
    """ResNet of four stages with ``num_blocks`` blocks each, 64 to 512 channels times the block's expansion."""

    def __init__(self, block: type[Block], num_blocks: tuple[int, int, int, int], num_classes: int) -> None:
        super().__init__()
        # Upstream says 256, 512, 1024, 2048 for every depth; that is wrong for ResNet18 and ResNet34, whose expansion is 1.
        self.stage_channels = [width * block.expansion for width in (64, 128, 256, 512)]
        c1, c2, c3, c4 = self.stage_channels
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(block, 64, c1, num_blocks[0], stride=1)
        self.layer2 = _stage(block, c1, c2, num_blocks[1], stride=2)
        self.layer3 = _stage(block, c2, c3, num_blocks[2], stride=2)
        self.layer4 = _stage(block, c3, c4, num_blocks[3], stride=2)
        self.fc = nn.Linear(c4, num_classes)
        init_convolutions(self)

    def get_stage_channels(self) -> list[int]:
        """Channels of each map in ``feats`` but the stem's (as upstream)."""
        return self.stage_channels

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The batch norm that ends the residual branch before the last ReLU of each stage but the first (as upstream)."""
        return [cast(Block, stage[-1]).last_bn for stage in (self.layer2, self.layer3, self.layer4)]

    def forward(self, x: Tensor) -> Output:
        """Logits `[N, num_classes]` and features of images `[N, 3, H, W]`; the stem's are taken before the max pool."""
        f0 = F.relu(self.bn1(self.conv1(x)), inplace=True)
        f1, preact1 = self.layer1(F.max_pool2d(f0, kernel_size=3, stride=2, padding=1))
        f2, preact2 = self.layer2(f1)
        f3, preact3 = self.layer3(f2)
        f4, preact4 = self.layer4(f3)
        pooled = f4.mean(dim=(2, 3))
        return self.fc(pooled), {
            "feats": [f0, f1, f2, f3, f4],
            "preact_feats": [f0, preact1, preact2, preact3, preact4],  # upstream gives the stem after its ReLU in both lists
            "pooled_feat": pooled,
        }


def _stage(block: type[Block], in_channels: int, out_channels: int, num_blocks: int, stride: int) -> Stage:
    return residual_stage(block, in_channels, out_channels, num_blocks, stride=stride, shortcut_name="downsample")


@register_model("ResNet18", zoo="imagenet")
def resnet18(num_classes: int) -> ResNet:
    """ResNet-18."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes)


@register_model("ResNet34", zoo="imagenet")
def resnet34(num_classes: int) -> ResNet:
    """ResNet-34."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes)


@register_model("ResNet50", zoo="imagenet")
def resnet50(num_classes: int) -> ResNet:
    """ResNet-50."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes)


@register_model("ResNet101", zoo="imagenet")
def resnet101(num_classes: int) -> ResNet:
    """ResNet-101."""
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes)


@register_model("ResNet152", zoo="imagenet")
def resnet152(num_classes: int) -> ResNet:
    """ResNet-152."""
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes)
