"""The average of the last students (PRKD), whose batch-norm statistics are computed anew."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from ..distillers.base import Distiller
from ..distributed import all_reduce_mean_
from .loaders import Loader
from .state import TrainState
from .step import batch_sizes, is_trained_on


def update_average(state: TrainState, epochs: int) -> None:
    """At the end of an epoch, add the student to the average if it is one of the last ``distiller.average_last`` epochs."""
    if state.epoch > epochs - state.distiller.average_last:
        if state.average is None:
            state.average = AveragedModel(state.distiller.student)
        state.average.update_parameters(state.distiller.student)


def trained_images(distiller: Distiller, loader: Loader, batches: Iterable[tuple[Tensor, ...]]) -> Iterator[Tensor]:
    """This rank's images ``[N, 3, H, W]``, of the first view, of those of an epoch's batches that are trained on."""
    for step, (images, *_) in enumerate(batches):
        if len(images) and is_trained_on(distiller, batch_sizes(loader, step)):
            yield images[:, 0] if len(distiller.views) > 1 else images


def averaged_student(average: AveragedModel, batches: Iterable[Tensor]) -> nn.Module:
    """Copy of the averaged student with the batch-norm statistics of ``batches``; the average stays as it is.

    Args:
        batches: this rank's images ``[N, 3, H, W]``.
    """
    student: nn.Module = copy.deepcopy(average.module)
    update_bn(batches, student)
    all_reduce_mean_(student.buffers())
    return student
