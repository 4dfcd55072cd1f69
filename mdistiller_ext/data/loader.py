"""Load batches of images kept in memory: uint8 ``[N, C, H, W]`` on one device, augmented batch-wise, normalized to float32.

No dataloader workers, no loops over images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from .augment import Augment, EnumerableAugment
from .identity import DataIdentity

_GATHERED = 1024  # images indexed and augmented at a time; 3 MB of 32x32


class InMemoryLoader:
    """Yields ``(images float32 [B, C, H, W], labels int64 [B])`` on ``device``, and on request index and view of the images.

    Order and augmentation of an epoch are a pure function of ``(seed, epoch)``, for the same batch size and type of the
    device that holds the data: every pass has a generator of its own, and global generators stay unchanged. A resumed run
    therefore calls ``set_epoch`` and continues bit for bit, without saved state. Without ``set_epoch`` every pass repeats
    epoch 0. Several batches are indexed and augmented at once: on a GPU the cost of a batch is launching its kernels.

    Each rank yields its rows of the batches of a single process: all ranks draw the same order and augment every image,
    which costs less than one generator per image.

    Args:
        images: uint8 ``[N, C, H, W]``.
        labels: int64 ``[N]`` on the same device.
        batch_size: global batch size, over all ranks.
        mean, std: per channel, for images scaled to 0..1.
        augment: applied to a batch before normalization; images are ``[B, V, C, H, W]`` if it returns several views.
        with_index: also yield the positions of the images in ``images``, int64 ``[B]``.
        with_view: after them also yield which view of the image it is, int64 ``[B]``; ``augment`` is an EnumerableAugment.
        drop_last: drop the last batch of an epoch if it is smaller than ``batch_size``.
        device: device of the batches, the images' own by default.
        num_classes: number of classes, by default the largest label + 1.
        rank, world_size: rank and number of ranks: rows ``rank``, ``rank + world_size`` ... of each batch are yielded.
        identity: identity of the data set.

    Raises ConfigError if ``batch_size`` is not positive, or if ``drop_last`` leaves no batch.
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
        with_index: bool = False,
        with_view: bool = False,
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
        self.num_images = images_of_an_epoch(len(images), batch_size, drop_last)  # over all ranks
        self.batch_size = batch_size
        self.mean, self.std = mean, std
        self.augment = augment
        self.with_index = with_index
        self.with_view = with_view
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
        """Set the epoch of the next pass, and the first of its batches to yield."""
        self.epoch = epoch
        self.first_batch = first_batch

    def __len__(self) -> int:
        """Number of batches of an epoch, including a smaller last one unless ``drop_last`` (mdistiller drops none)."""
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        device = self.images.device
        generator = torch.Generator(device).manual_seed(mix_seeds(self.seed, self.epoch))
        order = torch.arange(len(self.images), device=device)
        if self.shuffle:
            order = torch.randperm(len(self.images), generator=generator, device=device)
        left_out = self.first_batch
        for several in order[: self.num_images].split(self.batch_size * max(1, _GATHERED // self.batch_size)):
            parts = [self.images[several], self.labels[several], *([several] if self.with_index else [])]
            if self.with_view:
                assert isinstance(self.augment, EnumerableAugment)
                parts.append(self.augment.draw(parts[0], generator))
                parts[0] = self.augment.apply(parts[0], parts[-1])
            elif self.augment is not None:
                parts[0] = self.augment(parts[0], generator)  # also of skipped batches: the generator advances
            for batch in zip(*(part.split(self.batch_size) for part in parts), strict=True):
                if left_out:
                    left_out -= 1
                    continue
                images, *others = (part[self.rows].to(self.device, non_blocking=True) for part in batch)
                yield self._normalized(images), *others

    def view(self, rows: slice, number: int) -> Tensor:
        """One view of some of the images, as batches hold it: float32 ``[rows, C, H, W]`` on ``device``."""
        assert isinstance(self.augment, EnumerableAugment)
        images = self.images[rows]
        images = self.augment.apply(images, torch.full((len(images),), number, device=images.device))
        return self._normalized(images.to(self.device))

    def _normalized(self, images: Tensor) -> Tensor:
        return images.float().mul_(self._scale).add_(self._shift)


def images_of_an_epoch(count: int, batch_size: int, drop_last: bool) -> int:
    """Return how many of ``count`` images an epoch contains. Raises ConfigError if ``drop_last`` leaves none."""
    if drop_last and count < batch_size:
        raise ConfigError(f"DATASET.DROP_LAST leaves no batch: SOLVER.BATCH_SIZE {batch_size} is more than {count} images")
    return count - count % batch_size if drop_last else count


def normalization(mean: Sequence[float], std: Sequence[float], device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift, ``[C, 1, 1]``, that replace ToTensor and Normalize: ``(x / 255 - mean) / std = x * scale + shift``."""
    mean_, std_ = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
    return 1 / (255 * std_), -mean_ / std_


def mix_seeds(first: int, second: int) -> int:
    """Hash two seeds into one of 32 bits: torch's CPU generator ignores higher bits."""
    return int(np.random.SeedSequence((first, second)).generate_state(1)[0])
