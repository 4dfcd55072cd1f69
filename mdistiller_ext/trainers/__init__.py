"""Trainers: ``base.py`` is the trainer, ``epoch.py`` its loop over batches; ``dot.py`` and ``deepkd.py`` define streams."""

from ..registry import register_trainer
from .base import BaseTrainer, Stream

__all__ = ["BaseTrainer", "Stream", "register_trainer"]
