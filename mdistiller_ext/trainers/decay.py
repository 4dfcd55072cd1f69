"""Parameter groups with and without weight decay."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from ..distillers.base import Distiller
from ..errors import ConfigError

KINDS = ("norm", "bias")
_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
)


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
