"""Batches from image files, read and augmented one by one in worker processes.

The counterpart of ``loader.py`` for images that do not fit in memory, with the same promises. Bytes travel from the workers
to the device, and pixels become floats there. This room knows nothing of data sets.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..errors import ConfigError, Note, TrainingError, UserError
from .base import Samples
from .identity import DataIdentity
from .image_files import read_image
from .image_transforms import Transform
from .loader import images_of_an_epoch, mix_seeds, normalization
from .workers import WorkerDiedError, Workers

OnError = Literal["stop", "skip"]
"""What an image that cannot be read does to a pass"""

_DEATHS = 3  # of workers without a batch in between: one may be bad luck, but what kills three kills the next one too
_IN_A_ROW = 100  # unreadable images: no accident to single files, but a lost drive or the wrong folder
_REMEDY = (
    "Most likely memory, or shared memory (/dev/shm; docker run --shm-size), is too small: get more of it, smaller batches, or "
    "fewer workers (DATASET.NUM_WORKERS; 0 reads in the training process)"
)


def check_on_error(name: str) -> None:
    """Raise ConfigError unless ``name`` is one of OnError."""
    if name not in get_args(OnError):
        raise ConfigError(f"on_error (DATASET.ON_ERROR) must be {' or '.join(get_args(OnError))}, got {name!r}")


class WorkerLoader:
    """Yields ``(images float32 [B, 3, S, S], labels int64 [B])`` on ``device``.

    What an epoch yields (order and augmentation) is a pure function of ``(seed, epoch)``, whatever the number of workers,
    the order in which they finish, the batch size and the device: every image is transformed with torch's generator seeded
    for it alone, and no global generator is left changed. Without ``set_epoch`` every pass repeats epoch 0.

    For the same reason nothing is lost when a worker dies: new ones go on from the batch that is missing, and a Note says so.

    Args:
        samples: image files and labels.
        transform: PIL image (RGB) -> uint8 ``[3, image_size, image_size]``; what it draws, it draws from torch.
        mean, std: per channel, on the scale where 255 is 1.
        batch_size: of a whole batch, of all processes that train.
        drop_last: leave out a last batch that is smaller than the others.
        rank, world_size, identity: as in InMemoryLoader.
        num_workers: processes that read images, started by the first pass and kept until `close`; 0 reads them in this one.
        on_error: what an image does that cannot be read. ``stop`` raises. ``skip`` names it in a Note, once; with ``shuffle``
            the next readable one of ``samples`` takes its place, as it is in this epoch, so that batches keep their size; in
            order it is left out, so that an accuracy is that of the images there are.

    Raises ConfigError if ``batch_size`` is not positive, ``num_workers`` is negative or ``on_error`` is another word. A pass
    raises CorruptFileError or MissingFileError for an image that cannot be read, to skip only where 100 in a row cannot, and
    TrainingError if workers die again and again.
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
        drop_last: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        on_error: OnError = "stop",
        device: str | torch.device = "cpu",
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
        self.device = torch.device(device)
        self.image_shape = (3, image_size, image_size)
        self.labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
        self.num_images = images_of_an_epoch(len(samples), batch_size, drop_last)  # of all processes
        self._keys = _EpochKeys(len(samples), self.num_images, batch_size, shuffle, seed, slice(rank, None, world_size))
        self._pinned = self.device.type == "cuda"
        self._batches = Workers(
            _Batches(
                [path for path, _ in samples],
                self.labels,
                transform,
                self.image_shape,
                skip=on_error == "skip",
                replace=shuffle,
            ),
            num_workers,
            pin_memory=self._pinned,
        )
        self._named: set[int] = set()
        self._scale, self._shift = normalization(mean, std, self.device)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch that the next pass yields, and how many of its batches it leaves out at the beginning."""
        self._keys = dataclasses.replace(self._keys, epoch=epoch, first_batch=first_batch)

    def close(self) -> None:
        """End the worker processes now; a pass that is under way cannot go on, and a new one starts others."""
        self._batches.end()

    def __len__(self) -> int:
        """Number of batches of an epoch; the last one may be smaller unless it is dropped (mdistiller drops none)."""
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        missing, deaths = self._keys, 0
        while True:
            try:
                for batch in self._batches.run(missing):
                    missing, deaths = dataclasses.replace(missing, first_batch=missing.first_batch + 1), 0
                    if isinstance(batch, UserError):
                        raise batch
                    *tensors, unreadable = batch
                    self._name(unreadable)
                    images, labels = (part.to(self.device, non_blocking=self._pinned) for part in tensors)
                    yield images.float().mul_(self._scale).add_(self._shift), labels
                return
            except WorkerDiedError as death:
                deaths += 1
                if deaths == _DEATHS:
                    raise TrainingError(
                        f"data workers died {deaths} times in a row, before {missing}; the last was {death}. {_REMEDY}"
                    ) from death
                warnings.warn(f"a data worker died ({death}); started anew at {missing}", Note, stacklevel=2)

    def _name(self, unreadable: dict[int, str]) -> None:
        """Say which images were skipped, of each only once."""
        for index in sorted(unreadable.keys() - self._named):
            warnings.warn(f"skipped: {unreadable[index]}", Note, stacklevel=3)
        self._named |= unreadable.keys()


@dataclasses.dataclass(frozen=True)
class _EpochKeys:
    """The batches of an epoch: for each the indices of its images and the epoch's seed.

    They are drawn in the main process when a pass begins and sent to the workers, which therefore never hear of an epoch.
    """

    count: int
    shown: int  # of those in one epoch
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

    def __len__(self) -> int:
        return max(-(-self.shown // self.batch_size) - self.first_batch, 0)

    def __str__(self) -> str:
        """Where it begins, counted from 1; only in a shuffled one the epoch makes a difference."""
        return f"batch {self.first_batch + 1}" + (f" of epoch {self.epoch}" if self.shuffle else "")


_Batch = tuple[Tensor, Tensor, dict[int, str]]


class _Batches(Dataset[_Batch | UserError]):
    """What runs in a worker: ``(indices, seed of the epoch)`` -> images uint8 ``[B, 3, S, S]``, labels int64 ``[B]`` and,
    by their indices, what is wrong with images that were skipped.

    A mistake of the user's comes back as a value: raised in a worker, it would arrive wrapped in that process's traceback.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Tensor,
        transform: Transform,
        image_shape: tuple[int, int, int],
        *,
        skip: bool,
        replace: bool,
    ) -> None:
        # Two flat arrays: from a list of a million paths every worker would end up with a copy of its own, because counting
        # references writes to the pages that a forked process shares.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.labels = labels
        self.transform = transform
        self.image_shape = image_shape
        self.skip = skip
        self.replace = replace

    def __getitem__(self, key: tuple[list[int], int]) -> _Batch | UserError:
        indices, epoch_seed = key
        images = torch.empty(len(indices), *self.image_shape, dtype=torch.uint8)
        shown: list[int] = []
        unreadable: dict[int, str] = {}
        try:
            for index in indices:
                readable, image = self._read(index, unreadable)
                if readable == index or self.replace:
                    images[len(shown)].copy_(self._transformed(image, mix_seeds(epoch_seed, readable)))
                    shown.append(readable)
            return _shared(images[: len(shown)]), _shared(self.labels[shown]), unreadable
        except UserError as error:
            return error

    def _read(self, index: int, unreadable: dict[int, str]) -> tuple[int, Image.Image]:
        """The image, or to skip the next one that can be read, with its index; those before it go into ``unreadable``."""
        errors: list[UserError] = []
        for following in range(min(_IN_A_ROW, len(self.paths)) if self.skip else 1):
            readable = (index + following) % len(self.paths)
            try:
                return readable, read_image(Path(os.fsdecode(self.paths[readable])))
            except UserError as error:
                unreadable[readable] = str(error)
                errors.append(error)
        if self.skip:
            raise type(errors[0])(f"none of {len(errors)} images in a row can be read: {errors[0]}")
        raise errors[0]

    def _transformed(self, image: Image.Image, seed: int) -> Tensor:
        with torch.random.fork_rng(devices=()):
            # Not torch.manual_seed, which seeds the accelerators too: without workers they are the training's.
            torch.default_generator.manual_seed(seed)
            return self.transform(image)


def _shared(tensor: Tensor) -> Tensor:
    """In memory that the training process can read. Where there is no more of it, torch, which would do this on the way
    there, drops the batch, and both processes wait for ever. Raises TrainingError.
    """
    if get_worker_info() is None or not tensor.numel():  # nothing cannot be shared
        return tensor
    try:
        return tensor.share_memory_()
    except RuntimeError as error:
        size = tensor.nbytes / 2**20
        raise TrainingError(f"a data worker cannot hand over a batch of {size:.1f} MiB: {error}. {_REMEDY}") from error
