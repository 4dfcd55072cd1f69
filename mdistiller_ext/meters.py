"""Running averages that stay on the device: nothing is synchronised until they are read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .distributed import all_reduce_sum


class Averages:
    """Means of named quantities over the samples of all processes.

    Attributes:
        sums: over this process's samples so far, in the order of the names.
        count: how many samples those are.
    """

    def __init__(self, names: Sequence[str], device: torch.device | str = "cpu") -> None:
        self.names = list(names)
        # float64 counts hits exactly; MPS has none
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.sums = torch.zeros(len(names), dtype=dtype, device=device)
        self.count = 0

    def update(self, sums: dict[str, Tensor], count: int) -> None:
        """Add a batch of ``count`` samples: the sums over it, 0-d tensors."""
        self.add(sums)
        self.count += count

    def add(self, sums: dict[str, Tensor]) -> None:
        """The part of ``update`` that happens on the device; ``count`` is the caller's to raise."""
        self.sums.add_(torch.stack([sums[name].detach() for name in self.names]).to(self.sums.dtype))

    def reset(self) -> None:
        """Start again from nothing, in the same memory."""
        self.count = 0
        self.sums.zero_()

    def read(self) -> dict[str, float]:
        """The means so far; not a number where there are no samples. Synchronises with the device, and the processes."""
        *sums, count = all_reduce_sum(torch.cat([self.sums, self.sums.new_tensor([self.count])])).tolist()
        return {name: total / count if count else float("nan") for name, total in zip(self.names, sums, strict=True)}


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """100 for each sample whose label is among the k largest logits, summed, a 0-d tensor: its mean is in percent."""
    top = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (top == labels[:, None]).sum() * 100
