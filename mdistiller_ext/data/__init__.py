"""Data sets by name, and their loaders.

Use ``create_loaders`` for training and ``create_plain_loader`` for evaluation. Small images are kept in memory, on the training
device, without dataloader workers. Large images are read from files by dataloader workers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import ConfigError, listing
from ..registry import DATASETS, register_dataset
from .augment import Augment, EnumerableAugment, check_strong, random_crop, random_crop_flip, strong_augment, view_augment
from .base import Dataset, ImageFolderDataset, InMemoryDataset, are_three_numbers
from .identity import DataIdentity, names_of_classes
from .image_transforms import evaluation_transform, training_transform, transform_in_views
from .loader import InMemoryLoader, mix_seeds
from .reading import list_samples, load_splits
from .worker_loader import OnError, WorkerLoader, check_on_error
from .worker_pool import one_per_core

__all__ = [
    "DataIdentity",
    "ImageFolderDataset",
    "InMemoryDataset",
    "InMemoryLoader",
    "Loader",
    "WorkerLoader",
    "create_loaders",
    "create_plain_loader",
    "dataset_entry",
    "enumerable_augment",
    "mix_seeds",
    "names_of_classes",
    "random_crop",
    "random_crop_flip",
    "register_dataset",
]


Loader = InMemoryLoader | WorkerLoader
"""The loaders of `create_loaders`, which yield batches on the training device"""

_LARGEST = 4096  # pixels; largest image_size: a typing error would otherwise fill the memory


def dataset_entry(name: str) -> type[Dataset]:
    """Return the data set called ``name``. Raises UnknownNameError with the nearest known name."""
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
    views: Sequence[str] = ("weak",),
    with_index: bool = False,
    with_view: bool = False,
    device: str | torch.device = "cpu",
    data_device: str | torch.device | None = None,
    num_workers: int = 2,
    channels_last: bool = True,
    on_error: OnError = "stop",
    num_classes: int = 0,
    image_size: int = 0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    strong: Sequence[str] = (),
    test_fraction: float = 0.2,
    validation: float = 0.0,
    cache: bool = True,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[Loader, Loader]:
    """Create the training loader (shuffled, augmented) and the test loader (neither) of the data set called ``name``.

    Args:
        root: folder of the files.
        batch_size, test_batch_size: global batch sizes, over all ranks.
        limit: number of training and of test images to keep, balanced over the classes; 0 keeps all.
        drop_last: drop the last training batch of an epoch if it is smaller than ``batch_size``.
        seed: seed of order and augmentation.
        views: views of each training image, augmented independently: ``weak``, as the data set does, or ``strong``. With more
            than one, images are ``[B, V, 3, H, W]``.
        with_index: the training loader also yields the positions of the images.
        with_view: after them it also yields the number of the view; see `enumerable_augment`.
        device: device of the batches.
        data_device: device of images kept in memory, ``device`` by default.
        num_workers: dataloader workers of each loader, at most one per core; unused for data sets kept in memory.
        channels_last: memory format of batches of image files: channels last, or contiguous.
        on_error: what to do with an image file that cannot be read, ``stop`` or ``skip``; see WorkerLoader.
        num_classes: required number of classes; 0 for the data set's own.
        image_size: height and width in pixels to resize image files to; 0 for the data set's own.
        mean, std: per channel, for images scaled to 0..1; empty for the data set's own.
        strong: additional augmentations; see augment.strong_augment and image_transforms.training_transform.
        test_fraction: fraction of every class held out for the test; only for image files without a split.
        validation: fraction of every class of the training images to test on, in place of the test images; 0: none.
        cache: keep decoded images beside the data, and the names of many image files in the user's cache folder, for a quicker
            start.
        rank, world_size: rank of this process and number of ranks; each rank gets its rows of a batch.

    Raises UnknownNameError, ConfigError, MissingFileError or CorruptFileError.
    """
    viewed = {"with_view": True} if with_view else {}  # an option of data kept in memory
    if with_view:
        enumerable_augment(name, strong=strong, views=views)
    train, test = _sources(
        name,
        ("train", "test"),
        root=root,
        limit=limit,
        device=device,
        data_device=data_device,
        num_workers=num_workers,
        channels_last=channels_last,
        on_error=on_error,
        num_classes=num_classes,
        image_size=image_size,
        mean=mean,
        std=std,
        strong=strong,
        test_fraction=test_fraction,
        validation=validation,
        cache=cache,
        rank=rank,
        world_size=world_size,
        views=views,
    )
    return (
        train(batch_size=batch_size, shuffle=True, drop_last=drop_last, seed=seed, with_index=with_index, **viewed),
        test(batch_size=test_batch_size),
    )


def create_plain_loader(
    name: str, *, part: Literal["test", "train"] = "test", batch_size: int, with_index: bool = False, **options: Any
) -> Loader:
    """Create a loader of the images in their order, not augmented: for ``test`` the test loader of `create_loaders`.

    Training images are read or listed only if they are asked for, or if the test split depends on them.

    Args:
        part: test images or training images.
        batch_size: global batch size, over all ranks.
        with_index: also yield the positions of the images.
        options: those of `create_loaders` that are not of training alone.
    """
    plain, *_ = _sources(name, ("test",) if part == "test" else ("train", "test"), plain=True, **options)
    return plain(batch_size=batch_size, with_index=with_index)


def enumerable_augment(name: str, *, strong: Sequence[str] = (), views: Sequence[str] = ("weak",)) -> EnumerableAugment:
    """The augmentation of a data set's training images, if it has finitely many views of an image.

    Raises ConfigError otherwise, with the reason.
    """
    dataset = dataset_entry(name)
    if not issubclass(dataset, InMemoryDataset):
        raise ConfigError(f"{name} is read from image files, of which crops of any size are taken")
    if strong:
        raise ConfigError(f"DATASET.STRONG {listing(strong)} has no finite number of views of an image")
    if tuple(views) != ("weak",):
        raise ConfigError(f"the method uses the views {listing(views)}, and strong views have no finite number")
    if not isinstance(dataset.augment, EnumerableAugment):
        raise ConfigError(f"the augmentation of {name} has no finite number of views of an image, as a rotation by any angle")
    return dataset.augment


def _sources(
    name: str,
    parts: tuple[str, ...],
    *,
    root: str | Path = "./data",
    limit: int = 0,
    device: str | torch.device = "cpu",
    data_device: str | torch.device | None = None,
    num_workers: int = 2,
    channels_last: bool = True,
    on_error: OnError = "stop",
    num_classes: int = 0,
    image_size: int = 0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    strong: Sequence[str] = (),
    test_fraction: float = 0.2,
    validation: float = 0.0,
    cache: bool = True,
    rank: int = 0,
    world_size: int = 1,
    views: Sequence[str] = ("weak",),
    plain: bool = False,
) -> list[Callable[..., Loader]]:
    """Return a factory of the loader of each split in ``parts``, which takes batch size and order.

    Args:
        plain: do not augment the training images.
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
    if not 0 <= validation < 1:
        raise ConfigError(f"the fraction of validation images must be at least 0 and less than 1, got {validation}")
    check_on_error(on_error)
    check_strong(strong)
    mean, std = (
        own if isinstance(given, Sequence) and not given else given for given, own in ((mean, dataset.mean), (std, dataset.std))
    )
    if not (are_three_numbers(mean) and are_three_numbers(std) and min(std) > 0):
        raise ConfigError(f"mean and std must be three numbers each, on the scale 0..1, std above 0, got {mean!r} and {std!r}")
    root = Path(root)
    augmentations = [(*strong, *view_augment(view)) for view in views]
    asked: dict[str, Any] = {
        "name": name,
        "parts": parts,
        "root": root,
        "limit": limit,
        "num_classes": num_classes,
        "validation": validation,
    }
    # Names are checked before files are read, which takes a while.
    if issubclass(dataset, InMemoryDataset):
        augment = _in_views(
            [_both(dataset.augment, strong_augment(names)) if names else dataset.augment for names in augmentations]
        )
        splits, identity = load_splits(dataset, image_size=image_size, cache=cache, **asked)
        keep_on = device if data_device is None else data_device
        return [
            functools.partial(
                InMemoryLoader,
                images.to(keep_on),
                labels.to(keep_on),
                augment=augment if part == "train" and not plain else None,
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
    num_workers = one_per_core(num_workers)
    size = image_size or dataset.image_size
    training = transform_in_views([training_transform(size, names) for names in augmentations])
    evaluation = evaluation_transform(size)
    transforms = {"train": evaluation if plain else training, "test": evaluation}
    samples, count, identity = list_samples(dataset, test_fraction=test_fraction, cache=cache, **asked)
    return [
        functools.partial(
            WorkerLoader,
            samples[part],
            transforms[part],
            image_size=size,
            views=1 if part == "test" or plain else len(views),
            num_classes=count,
            mean=mean,
            std=std,
            num_workers=num_workers,
            channels_last=channels_last,
            on_error=on_error,
            device=device,
            rank=rank,
            world_size=world_size,
            identity=identity,
        )
        for part in parts
    ]


def _both(first: Augment, second: Augment) -> Augment:
    return lambda images, generator: second(first(images, generator), generator)


def _in_views(augments: Sequence[Augment]) -> Augment:
    """Augment a batch once for each view: ``[B, C, H, W]`` -> ``[B, V, C, H, W]``; a single view adds no dimension."""
    if len(augments) == 1:
        return augments[0]
    return lambda images, generator: torch.stack([augment(images, generator) for augment in augments], dim=1)
