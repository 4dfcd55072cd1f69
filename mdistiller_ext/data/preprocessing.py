"""How an image file becomes the input of a network that was trained on a data set."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .base import Dataset, ImageFolderDataset
from .image_files import read_image
from .image_transforms import Transform, evaluation_transform, shorter_side
from .loader import normalization


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side, crop a square from the centre, scale to 0..1, normalise.

    Attributes:
        resize: pixels of the shorter side before the crop; the bilinear filter is antialiased.
        crop: pixels of the square's edge.
        mean, std: per channel (RGB), for values in 0..1.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def transform(self) -> Transform:
        """Resize and crop: a decoded image -> the pixels that a network sees, uint8 ``[3, crop, crop]``."""
        return evaluation_transform(self.crop, self.resize)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 ``[..., 3, H, W]`` -> float32 of the same shape, as in the dataloaders."""
        scale, shift = normalization(self.mean, self.std, pixels.device)
        return pixels * scale + shift

    def __call__(self, path: str | os.PathLike[str]) -> Tensor:
        """A network's input ``[3, H, W]`` of an image file. Raises as `read_image`."""
        return self.normalise(self.transform(read_image(path), random.Random(0)))


def preprocessing(dataset: type[Dataset], size: int, *, mean: Sequence[float] = (), std: Sequence[float] = ()) -> Preprocessing:
    """The preprocessing of a data set's test images, of image files of any size.

    Images of data sets that are kept in memory have the network's size; other files are resized to it and cropped.

    Args:
        size: edge in pixels of a network's input.
        mean, std: the run's settings; empty for the data set's own.
    """
    resize = shorter_side(size) if issubclass(dataset, ImageFolderDataset) else size
    own = (tuple(map(float, values)) for values in (mean or dataset.mean, std or dataset.std))
    (r, g, b), (r_std, g_std, b_std) = own
    return Preprocessing(resize, size, (r, g, b), (r_std, g_std, b_std))
