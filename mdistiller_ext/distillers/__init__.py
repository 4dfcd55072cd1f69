"""Distillation methods: ``base.py`` and one short file for each.

A distiller returns its finest loss components and never asks who trains it. It sees no data, optimizer, trainer or config.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..registry import DISTILLERS, register_distiller
from .base import Distiller, Output, Progress

__all__ = ["Distiller", "Output", "Progress", "create_distiller", "register_distiller"]


def create_distiller(name: str, student: nn.Module, teacher: nn.Module | None, /, **hyper_parameters: Any) -> Distiller:
    """The distiller registered as ``name``, such as ``create_distiller("DKD", student, teacher, beta=2.0)``.

    Hyper-parameters are the keyword arguments of its class, of any name; an unknown one raises TypeError.
    """
    distiller: Distiller = DISTILLERS.get(name)(student, teacher, **hyper_parameters)
    return distiller
