"""Load batches of image files: decoded and transformed one by one in dataloader workers.

The counterpart of ``loader.py`` for data sets that do not fit in memory, with the same interface and guarantees. Images
are transferred to the device as uint8 and normalized there, in the memory layout in which they are decoded, channels last.
"""

from __future__ import annotations

import dataclasses
import os
import random
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..errors import ConfigError, DataWorkerError, Note, UserError
from .base import Samples
from .identity import DataIdentity
from .image_files import Pixels, read_image
from .image_transforms import Transform
from .loader import images_of_an_epoch, mix_seeds, normalization
from .worker_pool import REMEDY, WorkerPool

OnError = Literal["stop", "skip"]
"""What to do with an image that cannot be read"""

_IN_A_ROW = 100  # unreadable images until the drive or the folder is at fault rather than single files


def check_on_error(name: str) -> None:
    """Raise ConfigError unless ``name`` is one of OnError."""
    if name not in get_args(OnError):
        raise ConfigError(f"on_error (DATASET.ON_ERROR) must be {' or '.join(get_args(OnError))}, got {name!r}")


class WorkerLoader:
    """Yields ``(images float32 [B, 3, S, S], labels int64 [B])`` on ``device``.

    Order and augmentation of an epoch are a pure function of ``(seed, epoch)``, independent of the number of workers, the
    order in which they finish, the batch size and the device: every image has a seed of its own, and global generators stay
    unchanged. Without ``set_epoch`` every pass repeats epoch 0. After a worker has died, a new pass with
    ``set_epoch(epoch, first_batch)`` therefore continues exactly.

    Args:
        samples: image files and labels.
        transform: see `image_transforms.py`.
        views: number of views that it returns. With several, they are ``[V, 3, S, S]``, and images ``[B, V, 3, S, S]``.
        channels_last: memory format of the images: channels last, or contiguous, which takes longer to make.
        with_index: also yield the positions of the images in ``samples``, int64 ``[B]``.
        mean, std: per channel, for images scaled to 0..1.
        batch_size: global batch size, over all ranks.
        drop_last: drop the last batch of an epoch if it is smaller than ``batch_size``.
        rank, world_size, identity: see InMemoryLoader.
        num_workers: dataloader workers, started by the first pass and kept until `close`; 0 reads in this process.
        on_error: what to do with an image that cannot be read. ``stop`` raises. ``skip`` warns with a Note, once per image;
            with ``shuffle`` the next readable one of ``samples`` replaces it, transformed as in its own place in this epoch,
            so that batches keep their size; without ``shuffle`` it is left out, so that an accuracy is that of the
            readable images.

    Raises ConfigError if ``batch_size`` is not positive, ``num_workers`` is negative or ``on_error`` is unknown. A pass
    raises CorruptFileError or MissingFileError for an image that cannot be read (with ``skip`` only if 100 in a row cannot),
    and DataWorkerError if a worker has died or hangs.
    """

    def __init__(
        self,
        samples: Samples,
        transform: Transform,
        *,
        image_size: int,
        views: int = 1,
        num_classes: int,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        with_index: bool = False,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        on_error: OnError = "stop",
        device: str | torch.device = "cpu",
        channels_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
        identity: DataIdentity | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if num_workers < 0:
            raise ConfigError(f"num_workers must be 0 (no processes) or more, got {num_workers}")
        check_on_error(on_error)
        self.identity = identity
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.mean, self.std = mean, std
        self.with_index = with_index
        self.device = torch.device(device)
        self.image_shape = (3, image_size, image_size)
        self.labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
        self.num_images = images_of_an_epoch(len(samples), batch_size, drop_last)  # over all ranks
        self._keys = _EpochKeys(len(samples), self.num_images, batch_size, shuffle, seed, slice(rank, None, world_size))
        self._pinned = self.device.type == "cuda"
        self._batches = _Batches(
            [path for path, _ in samples],
            self.labels,
            transform,
            (*([views] if views > 1 else []), image_size, image_size, 3),
            skip=on_error == "skip",
            replace=shuffle,
        )
        self._pool = WorkerPool(self._batches, num_workers, pin_memory=self._pinned)
        self._warned: set[int] = set()
        self._channels_last = channels_last
        # One number per pixel: broadcasting over the channels, innermost in memory, takes three times as long.
        self._scale, self._shift = (
            value.movedim(0, -1).expand(image_size, image_size, 3).contiguous()
            for value in normalization(mean, std, self.device)
        )

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Set the epoch of the next pass, and the first of its batches to yield."""
        self._keys = dataclasses.replace(self._keys, epoch=epoch, first_batch=first_batch)

    def file_of(self, index: int) -> str:
        """Path of the image at a position in ``samples``."""
        return os.fsdecode(self._batches.paths[index])

    def close(self) -> None:
        """End the dataloader workers. The pass in progress cannot continue; a new one starts other workers."""
        self._pool.close()

    def __len__(self) -> int:
        """Number of batches of an epoch, including a smaller last one unless ``drop_last``."""
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in self._pool.run(self._keys):
            if isinstance(batch, UserError):
                raise batch
            *tensors, unreadable = batch
            self._warn_once(unreadable)
            images, labels, index = (part.to(self.device, non_blocking=self._pinned) for part in tensors)
            others = (labels, index) if self.with_index else (labels,)
            yield self._normalized(images), *others

    def _normalized(self, images: Tensor) -> Tensor:
        """Convert a batch, uint8 ``[B, ..., S, S, 3]``, to float32 ``[B, ..., 3, S, S]`` and normalize it."""
        floats = _empty(images.shape, np.float32).copy_(images) if images.device.type == "cpu" else images.float()
        floats = floats.mul_(self._scale).add_(self._shift).movedim(-1, -3)
        return floats if self._channels_last else floats.contiguous()

    def _warn_once(self, unreadable: dict[int, str]) -> None:
        """Warn about skipped images, once per image."""
        for index in sorted(unreadable.keys() - self._warned):
            warnings.warn(f"skipped: {unreadable[index]}", Note, stacklevel=3)
        self._warned |= unreadable.keys()


@dataclasses.dataclass(frozen=True)
class _EpochKeys:
    """The keys of an epoch's batches: for each batch the indices of its images and the seed of the epoch.

    Drawn in the main process at the start of a pass and sent to the workers, which therefore need no epoch number.
    """

    count: int
    shown: int  # images of an epoch; fewer than ``count`` with ``drop_last``
    batch_size: int
    shuffle: bool
    seed: int
    rows: slice
    epoch: int = 0
    first_batch: int = 0

    def __iter__(self) -> Iterator[tuple[list[int], int]]:
        epoch_seed = mix_seeds(self.seed, self.epoch)
        order = torch.arange(self.count)
        if self.shuffle:
            order = torch.randperm(self.count, generator=torch.Generator().manual_seed(epoch_seed))
        for indices in order[: self.shown].split(self.batch_size)[self.first_batch :]:
            yield indices[self.rows].tolist(), epoch_seed


_Batch = tuple[Tensor, Tensor, Tensor, dict[int, str]]


class _Batches(Dataset[_Batch | UserError]):
    """Map-style dataset of whole batches, evaluated in a worker.

    ``(indices, seed of the epoch)`` -> images uint8 ``[B, *shape]``, labels and indices int64 ``[B]``, messages on skipped
    images by index. The shape is ``(S, S, 3)``, or ``(V, S, S, 3)`` with several views. A UserError is returned: raised in a
    worker, it would arrive wrapped in that process's traceback.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: Tensor,
        transform: Transform,
        shape: tuple[int, ...],
        *,
        skip: bool,
        replace: bool,
    ) -> None:
        # A flat array: a list of a million paths would be copied into every worker, because reference counting writes to
        # the memory pages that forked processes share.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.labels = labels
        self.transform = transform
        self.shape = shape
        self.skip = skip
        self.replace = replace

    def __getitem__(self, key: tuple[list[int], int]) -> _Batch | UserError:
        indices, epoch_seed = key
        images = _empty((len(indices), *self.shape), np.uint8)
        shown: list[int] = []
        unreadable: dict[int, str] = {}
        try:
            for index in indices:
                readable, pixels = self._read(index, unreadable)
                if readable == index or self.replace:
                    image = self.transform(pixels, random.Random(epoch_seed << 32 | readable))
                    images[len(shown)] = image.movedim(-3, -1)
                    shown.append(readable)
            parts = images[: len(shown)], self.labels[shown], torch.tensor(shown, dtype=torch.int64)
            return *(_shared(part) for part in parts), unreadable  # type: ignore[return-value]
        except UserError as error:
            return error

    def _read(self, index: int, unreadable: dict[int, str]) -> tuple[int, Pixels]:
        """Return an image and its index: with ``skip`` the next readable one. Messages on the others go into ``unreadable``."""
        errors: list[UserError] = []
        for following in range(min(_IN_A_ROW, len(self.paths)) if self.skip else 1):
            readable = (index + following) % len(self.paths)
            try:
                return readable, read_image(os.fsdecode(self.paths[readable]))
            except UserError as error:
                unreadable[readable] = str(error)
                errors.append(error)
        if self.skip:
            raise type(errors[0])(f"none of {len(errors)} images in a row can be read: {errors[0]}")
        raise errors[0]


def _empty(shape: Sequence[int], dtype: type[np.generic]) -> Tensor:
    """Allocate a tensor through NumPy, which asks for huge pages.

    Without them the first write to every page of a batch takes longer than all computation on it.
    """
    return torch.from_numpy(np.empty(tuple(shape), dtype))


def _shared(tensor: Tensor) -> Tensor:
    """Move a tensor of a worker to shared memory. Raises DataWorkerError if there is too little of it.

    DataLoader does the same in a background thread of the worker, where an error loses the batch and nobody is told.
    """
    if get_worker_info() is None or not tensor.numel():  # an empty tensor cannot be shared
        return tensor
    try:
        return tensor.share_memory_()
    except RuntimeError as error:
        size = tensor.nbytes / 2**20
        raise DataWorkerError(f"a dataloader worker cannot hand over a batch of {size:.1f} MiB: {error}. {REMEDY}") from error
