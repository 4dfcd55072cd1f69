"""The training pass of one epoch: steps, checks that everything is finite, checkpoints, progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..distillers.outputs import Batch
from ..distillers.progress import Progress
from ..distributed import world_size
from ..errors import ConfigError, DataWorkerError
from .loaders import Loader
from .nonfinite import CheckedStep, NonFiniteError, is_finite
from .recorder import Recorder
from .state import Row, TrainState
from .step import Step, batch_sizes, is_trained_on

_NONFINITE_CHECK_INTERVAL = 2.0  # seconds; a check synchronises the device

Poll = Callable[[bool], list[bool]]
"""A flag of this rank -> whether any rank was asked to stop, and whether any rank's flag was set, at the call before"""


class StopAgreed(Exception):
    """Raised on all ranks after the same step, once any of them was asked to stop."""


class EpochLoop:
    """Train on the batches of an epoch.

    Args:
        loader: training images.
        state: state of training.
        progress: epoch of training, for the losses.
        epochs: number of epochs of the run.
        checkpoint_steps: save a checkpoint every so many steps; 0 saves none within the epoch.
        step_scheduler: step the learning rate's scheduler after each batch.

    Raises ConfigError for a negative ``checkpoint_steps``.
    """

    def __init__(
        self, loader: Loader, state: TrainState, progress: Progress, *, epochs: int, checkpoint_steps: int, step_scheduler: bool
    ) -> None:
        if checkpoint_steps < 0:
            raise ConfigError(f"SOLVER.CHECKPOINT_STEPS must be 0 (each epoch alone) or more, not {checkpoint_steps}")
        self.loader = loader
        self.state = state
        self.progress = progress
        self.epochs = epochs
        self.checkpoint_steps = checkpoint_steps
        self.step_scheduler = step_scheduler

    def run(self, fast: Step, checked: CheckedStep, recorder: Recorder, poll: Poll) -> Row:
        """Train for one epoch, or the rest of it; returns its row of ``metrics.csv`` as far as training goes.

        Args:
            fast: the step; ``checked`` takes its place where a batch since the last check was not finite.
            poll: called once per step.

        Raises StopAgreed where a rank was asked to stop, and what the steps and the loader raise.
        """
        state, epoch = self.state, self.state.epoch + 1
        self.progress.set_epoch(epoch)
        state.distiller.train()
        if state.step == 0:
            state.epoch_lr = float(state.optimizer.param_groups[0]["lr"])
            state.averages.reset()
        good, suspected = state.snapshot(), 0
        disable = None if recorder.shows_progress else True  # None: off where the output is no terminal
        with tqdm(total=len(self.loader), desc=f"epoch {epoch}/{self.epochs}", leave=False, disable=disable) as bar:
            while state.step < len(self.loader):
                try:
                    for _ in self._steps(fast, checked, suspected, recorder, poll, bar):
                        good = state.snapshot()
                except NonFiniteError:  # repeat from the last finite state, checking each batch until the one is found
                    suspected = state.step
                    state.restore(good)
                except DataWorkerError:
                    state.restore(good)  # the steps since then are not known to be finite
                    raise
        if state.records is not None and epoch == self.epochs:
            state.records.close()
        means = state.averages.read()
        components = {name: value for name, value in means.items() if "/" in name}
        row = {"epoch": epoch, "lr": state.epoch_lr, "train_top1": means["train_top1"], "train_loss": sum(components.values())}
        return row | components

    def _steps(
        self, fast: Step, checked: CheckedStep, suspected: int, recorder: Recorder, poll: Poll, bar: Any
    ) -> Iterator[None]:
        """Train on the rest of an epoch; yields after each successful check that everything is finite.

        Args:
            suspected: check each batch until this step.
        """
        state = self.state
        self.loader.set_epoch(state.epoch + 1, state.step)
        first, started = state.step, time.perf_counter()
        last_check = started
        for inputs in self.loader:
            self._train_batch(checked if state.step < suspected else fast, inputs)
            last = state.step == len(self.loader)
            save = self.checkpoint_steps > 0 and state.step % self.checkpoint_steps == 0 and not last
            # One rank's clock decides for all.
            due = time.perf_counter() - last_check > _NONFINITE_CHECK_INTERVAL
            last_check = time.perf_counter() if due else last_check
            stop, check = poll(due)
            if not (stop or check or save or last or state.step == suspected):
                continue
            means, now = state.averages.read(), time.perf_counter()
            if not is_finite(state.averages.sums, state.distiller):
                raise NonFiniteError
            if state.step > suspected:  # past the batches that were checked one by one
                checked.skipped_in_a_row = 0
            yield
            parts = {name: f"{value:.3f}" for name, value in means.items() if "/" in name}
            speed = (state.step - first) * self.loader.batch_size / (now - started)
            bar.set_postfix(parts | {"top1": f"{means['train_top1']:.1f}", "img/s": f"{speed:.0f}"}, refresh=False)
            bar.update(state.step - bar.n)
            if save:
                recorder.save_latest(state.state_dict())
            if stop:
                raise StopAgreed

    def _train_batch(self, step: Step, inputs: tuple[Tensor, ...]) -> None:
        """Take one step with this rank's part of a batch."""
        state, sizes = self.state, batch_sizes(self.loader, self.state.step)
        state.distiller.batch_sizes = sizes if world_size() > 1 else None
        if is_trained_on(state.distiller, sizes):
            batch = Batch.of(inputs, sizes).padded()
            if state.records is not None:
                state.records.observe(batch, state.epoch * len(self.loader) + state.step)
            step(batch)
        state.step += 1
        if self.step_scheduler:
            state.scheduler.step()
