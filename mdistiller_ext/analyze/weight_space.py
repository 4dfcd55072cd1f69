"""Students as points of weight space: their weights, random directions scaled to their filters, batch-norm statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ..build import build_loaders
from ..errors import ConfigError, listing
from .runs import RunGroup, TrainedRun

Weights = dict[str, Tensor]
"""A tensor for each parameter of a network"""

Vectors = Literal["zero", "scaled"]
"""What directions are for one-dimensional parameters: biases, and weight and bias of batch norm"""


def weights_of(model: nn.Module) -> Weights:
    """Copy of a network's parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def set_weights(model: nn.Module, weights: Weights) -> None:
    """Replace the parameters of a network."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def plus(weights: Weights, *steps: tuple[float, Weights]) -> Weights:
    """``weights + sum of distance * direction`` over the steps, each a distance and a direction."""
    moved = dict(weights)
    for distance, direction in steps:
        moved = {name: weight + distance * direction[name] for name, weight in moved.items()}
    return moved


def distance(first: Weights, second: Weights) -> float:
    """Euclidean distance over all parameters."""
    return sum(float((first[name] - second[name]).cpu().double().square().sum()) for name in first) ** 0.5


# ---- directions ---------------------------------------------------------------------------------------------------


def random_directions(weights: Weights, count: int, seed: int) -> list[Weights]:
    """Standard normal directions, the same for all networks with these shapes, on any device; more are drawn after them."""
    generator = torch.Generator().manual_seed(seed)
    return [{name: torch.randn(w.shape, generator=generator).to(w) for name, w in weights.items()} for _ in range(count)]


def filter_norms(weights: Weights) -> Weights:
    """Norm of each filter, shaped to be multiplied with the weights: ``[C, 1, 1, 1]`` for those of a convolution ``[C, ...]``.

    A filter is the weights of one output of a convolution or linear layer. A one-dimensional parameter counts as one filter.
    """
    return {
        name: weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1)) if weight.dim() > 1 else weight.norm()
        for name, weight in weights.items()
    }


def filter_normalized(direction: Weights, weights: Weights, vectors: Vectors = "zero") -> Weights:
    """A direction each filter of which has the norm of the same filter of the weights (Li et al., 2018, section 4)."""
    target, norms = filter_norms(weights), filter_norms(direction)
    return {
        name: torch.zeros_like(part)
        if part.dim() < 2 and vectors == "zero"
        else part * (target[name] / norms[name].clamp_min(torch.finfo(part.dtype).tiny))
        for name, part in direction.items()
    }


# ---- batch norm ---------------------------------------------------------------------------------------------------


def batch_norm_images(run: TrainedRun, count: int) -> Tensor:
    """``count`` random training images, augmented as in training, in one batch ``[N, 3, H, W]``; the same in every call.

    Without augmentation, the statistics are others than those of training: on glyphs_hard they raise a student's loss from 0.59
    to 1.25, where those of augmented images give 0.59.
    """
    config = run.config.clone()
    config.SOLVER.BATCH_SIZE, config.DATASET.DROP_LAST = count, False
    config.DISTILLER.TEACHER_CACHE, config.EXPERIMENT.SEED = "off", 0
    loader, _ = build_loaders(config, run.device)
    images: Tensor = next(iter(loader))[0]
    return images[:, 0] if images.dim() == 5 else images  # the first of several views


def recompute_batch_norm(model: nn.Module, images: Tensor) -> None:
    """Set the running statistics of batch norm to those of one batch ``[N, 3, H, W]``."""
    update_bn([images], model)


# ---- runs ---------------------------------------------------------------------------------------------------------


def require_same_network(groups: Iterable[RunGroup]) -> None:
    """Raise ConfigError unless the students of all runs are the same network."""
    names = {run.config.DISTILLER.STUDENT: run.folder for group in groups for run in group.runs}
    if len(names) > 1:
        found = listing(f"{name} in {folder}" for name, folder in names.items())
        raise ConfigError(f"weights of different networks cannot be compared; name the runs of one student only: {found}")
