"""Batch-wise augmentation of uint8 images on their device.

Every augmentation is a pure function of images and generator. Crop, rotation and flip are one gather of pixels. AutoAugment
and RandAugment are torchvision's, applied image by image.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, UnknownNameError, did_you_mean
from .fixmatch import fixmatch

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""``(images uint8 [B, C, H, W], generator on the same device) -> images uint8 [B, C, H, W]``"""


# ---- crop, rotate, flip -------------------------------------------------------------------------------------------


@runtime_checkable
class EnumerableAugment(Protocol):
    """An augmentation that has finitely many views of an image, numbered 0 .. ``views`` - 1.

    Its ``repr`` identifies it: another augmentation, or another numbering, has another one.
    """

    @property
    def views(self) -> int:
        """Number of views of an image."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor: ...

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a view for each image, int64 ``[B]``."""

    def apply(self, images: Tensor, view: Tensor) -> Tensor:
        """The given view (int64 ``[B]``) of each image, uint8 ``[B, C, H, W]``."""


@dataclass(frozen=True)
class RandomCrop:
    """Pad every image with black and crop a random window of the original size: uint8 ``[B, C, H, W]``.

    Equal in distribution to torchvision's RandomCrop(size, padding), followed by RandomHorizontalFlip() if ``flip``, on single
    images. View ``(top * (2 * padding + 1) + left) * 2 + flip``, without the last factor and term unless ``flip``.
    """

    flip: bool
    padding: int = 4

    @property
    def views(self) -> int:
        """Number of views of an image: positions of the window, twice as many with flips."""
        return (2 * self.padding + 1) ** 2 * (1 + self.flip)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.apply(images, self.draw(images, generator))

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a view for each image, int64 ``[B]``."""
        positions = 2 * self.padding + 1
        top, left = torch.randint(positions, (2, len(images)), generator=generator, device=images.device)
        view = top * positions + left
        return view * 2 + _random_flips(images, generator) if self.flip else view

    def apply(self, images: Tensor, view: Tensor) -> Tensor:
        """The given view (int64 ``[B]``) of each image, uint8 ``[B, C, H, W]``."""
        positions = 2 * self.padding + 1
        flip = view % 2 == 1 if self.flip else torch.zeros_like(view, dtype=torch.bool)
        window = view // 2 if self.flip else view
        return crop_flip(images, window // positions, window % positions, flip, self.padding)


random_crop = RandomCrop(flip=False)
random_crop_flip = RandomCrop(flip=True)
"""The standard augmentation of CIFAR"""


@dataclass(frozen=True)
class Unchanged:
    """No augmentation: a single view, the image."""

    views: ClassVar[int] = 1

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """View 0 for each image, int64 ``[B]``."""
        return torch.zeros(len(images), dtype=torch.long, device=images.device)

    def apply(self, images: Tensor, view: Tensor) -> Tensor:
        """The images themselves."""
        return images


def random_rotate_flip(images: Tensor, generator: torch.Generator, degrees: float = 20) -> Tensor:
    """Rotate every image by a random angle in ``[-degrees, degrees]``, corners black, then flip it with probability 1/2.

    Upstream's augmentation of Tiny-ImageNet: equal in distribution to torchvision's RandomRotation(20) and
    RandomHorizontalFlip().
    """
    angles = (torch.rand(len(images), generator=generator, device=images.device) * 2 - 1) * degrees
    return rotate_flip(images, angles, _random_flips(images, generator))


def crop_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Crop a window per image at ``top``, ``left`` (int64 ``[B]``) of the padded image; flip it where ``flip`` (bool ``[B]``).

    A flip reads the columns of the same window from right to left.
    """
    height, width = images.shape[2:]
    columns = torch.arange(width, device=images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.where(flip[:, None], width - 1 - columns, columns)
    return _gather(F.pad(images, (padding, padding, padding, padding)), rows[:, :, None], columns[:, None, :])


def rotate_flip(images: Tensor, angles: Tensor, flip: Tensor) -> Tensor:
    """Rotate each image by its angle, in degrees counter-clockwise (float ``[B]``), then flip it where ``flip`` (bool ``[B]``).

    Nearest-neighbour sampling, as torchvision's ``rotate`` on tensors; equal but for pixels midway between two others within
    rounding error.
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2  # relative to the centre of the image
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    x = torch.where(flip[:, None], -x, x)[:, None, :]
    cos, sin = (f(angles * (math.pi / 180))[:, None, None] for f in (torch.cos, torch.sin))
    rows = (sin * x + cos * y + (height - 1) / 2).round().long()
    columns = (cos * x - sin * y + (width - 1) / 2).round().long()
    # Coordinates outside are clamped to a black border of one pixel.
    return _gather(F.pad(images, (1, 1, 1, 1)), (rows + 1).clamp(0, height + 1), (columns + 1).clamp(0, width + 1))


def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Gather pixels at ``rows`` and ``columns`` (int64, broadcast to ``[B, H, W]``): ``[B, C, H', W']`` -> ``[B, C, H, W]``."""
    pixels = rows * images.shape[3] + columns
    batch, height, width = pixels.shape
    channels = images.shape[1]
    pixels = pixels.flatten(1)[:, None].expand(-1, channels, -1)
    return images.flatten(2).gather(2, pixels).view(batch, channels, height, width)


def _random_flips(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw whether to flip, bool ``[B]``, with probability 1/2."""
    return torch.rand(len(images), generator=generator, device=images.device) < 0.5


# ---- strong augmentations -------------------------------------------------------------------------------------------


def strong_augment(names: Sequence[str]) -> Augment:
    """Compose the augmentations called ``names``, in that order, to follow the data set's own.

    - ``autoaugment``: AutoAugment, CIFAR-10 policy, filled with grey (Cubuk et al., CVPR 2019).
    - ``randaugment``: RandAugment, 2 operations of magnitude 9 of 0..30 (Cubuk et al., 2020).
    - ``cutout``: `random_cutout` (DeVries and Taylor, 2017).
    - ``fixmatch``: RandAugment with random magnitudes, then a grey square (`fixmatch.py`; Sohn et al., NeurIPS 2020).
    - ``erasing``: a black rectangle of 2 to 33 % of the image, with probability 1/4 (Zhong et al., AAAI 2020).

    GDKD's augmented CIFAR-100 teachers use ``["autoaugment", "cutout"]``. Cut-out pixels are black before normalization, as in
    GDKD; some releases set them to 0 after it, which is the mean colour.

    The policies run image by image: about 5,000 images per second on one CPU core, against 200,000 for crop and cutout.
    Raises as check_strong.
    """
    check_strong(names)
    return functools.partial(_in_turn, [_STRONG[name]() for name in names])


def view_augment(view: str) -> tuple[str, ...]:
    """Names of the augmentations that a view of an image has besides the data set's own: ``strong`` has FixMatch's.

    Raises UnknownNameError for another name than ``weak`` and ``strong``.
    """
    if view not in _VIEWS:
        raise UnknownNameError(f"unknown view '{view}'{did_you_mean(view, _VIEWS) or '.'} Known: {', '.join(_VIEWS)}")
    return _VIEWS[view]


def check_strong(names: Sequence[str]) -> None:
    """Raise UnknownNameError unless all ``names`` are in STRONG, ConfigError unless ``names`` is a list."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ConfigError(f"strong augmentations (DATASET.STRONG) are a list of names, such as [cutout]; got {names!r}")
    for name in names:
        if name not in STRONG:
            near = did_you_mean(str(name), STRONG)
            raise UnknownNameError(f"unknown augmentation '{name}'{near or '.'} Known: {', '.join(STRONG)}")


def random_cutout(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cut a black square, half as wide as the image, at a random centre; a part of it may lie outside."""
    height, width = images.shape[2:]
    rows, columns = (torch.randint(n, (len(images),), generator=generator, device=images.device) for n in (height, width))
    return cut_out(images, rows, columns, min(height, width) // 2)


def cut_out(images: Tensor, rows: Tensor, columns: Tensor, side: int) -> Tensor:
    """Black out a square of ``side`` pixels per image, clipped at the border: uint8 ``[B, C, H, W]``.

    Its first pixel is ``side // 2`` above and left of ``rows``, ``columns`` (int64 ``[B]``).
    """
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device) - rows[:, None] + side // 2  # relative to the first row of the square
    x = torch.arange(width, device=images.device) - columns[:, None] + side // 2
    inside = ((y >= 0) & (y < side))[:, None, :, None] & ((x >= 0) & (x < side))[:, None, None, :]
    return images.masked_fill(inside, 0)


def _in_turn(augmentations: list[Augment], images: Tensor, generator: torch.Generator) -> Tensor:
    for augment in augmentations:
        images = augment(images, generator)
    return images


def _one_by_one(transform: Callable[[Tensor], Tensor], images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply a torchvision transform to each image. Synchronises with the GPU, to draw the seed.

    torchvision draws from the global CPU generator, which is seeded here and restored. Not by ``torch.manual_seed``, which
    would also seed the generators of the accelerators.
    """
    seed = int(torch.randint(2**31, (), generator=generator, device=images.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return torch.stack([transform(image) for image in images])


def _autoaugment() -> Augment:
    v2 = _transforms()
    return functools.partial(_one_by_one, v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=128))  # GDKD's grey


def _randaugment() -> Augment:
    return functools.partial(_one_by_one, _transforms().RandAugment(num_ops=2, magnitude=9))


def _erasing() -> Augment:
    return functools.partial(_one_by_one, _transforms().RandomErasing(p=0.25))


def _transforms() -> Any:
    from torchvision.transforms import v2  # slow to import, and rarely needed

    return v2


_STRONG: dict[str, Callable[[], Augment]] = {
    "autoaugment": _autoaugment,
    "randaugment": _randaugment,
    "fixmatch": lambda: functools.partial(_one_by_one, fixmatch),
    "cutout": lambda: random_cutout,
    "erasing": _erasing,
}
STRONG = tuple(_STRONG)
"""Names accepted by `strong_augment`"""

_VIEWS: dict[str, tuple[str, ...]] = {"weak": (), "strong": ("fixmatch",)}
