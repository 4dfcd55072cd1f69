"""Distillation methods: ``base.py`` and one short file for each.

A distiller returns its finest loss components and never asks who trains it. It sees no data, optimizer, trainer or config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

from torch import nn

from ..errors import ConfigError
from ..registry import DISTILLERS, register_distiller
from .base import Distiller, Output, Progress, Weight

__all__ = ["Distiller", "Output", "Progress", "Weight", "check_hyper_parameters", "create_distiller", "register_distiller"]


def create_distiller(name: str, student: nn.Module, teacher: nn.Module | None, /, **hyper_parameters: Any) -> Distiller:
    """The distiller registered as ``name``, such as ``create_distiller("DKD", student, teacher, beta=2.0)``.

    Hyper-parameters are the keyword arguments of its class, of any name; an unknown one raises TypeError, a negative weight
    ConfigError.
    """
    check_hyper_parameters(name, hyper_parameters)
    distiller: Distiller = DISTILLERS.get(name)(student, teacher, **hyper_parameters)
    return distiller


def check_hyper_parameters(name: str, values: Mapping[str, Any]) -> None:
    """Raise ConfigError for a negative hyper-parameter that distiller ``name`` annotates as ``Weight``."""
    distiller = DISTILLERS.get(name)
    try:
        hints = get_type_hints(distiller.__init__, include_extras=True)
    except NameError:  # a plug-in's annotations of names that it imports for type checkers alone
        return
    for argument, value in values.items():
        if hints.get(argument) == Weight and value < 0:
            setting = distiller.config_keys.get(argument, argument.upper())
            raise ConfigError(f"{name}.{setting} must not be negative, not {value}")
