"""Distillation in a training loop of one's own: any method, any trainer, any two networks."""

from .loop import Distillation

__all__ = ["Distillation"]
