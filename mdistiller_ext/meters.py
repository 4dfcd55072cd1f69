"""Running averages that stay on the device: nothing is synchronised until they are read."""

from __future__ import annotations

import torch
from torch import Tensor


class Averages:
    """Means over samples of named quantities. The names are those of the first update."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._count = 0

    def update(self, sums: dict[str, Tensor], count: int) -> None:
        """Add a batch of ``count`` samples: the sums over it, 0-d tensors."""
        stacked = torch.stack([value.detach() for value in sums.values()])
        # float64 counts hits exactly; MPS has none
        stacked = stacked.to(torch.float32 if stacked.device.type == "mps" else torch.float64)
        self._names = self._names or list(sums)
        self._sums = stacked if self._sums is None else self._sums.add_(stacked)
        self._count += count

    def read(self) -> dict[str, float]:
        """The means so far. Synchronises with the device."""
        if self._sums is None:
            return {}
        return {name: total / self._count for name, total in zip(self._names, self._sums.tolist(), strict=True)}


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """100 for each sample whose label is among the k largest logits, summed, a 0-d tensor: its mean is in percent."""
    top = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (top == labels[:, None]).sum() * 100
