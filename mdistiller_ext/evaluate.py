"""Model and loader -> top-1, top-5 (percent) and cross-entropy; whether a model takes images of a size at all."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ConfigError
from .meters import Averages, top_k_hits


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """``{"top1", "top5", "loss"}`` of a zoo model over all batches of all processes; the model's mode is left as it was."""
    device = next(itertools.chain(model.parameters(), model.buffers()), torch.empty(0)).device
    averages = Averages(("top1", "top5", "loss"), device)
    with eval_mode(model):
        for images, labels in loader:
            if not len(labels):  # fewer images than processes
                continue
            logits, _ = model(images)
            averages.update(
                {
                    "top1": top_k_hits(logits, labels, 1),
                    "top5": top_k_hits(logits, labels, 5),
                    "loss": F.cross_entropy(logits, labels, reduction="sum"),
                },
                len(labels),
            )
    return averages.read()


@torch.no_grad()
def try_images(model: nn.Module, images: Tensor) -> None:
    """Show a model images ``[N, 3, H, W]`` in eval mode. Raises ConfigError if they are of a size that it does not take."""
    try:
        with eval_mode(model):
            model(images)
    except torch.OutOfMemoryError:
        raise  # of the machine, not of the size
    except RuntimeError as error:
        height, width = images.shape[2:]
        reason = str(error).split("\n")[0].rstrip(".")
        raise ConfigError(
            f"{type(model).__name__} cannot take {width}x{height} images: {reason}; "
            "give another DATASET.IMAGE_SIZE (image files can be brought to it) or another model"
        ) from error


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; then every module is in the mode it was in, a frozen batch norm among them."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
