"""TrainState: everything that training changes, and the only list of what is saved, restored and snapshotted.

To save one thing more, add one entry to ``_ENTRIES``. ``run/identity.py`` adds to a checkpoint what identifies the run.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import AveragedModel

from ..distillers.base import Distiller
from ..distributed import all_gather_object, rank, world_size
from ..errors import ConfigError
from ..meters import Averages
from ..optim import ComponentSGD
from ..rng import generator_state, set_generator_state
from .cost import Cost
from .gradient_records import GradientRecords

Scheduler = schedulers.LambdaLR | schedulers.OneCycleLR
Row = dict[str, float]
"""A row of ``metrics.csv``: the values of one epoch by name"""


class TrainState:
    """State of a training run on this rank.

    Attributes:
        epoch: number of completed epochs.
        step: number of batches done of the next epoch. With ``epoch`` it is also the position in the data, whose batches are a
            function of the epoch's number.
        epoch_lr: learning rate at the start of that epoch.
        averages: running averages of that epoch's losses and accuracy.
        history: a row for each completed epoch.
        skipped: number of batches left out because their loss was not finite.
        average: average of the last students, once there is one.
        epoch_seconds: seconds of training when the last epoch ended.
        cost: images per second and peak memory.
        records: statistics of gradients; None where none are recorded.
        restores: number of restores; CUDA graphs captured before the last one refer to tensors that have been replaced.
    """

    def __init__(
        self, distiller: Distiller, optimizer: ComponentSGD, scheduler: Scheduler, averages: Averages, epoch_lr: float
    ) -> None:
        self.distiller = distiller
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.averages = averages
        self.epoch = 0
        self.step = 0
        self.epoch_lr = epoch_lr
        self.history: list[Row] = []
        self.skipped = 0
        self.average: AveragedModel | None = None
        self.epoch_seconds = 0.0
        self.cost = Cost(averages.sums.device)
        self.records: GradientRecords | None = None
        self.restores = 0
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training, those of earlier processes of the run included."""
        return time.perf_counter() - self._started

    def start_clock(self, seconds: float) -> None:
        """Count from now on, after ``seconds`` of training."""
        self.epoch_seconds = seconds
        self._started = time.perf_counter() - seconds

    def position(self, steps: int) -> str:
        """Where training is, as the end of a sentence; ``steps`` is the number of batches of an epoch."""
        if self.step:
            return f"in epoch {self.epoch + 1}, step {self.step} of {steps}"
        return f"after epoch {self.epoch}" if self.epoch else "before the first step"

    def end_epoch(self, row: Row) -> bool:
        """Count an epoch as completed; returns whether its accuracy is the highest so far."""
        best = row["test_top1"] > max((earlier["test_top1"] for earlier in self.history), default=-1.0)
        self.history.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.epoch_seconds = self.seconds
        return best

    def tensors(self) -> list[list[Tensor]]:
        """Every tensor that a training step changes: parameters, buffers, momentum buffers, sums of the running averages."""
        momenta = [buffer for state in self.optimizer.state.values() for buffer in state["momentum_buffers"].values()]
        return [list(self.distiller.learnable_parameters()), self.distiller.changing_buffers(), momenta, [self.averages.sums]]

    def summary(self) -> dict[str, Any]:
        """Summary of a completed run. The best epoch is chosen on the test set, as upstream reports it."""
        best, last = max(self.history, key=lambda row: row["test_top1"]), self.history[-1]  # the first of equals
        summary = {"best_top1": best["test_top1"], "best_epoch": int(best["epoch"])}
        summary |= {"last_top1": last["test_top1"], "last_top5": last["test_top5"], "epochs": self.epoch}
        summary |= {"seconds": round(self.epoch_seconds, 1), "processes": world_size()}
        summary |= self.cost.summary()
        return summary | ({"skipped_batches": self.skipped} if self.skipped else {})

    def snapshot(self) -> dict[str, Any]:
        """Copy of the state of this rank, for :meth:`restore`."""
        return {name: copy.deepcopy(entry.get(self)) for name, entry in _ENTRIES.items() if not entry.saved_only}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Return to a snapshot, which shares no memory with the state: it can be restored again."""
        for name, value in snapshot.items():
            _ENTRIES[name].set(self, copy.deepcopy(value))
        self.optimizer.device_lr(on=False)
        self.restores += 1

    def state_dict(self) -> dict[str, Any]:
        """Content of a checkpoint: the state of all ranks, so that every rank must call it; never the teacher."""
        values = {name: entry.get(self) for name, entry in _ENTRIES.items()}
        return {name: all_gather_object(value) if _ENTRIES[name].per_rank else value for name, value in values.items()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned. Raises ConfigError for another optimizer's state."""
        own = {name: saved[name] for name, entry in _ENTRIES.items() if name in saved and not entry.per_rank}
        for name, entry in _ENTRIES.items():
            if entry.per_rank and rank() < len(saved.get(name) or ()):
                own[name] = saved[name][rank()]
        self.restore(own)
        if len(saved["rng"]) != world_size():  # another number of ranks: rank 0 takes the sums of all
            sums, counts = zip(*saved["averages"], strict=True)
            _set_averages(self, (torch.stack(sums).sum(dim=0), sum(counts)))
            if rank() > 0:
                self.averages.reset()


def check_state(saved: Any) -> None:
    """Raise ValueError unless ``saved`` has the form of a checkpoint; what its entries hold is checked when they are loaded."""
    if not isinstance(saved, dict):
        raise ValueError(f"it holds a {type(saved).__name__}")
    for name, entry in _ENTRIES.items():
        if entry.kind is not None and not isinstance(saved.get(name), entry.kind):
            raise ValueError(f"its {name} is {type(saved[name]).__name__}" if name in saved else f"it has no {name}")
    history = saved["history"]
    if len(history) != saved["epoch"] or not all(isinstance(row, dict) and row.keys() >= _COLUMNS for row in history):
        raise ValueError("its history is not that of its epochs")
    if not all(isinstance(value, int | float) for row in history for value in row.values()):
        raise ValueError("its history holds other things than numbers")


_COLUMNS = {"epoch", "lr", "train_top1", "train_loss", "test_top1", "test_top5", "test_loss"}


# ---- the entries --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """An entry of a checkpoint.

    Attributes:
        get, set: read it from, and write it into, a TrainState.
        kind: type of its saved value; None where earlier versions of this project did not save it.
        per_rank: saved as a list with the value of each rank.
        saved_only: in checkpoints, not in snapshots.
    """

    get: Callable[[TrainState], Any]
    set: Callable[[TrainState, Any], None]
    kind: Any
    per_rank: bool = False
    saved_only: bool = False


def _attribute(name: str, kind: Any) -> _Entry:
    return _Entry(lambda state: getattr(state, name), lambda state, value: setattr(state, name, value), kind)


def _set_student(state: TrainState, value: dict[str, Tensor]) -> None:
    state.distiller.student.load_state_dict(value)


def _set_optimizer(state: TrainState, value: dict[str, Any]) -> None:
    try:
        state.optimizer.load_state_dict(value)
    except ValueError as error:
        raise ConfigError(f"the checkpoint's optimizer does not fit: {error}") from error


def _set_average(state: TrainState, value: dict[str, Tensor] | None) -> None:
    state.average = None if value is None else AveragedModel(state.distiller.student)
    if state.average is not None and value is not None:
        state.average.load_state_dict(value)


def _set_records(state: TrainState, value: dict[str, Any] | None) -> None:
    if state.records is not None and value is not None:
        state.records.load_state_dict(value)


def _set_averages(state: TrainState, value: tuple[Tensor, int]) -> None:
    sums, state.averages.count = value
    state.averages.sums.copy_(sums)


def _rank_buffers(state: TrainState) -> list[Tensor] | None:
    """Within an epoch the ranks' buffers differ; at its end those of rank 0, which the modules' states hold, are everyone's."""
    return [buffer.cpu() for buffer in state.distiller.changing_buffers()] if state.step and world_size() > 1 else None


def _set_rank_buffers(state: TrainState, value: list[Tensor] | None) -> None:
    for buffer, saved in zip(state.distiller.changing_buffers(), value, strict=True) if value is not None else ():
        buffer.copy_(saved)


_ENTRIES = {
    "epoch": _attribute("epoch", int),
    "step": _attribute("step", int),
    "rate": _attribute("epoch_lr", int | float),
    "skipped": _attribute("skipped", int),
    "history": _attribute("history", list),
    "best": _Entry(
        lambda state: max((row["test_top1"] for row in state.history), default=None),
        lambda state, value: None,  # the history holds it
        None,
        saved_only=True,
    ),
    "seconds": _Entry(  # at the end of an epoch those of its row, so that a finished run that is resumed writes the same
        lambda state: state.seconds if state.step else state.epoch_seconds,
        lambda state, value: state.start_clock(value),
        int | float,
        saved_only=True,
    ),
    "cost": _Entry(
        lambda state: state.cost.state_dict(), lambda state, value: state.cost.load_state_dict(value), None, saved_only=True
    ),
    "student": _Entry(lambda state: state.distiller.student.state_dict(), _set_student, dict),
    "distiller": _Entry(
        lambda state: state.distiller.own_state_dict(), lambda state, value: state.distiller.load_own_state_dict(value), dict
    ),
    "buffers": _Entry(_rank_buffers, _set_rank_buffers, None, per_rank=True, saved_only=True),
    "optimizer": _Entry(lambda state: state.optimizer.state_dict(), _set_optimizer, dict),
    "scheduler": _Entry(
        lambda state: state.scheduler.state_dict(), lambda state, value: state.scheduler.load_state_dict(value), dict
    ),
    "average": _Entry(lambda state: None if state.average is None else state.average.state_dict(), _set_average, dict | None),
    "records": _Entry(lambda state: None if state.records is None else state.records.state_dict(), _set_records, None),
    "averages": _Entry(lambda state: (state.averages.sums.cpu(), state.averages.count), _set_averages, list, per_rank=True),
    "rng": _Entry(lambda state: generator_state(), lambda state, value: set_generator_state(value), list, per_rank=True),
}
