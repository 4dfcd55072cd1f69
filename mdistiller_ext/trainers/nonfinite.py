"""Detect losses and gradients that are not finite, locate the batch, and stop the run or skip the batch."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..distillers.base import Distiller
from ..distillers.outputs import Batch
from ..distributed import all_gather_object, all_gather_rows, any_reduce
from ..errors import ConfigError, DivergedError
from .recorder import Recorder
from .state import TrainState
from .step import PlainStep

OnNonFinite = Literal["stop", "skip"]
"""Stop the run at a loss or gradient that is not finite, or skip the batch."""

_MAX_SKIPPED_IN_A_ROW = 10  # after so many the cause is not the batches
_MAX_KEPT = 3  # batches saved for debugging; of ImageNet each takes 100 MB and more


class NonFiniteError(Exception):
    """Something trained since the last check is not finite."""


def is_finite(values: Tensor, distiller: Distiller) -> bool:
    """Whether values and all weights are finite, on every rank. Synchronises with the device and the ranks."""
    largest = torch._foreach_norm([p.detach() for p in distiller.learnable_parameters()], math.inf)
    finite = values.isfinite().all() & torch.stack(largest).isfinite().all()
    return not any_reduce(not finite)


def advice(epoch: int) -> str:
    """What to do about training that diverged; ``epoch`` is the last one in the checkpoints."""
    return (
        f"Checkpoints hold epoch {epoch}. Resuming would meet the same again: start a new run with a lower "
        "SOLVER.LR or loss weight, or a longer warm-up"
    )


class CheckedStep:
    """A step that leaves the state as it was unless the losses, and the weights after it, are finite.

    Args:
        plain: the step.
        state: state of training.
        recorder: keeps the checkpoint and the batch, and shows what happened.
        on_nan: see OnNonFinite.

    Raises ConfigError for another ``on_nan``; when called DivergedError for a batch that is not finite, with ``skip`` only at
    the tenth in a row.
    """

    def __init__(self, plain: PlainStep, state: TrainState, recorder: Recorder, on_nan: OnNonFinite) -> None:
        if on_nan not in get_args(OnNonFinite):
            raise ConfigError(f"SOLVER.ON_NAN must be {' or '.join(get_args(OnNonFinite))}, not '{on_nan}'")
        self.plain = plain
        self.state = state
        self.recorder = recorder
        self.on_nan = on_nan
        self.skipped_in_a_row = 0

    def __call__(self, batch: Batch) -> None:
        before = self.state.snapshot()
        logits, losses = self.plain.train_step(*batch.inputs.values())
        values = torch.stack(list(losses.values())) if batch.size else self.state.averages.sums
        if is_finite(values, self.state.distiller):
            self.plain.record(batch, logits, losses)
            self.state.averages.count += batch.size
            self.skipped_in_a_row = 0
            return
        self.state.restore(before)
        everywhere = all_gather_object({name: float(value) for name, value in losses.items()} if batch.size else {})
        text = self._describe(batch, everywhere)
        if self.on_nan == "stop":
            self.recorder.save_latest(self.state.state_dict())
            raise DivergedError(f"{text}. {advice(self.state.epoch)}, or go on with SOLVER.ON_NAN skip")
        self.state.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row == _MAX_SKIPPED_IN_A_ROW:
            raise DivergedError(f"{text}, as in {_MAX_SKIPPED_IN_A_ROW} batches in a row. {advice(self.state.epoch)}")
        self.recorder.note(f"{text}; the batch is left out")

    def _describe(self, batch: Batch, components: list[dict[str, float]]) -> str:
        """Name the components that are not finite and save the batch; ``components`` are those of each rank."""
        epoch, step = self.state.epoch + 1, self.state.step + 1
        bad = {f"{name} = {value}" for losses in components for name, value in losses.items() if not math.isfinite(value)}
        content: dict[str, Any] = {
            "epoch": epoch,
            "step": step,
            "components": components,
            **{name: all_gather_rows(rows, batch.sizes) for name, rows in batch.inputs.items()},
            "student": self.state.distiller.student.state_dict(),
        }
        kept = "" if self.state.skipped >= _MAX_KEPT else self.recorder.save_batch(f"not_finite_{epoch}_{step}", content)
        return f"the loss is not finite in epoch {epoch}, step {step}: {', '.join(sorted(bad)) or 'its gradient'}{kept}"
