"""Trainers: ``base.py`` holds the only loop; each other file is a table of streams."""

from ..registry import register_trainer
from .base import BaseTrainer, Stream

__all__ = ["BaseTrainer", "Stream", "register_trainer"]
