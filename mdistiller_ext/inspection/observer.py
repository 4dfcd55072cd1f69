"""Predictions collected during an evaluation, with the images of the most confident mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Loader
from ..data.loader import normalization
from ..distributed import all_gather_object
from .teacher import NO_TEACHER, Teacher


@dataclass(frozen=True)
class Predictions:
    """Predictions of the images of a test set, in the order of their positions.

    Attributes:
        index: position of each image in the test set, int64 ``[N]``. An image that could not be read is missing.
        labels, predicted: true and predicted class, int64 ``[N]``.
        probability: of the predicted class, float32 ``[N]``.
        teacher: class that the teacher predicts, int64 ``[N]``; None without a teacher.
    """

    index: Tensor
    labels: Tensor
    predicted: Tensor
    probability: Tensor
    teacher: Tensor | None = None


@dataclass(frozen=True)
class Mistakes:
    """The wrong predictions with the highest probabilities, in falling order.

    Attributes:
        places: of the images in Predictions, int64 ``[M]``.
        pixels: the images as the network sees them, uint8 ``[M, 3, H, W]``.
    """

    places: Tensor
    pixels: Tensor


class Observer:
    """Observer of `evaluate`, whose loader also yields the positions of the images.

    Args:
        teacher: classifies the same images.
        mistakes: number of wrong predictions whose images are kept.
    """

    def __init__(self, loader: Loader, teacher: Teacher = NO_TEACHER, mistakes: int = 40) -> None:
        self.loader = loader
        self.teacher = teacher
        self.mistakes = mistakes
        self._scale, self._shift = normalization(loader.mean, loader.std, loader.device)
        self._columns: list[tuple[Tensor, ...]] = []  # of each batch
        self._kept = (
            torch.empty(0, dtype=torch.int64, device=loader.device),
            torch.empty(0, device=loader.device),
            torch.empty(0, *loader.image_shape, device=loader.device),
        )  # index, probability and normalized image of the mistakes, the most confident first

    def __call__(self, logits: Tensor, images: Tensor, labels: Tensor, index: Tensor) -> None:
        """Record a batch."""
        probability, predicted = logits.float().softmax(dim=1).max(dim=1)
        columns = [index, labels, predicted, probability]
        if self.teacher.network is not None:
            columns.append(self.teacher.network(images)[0].argmax(dim=1))
        self._columns.append(tuple(column.cpu() for column in columns))
        wrong = predicted != labels
        found = index[wrong], probability[wrong], images[wrong]
        candidates = [torch.cat(pair) for pair in zip(self._kept, found, strict=True)]
        # Stable: among equal probabilities, the first images of the test set, for any number of ranks.
        first = candidates[1].argsort(descending=True, stable=True)[: self.mistakes]
        self._kept = (candidates[0][first], candidates[1][first], candidates[2][first])

    def gather(self) -> tuple[Predictions, Mistakes]:
        """What all ranks have recorded, on the CPU. Called by every rank."""
        ranks = all_gather_object(self._columns)
        columns = [torch.cat(parts) for parts in zip(*(batch for batches in ranks for batch in batches), strict=True)]
        order = columns[0].argsort()
        predictions = Predictions(*(column[order] for column in columns))
        index, probability, images = self._kept
        pixels = ((images - self._shift) / self._scale).round().clamp(0, 255).to(torch.uint8)
        everyone = zip(*all_gather_object((index.cpu(), probability.cpu(), pixels.cpu())), strict=True)
        index, probability, pixels = (torch.cat(parts) for parts in everyone)
        by_index = index.argsort()
        first = by_index[probability[by_index].argsort(descending=True, stable=True)][: self.mistakes]
        return predictions, Mistakes(torch.searchsorted(predictions.index, index[first]), pixels[first])
