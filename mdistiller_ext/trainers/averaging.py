"""The average of the last students (PRKD), whose batch-norm statistics are computed anew."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from ..distributed import all_reduce_mean_
from .state import TrainState


def update_average(state: TrainState, epochs: int) -> None:
    """At the end of an epoch, add the student to the average if it is one of the last ``distiller.average_last`` epochs."""
    if state.epoch > epochs - state.distiller.average_last:
        if state.average is None:
            state.average = AveragedModel(state.distiller.student)
        state.average.update_parameters(state.distiller.student)


def averaged_student(average: AveragedModel, batches: Iterable[Tensor]) -> nn.Module:
    """Copy of the averaged student with the batch-norm statistics of ``batches``; the average stays as it is.

    Args:
        batches: this rank's images ``[N, 3, H, W]``.
    """
    student: nn.Module = copy.deepcopy(average.module)
    update_bn(batches, student)
    all_reduce_mean_(student.buffers())
    return student
