"""Distillation in a training loop of one's own: any method, any trainer, any two networks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .acceleration import accelerate, place
from .config import changes_refused_on_resume, hyper_parameters, load_arguments, solver_arguments, stream_options
from .distillers import create_distiller
from .distributed import broadcast_, sizes_of_ranks
from .errors import ConfigError, DivergedError, Note, listing
from .evaluate import eval_mode
from .models.adapter import Adapter
from .registry import DISTILLERS, TRAINERS
from .trainers import BaseTrainer
from .trainers.loaders import OwnLoop
from .trainers.nonfinite import is_finite
from .trainers.schedule import step_after_epoch

_FINITE_CHECK_STEPS = 50  # a check synchronises the device


class Distillation:
    """Distil a student, batch by batch, in a training loop of one's own::

        distillation = Distillation("DKD", student, teacher, trainer="deepkd", lr=0.05, beta=8.0, steps_per_epoch=len(loader))
        for images, labels in loader:
            losses = distillation.step(images, labels)

    A step runs both networks, computes the losses of the method, runs the trainer's backward passes and updates the student: on
    the same batches the weights are those of ``train.py``, bit for bit. Where ``torch.distributed`` is initialised (torchrun,
    Hugging Face's accelerate), gradients are summed over the ranks; give the networks themselves, not
    DistributedDataParallel.

    Args:
        method: name of a method, such as ``"DKD"``.
        student: the network to train, which stays on its device. Its forward pass returns logits ``[N, C]``, ``(logits,
            features by name)``, or a mapping or object with ``logits``.
        teacher: the network to learn from, likewise; it is frozen and moved to the student's device. None for a method without
            a teacher.
        trainer: name of a trainer: ``base``, ``dot``, ``deepkd``. Default: that of ``cfg``, or ``base``.
        steps_per_epoch: number of batches of an epoch, after which learning rate and losses proceed to the next one. 0 if the
            loop calls :meth:`end_epoch` itself.
        image_shape: ``(3, H, W)``. Optimizer and method are built from it. Default: that of the first batch, or of a loaded
            state; until then there is no ``optimizer``.
        train_labels: labels of the training set, int64 ``[images]``, for methods that need the positions of images in it (CRD).
        student_features, teacher_features: paths of the modules whose outputs are the ``feats`` of a network, as in
            ``named_modules()``. Default: those that it returns.
        param_groups: parameters of the student with a learning rate or weight decay of their own, as torch.optim takes them:
            ``[{"params": student.fc.parameters(), "lr": 0.5}]``.
        cfg: yaml file whose settings apply, of one of ``configs/`` for example.
        settings: arguments of the trainer (``lr``, ``epochs``, ``momentum``, ``weight_decay``, ``lr_scheduler``, ``amp``, ...)
            and of the method, over those of ``cfg``. Where both have one of a name, give the name of the setting:
            ``**{"SOLVER.DEEPKD.RULE": "official"}``.

    Attributes:
        student, teacher: the networks as given. Features are recorded by hooks that exist during a step only.
        optimizer: ComponentSGD; its ``param_groups`` may be changed as usual.
        scheduler: scheduler of the learning rate, stepped by :meth:`end_epoch` or, if it is ``onecycle``, by :meth:`step`.
        epoch: number of the current epoch, from 1.
        logits: the student's logits ``[N, C]`` of the last step, detached.

    Raises:
        UnknownNameError: unknown method, trainer or setting, with the nearest known name; a network has no module of that path.
        ConfigError: invalid values, combinations and networks.
    """

    def __init__(
        self,
        method: str,
        student: nn.Module,
        teacher: nn.Module | None = None,
        *,
        trainer: str | None = None,
        steps_per_epoch: int | None = None,
        image_shape: tuple[int, int, int] | None = None,
        train_labels: Tensor | None = None,
        student_features: Sequence[str] = (),
        teacher_features: Sequence[str] = (),
        param_groups: Sequence[Mapping[str, Any]] = (),
        cfg: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        _check_networks(student, teacher)
        self.student, self.teacher = student, teacher
        self.config = load_arguments(method, trainer, settings, cfg=cfg)
        if steps_per_epoch is not None and steps_per_epoch < 0:
            raise ConfigError(f"steps_per_epoch must be the number of batches of an epoch, or 0, not {steps_per_epoch}")
        self.steps_per_epoch = steps_per_epoch
        self.logits: Tensor | None = None
        self._param_groups = param_groups
        self._trainer: BaseTrainer | None = None
        learns_from = DISTILLERS.get(method).needs_teacher
        adapted_teacher = (
            Adapter(teacher, teacher_features, "teacher_features") if teacher is not None and learns_from else None
        )
        adapted = Adapter(student, student_features, "student_features")
        self._distiller = create_distiller(method, adapted, adapted_teacher, **hyper_parameters(self.config, method))
        self._distiller.train_labels = train_labels
        if image_shape is not None:
            self._build(image_shape)

    # ---- training -----------------------------------------------------------------------------------------------------

    def step(self, images: Tensor, labels: Tensor, index: Tensor | None = None) -> dict[str, Tensor]:
        """Update the student by a batch; of several ranks, each gives its own part of the batch.

        A student in eval mode is set to training mode. Of one in training mode, submodules in eval mode, such as frozen batch
        norms, stay so.

        Args:
            images: ``[N, 3, H, W]``, normalised; for a method of two views (MLKD, CRLD) ``[N, 2, 3, H, W]``, the weak view
                first. Moved to the student's device.
            labels: int64 ``[N]``.
            index: positions of the images in the training set, int64 ``[N]``, for methods that need them (CRD).

        Returns:
            The loss components by name, as scalars on the device; their sum is the loss.

        Raises ConfigError for a batch of another form, and after the last epoch; DivergedError for a loss or weights that are
        not finite, which is checked every 50 steps.
        """
        self._check_batch(images, labels, index)
        trainer = self._trainer or self._build((images.shape[-3], images.shape[-2], images.shape[-1]))
        distiller, state = self._distiller, trainer.state
        if state.epoch >= trainer.epochs:
            raise ConfigError(f"all {trainer.epochs} epochs are done; give more by epochs=...")
        self._check_classes(labels)
        if not self.student.training:
            self.student.train()
        inputs = [part.to(trainer.device, non_blocking=True) for part in (images, labels, index) if part is not None]
        distiller.batch_sizes = sizes_of_ranks(len(labels), trainer.device)
        self.logits, losses = trainer.train_step(*inputs)
        state.step += 1
        if state.step % _FINITE_CHECK_STEPS == 1:
            self._check_finite(losses)
        if trainer.scheduler_steps_each_batch:
            trainer.scheduler.step()
        if state.step == self.steps_per_epoch:
            self.end_epoch()
        return losses

    def end_epoch(self) -> None:
        """Proceed to the next epoch: learning rate, and losses that depend on the epoch. Every rank must call it.

        :meth:`step` does so after ``steps_per_epoch`` batches. On several ranks, buffers such as the statistics of batch norm
        become those of rank 0.
        """
        trainer = self._built()
        broadcast_(self._distiller.changing_buffers())
        if not trainer.scheduler_steps_each_batch:
            step_after_epoch(trainer.scheduler)
        trainer.state.epoch, trainer.state.step = trainer.state.epoch + 1, 0
        trainer.progress.set_epoch(min(self.epoch, trainer.epochs))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The student's logits ``[N, C]`` for images ``[N, 3, H, W]``, in eval mode; of SimKD's student by its new head."""
        with eval_mode(self._distiller.student):
            logits: Tensor = self._distiller.student(images.to(self._device))[0]
        return logits

    @property
    def epoch(self) -> int:
        """The current epoch, from 1."""
        return 1 if self._trainer is None else self._trainer.state.epoch + 1

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, which is there after the first step, or at once with ``image_shape``."""
        return self._built().optimizer

    @property
    def scheduler(self) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule of the learning rate, which is there as the optimizer is."""
        return self._built().scheduler

    # ---- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that training changes: student, layers of the method, optimizer, schedule, random generators; not the teacher.

        Plain values and tensors, as torch.save and ``torch.load(..., weights_only=True)`` take them. Every rank must call it.
        """
        trainer = self._built()
        loop = {"image_shape": tuple(trainer.train_loader.image_shape), "config": self.config.dump()}
        return trainer.state.state_dict() | {"loop": loop}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned, bit for bit; the batches are the loop's to repeat.

        Raises ConfigError for a state of other settings or of something else.
        """
        loop = state.get("loop")
        if not isinstance(loop, Mapping) or loop.keys() != {"image_shape", "config"}:
            raise ConfigError("not a state of Distillation: give what state_dict() returned")
        changed = changes_refused_on_resume(loop["config"], self.config)
        if changed:
            raise ConfigError(f"the state was saved with other settings: {listing(changed, '; ')}")
        trainer = self._trainer or self._build(tuple(loop["image_shape"]))
        trainer.state.load_state_dict(state)
        trainer.progress.set_epoch(min(self.epoch, trainer.epochs))

    # ---- building and checks --------------------------------------------------------------------------------------------

    @property
    def _device(self) -> torch.device:
        return next(self.student.parameters()).device

    def _built(self) -> BaseTrainer:
        if self._trainer is None:
            raise ConfigError("nothing is built before the first step; give image_shape=(3, H, W) to build it at once")
        return self._trainer

    def _build(self, image_shape: tuple[int, int, int]) -> BaseTrainer:
        config, distiller = self.config, self._distiller
        if self.steps_per_epoch is None:
            warnings.warn(
                "the learning rate and the losses stay as in epoch 1 until end_epoch() is called: give "
                "steps_per_epoch=len(loader), or steps_per_epoch=0 if the loop calls it",
                Note,
                stacklevel=3,
            )
        if config.SOLVER.LR_SCHEDULER == "onecycle" and not self.steps_per_epoch:
            raise ConfigError("lr_scheduler='onecycle' changes the learning rate each step: give steps_per_epoch=len(loader)")
        if distiller.needs_index and distiller.train_labels is None:
            raise ConfigError(f"{config.DISTILLER.TYPE} needs the labels of the training set: give train_labels=...")
        place(distiller, self._device, channels_last=config.SOLVER.CHANNELS_LAST)
        labels = distiller.train_labels if distiller.train_labels is None else distiller.train_labels.to(self._device)
        loop = OwnLoop(image_shape, self.steps_per_epoch or 0, labels)
        trainer: BaseTrainer = TRAINERS.get(config.SOLVER.TRAINER)(
            distiller,
            loop,
            loop,
            **solver_arguments(config) | {"cuda_graph": False},
            param_groups=self._param_groups,
            stream_options=stream_options(config, config.SOLVER.TRAINER),
        )
        for limit in accelerate(distiller, image_shape, fold_teacher=config.SOLVER.FOLD_TEACHER):
            warnings.warn(limit, Note, stacklevel=3)
        broadcast_([*distiller.learnable_parameters(), *distiller.changing_buffers()])
        given = {module for network in (self.student, self.teacher) if network is not None for module in network.modules()}
        for module in distiller.modules():  # the method's own, which were built in eval mode
            module.training = module.training if module in given else True
        self._trainer = trainer
        self._classes = self.predict(torch.zeros(1, *image_shape)).shape[1]
        return trainer

    def _check_batch(self, images: Tensor, labels: Tensor, index: Tensor | None) -> None:
        views, method = len(self._distiller.views), self.config.DISTILLER.TYPE
        if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
            kinds = f"{type(images).__name__} and {type(labels).__name__}"
            raise ConfigError(f"step(images, labels) takes tensors, not {kinds}")
        wanted = "[N, 3, H, W]" if views == 1 else f"[N, {views}, 3, H, W], the views {listing(self._distiller.views)}"
        if images.ndim != 4 + (views > 1) or (views > 1 and images.shape[1] != views) or not len(images):
            raise ConfigError(f"{method} takes images {wanted}, not {list(images.shape)}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            kind = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
            raise ConfigError(f"labels must be int64 [{len(images)}], one for each image, not {kind}")
        if (index is None) == self._distiller.needs_index:
            needs = "needs the positions of the images in the training set" if index is None else "takes no positions of images"
            raise ConfigError(f"{method} {needs}: step(images, labels{', index' if index is None else ''})")

    def _check_classes(self, labels: Tensor) -> None:
        # Of labels on a GPU it would synchronise the device, which reports them itself.
        if labels.device.type == "cpu" and not (labels.min() >= 0 and labels.max() < self._classes):
            found = f"{int(labels.min())} to {int(labels.max())}"
            raise ConfigError(f"labels must lie in 0..{self._classes - 1}, the student's classes, not {found}")

    def _check_finite(self, losses: Mapping[str, Tensor]) -> None:
        if not is_finite(torch.stack(list(losses.values())), self._distiller):
            values = ", ".join(f"{name} = {float(value):.4g}" for name, value in losses.items())
            raise DivergedError(
                f"the loss or a weight is not finite in epoch {self.epoch} ({values}): load an earlier state, and choose a "
                "lower lr or weight of the loss, or a longer warm-up"
            )


def _check_networks(student: nn.Module, teacher: nn.Module | None) -> None:
    for role, network in (("student", student), ("teacher", teacher)):
        if network is None and role == "teacher":
            continue
        if not isinstance(network, nn.Module):
            raise ConfigError(f"the {role} must be a torch.nn.Module, not {type(network).__name__}")
        if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
            raise ConfigError(
                f"the {role} is wrapped in {type(network).__name__}, which knows one backward pass a step: give its .module; "
                "gradients are summed over the ranks here"
            )
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ConfigError("the student has no parameter to train (requires_grad)")
    if teacher is student:
        raise ConfigError("student and teacher are the same module; freezing the teacher would freeze the student")
