"""Load or list the splits of a data set: checks, identity, limit."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError, ConfigWarning, listing
from .base import ImageFolderDataset, InMemoryDataset, Samples, Split, balanced_choice, check_samples, check_split
from .folder_listing import kept_listings
from .identity import DataIdentity, SplitIdentity


def hold_out(labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Divide a training set for the choice of hyper-parameters: positions of the images to train on, and of those to test on.

    ``fraction`` of each class (labels int64 ``[N]``) is held out, evenly spaced. Raises ConfigError if that leaves nothing on
    one side.
    """
    sizes = torch.bincount(labels)
    by_class = torch.argsort(labels, stable=True)
    turn = torch.empty_like(labels)  # number of earlier images of the same class
    turn[by_class] = torch.arange(len(labels)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    chosen = ((turn + 1) * fraction).floor() > (turn * fraction).floor()
    kept, held_out = (~chosen).nonzero().squeeze(1), chosen.nonzero().squeeze(1)
    if not (len(kept) and len(held_out)):
        raise ConfigError(f"DATASET.VALIDATION {fraction} of {len(labels)} training images leaves none to train or to test on")
    warnings.warn(
        f"DATASET.VALIDATION {fraction}: trained on {len(kept):,} training images, and tested on the {len(held_out):,} others, "
        "not on the test images",
        ConfigWarning,
        stacklevel=4,
    )
    return kept, held_out


def load_splits(
    dataset: type[InMemoryDataset],
    *,
    name: str,
    parts: tuple[str, ...],
    root: Path,
    limit: int,
    num_classes: int,
    image_size: int,
    validation: float,
    cache: bool,
) -> tuple[dict[str, Split], DataIdentity]:
    """Load the splits of an in-memory data set, at most ``limit`` images each, and its identity (before the limit).

    Args:
        validation: see :func:`hold_out`; 0 for the test images.
        cache: see InMemoryDataset.
    """
    if num_classes not in (0, dataset.num_classes):
        raise ConfigError(f"data set '{name}' has {dataset.num_classes} classes, not {num_classes}")
    source = dataset()
    source.cache = cache
    splits: dict[str, Split]
    if validation:
        (images, labels), _ = source.load(root)
        kept, held_out = hold_out(labels, validation)
        splits = {"train": (images[kept], labels[kept]), "test": (images[held_out], labels[held_out])}
        splits = {part: splits[part] for part in parts}
    else:
        splits = dict(zip(parts, source.load(root) if "train" in parts else [source.load_test(root)], strict=True))
    for part, (images, labels) in splits.items():
        check_split((images, labels), dataset.num_classes, f"data set '{name}' ({part})")
        if image_size and images.shape[2:] != (image_size, image_size):
            height, width = images.shape[2:]
            raise ConfigError(
                f"data set '{name}' has images of {height}x{width} pixels and is kept in memory, so they cannot be brought "
                f"to {image_size}x{image_size}; only image files can"
            )
    known = {} if validation else source.identities
    identity = DataIdentity(
        None if source.classes is None else tuple(source.classes),
        **{part: known.get(part) or SplitIdentity.of_tensors(split) for part, split in splits.items()},
    )
    if limit:
        for part, (images, labels) in splits.items():
            kept = balanced_choice(labels, limit)
            splits[part] = images[kept], labels[kept]
    return splits, identity


def list_samples(
    dataset: type[ImageFolderDataset],
    *,
    name: str,
    parts: tuple[str, ...],
    root: Path,
    limit: int,
    num_classes: int,
    test_fraction: float,
    validation: float,
    cache: bool,
) -> tuple[dict[str, Samples], int, DataIdentity]:
    """List the samples of a data set of image files, at most ``limit`` each, its number of classes and its identity.

    Args:
        validation: see :func:`hold_out`; 0 for the test images.
        cache: keep the names in folders for the next run; see :func:`kept_listings`.
    """
    splits: dict[str, Samples]
    with kept_listings(root, enabled=cache):
        if "train" in parts or validation:
            *found_samples, classes = dataset().samples(root, test_fraction)
        else:
            *found_samples, classes = dataset().test_samples(root, test_fraction)
    if validation:
        train = found_samples[0]
        chosen = hold_out(torch.tensor([label for _, label in train]), validation)
        listed = [[train[i] for i in rows.tolist()] for rows in chosen]
        splits = {part: listed[("train", "test").index(part)] for part in parts}
    else:
        splits = dict(zip(parts, found_samples, strict=True))
    found, expected = len(classes), num_classes or dataset.num_classes or len(classes)
    if found > expected or (num_classes and found != expected):
        remedy = "" if num_classes else f"; if that is meant, give num_classes={found} (DATASET.NUM_CLASSES)"
        raise ConfigError(f"data set '{name}' in {root.absolute()} has {found} classes, not {expected}{remedy}")
    if expected < 2:
        raise ConfigError(
            f"data set '{name}' in {root.absolute()} has only the class {listing(classes)}; a classifier needs two"
        )
    if found < expected:
        warnings.warn(
            f"data set '{name}' in {root.absolute()} has {found} of {expected} classes: they are numbered in the order of "
            f"their names, and networks keep {expected} outputs; DATASET.NUM_CLASSES {found} gives them {found}",
            ConfigWarning,
            stacklevel=3,
        )
    for part, samples in splits.items():
        check_samples(samples, found, f"data set '{name}' ({part})")
    identity = DataIdentity(tuple(classes), **{part: SplitIdentity.of_files(samples) for part, samples in splits.items()})
    if limit:
        for part, samples in splits.items():
            labels = torch.tensor([label for _, label in samples])
            splits[part] = [samples[i] for i in balanced_choice(labels, limit).tolist()]
    return splits, expected, identity
