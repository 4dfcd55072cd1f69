"""Batches from images that fit in memory: kept as bytes on one device, augmented a whole batch at a time.

There are no worker processes and no loops over images. Images come as uint8 ``[N, C, H, W]`` and leave as normalised
float32. This room knows nothing of files or data sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from .augment import Augment
from .identity import DataIdentity

_GATHERED = 1024  # images brought together at a time: 3 MB of 32x32


class InMemoryLoader:
    """Yields ``(images float32 [B, C, H, W], labels int64 [B])`` on ``device``.

    What an epoch yields (order, crops, flips) is a pure function of ``(seed, epoch)``, for the same batch size and kind
    of device that holds the data: every pass starts a generator of its own and no global one is touched. A resumed run
    therefore calls ``set_epoch`` and continues bit for bit, with no state to save. Without ``set_epoch`` every pass repeats
    epoch 0. Images are gathered and augmented many batches at a time: on a GPU what a batch costs is launching its kernels.

    Of several processes each yields its rows of the same batches, as it would be alone: all draw the same order and
    augment every image, which costs less than a generator for each would.

    Args:
        images: uint8 ``[N, C, H, W]``; labels: int64 ``[N]`` on the same device.
        batch_size: of a whole batch, of all processes.
        mean, std: per channel, on the scale where 255 is 1.
        augment: what is done to a batch before it is normalised.
        drop_last: leave out a last batch that is smaller than the others.
        device: where batches go, the images' own by default.
        num_classes: how many there are, of which a few may have no image here; by default the largest label and 1.
        rank, world_size: which process this is, of how many: it takes rows ``rank``, ``rank + world_size`` ... of a batch.
        identity: of the data set, whose test and training loader share it.

    Raises ConfigError if ``batch_size`` is not positive, or with ``drop_last`` no batch is left.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        device: str | torch.device | None = None,
        num_classes: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        identity: DataIdentity | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        self.images = images
        self.labels = labels
        self.num_images = images_of_an_epoch(len(images), batch_size, drop_last)  # of all processes
        self.batch_size = batch_size
        self.augment = augment
        self.shuffle = shuffle
        self.seed = seed
        self.identity = identity
        self.num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
        self.rows = slice(rank, None, world_size)
        self.epoch = 0
        self.first_batch = 0
        self.device = images.device if device is None else torch.device(device)
        self._scale, self._shift = normalization(mean, std, self.device)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch that the next pass yields, and how many of its batches it leaves out at the beginning."""
        self.epoch = epoch
        self.first_batch = first_batch

    def __len__(self) -> int:
        """Number of batches of an epoch; the last one may be smaller unless it is dropped (mdistiller drops none)."""
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.images.device
        generator = torch.Generator(device).manual_seed(mix_seeds(self.seed, self.epoch))
        order = torch.arange(len(self.images), device=device)
        if self.shuffle:
            order = torch.randperm(len(self.images), generator=generator, device=device)
        left_out = self.first_batch
        for several in order[: self.num_images].split(self.batch_size * max(1, _GATHERED // self.batch_size)):
            images, labels = self.images[several], self.labels[several]
            if self.augment is not None:
                images = self.augment(images, generator)  # also of batches that are left out: the next ones draw after them
            for some, theirs in zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True):
                if left_out:
                    left_out -= 1
                    continue
                some, theirs = some[self.rows], theirs[self.rows]
                some, theirs = some.to(self.device, non_blocking=True), theirs.to(self.device, non_blocking=True)
                yield some.float().mul_(self._scale).add_(self._shift), theirs


def images_of_an_epoch(count: int, batch_size: int, drop_last: bool) -> int:
    """How many of ``count`` images an epoch shows. Raises ConfigError if none is left by ``drop_last``."""
    if drop_last and count < batch_size:
        raise ConfigError(f"DATASET.DROP_LAST leaves no batch: SOLVER.BATCH_SIZE {batch_size} is more than {count} images")
    return count - count % batch_size if drop_last else count


def normalization(mean: Sequence[float], std: Sequence[float], device: torch.device) -> tuple[Tensor, Tensor]:
    """ToTensor and Normalize as a multiply and an add, ``(x / 255 - mean) / std = x * scale + shift``, both ``[C, 1, 1]``."""
    mean_, std_ = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
    return 1 / (255 * std_), -mean_ / std_


def mix_seeds(first: int, second: int) -> int:
    """One seed out of two, hashed into 32 bits, since torch's CPU generator ignores all higher ones."""
    return int(np.random.SeedSequence((first, second)).generate_state(1)[0])
