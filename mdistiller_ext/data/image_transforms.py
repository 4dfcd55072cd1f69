"""Transforms of single images, as in ImageNet training scripts, from torchvision.

A transform maps a PIL image (RGB, any size) to uint8 ``[3, size, size]`` and draws from torch's global CPU generator, which
the caller seeds. For batches of small images see ``augment.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .augment import check_strong, random_cutout
from .fixmatch import fixmatch

Transform = Callable[[Image.Image], Tensor]
"""``PIL image -> uint8 [3, size, size]``"""

_ON_TENSORS = ("erasing", "cutout", "fixmatch")


def training_transform(size: int, strong: Sequence[str] = ()) -> Transform:
    """RandomResizedCrop (8 to 100 % of the area) to ``size``, horizontal flip with probability 1/2, then ``strong`` in order.

    Args:
        strong: any of ``autoaugment`` (ImageNet policy), ``randaugment`` (2 operations of magnitude 9), ``erasing`` (a black
            rectangle with probability 1/4), ``cutout`` (a black square of half the side) and ``fixmatch`` (`fixmatch.py`).

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


def transform_in_views(transforms: Sequence[Transform]) -> Transform:
    """Transform an image once for each view: uint8 ``[V, 3, size, size]``; a single view adds no dimension."""
    return transforms[0] if len(transforms) == 1 else functools.partial(_stacked, transforms)


def _stacked(transforms: Sequence[Transform], image: Image.Image) -> Tensor:
    return torch.stack([transform(image) for transform in transforms])


def evaluation_transform(size: int) -> Transform:
    """Resize the shorter side to 256/224 of ``size``, then crop a square of ``size`` from the centre."""
    from torchvision.transforms import v2  # slow to import

    return v2.Compose([v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size), v2.PILToTensor()])


def _cutout(image: Tensor) -> Tensor:
    """Apply ``random_cutout`` to one image, uint8 ``[3, H, W]``."""
    return random_cutout(image[None], torch.default_generator)[0]


def _strong_step(name: str) -> Any:
    """Return the transform of single images called ``name`` in augment.STRONG."""
    from torchvision.transforms import v2

    if name == "autoaugment":
        return v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)
    if name == "randaugment":
        return v2.RandAugment(num_ops=2, magnitude=9)
    if name == "erasing":
        return v2.RandomErasing(p=0.25)
    return fixmatch if name == "fixmatch" else _cutout
