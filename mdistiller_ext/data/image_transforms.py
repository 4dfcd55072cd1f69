"""What is done to one photograph, as ImageNet's training scripts do it: torchvision's transforms, image in, bytes out.

A transform maps a PIL image (RGB, any size) to uint8 ``[3, size, size]`` and draws from torch's global CPU generator, as
torchvision does; whoever calls it seeds that. Their counterparts for batches of small images are in ``augment.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .augment import check_strong, random_cutout

Transform = Callable[[Image.Image], Tensor]
"""``PIL image -> uint8 [3, size, size]``"""

_ON_TENSORS = ("erasing", "cutout")


def training_transform(size: int, strong: Sequence[str] = ()) -> Transform:
    """A random part of the image (8 to 100 % of its area) at ``size``, mirrored half of the time, then ``strong`` in order.

    Args:
        strong: of ``autoaugment`` (ImageNet's policy), ``randaugment`` (2 operations of magnitude 9), ``erasing`` (a black
            rectangle in a quarter of the images) and ``cutout`` (a black square of half the side, always).

    Raises as augment.check_strong.
    """
    check_strong(strong)
    from torchvision.transforms import v2  # slow to import

    steps: list[Any] = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    on_tensors = False
    for name in strong:
        if name in _ON_TENSORS and not on_tensors:
            steps.append(v2.PILToTensor())
            on_tensors = True
        steps.append(_strong_step(name))
    if not on_tensors:
        steps.append(v2.PILToTensor())
    return v2.Compose(steps)


def evaluation_transform(size: int) -> Transform:
    """The middle: the shorter side is brought to 256/224 of ``size``, then a square of ``size`` is cut out of the centre."""
    from torchvision.transforms import v2  # slow to import

    return v2.Compose([v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size), v2.PILToTensor()])


def _cutout(image: Tensor) -> Tensor:
    """``random_cutout`` of one image, uint8 ``[3, H, W]``."""
    return random_cutout(image[None], torch.default_generator)[0]


def _strong_step(name: str) -> Any:
    """One of augment.STRONG for one image."""
    from torchvision.transforms import v2

    if name == "autoaugment":
        return v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)
    if name == "randaugment":
        return v2.RandAugment(num_ops=2, magnitude=9)
    if name == "erasing":
        return v2.RandomErasing(p=0.25)
    return _cutout
