"""The training loop: one loop, one step, for every trainer and every distiller.

A trainer answers two questions in :meth:`BaseTrainer.streams`: which roles of loss components form a stream of gradients,
and with what momentum. Everything else is here. It knows no concrete method and no configuration.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import AveragedModel, update_bn
from tqdm import tqdm

from .. import checkpoint
from ..distillers.base import ROLES, Distiller, Progress
from ..distributed import (
    Agreement,
    GradientExchange,
    any_process,
    average_over_processes_,
    broadcast_,
    from_all,
    gather_rows,
    rank,
    shares,
    world_size,
)
from ..errors import ConfigError, DataWorkerError, Stopped, TrainingError
from ..evaluate import evaluate
from ..logger import RunLogger
from ..meters import Averages, top_k_hits
from ..optim import ComponentSGD
from ..registry import DISTILLERS, TRAINERS, Registry, register_trainer
from ..rng import generator_state, set_generator_state
from ..signals import StopWish, stop_wish
from .decay import decay_groups
from .graph import GraphedStep
from .schedule import schedule
from .streams import Stream, merge_streams, streams_fit

_SECONDS_BETWEEN_LOOKS = 2.0  # at the losses
_MOST_SKIPPED = 10  # batches in a row; after so many it is not the batches
_MOST_KEPT = 3  # of the batches whose loss was not finite: of ImageNet's each takes 100 MB and more


class Loader(Protocol):
    """What the loop needs of a data loader: its rows of each batch on the training device, a pure function of the epoch.

    ``batch_size`` and ``num_images`` are those of all processes.
    """

    batch_size: int

    @property
    def num_images(self) -> int: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None: ...


@runtime_checkable
class Closing(Protocol):
    """A loader with worker processes to end."""

    def close(self) -> None: ...


class _StopAgreed(Exception):
    """All processes know that one was asked to stop."""


class _NotFinite(Exception):
    """What was trained since the last look is not finite."""


def fitting_trainers(roles: set[str]) -> list[str]:
    """Names of the registered trainers that can train a method offering these roles."""
    return [name for name in TRAINERS if streams_fit(TRAINERS.get(name).streams(0.9), roles)]


@register_trainer("base")
class BaseTrainer:
    """SGD with one momentum for the whole loss.

    Args:
        distiller: student, teacher and method, on the training device.
        train_loader, test_loader: see Loader.
        epochs: number of epochs.
        lr: initial learning rate (``onecycle``: the highest).
        lr_scheduler: ``step``, ``cosine`` (to ``min_lr``) or ``onecycle`` (an update a step instead of an epoch).
        lr_decay_stages: ``step`` multiplies the rate by ``lr_decay_rate`` *after* each of these epochs.
        min_lr: where ``cosine`` ends.
        warmup_epochs: ``step`` and ``cosine`` rise linearly from ``warmup_factor * lr`` until this epoch; 0 is no warm-up.
        warmup_factor: see there.
        momentum: base momentum.
        weight_decay: L2 coefficient on all parameters, batch norm and biases included, as upstream, but for ``no_decay``.
        no_decay: kinds of parameters without weight decay: ``norm`` (weights and biases of normalisation layers), ``bias``.
        nesterov: Nesterov's momentum, in each stream.
        checkpoint_steps: save ``latest`` every so many steps too; 0 saves it at the end of an epoch.
        on_nan: what a batch does whose loss or gradient is not finite: ``stop`` the run, or be left out (``skip``).
        save_checkpoint_freq: keep ``epoch_<e>`` and ``student_<e>`` every so many epochs; 0 keeps none.
        folder: run folder for checkpoints, of the first process alone; None keeps nothing.
        logger: where records go, likewise; None is silent.
        config: the run's configuration as text, kept in its checkpoints.
        teacher_hash: of the teacher's file, kept there too.
        plugins: SHA-256 of each plug-in file by name, likewise.
        data: identity of the data set as plain values, kept there and in the student's files.
        amp: ``bf16`` runs the student's forward pass under autocast; losses, gradients and weights stay float32.
        cuda_graph: on a CUDA device and with one process, capture the step as one graph.
        merge: train streams of equal momentum as one: fewer backward passes, and the same result for parameters that all
            streams reach, or only one.
        stream_options: keyword arguments of :meth:`streams`.
    """

    def __init__(
        self,
        distiller: Distiller,
        train_loader: Loader,
        test_loader: Loader,
        *,
        epochs: int = 240,
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
        cuda_graph: bool = True,
        checkpoint_steps: int = 0,
        on_nan: Literal["stop", "skip"] = "stop",
        save_checkpoint_freq: int = 0,
        folder: Path | None = None,
        logger: RunLogger | None = None,
        config: str = "",
        teacher_hash: str | None = None,
        plugins: Mapping[str, str] | None = None,
        data: dict[str, Any] | None = None,
        merge: bool = True,
        stream_options: dict[str, Any] | None = None,
    ) -> None:
        if epochs < 1:
            raise ConfigError(f"SOLVER.EPOCHS must be at least 1, not {epochs}")
        if checkpoint_steps < 0:
            raise ConfigError(f"SOLVER.CHECKPOINT_STEPS must be 0 (each epoch alone) or more, not {checkpoint_steps}")
        if on_nan not in ("stop", "skip"):
            raise ConfigError(f"SOLVER.ON_NAN must be stop or skip, not '{on_nan}'")
        self.distiller = distiller
        self.train_loader = train_loader
        self.test_loader = test_loader
        self.epochs = epochs
        self.checkpoint_steps = checkpoint_steps
        self.on_nan = on_nan
        self.save_checkpoint_freq = save_checkpoint_freq
        self.folder = folder
        self.logger = logger
        self.config = config
        self.teacher_hash = teacher_hash
        self.plugins = dict(plugins or {})
        self.data = data

        separate = self.streams(momentum, **(stream_options or {}))
        components = distiller.component_names(train_loader.image_shape)
        self.check_roles(separate, components)
        self.active_streams = merge_streams(separate) if merge else separate
        decaying = next((stream for stream in self.active_streams if stream.decays), self.active_streams[0])
        try:
            self.optimizer = ComponentSGD(
                decay_groups(distiller, no_decay),
                lr,
                {stream.name: stream.momentum for stream in self.active_streams},
                weight_decay,
                decay_on=decaying.name,
                decay_moved=decaying.decay_moved,
                partial_momentum=self.partial_momentum(momentum, **(stream_options or {})),
                nesterov=nesterov,
            )
        except ValueError as error:
            raise ConfigError(f"SOLVER: {error}") from error
        self.scheduler_steps_each_batch = lr_scheduler == "onecycle"
        self.scheduler: schedulers.LambdaLR | schedulers.OneCycleLR
        if lr_scheduler == "onecycle":
            steps = len(train_loader)
            self.scheduler = schedulers.OneCycleLR(
                self.optimizer, lr, epochs=epochs, steps_per_epoch=steps, cycle_momentum=False
            )
        else:
            rule = schedule(
                lr_scheduler,
                epochs,
                stages=lr_decay_stages,
                rate=lr_decay_rate,
                final=min_lr / lr if lr else 0.0,
                warmup_epochs=warmup_epochs,
                warmup_factor=warmup_factor,
            )
            self.scheduler = schedulers.LambdaLR(self.optimizer, rule)

        if amp not in ("none", "bf16"):
            raise ConfigError(f"SOLVER.AMP must be none or bf16, not '{amp}'")
        distiller.autocast = torch.bfloat16 if amp == "bf16" else None
        self.device = next(distiller.parameters()).device
        self.cuda_graph = cuda_graph and self.device.type == "cuda" and world_size() == 1
        self.graph_wanted = self.cuda_graph
        self.graph: GraphedStep | None = None
        self.progress = Progress(1, epochs, self.device)
        self.epoch = 0  # epochs completed
        self.step = 0  # batches done of the next one
        self.rate = lr  # when that began
        self.averages = Averages([*components, "train_top1"], self.device)  # of its batches
        self.history: list[dict[str, float]] = []
        self.skipped = self.skipped_in_a_row = 0  # batches left out, as their loss was not finite
        self.seconds = 0.0  # before this process
        self.seconds_trained = 0.0  # until the last epoch's end
        self.started = time.perf_counter()
        self.average: AveragedModel | None = None
        self.teacher_top1: float | None = None
        self.stop = StopWish()
        self.agreement = Agreement()

    # ---- what a trainer decides -----------------------------------------------------------------------------------

    @staticmethod
    def streams(momentum: float) -> list[Stream]:
        """The streams of this trainer. Keyword-only arguments become settings ``SOLVER.<TRAINER>.<ARGUMENT>``."""
        return [Stream("all", ROLES, momentum, decays=True)]

    @classmethod
    def partial_momentum(cls, momentum: float, **stream_options: Any) -> float:
        """Momentum of a parameter that not every stream reaches: the mean over the streams, as in the DOT and DeepKD releases.

        Over the streams as declared: a parameter that a single one of them reaches moves the same whether they are merged.
        """
        streams = cls.streams(momentum, **stream_options)
        return sum(stream.momentum for stream in streams) / len(streams)

    # ---- the step -------------------------------------------------------------------------------------------------

    def train_step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One update of the student: a forward pass and a backward pass for each stream.

        Images ``[N, 3, H, W]``, labels ``[N]`` -> the student's logits ``[N, C]`` and the loss components.
        """
        try:
            student, losses = self.distiller(images, labels, self.progress)
        except ValueError as error:
            if len(labels) > 1 or "more than 1 value per channel" not in str(error):
                raise
            raise TrainingError(
                "a batch of a single image, the last of an epoch perhaps, is too small for this student's batch norm: "
                "choose another SOLVER.BATCH_SIZE"
            ) from error
        exchanges: list[GradientExchange] = []
        for stream in self.active_streams:
            loss = torch.stack([value for name, value in losses.items() if name.split("/")[0] in stream.roles]).sum()
            loss.backward(retain_graph=stream is not self.active_streams[-1])
            if world_size() == 1:
                self.optimizer.absorb(stream.name)
            else:  # under way during the next stream's backward pass
                share = self._own_rows(labels) / sum(self.distiller.shares or shares(world_size() * len(labels)))
                exchanges.append(GradientExchange(self.distiller.learnable_parameters(), share))
        for stream, exchange in zip(self.active_streams, exchanges, strict=False):  # there are none with one process
            exchange.wait()
            self.optimizer.absorb(stream.name)
        self.optimizer.step()
        return student.logits.detach(), {name: value.detach() for name, value in losses.items()}

    def _own_rows(self, labels: Tensor) -> int:
        """How many rows of a batch count here: none of the stand-in of a process that got none."""
        return self.distiller.shares[rank()] if self.distiller.shares else len(labels)

    def _counted_step(self, images: Tensor, labels: Tensor) -> None:
        """``train_step``, its losses and hits added to the epoch's: all that happens on the device for a batch."""
        self._add_to_averages(labels, *self.train_step(images, labels))

    def _add_to_averages(self, labels: Tensor, logits: Tensor, losses: dict[str, Tensor]) -> None:
        rows = self._own_rows(labels)
        if rows:  # zero times what is not finite is not zero
            sums = {name: loss * rows for name, loss in losses.items()}
            self.averages.add(sums | {"train_top1": top_k_hits(logits[:rows], labels[:rows], 1)})

    def _train_batch(self, images: Tensor, labels: Tensor, *, carefully: bool) -> None:
        """One batch, in the quickest way there is, or so that nothing is changed by one that is not finite."""
        if world_size() > 1:
            self.distiller.shares = self._local_batch_sizes(self.step)
            if not len(labels):  # a small last batch: this process takes part all the same, with an image that does not count
                images, labels = images.new_zeros(1, *images.shape[1:]), labels.new_zeros(1)
        if self._is_trained_on(self.step):
            step = self._try_batch if carefully else self._quick_step
            step(images, labels)
        self.step += 1
        if self.scheduler_steps_each_batch:
            self.scheduler.step()

    def _local_batch_sizes(self, step: int) -> list[int]:
        """Number of images of an epoch's batch ``step``, from 0, on each rank."""
        seen = step * self.train_loader.batch_size
        return shares(min(self.train_loader.batch_size, self.train_loader.num_images - seen))

    def _is_trained_on(self, step: int) -> bool:
        """Whether an epoch's batch ``step`` is trained on: SyncBatchNorm leaves out one with fewer images than ranks.

        The image that stands in on a rank without any would enter the statistics of the whole batch. An empty batch, which
        SyncBatchNorm allows, reaches no parameter on that rank, whose gradients the other ranks wait for.
        """
        return 0 not in self._local_batch_sizes(step) or not any(
            isinstance(module, nn.SyncBatchNorm) for module in self.distiller.modules()
        )

    def _quick_step(self, images: Tensor, labels: Tensor) -> None:
        if self.graph_wanted and self.averages.count and len(labels) == self.train_loader.batch_size:
            self._capture(images, labels)  # the step before has made all that it needs
        if self.graph is not None:
            self.optimizer.device_lr()
            self.graph(images, labels)
        else:
            self._counted_step(images, labels)
        self.averages.count += self._own_rows(labels)

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        """Make the step a CUDA graph, or say why it is none."""
        self.graph_wanted = False
        self.optimizer.device_lr()
        try:
            self.graph = GraphedStep(self._counted_step, images, labels, self._step_state())
        except RuntimeError as error:
            self.optimizer.device_lr(on=False)
            self._note(f"no CUDA graph: {(str(error) or type(error).__name__).splitlines()[0]}")

    def _step_state(self) -> list[Tensor]:
        """Every tensor that a step changes."""
        learned = [*self.distiller.learnable_parameters(), *self._buffers()]
        momenta = [buffer for state in self.optimizer.state.values() for buffer in state["momentum_buffers"].values()]
        return [*learned, *momenta, self.averages.sums]

    # ---- the loop -------------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Train from where the run is to its end; returns the summary of the run.

        On SIGTERM, SIGINT or SIGHUP the step in progress is ended, all is saved, and Stopped is raised. Raises TrainingError
        when the loss is not finite, or a checkpoint cannot be written.
        """
        self.started = time.perf_counter()
        with stop_wish() as self.stop:
            try:
                with contextlib.closing(self):
                    return self._train()
            except Stopped:
                any_process(False)  # the first one that ended would have torchrun end the others
                raise

    def close(self) -> None:
        """End dataloader workers and logging, and unlock the run folder. ``train`` does so itself, whatever it raises."""
        for loader in (self.train_loader, self.test_loader):
            if isinstance(loader, Closing):
                loader.close()
        if self.logger is not None:
            with contextlib.suppress(TrainingError):  # a full disk, perhaps, which the error under way says
                self.logger.close(self.history)

    def _train(self) -> dict[str, Any]:
        if self.step == 0:  # within an epoch every rank has buffers of its own
            broadcast_([*self.distiller.learnable_parameters(), *self._buffers()])
        try:
            if self.distiller.teacher is not None:
                # A teacher that loaded wrongly shows here, before hours of training; so does a copy for inference that is
                # wrong, as it is what training calls that is measured.
                self.teacher_top1 = self._evaluate(self.distiller.inference_network())["top1"]
                self._note(f"teacher: {self.teacher_top1:.2f} % top-1")
            while self.epoch < self.epochs:
                self.run_epoch(self.epoch + 1)
            return self._finish()
        except _StopAgreed:
            self._save_latest()
            where = f"after epoch {self.epoch}" if self.epoch else "before the first step"
            if self.step:
                where = f"in epoch {self.epoch + 1}, step {self.step} of {len(self.train_loader)}"
            raise Stopped(f"stopped {where}{', and saved: --resume goes on there' if self.folder else ''}") from None
        except DataWorkerError:
            if world_size() == 1:  # to save takes all ranks, and the others are at work
                self._save_latest()
            raise

    def run_epoch(self, epoch: int) -> None:
        """Train for one epoch, or the rest of it, test, record and save. Raises what :meth:`train` does."""
        started, first = time.perf_counter(), self.step
        row = self._train_epoch(epoch)
        broadcast_(self._buffers())  # DDP's rule, those of process 0; in between nothing reads them
        test = self._evaluate(self.distiller.student)
        row |= {"test_top1": test["top1"], "test_top5": test["top5"], "test_loss": test["loss"]}
        if not math.isfinite(test["loss"]):
            raise TrainingError(f"the loss is not finite in epoch {epoch}: test_loss = {test['loss']}. {self._advice()}")
        if not self.scheduler_steps_each_batch:
            with warnings.catch_warnings():  # a run stopped in its first evaluation had its steps in another process
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
                self.scheduler.step()
        self.history.append(row)
        self.epoch, self.step = epoch, 0
        self._average_student()
        self._save_epoch()
        if self.logger is not None:
            images = max(self.train_loader.num_images - first * self.train_loader.batch_size, 0)
            self.logger.epoch(self.history, self.epochs, images / (time.perf_counter() - started))

    def _note(self, text: str) -> None:
        if self.logger is not None:
            self.logger.note(text)

    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        return evaluate(model, self._until_stopped(self.test_loader))

    def _until_stopped(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of a pass that changes nothing, until a process is asked to stop."""
        for batch in batches:
            yield batch
            if self.agreement(self.stop.made, False)[0]:
                raise _StopAgreed

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch, or the rest of it; returns its row of ``metrics.csv`` as far as training goes."""
        self.progress.set_epoch(epoch)
        self.distiller.train()
        if self.step == 0:
            self.rate = float(self.optimizer.param_groups[0]["lr"])
            self.averages.reset()
        bar = tqdm(
            total=len(self.train_loader),
            desc=f"epoch {epoch}/{self.epochs}",
            leave=False,
            disable=None if self.logger is not None else True,  # None: off where the output is no terminal
        )
        with bar:
            good, suspected = self._snapshot(), 0
            while self.step < len(self.train_loader):
                try:
                    for _ in self._steps(epoch, suspected, bar):
                        good = self._snapshot()
                except _NotFinite:  # once more since then, batch by batch, until the one is found
                    suspected = self.step
                    self._restore(good)
                except DataWorkerError:
                    self._restore(good)  # the steps since then are not known to be finite
                    raise
        means = self.averages.read()
        components = {name: value for name, value in means.items() if "/" in name}
        return {
            "epoch": epoch,
            "lr": self.rate,
            "train_top1": means["train_top1"],
            "train_loss": sum(components.values()),
            **components,
        }

    def _steps(self, epoch: int, suspected: int, bar: Any) -> Iterator[None]:
        """The rest of an epoch; yields now and then, when all that was done is known to be finite.

        Args:
            suspected: until this step batches are tried one by one.
        """
        self.train_loader.set_epoch(epoch, self.step)
        first, started = self.step, time.perf_counter()
        looked = started
        for images, labels in self.train_loader:
            self._train_batch(images, labels, carefully=self.step < suspected)
            last = self.step == len(self.train_loader)
            save = self.checkpoint_steps > 0 and self.step % self.checkpoint_steps == 0 and not last
            # Looking synchronises with the device. One process's clock decides for all.
            stop, time_to_look = self.agreement(self.stop.made, time.perf_counter() - looked > _SECONDS_BETWEEN_LOOKS)
            if not (stop or time_to_look or save or last or self.step == suspected):
                continue
            means, looked = self.averages.read(), time.perf_counter()
            if not self._is_finite(self.averages.sums):
                raise _NotFinite
            if self.step > suspected:  # with a good batch, or more, that nobody tried one by one
                self.skipped_in_a_row = 0
            yield
            parts = {name: f"{value:.3f}" for name, value in means.items() if "/" in name}
            speed = (self.step - first) * self.train_loader.batch_size / (looked - started)
            bar.set_postfix(parts | {"top1": f"{means['train_top1']:.1f}", "img/s": f"{speed:.0f}"}, refresh=False)
            bar.update(self.step - bar.n)
            if save:
                self._save_latest()
            if stop:
                raise _StopAgreed

    # ---- what is not finite ---------------------------------------------------------------------------------------

    def _is_finite(self, values: Tensor) -> bool:
        """Whether these and all weights are, in every process. Synchronises with the device, and the processes."""
        largest = torch._foreach_norm([p.detach() for p in self.distiller.learnable_parameters()], math.inf)
        finite = values.isfinite().all() & torch.stack(largest).isfinite().all()
        return not any_process(not finite)

    def _try_batch(self, images: Tensor, labels: Tensor) -> None:
        """A step that leaves no trace unless its losses and the weights after it are finite."""
        before = self._snapshot()
        logits, losses = self.train_step(images, labels)
        rows = self._own_rows(labels)
        values = torch.stack(list(losses.values())) if rows else self.averages.sums
        if self._is_finite(values):
            self._add_to_averages(labels, logits, losses)
            self.averages.count += rows
            self.skipped_in_a_row = 0
            return
        self._restore(before)
        everywhere = from_all({name: float(value) for name, value in losses.items()} if rows else {})
        bad = {f"{name} = {value}" for values in everywhere for name, value in values.items() if not math.isfinite(value)}
        text = (
            f"the loss is not finite in epoch {self.epoch + 1}, step {self.step + 1}: "
            f"{', '.join(sorted(bad)) or 'its gradient'}{self._keep_batch(images, labels, everywhere)}"
        )
        if self.on_nan == "stop":
            self._save_latest()  # from here one may go on
            raise TrainingError(f"{text}. {self._advice()}, or go on with SOLVER.ON_NAN skip")
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row == _MOST_SKIPPED:
            raise TrainingError(f"{text}, as in {_MOST_SKIPPED} batches in a row. {self._advice()}")
        self._note(f"{text}; the batch is left out")

    def _advice(self) -> str:
        return (
            f"Checkpoints hold epoch {self.epoch}. Resuming would meet the same again: start a new run with a lower "
            "SOLVER.LR or loss weight, or a longer warm-up"
        )

    def _keep_batch(self, images: Tensor, labels: Tensor, components: list[dict[str, float]]) -> str:
        """Save a batch and the student that met it, for a look; where, as the end of a sentence."""
        sizes = self.distiller.shares or [len(labels)]
        state = {
            "epoch": self.epoch + 1,
            "step": self.step + 1,
            "components": components,  # of each process
            "images": gather_rows(images, sizes),
            "labels": gather_rows(labels, sizes),
            "student": self.distiller.student.state_dict(),
        }
        if self.folder is None or self.skipped >= _MOST_KEPT:
            return ""
        file = self.folder / f"not_finite_{state['epoch']}_{state['step']}"
        checkpoint.save(file, state)
        return f" (batch and student are kept in {file})"

    # ---- roles ----------------------------------------------------------------------------------------------------

    def check_roles(self, streams: Sequence[Stream], components: Sequence[str]) -> None:
        """Raise ConfigError unless the method's components and the streams cover each other."""
        roles = {name.split("/")[0] for name in components}
        if streams_fit(streams, roles):
            return
        trainer, method = _registered_name(TRAINERS, type(self)), _registered_name(DISTILLERS, type(self.distiller))
        fitting = " or ".join(f"'{name}'" for name in fitting_trainers(roles))
        raise ConfigError(
            f"trainer '{trainer}' needs {_enumerate(['/'.join(s.roles) for s in streams])}; "
            f"{method} offers {_enumerate([role for role in ROLES if role in roles])}. Use {fitting}."
        )

    # ---- average, summary -----------------------------------------------------------------------------------------

    def _average_student(self) -> None:
        """Take the student into the average of the last ``distiller.average_last`` epochs."""
        if self.epoch > self.epochs - self.distiller.average_last:
            if self.average is None:
                self.average = AveragedModel(self.distiller.student)
            self.average.update_parameters(self.distiller.student)

    def _finish(self) -> dict[str, Any]:
        best = max(self.history, key=lambda row: row["test_top1"])  # the first of equals
        summary: dict[str, Any] = {
            "teacher_top1": self.teacher_top1,
            "best_top1": best["test_top1"],  # chosen on the test set, as upstream reports it
            "best_epoch": int(best["epoch"]),
            "last_top1": self.history[-1]["test_top1"],
            "last_top5": self.history[-1]["test_top5"],
            "epochs": self.epochs,
            "seconds": round(self.seconds_trained, 1),
            "processes": world_size(),
        }
        if self.skipped:
            summary["skipped_batches"] = self.skipped
        if self.average is not None:
            averaged = copy.deepcopy(self.average.module)  # a run stopped in what follows saves the average as it is
            self.train_loader.set_epoch(self.epochs)
            batches = enumerate(self._until_stopped(self.train_loader))
            update_bn((batch for step, batch in batches if len(batch[1]) and self._is_trained_on(step)), averaged)
            average_over_processes_(averaged.buffers())
            summary["average_top1"] = self._evaluate(averaged)["top1"]
            summary["average_epochs"] = int(self.average.n_averaged)
            if self.folder is not None:
                checkpoint.save(self.folder / "student_average", {"model": averaged.state_dict(), "data": self.data})
        if self.logger is not None:
            self.logger.finish(self.history, summary)
        return summary

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def _save_epoch(self) -> None:
        """Save the end of an epoch. ``latest`` comes last: a run killed before that repeats the epoch."""
        state, student = self.state_dict(), {"model": self.distiller.student.state_dict(), "data": self.data}
        self.seconds_trained = state["seconds"]
        if self.folder is None:
            return
        top1 = [row["test_top1"] for row in self.history]
        kept: list[tuple[str, str | None]] = [("student_latest", None)]
        if top1[-1] > max(top1[:-1], default=-1.0):
            kept.append(("student_best", "best"))
        if self.save_checkpoint_freq and self.epoch % self.save_checkpoint_freq == 0:
            kept.append((f"student_{self.epoch}", f"epoch_{self.epoch}"))
        for student_name, name in kept:
            checkpoint.save(self.folder / student_name, student)
            if name is not None:
                checkpoint.save(self.folder / name, state)
        self._save_latest(state)

    def _save_latest(self, state: dict[str, Any] | None = None) -> None:
        state = state or self.state_dict()
        if self.folder is not None:
            checkpoint.save(self.folder / "latest", state, previous=self.folder / "previous")

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs, of every process, so that all must call it; never the teacher."""
        own = self._own_state()
        return own | {
            "rng": from_all(own["rng"]),
            "averages": from_all(own["averages"]),
            # Batch norm's statistics and a method's own buffers differ between ranks until the end of an epoch.
            "buffers": from_all([b.cpu() for b in self._buffers()]) if self.step and world_size() > 1 else None,
            "best": max((row["test_top1"] for row in self.history), default=None),
            "seconds": self._elapsed(),
            "config": self.config,
            "teacher_hash": self.teacher_hash,
            "plugins": self.plugins,
            "data": self.data,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` gave, in a trainer built from the same settings."""
        own = {key: state[key][rank()] if rank() < len(state[key]) else self._own_state()[key] for key in ("rng", "averages")}
        self._restore(state | own)
        buffers = state.get("buffers") or []  # earlier versions saved those of rank 0 alone
        if rank() < len(buffers):
            for buffer, saved in zip(self._buffers(), buffers[rank()], strict=True):
                buffer.copy_(saved)
        if len(state["rng"]) != world_size():  # fewer processes, or more, which keep generators of their own
            sums, counts = zip(*state["averages"], strict=True)
            self.averages.reset()
            if rank() == 0:
                self.averages.sums.add_(torch.stack(sums).sum(dim=0))
                self.averages.count = sum(counts)
        self.seconds = self.seconds_trained = state["seconds"]
        self.plugins = (state.get("plugins") or {}) | self.plugins

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.started

    def _own_state(self) -> dict[str, Any]:
        """All that this process's steps change: the tensors themselves, not copies."""
        return {
            "epoch": self.epoch,  # with the step also the position in the data, which follow from an epoch's number
            "step": self.step,
            "rate": self.rate,
            "averages": (self.averages.sums.cpu(), self.averages.count),
            "skipped": self.skipped,
            "student": self.distiller.student.state_dict(),
            "distiller": self.distiller.own_state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "rng": generator_state(),
            "history": self.history,
        }

    def _snapshot(self) -> dict[str, Any]:
        return copy.deepcopy(self._own_state())

    def _restore(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)  # optimizer, scheduler and history keep what they are given, and later steps change it
        self.distiller.student.load_state_dict(state["student"])
        self.distiller.load_own_state_dict(state["distiller"])
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ConfigError(f"the checkpoint's optimizer does not fit: {error}") from error
        self.scheduler.load_state_dict(state["scheduler"])
        if state["average"] is not None:
            self.average = AveragedModel(self.distiller.student)
            self.average.load_state_dict(state["average"])
        self.epoch, self.step, self.rate = state["epoch"], state["step"], state["rate"]
        self.skipped = state["skipped"]
        self.history = state["history"]
        sums, self.averages.count = state["averages"]
        self.averages.sums.copy_(sums)
        self.graph, self.graph_wanted = None, self.cuda_graph  # a captured step knows the old momenta
        self.optimizer.device_lr(on=False)
        set_generator_state(state["rng"])

    def _buffers(self) -> list[Tensor]:
        """Buffers of all that learns, batch norm's statistics among them."""
        return [buffer for name, buffer in self.distiller.named_buffers() if not name.startswith("teacher.")]


def _registered_name(registry: Registry, entry: type) -> str:
    return next((name for name in registry if registry.get(name) is entry), entry.__name__)


def _enumerate(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
