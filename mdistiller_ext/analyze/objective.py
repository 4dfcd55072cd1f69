"""Task loss and distillation loss of any student over the same images, with the teacher's logits computed once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Loader
from ..errors import ConfigError
from ..evaluate import eval_mode
from ..losses import kd_loss

TEMPERATURE = 4.0  # of KD's recipes for CIFAR-100


class LabelledBatch(NamedTuple):
    """Images ``[N, 3, H, W]``, labels ``[N]`` and the teacher's logits ``[N, C]``."""

    images: Tensor
    labels: Tensor
    teacher_logits: Tensor


class Objective:
    """Losses of a student over fixed images, the same for every method, so that students can be compared on one scale.

    ``task`` is the cross-entropy with the labels, ``distillation`` KD's loss ``T^2 KL(teacher || student)``.

    Args:
        loader: images in a fixed order; see ``TrainedRun.images``.
        teacher: in eval mode.
        temperature: T. Raises ConfigError unless it is positive.
    """

    def __init__(self, loader: Loader, teacher: nn.Module, temperature: float = TEMPERATURE) -> None:
        if not temperature > 0:
            raise ConfigError(f"the temperature must be positive, got {temperature}")
        self.loader = loader
        self.temperature = temperature
        self._teacher = teacher

    @functools.cached_property
    def teacher_logits(self) -> list[Tensor]:
        """Those of each batch; computed where a value is not known yet."""
        with torch.no_grad(), eval_mode(self._teacher):
            return [self._teacher(images)[0].float() for images, *_ in self.loader]

    def batches(self) -> Iterator[LabelledBatch]:
        """All images, in batches of the loader's size."""
        for (images, labels, *_), logits in zip(self.loader, self.teacher_logits, strict=True):
            yield LabelledBatch(images, labels, logits)

    @property
    def count(self) -> int:
        """Number of images."""
        return self.loader.num_images

    @torch.no_grad()
    def predictions(self, student: nn.Module) -> Iterator[tuple[LabelledBatch, Tensor]]:
        """All batches, each with the logits ``[N, C]`` of a student in eval mode."""
        with eval_mode(student):
            for batch in self.batches():
                yield batch, student(batch.images)[0].float()

    def losses(self, logits: Tensor, batch: LabelledBatch) -> dict[str, Tensor]:
        """Mean losses of a batch for the student's logits ``[N, C]``."""
        return {
            "task": F.cross_entropy(logits, batch.labels),
            "distillation": kd_loss(logits, batch.teacher_logits, temperature=self.temperature),
        }

    @torch.no_grad()
    def __call__(self, student: nn.Module) -> dict[str, float]:
        """Mean ``task`` and ``distillation`` loss, and ``top1`` accuracy in percent, in eval mode."""
        sums: dict[str, Tensor] = {}
        for batch, logits in self.predictions(student):
            values = self.losses(logits, batch) | {"top1": (logits.argmax(dim=1) == batch.labels).float().mean() * 100}
            for name, value in values.items():
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + value.cpu().double() * len(logits)
        return {name: float(total) / self.count for name, total in sums.items()}
