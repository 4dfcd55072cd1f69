"""Transforms of single images, as in ImageNet training scripts: crop, resize, flip, and torchvision's strong augmentations.

A transform draws from the generator that it is given, which the caller seeds for every image. Crops are resized as uint8
tensors in the memory layout in which they are decoded, which takes half the time of PIL images and differs from them by at
most one level. For batches of small images see ``augment.py``.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .augment import check_strong, random_cutout
from .fixmatch import fixmatch
from .image_files import Pixels

Transform = Callable[[Pixels, random.Random], Tensor]
"""``(image uint8 [H, W, 3], generator) -> uint8 [3, size, size]``"""

_AREA = (0.08, 1.0)  # share of the image
_RATIO = (3 / 4, 4 / 3)  # width over height
_ATTEMPTS = 10
_ON_TENSORS = ("erasing", "cutout", "fixmatch")


def training_transform(size: int, strong: Sequence[str] = ()) -> Transform:
    """RandomResizedCrop (8 to 100 % of the area) to ``size``, horizontal flip with probability 1/2, then ``strong`` in order.

    Equal in distribution to torchvision's RandomResizedCrop(size) and RandomHorizontalFlip().

    Args:
        strong: any of ``autoaugment`` (ImageNet policy), ``randaugment`` (2 operations of magnitude 9), ``erasing`` (a black
            rectangle with probability 1/4), ``cutout`` (a black square of half the side) and ``fixmatch`` (`fixmatch.py`).

    Raises as augment.check_strong.
    """
    check_strong(strong)
    return functools.partial(_augmented, size, strong_steps(strong))


def evaluation_transform(size: int, shorter: int = 0) -> Transform:
    """Resize the shorter side to ``shorter`` (256/224 of ``size``), then crop a square of ``size`` from the centre."""
    return functools.partial(_centred, size, shorter or shorter_side(size))


def shorter_side(size: int) -> int:
    """Pixels of the shorter side from which ImageNet's evaluation crops a square of ``size``."""
    return round(size * 256 / 224)


def transform_in_views(transforms: Sequence[Transform]) -> Transform:
    """Transform an image once for each view: uint8 ``[V, 3, size, size]``; a single view adds no dimension."""
    return transforms[0] if len(transforms) == 1 else functools.partial(_stacked, transforms)


def random_crop_box(height: int, width: int, generator: random.Random) -> tuple[int, int, int, int]:
    """Draw the window of a RandomResizedCrop: top, left, height and width in pixels.

    Its area is uniform in 8 to 100 % of the image's and its ratio of sides log-uniform in 3/4 to 4/3. If it does not fit in 10
    attempts, it is the largest central window of an allowed ratio (Szegedy et al., 2015; torchvision).
    """
    for _ in range(_ATTEMPTS):
        area = height * width * generator.uniform(*_AREA)
        ratio = math.exp(generator.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return generator.randint(0, height - h), generator.randint(0, width - w), h, w
    w = min(width, round(height * _RATIO[1]))
    h = min(height, round(width / _RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize an image, uint8 ``[3, H, W]``, bilinearly with antialiasing, as PIL does."""
    return F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=True)[0]


def strong_steps(names: Sequence[str]) -> list[Callable[[Any], Any]]:
    """The transforms called ``names`` for one image; AutoAugment and RandAugment take a third of the time on PIL images."""
    if not names:
        return []
    from torchvision.transforms import v2  # slow to import

    steps: list[Callable[[Any], Any]] = []
    on_tensors = True
    for name in names:
        if on_tensors != (name in _ON_TENSORS):
            on_tensors = not on_tensors
            steps.append(v2.PILToTensor() if on_tensors else _to_pil)
        steps.append(_strong_step(name))
    return steps if on_tensors else [*steps, v2.PILToTensor()]


def _augmented(size: int, steps: Sequence[Callable[[Any], Any]], pixels: Pixels, generator: random.Random) -> Tensor:
    top, left, height, width = random_crop_box(pixels.shape[0], pixels.shape[1], generator)
    image = resize(_as_tensor(pixels[top : top + height, left : left + width]), size, size)
    if generator.random() < 0.5:
        image = image.flip(2)
    if steps:
        with torch.random.fork_rng(devices=()):
            # Not torch.manual_seed, which would also seed the accelerators of the training process when there are no workers.
            torch.default_generator.manual_seed(generator.getrandbits(32))
            for step in steps:
                image = step(image)
    return image


def _centred(size: int, shorter: int, pixels: Pixels, _: random.Random) -> Tensor:
    height, width = pixels.shape[:2]
    # The longer side is truncated and offsets are rounded, as in torchvision's Resize and CenterCrop.
    scaled = (shorter, int(shorter * width / height)) if height <= width else (int(shorter * height / width), shorter)
    top, left = (round((side - size) / 2) for side in scaled)
    return resize(_as_tensor(pixels), *scaled)[:, top : top + size, left : left + size]


def _stacked(transforms: Sequence[Transform], pixels: Pixels, generator: random.Random) -> Tensor:
    return torch.stack([transform(pixels, generator) for transform in transforms])


def _as_tensor(pixels: Pixels) -> Tensor:
    """A view of an image as uint8 ``[3, H, W]``, channels last in memory."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


def _cutout(image: Tensor) -> Tensor:
    """Apply ``random_cutout`` to one image, uint8 ``[3, H, W]``."""
    return random_cutout(image[None], torch.default_generator)[0]


def _strong_step(name: str) -> Callable[[Any], Any]:
    """Return the transform of single images called ``name`` in augment.STRONG."""
    from torchvision.transforms import v2  # slow to import

    if name == "autoaugment":
        return v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)
    if name == "randaugment":
        return v2.RandAugment(num_ops=2, magnitude=9)
    if name == "erasing":
        return v2.RandomErasing(p=0.25)
    return fixmatch if name == "fixmatch" else _cutout
