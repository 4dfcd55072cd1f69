"""What training needs of a dataloader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor


class Loader(Protocol):
    """A dataloader that yields this rank's rows of each batch, on the training device, as a function of the epoch's number.

    ``batch_size`` and ``num_images`` (of an epoch) are those of all ranks.
    """

    batch_size: int
    num_images: int

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None: ...


@runtime_checkable
class Closing(Protocol):
    """A dataloader with worker processes to end."""

    def close(self) -> None: ...
