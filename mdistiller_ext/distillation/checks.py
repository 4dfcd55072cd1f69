"""Checks of what a training loop of one's own gives: networks, arguments, batches and saved states. Each raises ConfigError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..distillers import Distiller
from ..errors import ConfigError, listing
from ..trainers import BaseTrainer


def check_networks(student: nn.Module, teacher: nn.Module | None) -> None:
    """Check that these are two networks without wrappers, and that the student can be trained apart from the teacher."""
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
    trained = {parameter for parameter in student.parameters() if parameter.requires_grad}
    if not trained:
        raise ConfigError("the student has no parameter to train (requires_grad)")
    if teacher is student:
        raise ConfigError("student and teacher are the same module; freezing the teacher would freeze the student")
    if teacher is not None and not trained.isdisjoint(teacher.parameters()):
        raise ConfigError("student and teacher share parameters, which freezing the teacher would freeze: copy them")


def check_arguments(steps_per_epoch: Any, image_shape: Any, train_labels: Any) -> None:
    """Check the arguments of Distillation that describe the loop and its data."""
    if steps_per_epoch is not None and not (_is_count(steps_per_epoch) and steps_per_epoch >= 0):
        raise ConfigError(f"steps_per_epoch must be the number of batches of an epoch, or 0, not {steps_per_epoch!r}")
    if image_shape is not None and not (
        isinstance(image_shape, tuple | list) and len(image_shape) == 3 and all(_is_count(n) and n > 0 for n in image_shape)
    ):
        raise ConfigError(f"image_shape must be (channels, height, width), not {image_shape!r}")
    if train_labels is not None and not (
        isinstance(train_labels, Tensor) and train_labels.ndim == 1 and train_labels.dtype == torch.int64
    ):
        raise ConfigError(f"train_labels must be a tensor, int64 [images], not {_described(train_labels)}")


def check_batch(distiller: Distiller, method: str, images: Any, labels: Any, index: Any) -> None:
    """Check types, shapes and dtypes of a batch; see Distillation.step."""
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        raise ConfigError(f"step(images, labels) takes tensors, not {type(images).__name__} and {type(labels).__name__}")
    views = len(distiller.views)
    wanted = "[N, 3, H, W]" if views == 1 else f"[N, {views}, 3, H, W], the views {listing(distiller.views)}"
    if images.ndim != 4 + (views > 1) or (views > 1 and images.shape[1] != views):
        raise ConfigError(f"{method} takes images {wanted}, not {list(images.shape)}")
    if not len(images):
        raise ConfigError("the batch has no images; each rank gives one at least")
    dtype = next(distiller.student.parameters()).dtype
    if images.dtype != dtype:
        raise ConfigError(f"images must be {_name(dtype)}, as the student's weights, and normalised, not {_name(images.dtype)}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ConfigError(f"labels must be int64 [{len(images)}], one for each image, not {_described(labels)}")
    if (index is None) == distiller.needs_index:
        needs = "needs the positions of the images in the training set" if index is None else "takes no positions of images"
        raise ConfigError(f"{method} {needs}: step(images, labels{', index' if index is None else ''})")
    if index is not None and not (isinstance(index, Tensor) and index.dtype == torch.int64 and index.shape == images.shape[:1]):
        raise ConfigError(f"index must be int64 [{len(images)}], one for each image, not {_described(index)}")
    if index is not None and distiller.train_labels is not None:
        check_range(index, len(distiller.train_labels), "index", "the images of train_labels")


def check_range(values: Tensor, count: int, name: str, what: str) -> None:
    """Check that integers lie in 0..count-1. Not on a GPU, where it would synchronise the device, which reports them itself."""
    if values.device.type == "cpu" and not (values.min() >= 0 and values.max() < count):
        raise ConfigError(f"{name} must lie in 0..{count - 1}, {what}, not {int(values.min())} to {int(values.max())}")


def check_state(state: Mapping[str, Any], trainer: BaseTrainer) -> None:
    """Check that a saved state fits the networks and the groups of parameters, before any of it is loaded."""
    distiller = trainer.distiller
    for what, own in (("student", distiller.student.state_dict()), ("distiller", distiller.own_state_dict())):
        saved = state[what]
        others = [key for key in {**own, **saved} if key not in own or key not in saved or own[key].shape != saved[key].shape]
        if others:
            who = "student" if what == "student" else "method"
            raise ConfigError(f"the state is of another {who}; missing, unexpected or of another shape: {listing(others)}")
    groups, saved_groups = trainer.optimizer.param_groups, state["optimizer"]["param_groups"]
    facts = [[_facts(group) for group in each] for each in (groups, saved_groups)]
    if facts[0] != facts[1]:
        texts = [", ".join(f"{count} at {lr:g} (decay {decay:g})" for count, lr, decay in each) for each in facts]
        raise ConfigError(f"the state has other groups of parameters: {texts[1]}; now {texts[0]}")


def _facts(group: Mapping[str, Any]) -> tuple[int, float, float]:
    """Number of parameters, initial learning rate and weight decay of a group."""
    return len(group["params"]), group["initial_lr"], group["weight_decay"]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _described(value: Any) -> str:
    return f"{_name(value.dtype)} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
