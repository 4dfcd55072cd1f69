"""Running averages that stay on the device: nothing is synchronised until they are read."""

from __future__ import annotations

import torch
from torch import Tensor


class Averages:
    """Means over samples of named quantities. The names are those of the first update."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self.sums: Tensor | None = None
        self.count = 0

    def update(self, sums: dict[str, Tensor], count: int) -> None:
        """Add a batch of ``count`` samples: the sums over it, 0-d tensors."""
        self.add(sums)
        self.count += count

    def add(self, sums: dict[str, Tensor]) -> None:
        """The part of ``update`` that happens on the device; ``count`` is the caller's to raise."""
        stacked = torch.stack([value.detach() for value in sums.values()])
        # float64 counts hits exactly; MPS has none
        stacked = stacked.to(torch.float32 if stacked.device.type == "mps" else torch.float64)
        self._names = self._names or list(sums)
        self.sums = stacked if self.sums is None else self.sums.add_(stacked)

    def reset(self) -> None:
        """Start again from nothing, in the same memory."""
        self.count = 0
        if self.sums is not None:
            self.sums.zero_()

    def read(self) -> dict[str, float]:
        """The means so far. Synchronises with the device."""
        if self.sums is None:
            return {}
        return {name: total / self.count for name, total in zip(self._names, self.sums.tolist(), strict=True)}


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """100 for each sample whose label is among the k largest logits, summed, a 0-d tensor: its mean is in percent."""
    top = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (top == labels[:, None]).sum() * 100
