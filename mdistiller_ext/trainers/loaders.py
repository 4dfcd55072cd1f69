"""What training needs of a dataloader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class Loader(Protocol):
    """A dataloader that yields this rank's rows of each batch, on the training device, as a function of the epoch's number.

    A batch is ``(images, labels)``, for methods with ``needs_index`` ``(images, labels, index)``, and with the teacher's cache
    ``(images, labels, index, teacher_logits)``; see Batch.

    Attributes:
        batch_size, num_images: of a batch and of an epoch, over all ranks.
        labels: of the whole training set, int64 ``[images]``; read only for methods with ``needs_index``.
    """

    batch_size: int
    num_images: int
    labels: Tensor

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(3, H, W)`` of an image."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]: ...

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch, which determines the batches, and the first batch to yield."""


@runtime_checkable
class Closing(Protocol):
    """A dataloader with worker processes to end."""

    def close(self) -> None:
        """End the worker processes."""


@dataclass(frozen=True)
class OwnLoop:
    """What a trainer needs to know of a loop that it does not run, in the place of its dataloaders.

    Attributes:
        steps: number of batches of an epoch; 0 if unknown.
        labels: of the whole training set, int64 ``[images]``; None for methods without ``needs_index``.
    """

    image_shape: tuple[int, int, int]
    steps: int
    labels: Any
    batch_size: int = 0
    num_images: int = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return iter(())

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Do nothing: the batches are the loop's own."""
