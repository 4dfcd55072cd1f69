"""What training needs of a dataloader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

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
