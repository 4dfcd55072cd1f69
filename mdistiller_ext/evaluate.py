"""Evaluate models: top-1 and top-5 accuracy (percent), cross-entropy, and a check of the image size."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ConfigError
from .meters import Averages, top_k_hits


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: Iterable[tuple[Tensor, ...]], observer: Callable[..., None] | None = None
) -> dict[str, float]:
    """Accuracies and mean cross-entropy of a model over the batches of all ranks.

    The model is evaluated in eval mode; afterwards the mode of each submodule is restored.

    Args:
        observer: called with the logits ``[N, C]`` of each batch and what the loader yields.

    Returns:
        ``{"top1": percent, "top5": percent, "loss": cross-entropy}``.
    """
    device = next(itertools.chain(model.parameters(), model.buffers()), torch.empty(0)).device
    averages = Averages(("top1", "top5", "loss"), device)
    with eval_mode(model):
        for images, labels, *others in loader:
            if not len(labels):  # a last batch with fewer images than ranks
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
            if observer is not None:
                observer(logits, images, labels, *others)
    return averages.read()


@torch.no_grad()
def try_images(model: nn.Module, images: Tensor) -> None:
    """Run a model on images ``[N, 3, H, W]`` in eval mode. Raises ConfigError if it does not support their size."""
    try:
        with eval_mode(model):
            model(images)
    except torch.OutOfMemoryError:
        raise  # not caused by an unsupported size
    except RuntimeError as error:
        height, width = images.shape[2:]
        reason = str(error).split("\n")[0].rstrip(".")
        raise ConfigError(
            f"{network_name(model)} cannot take {width}x{height} images: {reason}; "
            "give another DATASET.IMAGE_SIZE (image files can be brought to it) or another model"
        ) from error


def network_name(model: nn.Module) -> str:
    """Name of a network's class, in messages; of an adapted one (``models/adapter.py``) that of the network itself."""
    return type(getattr(model, "adapted", model)).__name__


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Context manager that sets eval mode and restores the mode of each submodule, such as a frozen batch norm, afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
