"""Running averages that stay on the device: nothing is synchronised until they are read."""

from __future__ import annotations

import torch
from torch import Tensor


class Averages:
    """Sample-weighted means of named scalars. The names are those of the first update."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._count = 0

    def update(self, values: dict[str, Tensor], count: int) -> None:
        """Add batch means (0-d tensors) of a batch of ``count`` samples."""
        stacked = torch.stack([value.detach() for value in values.values()])
        stacked = stacked.to(_exact_dtype(stacked.device))
        self._names = self._names or list(values)
        self._sums = stacked * count if self._sums is None else self._sums.add_(stacked, alpha=count)
        self._count += count

    def read(self) -> dict[str, float]:
        """The means so far. Synchronises with the device."""
        if self._sums is None:
            return {}
        return {name: total / self._count for name, total in zip(self._names, self._sums.tolist(), strict=True)}


def top_k_accuracy(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Percentage of samples whose label is among the k largest logits, a 0-d tensor; k is cut to the number of classes."""
    top = logits.topk(min(k, logits.shape[1]), dim=1).indices
    hits = (top == labels[:, None]).any(dim=1)
    return hits.to(_exact_dtype(hits.device)).mean() * 100


def _exact_dtype(device: torch.device) -> torch.dtype:
    """float64, so that equal counts of hits are equal numbers; MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
