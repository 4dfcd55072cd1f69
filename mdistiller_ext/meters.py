"""Running averages on the device, without synchronisation until they are read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .distributed import all_reduce_sum


class Averages:
    """Means of named quantities over the samples of all ranks.

    Attributes:
        sums: sums over this rank's samples so far, in the order of ``names``.
        count: number of these samples.
    """

    def __init__(self, names: Sequence[str], device: torch.device | str = "cpu") -> None:
        self.names = list(names)
        # float64 counts hits exactly; MPS does not support it
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.sums = torch.zeros(len(names), dtype=dtype, device=device)
        self.count = 0

    def update(self, sums: dict[str, Tensor], count: int) -> None:
        """Add the sums over a batch of ``count`` samples, 0-d tensors."""
        self.add(sums)
        self.count += count

    def add(self, sums: dict[str, Tensor]) -> None:
        """The device part of :meth:`update`, without the increment of ``count``."""
        self.sums.add_(torch.stack([sums[name].detach() for name in self.names]).to(self.sums.dtype))

    def reset(self) -> None:
        """Set sums and count to zero in place."""
        self.count = 0
        self.sums.zero_()

    def read(self) -> dict[str, float]:
        """The means so far; NaN without samples. Synchronises the device and all-reduces over the ranks."""
        *sums, count = all_reduce_sum(torch.cat([self.sums, self.sums.new_tensor([self.count])])).tolist()
        return {name: total / count if count else float("nan") for name, total in zip(self.names, sums, strict=True)}


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """100 times the number of samples whose label is among the k largest logits, a 0-d tensor; its mean is in percent."""
    top = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (top == labels[:, None]).sum() * 100
