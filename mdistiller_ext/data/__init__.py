"""Data sets and the loaders that serve them: glyphs (drawn here, no download), CIFAR-100, and your own.

``create_loaders`` is the door. In memory is the rule: bytes on the training device, no worker processes. This room
knows nothing of configuration, models or training.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import ConfigError
from ..registry import DATASETS, register_dataset
from .base import InMemoryDataset, check_split, limit_split
from .loader import InMemoryLoader, random_crop, random_crop_flip

__all__ = ["InMemoryDataset", "InMemoryLoader", "create_loaders", "random_crop", "random_crop_flip", "register_dataset"]


def create_loaders(
    name: str,
    *,
    root: str | Path = "./data",
    batch_size: int,
    test_batch_size: int,
    limit: int = 0,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[InMemoryLoader, InMemoryLoader]:
    """Training loader (shuffled, augmented) and test loader (in order, as is) of the data set called ``name``.

    Args:
        root: folder of the files.
        limit: keep this many training and this many test images, taken in turn from every class; 0 keeps all.
        seed: of order and augmentation, not of the data.

    Raises UnknownNameError, ConfigError, MissingFileError or CorruptFileError.
    """
    if limit < 0:
        raise ConfigError(f"the limit of images must be 0 (all) or more, got {limit}")
    dataset: type[InMemoryDataset] = DATASETS.get(name)
    splits = dataset().load(Path(root))
    for split, part in zip(splits, ("train", "test"), strict=True):
        check_split(split, dataset.num_classes, f"data set '{name}' ({part})")
    if limit:
        splits = limit_split(splits[0], limit), limit_split(splits[1], limit)
    (train_images, train_labels), (test_images, test_labels) = splits
    train = InMemoryLoader(
        train_images.to(device),
        train_labels.to(device),
        batch_size=batch_size,
        mean=dataset.mean,
        std=dataset.std,
        augment=dataset.augment,
        shuffle=True,
        seed=seed,
    )
    test = InMemoryLoader(
        test_images.to(device),
        test_labels.to(device),
        batch_size=test_batch_size,
        mean=dataset.mean,
        std=dataset.std,
    )
    return train, test
