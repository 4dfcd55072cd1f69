"""DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer. Huang et al., 2025,
https://arxiv.org/abs/2505.15133
"""

from __future__ import annotations

from typing import Any, Literal

from ..errors import ConfigError
from ..registry import register_trainer
from .base import BaseTrainer, Stream


@register_trainer("deepkd")
class DeepKDTrainer(BaseTrainer):
    """A momentum each for task, target-class and non-target-class gradients, larger for those of high signal-to-noise."""

    @staticmethod
    def streams(
        momentum: float,
        *,
        delta_tog: float = 0.075,
        delta_tcg: float = -0.075,
        delta_ncg: float = 0.075,
        rule: Literal["paper", "official"] = "paper",
    ) -> list[Stream]:
        """Each stream at ``momentum`` plus its (signed) delta.

        The release departs from the paper, and which of them the published numbers used is not known. ``paper``: the text's
        rule; it does not mention weight decay, which goes to the task stream as in DOT. ``official``: the release's
        optimizer, whose task stream runs at the target stream's momentum and whose weight decay is on the target stream,
        computed from weights that the task and non-target streams have already updated in the same step.
        """
        if rule not in ("paper", "official"):
            raise ConfigError(f"SOLVER.DEEPKD.RULE must be paper or official, not '{rule}'")
        paper = rule == "paper"
        return [
            Stream("task", ("task",), momentum + (delta_tog if paper else delta_tcg), decays=paper),
            Stream("target", ("target",), momentum + delta_tcg, decays=not paper, decay_moved=not paper),
            Stream("nontarget", ("nontarget",), momentum + delta_ncg),
        ]

    @classmethod
    def partial_momentum(cls, momentum: float, **stream_options: Any) -> float:
        """The release averages the three momenta as they are set, also where its task stream does not use its own."""
        return super().partial_momentum(momentum, **stream_options | {"rule": "paper"})
