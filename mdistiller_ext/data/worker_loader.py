"""Batches from image files, read and augmented one by one in worker processes.

The counterpart of ``loader.py`` for images that do not fit in memory, with the same promises. Bytes travel from the workers
to the device, and pixels become floats there. This room knows nothing of data sets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ..errors import ConfigError, UserError
from .base import Samples
from .image_files import read_image
from .image_transforms import Transform
from .loader import mix_seeds, normalization


class WorkerLoader:
    """Yields ``(images float32 [B, 3, S, S], labels int64 [B])`` on ``device``.

    What an epoch yields (order and augmentation) is a pure function of ``(seed, epoch)``, whatever the number of workers,
    the order in which they finish, the batch size and the device: every image is transformed with torch's generator seeded
    for it alone, and no global generator is left changed. Without ``set_epoch`` every pass repeats epoch 0.

    Args:
        samples: image files and labels.
        transform: PIL image (RGB) -> uint8 ``[3, image_size, image_size]``; what it draws, it draws from torch.
        mean, std: per channel, on the scale where 255 is 1.
        batch_size: of a whole batch, of all processes that train.
        rank, world_size: as in InMemoryLoader.
        num_workers: processes that read images, started by the first pass and kept until `close`; 0 reads them in this one.

    Raises ConfigError if ``batch_size`` is not positive or ``num_workers`` is negative; a pass raises CorruptFileError or
    MissingFileError for an image that cannot be read.
    """

    def __init__(
        self,
        samples: Samples,
        transform: Transform,
        *,
        image_size: int,
        num_classes: int,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        shuffle: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if num_workers < 0:
            raise ConfigError(f"num_workers must be 0 (no processes) or more, got {num_workers}")
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.image_shape = (3, image_size, image_size)
        self.labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
        self._keys = _EpochKeys(len(samples), batch_size, shuffle, seed, slice(rank, None, world_size))
        self._pinned = self.device.type == "cuda"
        self._batches = DataLoader(
            _Batches([path for path, _ in samples], self.labels, transform, self.image_shape),
            batch_size=None,  # a key of ours stands for a whole batch
            sampler=self._keys,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=self._pinned,
            generator=torch.Generator(),  # a pass draws the workers' seeds: not from the global generator
        )
        self._scale, self._shift = normalization(mean, std, self.device)

    @property
    def num_images(self) -> int:
        """Number of images in one epoch, of all processes."""
        return len(self.labels)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch that the next pass yields, and how many of its batches it leaves out at the beginning."""
        self._keys.epoch = epoch
        self._keys.first_batch = first_batch

    def close(self) -> None:
        """End the worker processes now; a pass that is under way cannot go on, and a new one starts others.

        Left to the garbage collector, which may take their queues apart first, it waits 5 seconds for each.
        """
        iterator = self._batches._iterator
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()
        self._batches._iterator = None

    def __len__(self) -> int:
        """Number of batches of an epoch; the last one may be smaller (upstream drops none)."""
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._batches:
            if isinstance(batch, UserError):
                raise batch
            images, labels = (part.to(self.device, non_blocking=self._pinned) for part in batch)
            yield images.float().mul_(self._scale).add_(self._shift), labels


class _EpochKeys:
    """The batches of an epoch: for each the indices of its images and the epoch's seed.

    They are drawn in the main process when a pass begins and sent to the workers, which therefore never hear of an epoch.
    """

    def __init__(self, count: int, batch_size: int, shuffle: bool, seed: int, rows: slice) -> None:
        self.count = count
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rows = rows
        self.epoch = 0
        self.first_batch = 0

    def __iter__(self) -> Iterator[tuple[list[int], int]]:
        epoch_seed = mix_seeds(self.seed, self.epoch)
        order = torch.arange(self.count)
        if self.shuffle:
            order = torch.randperm(self.count, generator=torch.Generator().manual_seed(epoch_seed))
        for indices in order.split(self.batch_size)[self.first_batch :]:
            yield indices[self.rows].tolist(), epoch_seed


class _Batches(Dataset[tuple[Tensor, Tensor] | UserError]):
    """What runs in a worker: ``(indices, seed of the epoch)`` -> ``(images uint8 [B, 3, S, S], labels int64 [B])``.

    A mistake of the user's comes back as a value: raised in a worker, it would arrive wrapped in that process's traceback.
    """

    def __init__(self, paths: Sequence[Path], labels: Tensor, transform: Transform, image_shape: tuple[int, int, int]) -> None:
        # Two flat arrays: from a list of a million paths every worker would end up with a copy of its own, because counting
        # references writes to the pages that a forked process shares.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.labels = labels
        self.transform = transform
        self.image_shape = image_shape

    def __getitem__(self, key: tuple[list[int], int]) -> tuple[Tensor, Tensor] | UserError:
        indices, epoch_seed = key
        images = torch.empty(len(indices), *self.image_shape, dtype=torch.uint8)
        try:
            for image, index in zip(images, indices, strict=True):
                image.copy_(self._image(index, mix_seeds(epoch_seed, index)))
        except UserError as error:
            return error
        return images, self.labels[indices]

    def _image(self, index: int, seed: int) -> Tensor:
        image = read_image(Path(os.fsdecode(self.paths[index])))
        with torch.random.fork_rng(devices=()):
            # Not torch.manual_seed, which seeds the accelerators too: without workers they are the training's.
            torch.default_generator.manual_seed(seed)
            return self.transform(image)
