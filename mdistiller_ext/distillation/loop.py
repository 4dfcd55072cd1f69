"""Distillation, batch by batch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..acceleration import accelerate, place
from ..config import changes_refused_on_resume, hyper_parameters, load_arguments, solver_arguments, stream_options
from ..distillers import create_distiller
from ..distributed import broadcast_, sizes_of_ranks
from ..errors import ConfigError, DivergedError, Note, listing
from ..evaluate import eval_mode
from ..models.adapter import Adapter
from ..registry import DISTILLERS, TRAINERS
from ..trainers import BaseTrainer
from ..trainers.loaders import OwnLoop
from ..trainers.nonfinite import is_finite
from ..trainers.schedule import step_after_epoch
from .checks import check_arguments, check_batch, check_networks, check_range, check_state

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
            and of the method, over those of ``cfg``. ``lr_scheduler=None`` leaves the learning rates to the loop. Where both
            have an argument of one name, give the name of the setting: ``**{"SOLVER.DEEPKD.RULE": "official"}``.

    Attributes:
        student, teacher: the networks as given. Features are recorded by hooks that exist during a step only.
        optimizer: ComponentSGD. Learning rates that are changed by hand, or by a scheduler of the loop's own, need
            ``lr_scheduler=None``: the scheduler below sets them anew after each epoch.
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
        check_networks(student, teacher)
        check_arguments(steps_per_epoch, image_shape, train_labels)
        self.student, self.teacher = student, teacher
        self._own_schedule = settings.get("lr_scheduler", "") is None
        if self._own_schedule:  # a constant rate, whatever ``cfg`` says
            del settings["lr_scheduler"]
            settings |= {"SOLVER.LR_SCHEDULER": "step", "SOLVER.WARMUP_EPOCHS": 0}
        self.config = load_arguments(method, trainer, settings, cfg=cfg)
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
        check_batch(self._distiller, self.config.DISTILLER.TYPE, images, labels, index)
        trainer = self._trainer or self._build((images.shape[-3], images.shape[-2], images.shape[-1]))
        distiller, state = self._distiller, trainer.state
        if state.epoch >= trainer.epochs:
            raise ConfigError(f"all {trainer.epochs} epochs are done; give more by epochs=...")
        check_range(labels, self._classes, "labels", "the student's classes")
        if not self.student.training:
            self.student.train()
        if self.teacher is not None and self.teacher.training and distiller.teacher is not None:  # by a module that holds both
            distiller.teacher.eval()
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
        if not trainer.scheduler_steps_each_batch and not self._own_schedule:
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
        """The schedule of the learning rate, which is there as the optimizer is; not with ``lr_scheduler=None``."""
        if self._own_schedule:
            raise ConfigError("lr_scheduler=None: the schedule is the loop's own")
        return self._built().scheduler

    # ---- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that training changes: student, layers of the method, optimizer, schedule, random generators; not the teacher.

        Plain values and tensors, as torch.save and ``torch.load(..., weights_only=True)`` take them. Every rank must call it.
        """
        trainer = self._built()
        return trainer.state.state_dict() | {"loop": self._loop(trainer.train_loader.image_shape)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned, bit for bit; the batches are the loop's to repeat.

        Raises ConfigError for a state of other settings or of something else.
        """
        loop = state.get("loop") if isinstance(state, Mapping) else None
        if not isinstance(loop, Mapping) or loop.keys() != self._loop(()).keys():
            raise ConfigError("not a state of Distillation: give what state_dict() returned")
        changed = changes_refused_on_resume(loop["config"], self.config)
        changed += [f"{name}: {loop[name]} -> {now}" for name, now in self._fixed(state).items() if loop[name] != now]
        if changed:
            raise ConfigError(f"the state was saved with other settings: {listing(changed, '; ')}")
        trainer = self._trainer or self._build(tuple(loop["image_shape"]))
        check_state(state, trainer)
        trainer.state.load_state_dict(state)
        trainer.progress.set_epoch(min(self.epoch, trainer.epochs))

    def _loop(self, image_shape: Sequence[int]) -> dict[str, Any]:
        """What a state says of the loop that it was saved in."""
        about = {"steps_per_epoch": self.steps_per_epoch or 0, "own_schedule": self._own_schedule}
        return about | {"image_shape": tuple(image_shape), "config": self.config.dump()}

    def _fixed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """What may not differ from the loop of a state; the steps of an epoch may, at its end and but for ``onecycle``."""
        fixed = self._loop(())
        inside = state["step"] or self.config.SOLVER.LR_SCHEDULER == "onecycle"
        return {name: fixed[name] for name in ("own_schedule", *(["steps_per_epoch"] if inside else []))}

    # ---- building --------------------------------------------------------------------------------------------

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
        weight = next(self.student.parameters())
        self._classes = self.predict(weight.new_zeros(1, *image_shape)).shape[1]
        return trainer

    def _check_finite(self, losses: Mapping[str, Tensor]) -> None:
        if not is_finite(torch.stack(list(losses.values())), self._distiller):
            values = ", ".join(f"{name} = {float(value):.4g}" for name, value in losses.items())
            raise DivergedError(
                f"the loss or a weight is not finite in epoch {self.epoch} ({values}): load an earlier state, and choose a "
                "lower lr or weight of the loss, or a longer warm-up"
            )
