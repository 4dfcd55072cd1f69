"""The positive and the negatives of each image for CRD, as mdistiller's data set for CRD draws them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError


class ContrastiveIndex:
    """Draw ``[N, 1 + K]`` positions in the training set: a positive, then K images of other classes.

    Negatives of an image are distinct unless there are fewer than K. Draws are made by torch's generator of the CPU, whose
    state every checkpoint has.

    Args:
        labels: of the training set, int64 ``[images]`` on the CPU.
        k: number of negatives.
        mode: the positive is the image itself (``exact``), or any image of its class (``relax``).

    Raises ConfigError for another mode.
    """

    def __init__(self, labels: Tensor, k: int, mode: str) -> None:
        if mode not in ("exact", "relax"):
            raise ConfigError(f"UPSTREAM.CRD.MODE must be exact or relax, not '{mode}'")
        self.labels = labels
        self.k = k
        self.mode = mode
        self._negatives: dict[int, Tensor] = {}

    def draw(self, index: Tensor, labels: Tensor) -> Tensor:
        """For the images at ``index`` with ``labels``, each ``[N]``; the result is on their device."""
        rows = [self._row(*pair) for pair in zip(index.tolist(), labels.tolist(), strict=True)]
        return torch.stack(rows).to(index.device)

    def _row(self, index: int, label: int) -> Tensor:
        if label not in self._negatives:
            self._negatives[label] = torch.nonzero(self.labels != label).flatten()
        negatives = self._negatives[label]
        count = len(negatives)
        chosen = torch.randint(count, (self.k,)) if self.k > count else torch.randperm(count)[: self.k]
        positive = torch.tensor([index])
        if self.mode == "relax":
            same = torch.nonzero(self.labels == label).flatten()
            positive = same[torch.randint(len(same), (1,))]
        return torch.cat([positive, negatives[chosen]])
