"""Data sets and the loaders that serve them, by name: drawn here, downloaded, or your own.

``create_loaders`` is the door, or ``create_test_loader`` where nothing is trained. Small images are kept in memory: bytes on
the training device, no worker processes. Large ones stay files that worker processes read. This room knows nothing of
configuration, models or training.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch

from ..errors import ConfigError
from ..registry import DATASETS, register_dataset
from .augment import Augment, random_crop, random_crop_flip, strong_augment
from .base import Dataset, ImageFolderDataset, InMemoryDataset
from .identity import DataIdentity
from .image_transforms import evaluation_transform, training_transform
from .loader import InMemoryLoader, mix_seeds
from .reading import list_samples, load_splits
from .worker_loader import OnError, WorkerLoader, check_on_error

__all__ = [
    "DataIdentity",
    "ImageFolderDataset",
    "InMemoryDataset",
    "InMemoryLoader",
    "Loader",
    "WorkerLoader",
    "create_loaders",
    "create_test_loader",
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
    train, test = _sources(
        name,
        ("train", "test"),
        root=root,
        limit=limit,
        device=device,
        data_device=data_device,
        num_workers=num_workers,
        on_error=on_error,
        num_classes=num_classes,
        image_size=image_size,
        mean=mean,
        std=std,
        strong=strong,
        test_fraction=test_fraction,
        rank=rank,
        world_size=world_size,
    )
    return train(batch_size=batch_size, shuffle=True, drop_last=drop_last, seed=seed), test(batch_size=test_batch_size)


def create_test_loader(name: str, *, batch_size: int, **options: Any) -> Loader:
    """The test loader of `create_loaders` alone. Training images are read or listed only where they tell the test split.

    Args:
        batch_size: of whole batches, of all processes.
        options: of `create_loaders`, but for ``seed`` and ``drop_last``.
    """
    (test,) = _sources(name, ("test",), **options)
    return test(batch_size=batch_size)


def _sources(
    name: str,
    parts: tuple[str, ...],
    *,
    root: str | Path = "./data",
    limit: int = 0,
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
) -> list[Callable[..., Loader]]:
    """For each split of ``parts``, its loader but for batch size and order. Arguments and errors are `create_loaders`'s."""
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
        splits, identity = load_splits(
            dataset, name=name, parts=parts, root=root, limit=limit, num_classes=num_classes, image_size=image_size
        )
        keep_on = device if data_device is None else data_device
        return [
            functools.partial(
                InMemoryLoader,
                images.to(keep_on),
                labels.to(keep_on),
                augment=augment if part == "train" else None,
                num_classes=dataset.num_classes,
                mean=mean,
                std=std,
                device=device,
                rank=rank,
                world_size=world_size,
                identity=identity,
            )
            for part, (images, labels) in splits.items()
        ]
    if not issubclass(dataset, ImageFolderDataset):
        raise ConfigError(f"data set '{name}' derives neither from InMemoryDataset nor from ImageFolderDataset")
    num_workers = min(num_workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    size = image_size or dataset.image_size
    transforms = {"train": training_transform(size, strong), "test": evaluation_transform(size)}
    samples, count, identity = list_samples(
        dataset, name=name, parts=parts, root=root, limit=limit, num_classes=num_classes, test_fraction=test_fraction
    )
    return [
        functools.partial(
            WorkerLoader,
            samples[part],
            transforms[part],
            image_size=size,
            num_classes=count,
            mean=mean,
            std=std,
            num_workers=num_workers,
            on_error=on_error,
            device=device,
            rank=rank,
            world_size=world_size,
            identity=identity,
        )
        for part in parts
    ]


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
