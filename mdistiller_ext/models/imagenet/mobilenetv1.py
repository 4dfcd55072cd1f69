"""MobileNet (the first) for 224x224 images: a student of the ImageNet benchmarks.

Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications, 2017, table 1,
https://arxiv.org/abs/1704.04861. Weights keep PyTorch's default initialisation, as upstream.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import register_model
from ..layers import Output, conv1x1, conv3x3

STEM_CHANNELS = 32
# Channels and stride of each separable convolution.
LAYERS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *(((512, 1),) * 5),
    (1024, 2),
    (1024, 1),
)
FEATURE_LAYERS = (3, 5, 11, 13)  # in `MobileNetV1.model`: the last at each image size but the stem's


class MobileNetV1(nn.Module):
    """MobileNet: a strided stem and 13 pairs of a 3x3 depthwise and a 1x1 convolution."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers = [nn.Sequential(*_bn_relu(conv3x3(3, STEM_CHANNELS, stride=2)))]
        in_channels = STEM_CHANNELS
        for channels, stride in LAYERS:
            depthwise = conv3x3(in_channels, in_channels, stride, groups=in_channels)
            layers.append(nn.Sequential(*_bn_relu(depthwise), *_bn_relu(conv1x1(in_channels, channels))))
            in_channels = channels
        self.model = nn.Sequential(*layers)
        self.fc = nn.Linear(in_channels, num_classes)  # upstream's has 1000 classes, whatever is asked for

    def get_stage_channels(self) -> list[int]:
        """Channels of each map in ``feats``."""
        return [bn.num_features for bn in self.get_bn_before_relu()]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The batch norm before the last ReLU of each returned map."""
        layers = [cast(nn.Sequential, self.model[index]) for index in FEATURE_LAYERS]
        return [cast(nn.BatchNorm2d, layer[-2]) for layer in layers]

    def forward(self, x: Tensor) -> Output:
        """Logits `[N, num_classes]` and features of images `[N, 3, H, W]`."""
        feats, preact_feats = [], []
        for index, layer in enumerate(self.model):
            if index in FEATURE_LAYERS:
                preact = cast(nn.Sequential, layer)[:-1](x)
                x = F.relu(preact)  # not in place: `preact` is returned
                feats.append(x)
                preact_feats.append(preact)
            else:
                x = layer(x)
        pooled = x.mean(dim=(2, 3))
        return self.fc(pooled), {"feats": feats, "preact_feats": preact_feats, "pooled_feat": pooled, "last_feat": x}


def _bn_relu(convolution: nn.Conv2d) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)


@register_model("MobileNetV1", zoo="imagenet")
def mobilenetv1(num_classes: int) -> MobileNetV1:
    """MobileNet at full width."""
    return MobileNetV1(num_classes)
