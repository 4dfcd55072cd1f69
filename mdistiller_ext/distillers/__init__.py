"""Distillation methods, one file each, and their base class in ``base.py``.

A distiller returns loss components of the finest granularity, independently of the trainer. It uses no data set, optimizer,
trainer or config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

from torch import nn

from ..errors import ConfigError
from ..registry import DISTILLERS, register_distiller
from .base import Distiller, Weight
from .outputs import Batch, Features, Output
from .progress import Progress

__all__ = [
    "Batch",
    "Distiller",
    "Features",
    "Output",
    "Progress",
    "Weight",
    "check_hyper_parameters",
    "create_distiller",
    "register_distiller",
]


def create_distiller(name: str, student: nn.Module, teacher: nn.Module | None, /, **hyper_parameters: Any) -> Distiller:
    """Create the distiller registered as ``name``, such as ``create_distiller("DKD", student, teacher, beta=2.0)``.

    Args:
        hyper_parameters: keyword arguments of its class.

    Raises:
        UnknownNameError: no distiller is registered as ``name``.
        TypeError: the class does not have such an argument.
        ConfigError: a loss weight is negative, or another value is invalid.
    """
    check_hyper_parameters(name, hyper_parameters)
    distiller: Distiller = DISTILLERS.get(name)(student, teacher, **hyper_parameters)
    return distiller


def check_hyper_parameters(name: str, values: Mapping[str, Any]) -> None:
    """Raise ConfigError if a hyper-parameter that distiller ``name`` annotates as ``Weight`` is negative."""
    distiller = DISTILLERS.get(name)
    try:
        hints = get_type_hints(distiller.__init__, include_extras=True)
    except NameError:  # a plug-in's annotation that is imported under TYPE_CHECKING only
        return
    for argument, value in values.items():
        if hints.get(argument) == Weight and value < 0:
            setting = distiller.config_keys.get(argument, argument.upper())
            raise ConfigError(f"{name}.{setting} must not be negative, not {value}")
