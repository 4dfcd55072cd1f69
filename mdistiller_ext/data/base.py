"""Base classes of data sets: constants and a method that loads or lists the images.

To add a data set, write one file, as a plug-in or in this folder:

    @register_dataset("mydata")
    class MyData(InMemoryDataset):
        num_classes = 10
        mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
        augment = staticmethod(random_crop_flip)

        def load(self, root):
            return (train_images, train_labels), (test_images, test_labels)

For images that do not fit in memory derive from `ImageFolderDataset` and implement ``samples``. All names are importable from
``mdistiller_ext.data``.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from .augment import Unchanged

if TYPE_CHECKING:
    from .identity import SplitIdentity

Split = tuple[Tensor, Tensor]
"""``(images uint8 [N, 3, H, W], labels int64 [N])``"""

Samples = list[tuple[str | Path, int]]
"""Image files and their labels"""


class Dataset:
    """Base of both kinds of data sets below.

    Attributes:
        zoo: the zoo of models for its images: ``cifar100`` (32x32), ``tiny_imagenet`` (64x64) or ``imagenet`` (224x224).
        num_classes: labels are 0 .. num_classes - 1; None if it depends on the files.
        mean, std: per channel over the training images, scaled to 0..1.
        teachers: default path of a teacher checkpoint, with ``{model}`` for its name, or ``{lower}`` in lower case.
        teachers_hint: how to get one, as a sentence of an error message, with ``{model}`` and ``{download}``, the command of
            ``download.py``.
        students_start: initial weights of a student: ``random``, or ``pretrained`` on ImageNet.
    """

    zoo: ClassVar[str]
    num_classes: ClassVar[int | None]
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    teachers: ClassVar[str] = ""
    teachers_hint: ClassVar[str] = ""
    students_start: ClassVar[str] = "random"


class InMemoryDataset(Dataset):
    """Base of data sets kept in memory as uint8, with a fixed number of classes.

    Attributes:
        classes: class names in the order of the labels, which ``load`` and ``load_test`` may set; None if unknown.
        identities: identities by split, ``train`` or ``test``, which they may set where they know them.
        cache: whether they may keep files beside the data for a quicker start; see image_cache.cached_split.
        augment: augmentation of a batch of training images; see `augment.py`.
    """

    zoo: ClassVar[str] = "cifar100"
    num_classes: ClassVar[int]
    classes: Sequence[str] | None = None
    identities: Mapping[str, SplitIdentity] = types.MappingProxyType({})
    cache: bool = False
    augment: ClassVar[staticmethod[..., Tensor]] = staticmethod(Unchanged())

    def load(self, root: Path) -> tuple[Split, Split]:
        """Training and test split, read from or downloaded into the folder ``root``.

        Raises MissingFileError or CorruptFileError.
        """
        raise NotImplementedError

    def load_test(self, root: Path) -> Split:
        """The test split; override it if that reads less."""
        return self.load(root)[1]


class ImageFolderDataset(Dataset):
    """Base of data sets whose image files are read and augmented batch by batch, such as ImageNet.

    Attributes:
        image_size: height and width in pixels of a network's input.
    """

    zoo: ClassVar[str] = "imagenet"
    num_classes: ClassVar[int | None] = None
    mean: ClassVar[tuple[float, float, float]] = (0.485, 0.456, 0.406)  # ImageNet's
    std: ClassVar[tuple[float, float, float]] = (0.229, 0.224, 0.225)
    image_size: ClassVar[int] = 224

    def samples(self, root: Path, test_fraction: float) -> tuple[Samples, Samples, list[str]]:
        """Training samples, test samples and class names in the order of the labels, of the files below ``root``.

        Args:
            test_fraction: fraction of every class to hold out for the test; only for files without a split.

        Raises MissingFileError or CorruptFileError.
        """
        raise NotImplementedError

    def test_samples(self, root: Path, test_fraction: float) -> tuple[Samples, list[str]]:
        """Test samples and class names; override it if that lists less."""
        _, test, classes = self.samples(root, test_fraction)
        return test, classes


def check_split(split: Split, num_classes: int, where: str) -> None:
    """Raise ConfigError, naming ``where``, unless ``split`` satisfies the contract of `InMemoryDataset.load`."""
    images, labels = split
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ConfigError(f"{where}: images must be uint8 [N, 3, H, W], got {_describe(images)}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ConfigError(f"{where}: labels must be int64 [{len(images)}], one per image, got {_describe(labels)}")
    if len(labels) == 0:
        raise ConfigError(f"{where}: no images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ConfigError(f"{where}: labels must lie in 0..{num_classes - 1} (num_classes), got {low}..{high}")


def check_samples(samples: Samples, num_classes: int, where: str) -> None:
    """Raise ConfigError, naming ``where``, unless ``samples`` satisfy the contract of `ImageFolderDataset.samples`."""
    if not samples:
        raise ConfigError(f"{where}: no images")
    for path, label in samples:
        if not 0 <= label < num_classes:
            raise ConfigError(f"{where}: labels must lie in 0..{num_classes - 1} (the classes), got {label} of {path}")


def are_three_numbers(values: Any) -> TypeGuard[Sequence[float]]:
    """Return whether these are three finite numbers that float32 can compute with; comparisons with NaN are false."""
    return (
        isinstance(values, Sequence)
        and len(values) == 3
        and all(
            isinstance(value, int | float | np.floating) and not isinstance(value, bool) and abs(value) < 1e6
            for value in values
        )
    )


def balanced_choice(labels: Tensor, count: int) -> Tensor:
    """Choose ``count`` images, balanced over the classes: the first of every class, then the second of every class...

    Labels int64 ``[N]`` -> indices int64 ``[min(count, N)]``. Needs no seed, and selects the same classes for a training and
    a test split.
    """
    by_class = torch.argsort(labels, stable=True)
    sizes = torch.bincount(labels)
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    turn = torch.arange(len(labels)) - starts  # number of earlier images of the same class
    return by_class[torch.argsort(turn, stable=True)][:count]


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
