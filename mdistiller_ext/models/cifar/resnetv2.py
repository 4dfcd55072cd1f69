"""ImageNet's ResNets with a stem for small images: a 3x3 convolution, no max pool, then four stages.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016, table 1, https://arxiv.org/abs/1512.03385.
The file has mdistiller's name; these are not the pre-activation networks often called "ResNet v2".
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import register_model
from ..blocks import BasicBlock, Block, Bottleneck, residual_stage
from ..layers import Output, Stage, conv3x3, init_convolutions


class ResNet(nn.Module):
    """ResNet of four stages with ``num_blocks`` blocks each, 64 to 512 channels times the block's expansion."""

    def __init__(self, block: type[Block], num_blocks: tuple[int, int, int, int], num_classes: int) -> None:
        super().__init__()
        # Upstream says 256, 512, 1024, 2048 for every depth; that is wrong for ResNet18, whose expansion is 1.
        self.stage_channels = [width * block.expansion for width in (64, 128, 256, 512)]
        c1, c2, c3, c4 = self.stage_channels
        self.conv1 = conv3x3(3, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(block, 64, c1, num_blocks[0], stride=1)
        self.layer2 = _stage(block, c1, c2, num_blocks[1], stride=2)
        self.layer3 = _stage(block, c2, c3, num_blocks[2], stride=2)
        self.layer4 = _stage(block, c3, c4, num_blocks[3], stride=2)
        self.linear = nn.Linear(c4, num_classes)
        init_convolutions(self)

    def get_stage_channels(self) -> list[int]:
        """Channels of each map in ``feats`` but the stem's (as upstream)."""
        return self.stage_channels

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The batch norm that ends the residual branch before the last ReLU of each stage."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return [cast(Block, stage[-1]).last_bn for stage in stages]

    def forward(self, x: Tensor) -> Output:
        """Logits `[N, num_classes]` and features of images `[N, 3, H, W]`."""
        f0 = F.relu(self.bn1(self.conv1(x)), inplace=True)
        f1, preact1 = self.layer1(f0)
        f2, preact2 = self.layer2(f1)
        f3, preact3 = self.layer3(f2)
        f4, preact4 = self.layer4(f3)
        pooled = f4.mean(dim=(2, 3))
        return self.linear(pooled), {
            "feats": [f0, f1, f2, f3, f4],
            "preact_feats": [f0, preact1, preact2, preact3, preact4],
            "pooled_feat": pooled,
        }


def _stage(block: type[Block], in_channels: int, out_channels: int, num_blocks: int, stride: int) -> Stage:
    return residual_stage(block, in_channels, out_channels, num_blocks, stride=stride, shortcut_name="shortcut")


@register_model("ResNet18", zoo="tiny_imagenet")
@register_model("ResNet18")
def ResNet18(num_classes: int) -> ResNet:
    """ResNet-18 for small images."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes)


@register_model("ResNet50")
def ResNet50(num_classes: int) -> ResNet:
    """ResNet-50 for small images."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes)
