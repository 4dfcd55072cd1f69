"""The optimizer of a training run: its streams, and parameter groups with and without weight decay."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from ..distillers.base import Distiller
from ..errors import ConfigError, did_you_mean, listing, shown
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
    own_groups: Sequence[Mapping[str, Any]] = (),
) -> ComponentSGD:
    """ComponentSGD with a momentum for each stream; see there. Raises ConfigError for values out of range."""
    decaying = next((stream for stream in streams if stream.decays), streams[0])
    try:
        return ComponentSGD(
            parameter_groups(distiller, no_decay, lr, own_groups),
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


def parameter_groups(
    distiller: Distiller, no_decay: Collection[str], lr: float, own_groups: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """The learnable parameters as optimizer groups, by weight decay and learning rate; the first has the usual ones.

    Args:
        no_decay: kinds of parameters without weight decay: ``norm``, the weights and biases of normalisation layers; ``bias``,
            all biases. DIST's ImageNet recipe has both.
        lr: learning rate, to be multiplied by ``distiller.lr_scale``.
        own_groups: groups of the user's, as torch.optim takes them: ``params``, and ``lr`` or ``weight_decay``. They follow
            the others, which leave their parameters out.

    Raises ConfigError for another kind, an invalid ``lr_scale``, and own groups with parameters that are not trained.
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
    scales = _scales(distiller)
    own = _own_groups(own_groups, {parameter for parameter in distiller.learnable_parameters() if parameter.requires_grad})
    taken = {parameter for group in own for parameter in group["params"]}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, False): []}
    for parameter in distiller.learnable_parameters():
        if parameter in taken:
            continue
        groups.setdefault((scales.get(parameter, 1.0), parameter in exempt), []).append(parameter)
    return [
        {"params": parameters} | ({"weight_decay": 0.0} if is_exempt else {}) | ({"lr": lr * scale} if scale != 1 else {})
        for (scale, is_exempt), parameters in groups.items()
        if parameters
    ] + own


def _own_groups(groups: Sequence[Mapping[str, Any]], learnable: Collection[nn.Parameter]) -> list[dict[str, Any]]:
    """Groups of the user's with lists of parameters. Raises ConfigError, see parameter_groups."""
    own = []
    for number, group in enumerate(groups):
        where = f"param_groups[{number}]"
        if not isinstance(group, Mapping):
            raise ConfigError(f"{where} must be a dictionary with params, lr or weight_decay, not {shown(group)}")
        for key in group.keys() & {"lr", "weight_decay"}:
            if not isinstance(group[key], int | float):
                raise ConfigError(f"{where}: {key} must be a number, not {shown(group[key])}")
        for key in sorted(group.keys() - {"params", "lr", "weight_decay"}):
            raise ConfigError(f"{where} has the key '{key}'; known: params, lr, weight_decay")
        given = group.get("params", [])
        params = [given] if isinstance(given, nn.Parameter) else list(given)
        if not params or not all(isinstance(p, nn.Parameter) and p in learnable for p in params):
            raise ConfigError(f"{where}: params must be parameters of the student that require gradients, at least one")
        own.append({**group, "params": params})
    return own


def _scales(distiller: Distiller) -> dict[nn.Parameter, float]:
    """Factor on the learning rate of each parameter of own layers with one. Raises ConfigError for an invalid ``lr_scale``."""
    own = {name.split(".")[0] for name, _ in distiller.named_parameters()} - {"student", "teacher"}
    scales: dict[nn.Parameter, float] = {}
    for name, factor in distiller.lr_scale.items():
        where = f"{type(distiller).__name__}.lr_scale"
        if name not in own:
            raise ConfigError(
                f"{where} names '{name}'{did_you_mean(name, own) or '.'} Own layers: {listing(sorted(own)) or 'none'}"
            )
        if not factor >= 0:
            raise ConfigError(f"{where}['{name}'] must not be negative, not {factor}")
        layer = getattr(distiller, name)
        scales |= dict.fromkeys(layer.parameters() if isinstance(layer, nn.Module) else [layer], factor)
    return scales
