"""BaseTrainer: settings, epochs and summary of every trainer and every method.

A trainer defines :meth:`BaseTrainer.streams`: which roles of loss components share a momentum buffer, and its coefficient. The
epoch, the step, the state, the policy for losses that are not finite and the records are modules of their own.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ..distillers.base import ROLES, Distiller
from ..distillers.progress import Progress
from ..distributed import AsyncAnyReduce, barrier, broadcast_, world_size
from ..errors import ConfigError, DataWorkerError, DivergedError, Stopped
from ..evaluate import evaluate
from ..meters import Averages
from ..registry import register_trainer
from ..settings import Plumbing, Setting
from .averaging import averaged_student, trained_images, update_average
from .cuda_graph import CapturedStep
from .epoch import EpochLoop, StopAgreed
from .gradient_records import GradientRecords
from .loaders import Closing, Loader
from .nonfinite import CheckedStep, OnNonFinite, advice
from .optimizer import create_optimizer
from .recorder import Recorder
from .schedule import create_scheduler, step_after_epoch
from .shutdown import ShutdownRequest, shutdown_request
from .state import Row, TrainState
from .step import PlainStep, Step, update
from .streams import Stream, check_roles, merge_streams


@register_trainer("base")
class BaseTrainer:
    """SGD with one momentum for the whole loss.

    Args:
        distiller: student, teacher and method, on the training device.
        train_loader, test_loader: see Loader.
        epochs: number of epochs.
        lr: initial learning rate (``onecycle``: the highest).
        lr_scheduler: ``step``, ``cosine`` (to ``min_lr``) or ``onecycle`` (updated every step instead of every epoch).
        lr_decay_stages: ``step`` multiplies the rate by ``lr_decay_rate`` *after* each of these epochs.
        min_lr: final rate of ``cosine``.
        warmup_epochs, warmup_factor: ``step`` and ``cosine`` rise linearly from ``warmup_factor * lr`` until this epoch.
        momentum: base momentum.
        weight_decay: L2 coefficient on all parameters, batch norm and biases included, as upstream, but for ``no_decay``.
        no_decay: kinds of parameters without weight decay: ``norm`` (weights and biases of normalisation layers), ``bias``.
        nesterov: Nesterov's momentum, in each stream.
        amp: ``bf16`` runs the student's forward pass under autocast; losses, gradients and weights stay float32.
        cuda_graph: on a CUDA device and a single rank, capture the step as a CUDA graph.
        checkpoint_steps: save ``latest`` every so many steps too; 0 saves it at the end of an epoch.
        record, record_every, record_window: statistics of gradients (``gsnr``, ``conflict``); see GradientRecords.
        on_nan: ``stop`` the run at a loss or gradient that is not finite, or ``skip`` the batch.
        save_checkpoint_freq: keep ``epoch_<e>`` and ``student_<e>`` every so many epochs; 0 keeps none.
        merge: train streams of equal momentum as one, in fewer backward passes; see merge_streams.
        param_groups: parameters with a ``lr`` or ``weight_decay`` of their own, as torch.optim takes them.
        stream_options: keyword arguments of :meth:`streams`.

    Attributes:
        state: what training changes; see TrainState.
        recorder: where checkpoints and records go; nowhere by default.
    """

    def __init__(
        self,
        distiller: Distiller,
        train_loader: Loader,
        test_loader: Loader,
        *,
        epochs: Annotated[int, Setting(least=1)] = 240,
        lr: float = 0.05,
        lr_scheduler: Literal["step", "cosine", "onecycle"] = "step",
        lr_decay_stages: Sequence[int] = (150, 180, 210),
        lr_decay_rate: float = 0.1,
        min_lr: float = 0.0,
        warmup_epochs: int = 0,
        warmup_factor: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0001,
        no_decay: Sequence[str] = (),
        nesterov: bool = False,
        amp: Literal["none", "bf16"] = "none",
        cuda_graph: Annotated[bool, Setting(recipe=False)] = True,
        checkpoint_steps: Annotated[int, Setting(may_change=True, recipe=False)] = 0,
        record: Annotated[Sequence[str], Setting(recipe=False)] = (),
        record_every: Annotated[int, Setting(recipe=False, least=1)] = 20,
        record_window: Annotated[int, Setting(recipe=False, least=2)] = 25,
        on_nan: Annotated[OnNonFinite, Setting(may_change=True, recipe=False)] = "stop",
        save_checkpoint_freq: Plumbing[int] = 0,
        merge: Plumbing[bool] = True,
        param_groups: Sequence[Mapping[str, Any]] = (),
        stream_options: dict[str, Any] | None = None,
    ) -> None:
        if amp not in ("none", "bf16"):
            raise ConfigError(f"SOLVER.AMP must be none or bf16, not '{amp}'")
        self.distiller = distiller
        self.train_loader = train_loader
        self.test_loader = test_loader
        self.epochs = epochs
        self.on_nan: OnNonFinite = on_nan
        self.save_checkpoint_freq = save_checkpoint_freq

        options = stream_options or {}
        separate = self.streams(momentum, **options)
        if distiller.needs_index:
            distiller.train_labels = train_loader.labels
        components = distiller.component_names(train_loader.image_shape)
        check_roles(type(self), type(distiller), separate, components)
        self.active_streams = merge_streams(separate) if merge else separate
        self.optimizer = create_optimizer(
            distiller,
            self.active_streams,
            lr=lr,
            weight_decay=weight_decay,
            no_decay=no_decay,
            partial_momentum=self.partial_momentum(momentum, **options),
            nesterov=nesterov,
            own_groups=param_groups,
        )
        self.scheduler_steps_each_batch = lr_scheduler == "onecycle"
        self.scheduler = create_scheduler(
            self.optimizer,
            lr_scheduler,
            lr=lr,
            epochs=epochs,
            steps=len(train_loader) if self.scheduler_steps_each_batch else 0,
            stages=lr_decay_stages,
            rate=lr_decay_rate,
            min_lr=min_lr,
            warmup_epochs=warmup_epochs,
            warmup_factor=warmup_factor,
        )
        distiller.autocast = torch.bfloat16 if amp == "bf16" else None
        self.device = next(distiller.parameters()).device
        self.progress = Progress(1, epochs, self.device)
        averages = Averages([*components, "train_top1"], self.device)
        self.state = TrainState(distiller, self.optimizer, self.scheduler, averages, lr)
        if record:
            self.state.records = GradientRecords(
                distiller,
                self.progress,
                record,
                streams=separate,
                components=components,
                every=record_every,
                window=record_window,
            )
        self.epoch_loop = EpochLoop(
            train_loader,
            self.state,
            self.progress,
            epochs=epochs,
            checkpoint_steps=checkpoint_steps,
            step_scheduler=self.scheduler_steps_each_batch,
        )
        self.plain_step = PlainStep(lambda *inputs: self.train_step(*inputs), averages)
        self.captures = cuda_graph and self.device.type == "cuda" and world_size() == 1 and distiller.can_be_captured
        self.record_to(Recorder())
        self.shutdown = ShutdownRequest()
        self._any_rank = AsyncAnyReduce()

    # ---- overridden by trainers -----------------------------------------------------------------------------------

    @staticmethod
    def streams(momentum: float) -> list[Stream]:
        """The streams of this trainer. Keyword-only arguments become settings ``SOLVER.<TRAINER>.<ARGUMENT>``."""
        return [Stream("all", ROLES, momentum, decays=True)]

    @classmethod
    def partial_momentum(cls, momentum: float, **stream_options: Any) -> float:
        """Momentum of a parameter that not every stream reaches: the mean over the streams, as in the DOT and DeepKD releases.

        Over the streams before merging, so that merging does not change the update of such a parameter.
        """
        streams = cls.streams(momentum, **stream_options)
        return sum(stream.momentum for stream in streams) / len(streams)

    @property
    def history(self) -> list[Row]:
        """A row for each completed epoch, as in ``metrics.csv``."""
        return self.state.history

    # ---- the loop -------------------------------------------------------------------------------------------------

    def record_to(self, recorder: Recorder) -> None:
        """Send checkpoints and records to ``recorder`` from now on."""
        self.recorder = recorder
        self.checked_step = CheckedStep(self.plain_step, self.state, recorder, self.on_nan)
        self.fast_step: Step = self.plain_step
        if self.captures:
            self.fast_step = CapturedStep(self.plain_step, self.state, self.train_loader.batch_size, recorder.note)

    def train_step(self, images: Tensor, labels: Tensor, *others: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Update the student by a batch, ``others`` being index and teacher's logits (see Batch); usable in one's own loops.

        Returns the student's logits ``[N, C]`` and the loss components.
        """
        return update(self.distiller, self.optimizer, self.active_streams, self.progress, images, labels, *others)

    def train(self) -> dict[str, Any]:
        """Train from the current state to the last epoch; returns the summary of the run.

        On SIGTERM, SIGINT or SIGHUP the step in progress is ended, all is saved, and Stopped is raised. Raises DivergedError
        when the loss is not finite, TrainingError when a checkpoint cannot be written.
        """
        self.state.start_clock(self.state.epoch_seconds)
        with shutdown_request() as self.shutdown:
            try:
                with contextlib.closing(self):
                    return self._train()
            except Stopped:
                barrier()  # torchrun would end the other ranks when the first one has ended
                raise

    def close(self) -> None:
        """End dataloader workers and close the records. ``train`` does so itself, whatever it raises."""
        for loader in (self.train_loader, self.test_loader):
            if isinstance(loader, Closing):
                loader.close()
        self.recorder.close()

    def _train(self) -> dict[str, Any]:
        state, teacher_top1 = self.state, None
        if state.step == 0:  # within an epoch every rank has buffers of its own
            broadcast_([*self.distiller.learnable_parameters(), *self.distiller.changing_buffers()])
        try:
            if self.distiller.teacher is not None:
                # A wrongly loaded teacher is seen here, before hours of training; so is a wrong copy for inference, as the
                # network that training calls is the one that is measured.
                teacher_top1 = self._evaluate(self.distiller.inference_network())["top1"]
                self.recorder.note(f"teacher: {teacher_top1:.2f} % top-1")
            while state.epoch < self.epochs:
                self.run_epoch()
            summary = self._summary(teacher_top1)
        except (StopAgreed, DataWorkerError) as error:
            if isinstance(error, DataWorkerError) and world_size() > 1:
                raise  # saving takes all ranks, and the others are still training
            self.recorder.save_latest(state.state_dict())
            if isinstance(error, DataWorkerError) and not self.shutdown.made:  # the signal may have gone to the workers too
                raise
            resume = ", and saved: --resume goes on there" if self.recorder.saves else ""
            raise Stopped(f"stopped {state.position(len(self.train_loader))}{resume}") from None
        self.recorder.finish(state.history, summary)
        return summary

    def run_epoch(self) -> None:
        """Train for one epoch, or the rest of it, then test, record and save. Raises what :meth:`train` does."""
        state, epoch, started = self.state, self.state.epoch + 1, time.perf_counter()
        images = max(self.train_loader.num_images - state.step * self.train_loader.batch_size, 0)
        with state.cost.measure("train", images):
            row = self.epoch_loop.run(self.fast_step, self.checked_step, self.recorder, self._poll)
        broadcast_(self.distiller.changing_buffers())  # those of rank 0, as DDP does; nothing reads them in between
        with state.cost.measure("test", self.test_loader.num_images):
            test = self._evaluate(self.distiller.student)
        row |= {"test_top1": test["top1"], "test_top5": test["top5"], "test_loss": test["loss"]}
        if not math.isfinite(test["loss"]):
            raise DivergedError(f"the loss is not finite in epoch {epoch}: test_loss = {test['loss']}. {advice(state.epoch)}")
        if not self.scheduler_steps_each_batch:
            step_after_epoch(self.scheduler)
        best = state.end_epoch(row)
        update_average(state, self.epochs)
        keep = self.save_checkpoint_freq > 0 and epoch % self.save_checkpoint_freq == 0
        self.recorder.save_epoch(state.state_dict(), best=best, keep=keep)
        self.recorder.epoch(state.history, self.epochs, images / (time.perf_counter() - started))

    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        return evaluate(model, self._until_stopped(self.test_loader))

    def _until_stopped(self, batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
        """Batches of a pass that changes nothing, until a rank is asked to stop."""
        for batch in batches:
            yield batch
            if self._poll(False)[0]:
                raise StopAgreed

    def _poll(self, flag: bool) -> list[bool]:
        """Whether any rank was asked to stop, and whether any rank's flag was set, as of the call before."""
        return self._any_rank(self.shutdown.made, flag)

    def _summary(self, teacher_top1: float | None) -> dict[str, Any]:
        """Summary of a completed run; the average of the last students, where there is one, is evaluated and saved."""
        state = self.state
        summary = {"teacher_top1": teacher_top1} | state.summary()
        if state.average is not None:
            self.train_loader.set_epoch(self.epochs)
            batches = self._until_stopped(self.train_loader)
            averaged = averaged_student(state.average, trained_images(self.distiller, self.train_loader, batches))
            summary["average_top1"] = self._evaluate(averaged)["top1"]
            summary["average_epochs"] = int(state.average.n_averaged)
            self.recorder.save_average(averaged.state_dict())
        return summary
