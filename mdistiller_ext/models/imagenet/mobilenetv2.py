"""MobileNetV2 for 224x224 images: torchvision's network, with features for distillation.

Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, https://arxiv.org/abs/1801.04381.
"""

from __future__ import annotations

from torch import Tensor, nn

from ...registry import register_model
from ..layers import Output

# In `MobileNetV2.features`: the stem, then the last inverted residual at each image size, as in the CIFAR zoo.
FEATURE_LAYERS = (0, 3, 6, 13, 17)


class MobileNetV2(nn.Module):
    """MobileNetV2 at full width. It has no ``preact_feats``, as linear bottlenecks end in no ReLU."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2  # imports as slowly as torch

        network = mobilenet_v2(num_classes=num_classes)
        self.features, self.classifier = network.features, network.classifier

    def get_stage_channels(self) -> list[int]:
        """Channels of each map in ``feats``."""
        return [self._last_bn(index).num_features for index in FEATURE_LAYERS]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The batch norm that ends each returned map but the stem's (upstream's name; no ReLU follows)."""
        return [self._last_bn(index) for index in FEATURE_LAYERS[1:]]

    def forward(self, x: Tensor) -> Output:
        """Logits `[N, num_classes]` and features of images `[N, 3, H, W]`; dropout follows ``pooled_feat``."""
        feats = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in FEATURE_LAYERS:
                feats.append(x)
        pooled = x.mean(dim=(2, 3))
        return self.classifier(pooled), {"feats": feats, "pooled_feat": pooled, "last_feat": x}

    def _last_bn(self, index: int) -> nn.BatchNorm2d:
        return [layer for layer in self.features[index].modules() if isinstance(layer, nn.BatchNorm2d)][-1]


@register_model("MobileNetV2", zoo="imagenet")
def mobilenetv2(num_classes: int) -> MobileNetV2:
    """MobileNetV2 with expansion 6 at full width."""
    return MobileNetV2(num_classes)
