"""Progress of training, which a loss may depend on."""

from __future__ import annotations

import torch
from torch import Tensor


class Progress:
    """Progress of training: ``epoch`` (1-based), ``epochs`` and ``fraction = epoch / epochs``.

    ``epoch`` and ``fraction`` are 0-d tensors on the training device: a step reads them without synchronisation, and a
    captured CUDA graph remains valid in all epochs.
    """

    def __init__(self, epoch: int, epochs: int, device: torch.device | str = "cpu") -> None:
        # float64 gives weights such as 1/20 the precision of a float64 loss; MPS does not support it.
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.epoch = torch.tensor(float(epoch), dtype=dtype, device=device)
        self.epochs = epochs

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, 1-based, in place."""
        self.epoch.fill_(epoch)

    @property
    def fraction(self) -> Tensor:
        """``epoch / epochs``, a 0-d tensor in (0, 1]."""
        return self.epoch / self.epochs


def epoch_of(progress: Progress) -> Tensor:
    """The epoch as a tensor, also if ``progress`` is another object whose ``epoch`` is a number."""
    epoch = progress.epoch
    return epoch if isinstance(epoch, Tensor) else torch.tensor(float(epoch), dtype=torch.float64)


def warm_up(progress: Progress, epochs: int) -> Tensor:
    """mdistiller's linear warm-up of a loss weight: ``min(epoch / epochs, 1)``, 1 / epochs in epoch 1. 0 epochs: no warm-up."""
    if epochs < 0:
        raise ValueError(f"warmup must not be negative, got {epochs}")
    return (epoch_of(progress) / epochs).clamp(max=1.0)
