"""Data sets and the loaders that serve them, by name: drawn here, downloaded, or your own.

``create_loaders`` is the door. Small images are kept in memory: bytes on the training device, no worker processes. Large
ones stay files that worker processes read. This room knows nothing of configuration, models or training.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch

from ..errors import ConfigError, ConfigWarning
from ..registry import DATASETS, register_dataset
from .augment import Augment, random_crop, random_crop_flip, strong_augment
from .base import (
    Dataset,
    ImageFolderDataset,
    InMemoryDataset,
    Samples,
    Split,
    balanced_choice,
    check_samples,
    check_split,
)
from .image_transforms import evaluation_transform, training_transform
from .loader import InMemoryLoader, mix_seeds
from .worker_loader import OnError, WorkerLoader, check_on_error

__all__ = [
    "ImageFolderDataset",
    "InMemoryDataset",
    "InMemoryLoader",
    "Loader",
    "WorkerLoader",
    "create_loaders",
    "dataset_entry",
    "mix_seeds",
    "random_crop",
    "random_crop_flip",
    "register_dataset",
]


Loader = InMemoryLoader | WorkerLoader
"""What `create_loaders` makes: batches on the training device."""

_LARGEST = 4096  # pixels, of an edge that images are brought to; what is more is a slip that would fill the memory


def dataset_entry(name: str) -> type[Dataset]:
    """The data set called ``name``. Raises UnknownNameError with the nearest known name."""
    entry: type[Dataset] = DATASETS.get(name)
    return entry


def create_loaders(
    name: str,
    *,
    root: str | Path = "./data",
    batch_size: int,
    test_batch_size: int,
    limit: int = 0,
    drop_last: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    data_device: str | torch.device | None = None,
    num_workers: int = 2,
    on_error: OnError = "stop",
    num_classes: int = 0,
    image_size: int = 0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    strong: Sequence[str] = (),
    test_fraction: float = 0.2,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[Loader, Loader]:
    """Training loader (shuffled, augmented) and test loader (in order, as is) of the data set called ``name``.

    Args:
        root: folder of the files.
        batch_size, test_batch_size: of whole batches, of all processes.
        limit: keep this many training and this many test images, taken in turn from every class; 0 keeps all.
        drop_last: leave out a last training batch that is smaller than the others.
        seed: of order and augmentation, not of the data.
        device: where batches go.
        data_device: where images lie that are kept in memory, ``device`` by default.
        num_workers: processes that read images, for each loader, but no more than there are cores; data sets in memory
            need none.
        on_error: what an image file that cannot be read does: ``stop`` raises, ``skip`` goes on without; see WorkerLoader.
        num_classes: how many classes there must be; 0 leaves it to the data set.
        image_size: height and width in pixels that image files are brought to; 0 for the data set's own.
        mean, std: per channel, on the scale 0..1; empty for the data set's own.
        strong: names of what follows the usual ones; see augment.strong_augment and image_transforms.training_transform.
        test_fraction: share of every class held out for the test; only for image files that come without a split.
        rank, world_size: which process this is, of how many: each batch is dealt to them row by row.

    Raises UnknownNameError, ConfigError, MissingFileError or CorruptFileError.
    """
    dataset = dataset_entry(name)
    if limit < 0:
        raise ConfigError(f"the limit of images must be 0 (all) or more, got {limit}")
    if num_classes < 0 or image_size < 0:
        raise ConfigError(
            f"number of classes and image size must be 0 (the data set's) or more, got {num_classes}, {image_size}"
        )
    if image_size > _LARGEST:
        raise ConfigError(f"image size (DATASET.IMAGE_SIZE) must be at most {_LARGEST} pixels, got {image_size}")
    if not 0 < test_fraction < 1:
        raise ConfigError(f"the fraction of test images must lie between 0 and 1, got {test_fraction}")
    check_on_error(on_error)
    mean, std = (
        own if isinstance(given, Sequence) and not given else given for given, own in ((mean, dataset.mean), (std, dataset.std))
    )
    if not (_are_three_numbers(mean) and _are_three_numbers(std) and min(std) > 0):
        raise ConfigError(f"mean and std must be three numbers each, on the scale 0..1, std above 0, got {mean!r} and {std!r}")
    root = Path(root)
    # What is built from names comes before the files are read: a name may be wrong, and reading takes a while.
    if issubclass(dataset, InMemoryDataset):
        augment = _both(dataset.augment, strong_augment(strong)) if strong else dataset.augment
        train_split, test_split = _load(dataset, name, root, limit, num_classes, image_size)
        in_memory = functools.partial(
            InMemoryLoader,
            num_classes=dataset.num_classes,
            mean=mean,
            std=std,
            device=device,
            rank=rank,
            world_size=world_size,
        )
        keep_on = device if data_device is None else data_device
        (images, labels), (test_images, test_labels) = [(x.to(keep_on), y.to(keep_on)) for x, y in (train_split, test_split)]
        return (
            in_memory(images, labels, batch_size=batch_size, augment=augment, shuffle=True, drop_last=drop_last, seed=seed),
            in_memory(test_images, test_labels, batch_size=test_batch_size),
        )
    if not issubclass(dataset, ImageFolderDataset):
        raise ConfigError(f"data set '{name}' derives neither from InMemoryDataset nor from ImageFolderDataset")
    num_workers = min(num_workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    size = image_size or dataset.image_size
    training, testing = training_transform(size, strong), evaluation_transform(size)
    train_samples, test_samples, count = _list(dataset, name, root, limit, num_classes, test_fraction)
    from_files = functools.partial(
        WorkerLoader,
        image_size=size,
        num_classes=count,
        mean=mean,
        std=std,
        num_workers=num_workers,
        on_error=on_error,
        device=device,
        rank=rank,
        world_size=world_size,
    )
    return (
        from_files(train_samples, training, batch_size=batch_size, shuffle=True, drop_last=drop_last, seed=seed),
        from_files(test_samples, testing, batch_size=test_batch_size),
    )


def _load(
    dataset: type[InMemoryDataset], name: str, root: Path, limit: int, num_classes: int, image_size: int
) -> tuple[Split, Split]:
    """Both splits of a data set in memory, checked and cut down to ``limit``."""
    if num_classes not in (0, dataset.num_classes):
        raise ConfigError(f"data set '{name}' has {dataset.num_classes} classes, not {num_classes}")
    train, test = dataset().load(root)
    for (images, labels), part in ((train, "train"), (test, "test")):
        check_split((images, labels), dataset.num_classes, f"data set '{name}' ({part})")
        if image_size and images.shape[2:] != (image_size, image_size):
            height, width = images.shape[2:]
            raise ConfigError(
                f"data set '{name}' has images of {height}x{width} pixels and is kept in memory, so they cannot be brought "
                f"to {image_size}x{image_size}; only image files can"
            )
    if not limit:
        return train, test
    kept, test_kept = balanced_choice(train[1], limit), balanced_choice(test[1], limit)
    return (train[0][kept], train[1][kept]), (test[0][test_kept], test[1][test_kept])


def _list(
    dataset: type[ImageFolderDataset], name: str, root: Path, limit: int, num_classes: int, test_fraction: float
) -> tuple[Samples, Samples, int]:
    """Training samples, test samples and number of classes of a data set of image files, checked and cut down to ``limit``."""
    train, test, classes = dataset().samples(root, test_fraction)
    found, expected = len(classes), num_classes or dataset.num_classes or len(classes)
    if found > expected or (num_classes and found != expected):
        remedy = "" if num_classes else f"; if that is meant, give num_classes={found} (DATASET.NUM_CLASSES)"
        raise ConfigError(f"data set '{name}' in {root.absolute()} has {found} classes, not {expected}{remedy}")
    if found < expected:
        warnings.warn(
            f"data set '{name}' in {root.absolute()} has {found} of {expected} classes: they are numbered in the order of "
            f"their names, and networks keep {expected} outputs; DATASET.NUM_CLASSES {found} gives them {found}",
            ConfigWarning,
            stacklevel=3,
        )
    for samples, part in ((train, "train"), (test, "test")):
        check_samples(samples, found, f"data set '{name}' ({part})")
    if limit:
        train, test = (
            [samples[i] for i in balanced_choice(torch.tensor([label for _, label in samples]), limit).tolist()]
            for samples in (train, test)
        )
    return train, test, expected


def _are_three_numbers(values: Any) -> TypeGuard[Sequence[float]]:
    """Whether they are, of a size that float32 can compute with; of NaN no comparison is true."""
    return (
        isinstance(values, Sequence)
        and len(values) == 3
        and all(
            isinstance(value, int | float | np.floating) and not isinstance(value, bool) and abs(value) < 1e6
            for value in values
        )
    )


def _both(first: Augment, second: Augment) -> Augment:
    return lambda images, generator: second(first(images, generator), generator)
