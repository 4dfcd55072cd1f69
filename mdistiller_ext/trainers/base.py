"""The training loop: one loop, one step, for every trainer and every distiller.

A trainer answers two questions in :meth:`BaseTrainer.streams`: which roles of loss components form a stream of gradients,
and with what momentum. Everything else is here. It knows no concrete method and no configuration.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import AveragedModel, update_bn
from tqdm import tqdm

from .. import checkpoint
from ..distillers.base import ROLES, Distiller, Progress
from ..errors import ConfigError, TrainingError
from ..evaluate import evaluate
from ..logger import RunLogger
from ..meters import Averages, top_k_hits
from ..optim import ComponentSGD
from ..registry import DISTILLERS, TRAINERS, Registry, register_trainer
from .graph import GraphedStep


class Loader(Protocol):
    """What the loop needs of a data loader: whole batches on the training device, a pure function of the epoch."""

    batch_size: int

    @property
    def num_images(self) -> int: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def set_epoch(self, epoch: int) -> None: ...


@runtime_checkable
class Closing(Protocol):
    """A loader with worker processes to end."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Stream:
    """Loss components that share one momentum buffer.

    Attributes:
        roles: the components' roles; see Distiller.losses.
        decays: whether this stream takes the weight decay; the first one does where none is marked.
    """

    name: str
    roles: tuple[str, ...]
    momentum: float
    decays: bool = False


def merge_streams(streams: Sequence[Stream]) -> list[Stream]:
    """Join streams of equal momentum: a buffer is linear in its gradients, so their losses can share a backward pass."""
    merged: dict[float, Stream] = {}
    for stream in streams:
        other = merged.get(stream.momentum)
        if other is not None:
            stream = Stream(
                f"{other.name}+{stream.name}", other.roles + stream.roles, other.momentum, other.decays or stream.decays
            )
        merged[stream.momentum] = stream
    return list(merged.values())


def fitting_trainers(roles: set[str]) -> list[str]:
    """Names of the registered trainers that can train a method offering these roles."""
    return [name for name in TRAINERS if not _unmet(TRAINERS.get(name).streams(0.9), roles)]


def _unmet(streams: Sequence[Stream], roles: set[str]) -> bool:
    covered = {role for stream in streams for role in stream.roles}
    return not roles <= covered or any(roles.isdisjoint(stream.roles) for stream in streams)


def schedule(
    name: str,
    epochs: int,
    *,
    stages: Sequence[int],
    rate: float,
    final: float = 0.0,
    warmup_epochs: int = 0,
    warmup_factor: float = 0.1,
) -> Callable[[int], float]:
    """The learning rate as a multiple of the initial one, as a function of the number of completed epochs.

    ``step``: times ``rate`` after each of the epochs ``stages``. ``cosine``: half a cosine from 1 to ``final``, without
    warm-up as torch's CosineAnnealingLR, with warm-up as the DeepKD release: it starts in epoch ``warmup_epochs``, and the
    last epoch has ``final``. Until then both rise linearly, from ``warmup_factor`` in an epoch 0 that is never trained.
    Raises ConfigError.
    """
    if name not in ("step", "cosine"):
        raise ConfigError(f"unknown SOLVER.LR_SCHEDULER '{name}'. Known: step, cosine, onecycle")
    if warmup_epochs < 0:
        raise ConfigError(f"SOLVER.WARMUP_EPOCHS must not be negative, got {warmup_epochs}")

    def multiple(completed: int) -> float:
        epoch = completed + 1
        if epoch < warmup_epochs:
            return warmup_factor + (1 - warmup_factor) * epoch / warmup_epochs
        if name == "step":
            return float(rate ** sum(epoch > stage for stage in stages))
        fraction = completed / epochs
        if warmup_epochs:  # a short trial of a long recipe may end before
            fraction = (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1)
        return final + (1 - final) * (1 + math.cos(math.pi * fraction)) / 2

    return multiple


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
        weight_decay: L2 coefficient on all parameters, batch norm and biases included, as upstream.
        save_checkpoint_freq: keep ``epoch_<e>`` and ``student_<e>`` every so many epochs; 0 keeps none.
        folder: run folder for checkpoints; None keeps nothing.
        logger: where records go; None is silent.
        config: the run's configuration as text, kept in its checkpoints.
        amp: ``bf16`` runs the student's forward pass under autocast; losses, gradients and weights stay float32.
        cuda_graph: on a CUDA device, capture the step as one graph.
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
        amp: Literal["none", "bf16"] = "none",
        cuda_graph: bool = True,
        save_checkpoint_freq: int = 0,
        folder: Path | None = None,
        logger: RunLogger | None = None,
        config: str = "",
        merge: bool = True,
        stream_options: dict[str, Any] | None = None,
    ) -> None:
        if epochs < 1:
            raise ConfigError(f"SOLVER.EPOCHS must be at least 1, not {epochs}")
        self.distiller = distiller
        self.train_loader = train_loader
        self.test_loader = test_loader
        self.epochs = epochs
        self.save_checkpoint_freq = save_checkpoint_freq
        self.folder = folder
        self.logger = logger
        self.config = config

        separate = self.streams(momentum, **(stream_options or {}))
        self.check_roles(separate)
        self.active_streams = merge_streams(separate) if merge else separate
        try:
            self.optimizer = ComponentSGD(
                distiller.learnable_parameters(),
                lr,
                {stream.name: stream.momentum for stream in self.active_streams},
                weight_decay,
                decay_on=next((stream.name for stream in self.active_streams if stream.decays), None),
                partial_momentum=self.partial_momentum(momentum, **(stream_options or {})),
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
        self.graph_wanted = cuda_graph and self.device.type == "cuda"
        self.graph: GraphedStep | None = None
        self.progress = Progress(1, epochs, self.device)
        self.epoch = 0  # epochs completed
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.averages = Averages()
        self.average: AveragedModel | None = None
        self.teacher_top1: float | None = None

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
        for stream in self.active_streams:
            loss = torch.stack([value for name, value in losses.items() if name.split("/")[0] in stream.roles]).sum()
            loss.backward(retain_graph=stream is not self.active_streams[-1])
            self.optimizer.absorb(stream.name)
        self.optimizer.step()
        return student.logits.detach(), {name: value.detach() for name, value in losses.items()}

    def _counted_step(self, images: Tensor, labels: Tensor) -> None:
        """``train_step``, its losses and hits added to the epoch's: all that happens on the device for a batch."""
        logits, losses = self.train_step(images, labels)
        sums = {name: loss * len(labels) for name, loss in losses.items()}
        self.averages.add(sums | {"train_top1": top_k_hits(logits, labels, 1)})

    def _train_batch(self, images: Tensor, labels: Tensor) -> None:
        """One batch, in the quickest way there is."""
        if self.graph_wanted and self.averages.count and len(labels) == self.train_loader.batch_size:
            self._capture(images, labels)  # the step before has made all that it needs
        if self.graph is not None:
            self.optimizer.device_lr()
            self.graph(images, labels)
        else:
            self._counted_step(images, labels)
        self.averages.count += len(labels)
        if self.scheduler_steps_each_batch:
            self.scheduler.step()

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
        tensors = itertools.chain(self.distiller.named_parameters(), self.distiller.named_buffers())
        learned = [tensor for name, tensor in tensors if not name.startswith("teacher.")]
        momenta = [buffer for state in self.optimizer.state.values() for buffer in state["momentum_buffers"].values()]
        return [*learned, *momenta, *([] if self.averages.sums is None else [self.averages.sums])]

    # ---- the loop -------------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Train from the epoch after the last completed one to the end; returns the summary of the run.

        Raises TrainingError when the loss is not finite, or a checkpoint cannot be written.
        """
        if self.distiller.teacher is not None:
            # A teacher that loaded wrongly shows here, before hours of training.
            self.teacher_top1 = evaluate(self.distiller.teacher, self.test_loader)["top1"]
            self._note(f"teacher: {self.teacher_top1:.2f} % top-1")
        try:
            while self.epoch < self.epochs:
                self._run_epoch(self.epoch + 1)
        except (KeyboardInterrupt, TrainingError) as error:
            if isinstance(error, KeyboardInterrupt):
                self._note("stopped" + ("; --resume goes on from the last saved epoch" if self.history else ""))
            if self.logger is not None:
                with contextlib.suppress(TrainingError):  # a full disk, perhaps
                    self.logger.close(self.history)
            raise
        finally:
            for loader in (self.train_loader, self.test_loader):
                if isinstance(loader, Closing):
                    loader.close()
        return self._finish()

    def _run_epoch(self, epoch: int) -> None:
        started = time.perf_counter()
        row = self.train_epoch(epoch)
        test = evaluate(self.distiller.student, self.test_loader)
        row |= {"test_top1": test["top1"], "test_top5": test["top5"], "test_loss": test["loss"]}
        self._check_finite(row, epoch, len(self.train_loader))
        self.history.append(row)
        self.epoch = epoch
        self._average_student()
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self._save()
        if self.logger is not None:
            self.logger.epoch(self.history, self.epochs, self.train_loader.num_images / seconds)

    def _note(self, text: str) -> None:
        if self.logger is not None:
            self.logger.note(text)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch; returns its row of ``metrics.csv`` as far as training goes."""
        self.train_loader.set_epoch(epoch)
        self.progress.set_epoch(epoch)
        self.distiller.train()
        rate = self.optimizer.param_groups[0]["lr"]
        self.averages.reset()
        started = read_at = time.perf_counter()
        means: dict[str, float] = {}
        bar = tqdm(
            self.train_loader,
            desc=f"epoch {epoch}/{self.epochs}",
            leave=False,
            disable=None if self.logger is not None else True,  # None: off where the output is no terminal
        )
        for step, (images, labels) in enumerate(bar, start=1):
            self._train_batch(images, labels)
            now = time.perf_counter()
            if step == len(self.train_loader) or now - read_at > 2:  # reading synchronises with the device
                means, read_at = self.averages.read(), now
                self._check_finite(means, epoch, step)
                parts = {name: f"{value:.3f}" for name, value in means.items() if "/" in name}
                speed = self.averages.count / (now - started)
                bar.set_postfix(parts | {"top1": f"{means['train_top1']:.1f}", "img/s": f"{speed:.0f}"}, refresh=False)
        if not self.scheduler_steps_each_batch:
            self.scheduler.step()
        components = {name: value for name, value in means.items() if "/" in name}
        return {
            "epoch": epoch,
            "lr": float(rate),
            "train_top1": means["train_top1"],
            "train_loss": sum(components.values()),
            **components,
        }

    def _check_finite(self, means: dict[str, float], epoch: int, step: int) -> None:
        bad = [f"{name} = {value}" for name, value in means.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"the loss is not finite in epoch {epoch}, by step {step}: {', '.join(bad)}. "
                f"Checkpoints hold epoch {self.epoch}. Resuming would meet the same again: start a new run with a lower "
                "SOLVER.LR or loss weight, or a longer warm-up"
            )

    # ---- roles ----------------------------------------------------------------------------------------------------

    def check_roles(self, streams: Sequence[Stream]) -> None:
        """Raise ConfigError unless the method's components and the streams cover each other."""
        names = self.distiller.component_names(self.train_loader.image_shape)
        roles = {name.split("/")[0] for name in names}
        if not _unmet(streams, roles):
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
            "seconds": round(self.seconds, 1),
        }
        if self.average is not None:
            averaged = self.average.module
            self.train_loader.set_epoch(self.epochs)
            update_bn(self.train_loader, averaged)
            summary["average_top1"] = evaluate(averaged, self.test_loader)["top1"]
            summary["average_epochs"] = int(self.average.n_averaged)
            if self.folder is not None:
                checkpoint.save(self.folder / "student_average", {"model": averaged.state_dict()})
        if self.logger is not None:
            self.logger.finish(self.history, summary)
        return summary

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.folder is None:
            return
        state, student = self.state_dict(), {"model": self.distiller.student.state_dict()}
        top1 = [row["test_top1"] for row in self.history]
        names = [("student_latest", "latest")]  # `latest` last: a run killed between them repeats this epoch
        if top1[-1] > max(top1[:-1], default=-1.0):
            names.insert(0, ("student_best", "best"))
        if self.save_checkpoint_freq and self.epoch % self.save_checkpoint_freq == 0:
            names.insert(0, (f"student_{self.epoch}", f"epoch_{self.epoch}"))
        for student_name, name in names:
            checkpoint.save(self.folder / student_name, student)
            checkpoint.save(self.folder / name, state)

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs; never the teacher."""
        return {
            "epoch": self.epoch,  # also the position in the data: an epoch's batches follow from its number
            "student": self.distiller.student.state_dict(),
            "distiller": self.distiller.own_state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "rng": _rng_state(),
            "best": max((row["test_top1"] for row in self.history), default=None),
            "history": self.history,
            "seconds": self.seconds,
            "config": self.config,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` gave, in a trainer built from the same settings."""
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
        self.epoch = state["epoch"]
        self.history = state["history"]
        self.seconds = state["seconds"]
        _set_rng_state(state["rng"])


def _rng_state() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    name, keys, position, has_gauss, cached = numpy_state
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
    }


def _set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002


def _registered_name(registry: Registry, entry: type) -> str:
    return next((name for name in registry if registry.get(name) is entry), entry.__name__)


def _enumerate(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
