"""The configuration of a method and a trainer that are given as in a call: by the names of arguments instead of settings."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

from yacs.config import CfgNode

from ..errors import ConfigError, ConfigWarning, UnknownNameError, did_you_mean
from .load import load_config
from .schema import names_of_arguments

# Arguments of a trainer that concern the loop of train.py, not a step.
_OF_THE_LOOP = ("cuda_graph", "checkpoint_steps", "record", "record_every", "record_window", "on_nan")
# Settings of a step that no class takes as an argument.
_PLACEMENT = {"channels_last": ["SOLVER.CHANNELS_LAST"], "fold_teacher": ["SOLVER.FOLD_TEACHER"]}


def load_arguments(
    method: str, trainer: str | None, arguments: Mapping[str, Any], *, cfg: str | os.PathLike[str] | None = None
) -> CfgNode:
    """Load the configuration of a method and a trainer.

    Args:
        method: name of the method.
        trainer: name of the trainer; None for that of ``cfg``, or ``base``.
        arguments: arguments of both by name, such as ``{"lr": 0.05, "beta": 8.0}``, or full names of their settings, which
            tell an argument of the method from one of the trainer.
        cfg: yaml file that they are merged over.

    Raises UnknownNameError for an unknown argument, with the nearest known one, ConfigError for one that is both the method's
    and the trainer's, and what :func:`load_config` raises.
    """
    if trainer is None:
        trainer = "base"
        if cfg is not None:
            with warnings.catch_warnings():  # they are issued below
                warnings.simplefilter("ignore", ConfigWarning)
                trainer = load_config(cfg, ["DISTILLER.TYPE", method]).SOLVER.TRAINER
    overrides = ["DISTILLER.TYPE", method, "SOLVER.TRAINER", trainer, "EXPERIMENT.NAME", "own loop"]
    names = {name: keys for name, keys in names_of_arguments(method, trainer).items() if name not in _OF_THE_LOOP}
    names |= _PLACEMENT
    full = {key: [key] for keys in names.values() for key in keys}
    for name, value in arguments.items():
        keys = (names | full).get(name)
        if keys is None:
            near = did_you_mean(name, names)
            raise UnknownNameError(
                f"{method} with trainer '{trainer}' has no setting '{name}'{near or '.'} Known: {', '.join(sorted(names))}"
            )
        if len(keys) > 1:
            ways = " or ".join(f'**{{"{key}": {value!r}}}' for key in keys)
            raise ConfigError(f"'{name}' is a setting of the method and of the trainer: give {ways}")
        overrides += [keys[0], value]
    return load_config(cfg, overrides, source="the call")
