"""What a data set is: a class with a few constants and a ``load``. It knows files, not batches.

A data set of your own is one file (yours, or a new one in this folder); the names come from ``mdistiller_ext.data``:

    @register_dataset("mydata")
    class MyData(InMemoryDataset):
        num_classes = 10
        mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
        augment = staticmethod(random_crop_flip)

        def load(self, root):
            return (train_images, train_labels), (test_images, test_labels)

Images too many for memory stay files: derive from `ImageFolderDataset` and write ``samples``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError

Split = tuple[Tensor, Tensor]
"""``(images uint8 [N, 3, H, W], labels int64 [N])``"""

Samples = list[tuple[Path, int]]
"""Image files and their labels"""


class Dataset:
    """What every data set says of itself; derive from one of the two kinds below.

    Attributes:
        zoo: the models that fit its images: ``cifar100`` (32x32), ``tiny_imagenet`` (64x64) or ``imagenet`` (224x224).
        num_classes: labels are 0 .. num_classes - 1; None where only the files tell.
        mean, std: per channel over the training images, on the scale 0..1.
        teachers: where a trained teacher is looked for, with ``{model}`` for its name, or ``{lower}`` in lower case.
        teachers_hint: how to get one, with ``{model}`` and ``{download}``, the command of ``download.py``; a sentence for an
            error message.
        students_start: what weights a student starts from: ``random``, or ``pretrained`` on ImageNet.
    """

    zoo: ClassVar[str]
    num_classes: ClassVar[int | None]
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    teachers: ClassVar[str] = ""
    teachers_hint: ClassVar[str] = ""
    students_start: ClassVar[str] = "random"


class InMemoryDataset(Dataset):
    """Base of data sets small enough to hold as bytes in memory. Their number of classes is known beforehand.

    Attributes:
        classes: names of the classes, label by label, which ``load`` and ``load_test`` may set; None leaves them unknown.
    """

    zoo: ClassVar[str] = "cifar100"
    num_classes: ClassVar[int]
    classes: Sequence[str] | None = None

    @staticmethod
    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        """A batch of training images, changed at random; uint8 ``[B, 3, H, W]`` in and out. As is, unless overridden."""
        return images

    def load(self, root: Path) -> tuple[Split, Split]:
        """Training and test split, read from or fetched into the folder ``root``.

        Raises MissingFileError or CorruptFileError.
        """
        raise NotImplementedError

    def load_test(self, root: Path) -> Split:
        """The test split alone; override it where that reads less."""
        return self.load(root)[1]


class ImageFolderDataset(Dataset):
    """Base of data sets too large for memory: their image files are read and augmented batch by batch, as ImageNet is.

    Attributes:
        image_size: height and width in pixels of what a network is shown.
    """

    zoo: ClassVar[str] = "imagenet"
    num_classes: ClassVar[int | None] = None
    mean: ClassVar[tuple[float, float, float]] = (0.485, 0.456, 0.406)  # ImageNet's
    std: ClassVar[tuple[float, float, float]] = (0.229, 0.224, 0.225)
    image_size: ClassVar[int] = 224

    def samples(self, root: Path, test_fraction: float) -> tuple[Samples, Samples, list[str]]:
        """Training samples, test samples and the names of the classes, label by label, of the files below ``root``.

        Args:
            test_fraction: share of every class to hold out for the test; only for files that come without a split.

        Raises MissingFileError or CorruptFileError.
        """
        raise NotImplementedError

    def test_samples(self, root: Path, test_fraction: float) -> tuple[Samples, list[str]]:
        """Test samples and the names of the classes alone; override it where that lists less."""
        _, test, classes = self.samples(root, test_fraction)
        return test, classes


def check_split(split: Split, num_classes: int, where: str) -> None:
    """Raise ConfigError, saying ``where``, unless ``split`` is what `InMemoryDataset.load` promises."""
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
    """Raise ConfigError, saying ``where``, unless ``samples`` are what `ImageFolderDataset.samples` promises."""
    if not samples:
        raise ConfigError(f"{where}: no images")
    for path, label in samples:
        if not 0 <= label < num_classes:
            raise ConfigError(f"{where}: labels must lie in 0..{num_classes - 1} (the classes), got {label} of {path}")


def balanced_choice(labels: Tensor, count: int) -> Tensor:
    """Indices of ``count`` images taken round the classes: every class's first, then every class's second...

    Labels int64 ``[N]`` -> int64 ``[min(count, N)]``. The choice is balanced and needs no seed, and a training and a test
    split are cut down to the same classes.
    """
    by_class = torch.argsort(labels, stable=True)
    sizes = torch.bincount(labels)
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    turn = torch.arange(len(labels)) - starts  # how many of its class come before an image
    return by_class[torch.argsort(turn, stable=True)][:count]


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
