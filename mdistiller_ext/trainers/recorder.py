"""Recorder: where a trainer's checkpoints and records go. The base class drops them; ``mdistiller_ext.run`` keeps a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .state import Row


class Recorder:
    """Interface between training and its records; used as it is, it is silent and keeps nothing.

    Attributes:
        shows_progress: whether a progress bar is wanted, where the output is a terminal.
        saves: whether checkpoints are kept, so that a stopped run can be resumed.
    """

    shows_progress: bool = False
    saves: bool = False

    def note(self, text: str) -> None:
        """Show a line of text."""

    def epoch(self, history: Sequence[Row], epochs: int, images_per_second: float) -> None:
        """Record a completed epoch, the last row of ``history``."""

    def save_latest(self, state: dict[str, Any]) -> None:
        """Save a checkpoint of the state now."""

    def save_epoch(self, state: dict[str, Any], *, best: bool, keep: bool) -> None:
        """Save the state and the student at the end of an epoch; the epoch is repeated unless this returns.

        Args:
            best: whether the epoch's accuracy is the highest so far.
            keep: whether these checkpoints are kept for good.
        """

    def save_average(self, student: dict[str, Any]) -> None:
        """Save the state of the averaged student."""

    def save_batch(self, name: str, content: dict[str, Any]) -> str:
        """Save a batch whose loss was not finite; returns where, as the end of a sentence."""
        return ""

    def finish(self, history: Sequence[Row], summary: dict[str, Any]) -> None:
        """Record the end of training."""

    def close(self) -> None:
        """Write what is left to write and release all resources; called whatever ended the training."""
