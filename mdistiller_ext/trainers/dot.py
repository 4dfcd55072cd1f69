"""DOT: A Distillation-Oriented Trainer. Zhao et al., ICCV 2023, https://arxiv.org/abs/2307.08436"""

from __future__ import annotations

from ..registry import register_trainer
from .base import BaseTrainer, Stream


@register_trainer("dot")
class DOTTrainer(BaseTrainer):
    """Less momentum for the labels, more for the teacher, so that distillation dominates the direction of the update."""

    @staticmethod
    def streams(momentum: float, *, delta: float = 0.075) -> list[Stream]:
        """Task at ``momentum - delta``, all else at ``momentum + delta``; weight decay goes to the task, as in the release."""
        return [
            Stream("task", ("task",), momentum - delta, decays=True),
            Stream("kd", ("target", "nontarget", "kd"), momentum + delta),
        ]
