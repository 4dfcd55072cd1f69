"""The optimizer of a training run: its streams, and parameter groups with and without weight decay."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from ..distillers.base import Distiller
from ..errors import ConfigError
from ..optim import ComponentSGD
from .streams import Stream

KINDS = ("norm", "bias")
_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
)


def create_optimizer(
    distiller: Distiller,
    streams: Sequence[Stream],
    *,
    lr: float,
    weight_decay: float,
    no_decay: Collection[str],
    partial_momentum: float,
    nesterov: bool,
) -> ComponentSGD:
    """ComponentSGD with a momentum for each stream; see there. Raises ConfigError for values out of range."""
    decaying = next((stream for stream in streams if stream.decays), streams[0])
    try:
        return ComponentSGD(
            decay_groups(distiller, no_decay),
            lr,
            {stream.name: stream.momentum for stream in streams},
            weight_decay,
            decay_on=decaying.name,
            decay_moved=decaying.decay_moved,
            partial_momentum=partial_momentum,
            nesterov=nesterov,
        )
    except ValueError as error:
        raise ConfigError(f"SOLVER: {error}") from error


def decay_groups(distiller: Distiller, no_decay: Collection[str]) -> list[dict[str, Any]]:
    """The learnable parameters as optimizer groups: those with weight decay, then those without, if there are any.

    Args:
        no_decay: kinds of parameters without it: ``norm``, the weights and biases of normalisation layers; ``bias``, all
            biases. DIST's ImageNet recipe has both.

    Raises ConfigError for another kind.
    """
    unknown = sorted(set(no_decay).difference(KINDS))
    if unknown:
        raise ConfigError(f"SOLVER.NO_DECAY: unknown kind '{unknown[0]}'. Known: {', '.join(KINDS)}")
    exempt = {
        parameter
        for module in distiller.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if ("norm" in no_decay and isinstance(module, _NORMS)) or ("bias" in no_decay and name == "bias")
    }
    learnable = list(distiller.learnable_parameters())
    decayed = [p for p in learnable if p not in exempt]
    others = [p for p in learnable if p in exempt]
    groups: list[dict[str, Any]] = [{"params": decayed}]
    return [*groups, {"params": others, "weight_decay": 0.0}] if others else groups
