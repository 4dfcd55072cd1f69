"""Differences between configurations, and which of them matter on resuming and beside a published recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from yacs.config import CfgNode

from ..errors import shown
from .reading import read_settings
from .schema import GROUPS, having


def differences(old: str, new: str) -> list[str]:
    """Return the settings that differ between two dumped configurations, as ``KEY: old -> new``.

    Raises ConfigError for any other text.
    """
    return list(_differences(old, new).values())


def changes_refused_on_resume(before: str, config: CfgNode) -> list[str]:
    """Return how ``config`` differs from the dumped configuration of a run in settings that may not change on resuming."""
    return _changes(before, config, except_for=having(may_change=True))


def changes_between_ranks(before: str, config: CfgNode) -> list[str]:
    """Return how ``config`` differs from another rank's dumped configuration in settings that all ranks must share.

    Those are all that decide which collective operations a rank calls; paths and dataloader workers may differ.
    """
    return _changes(before, config, except_for=lambda key: having(may_change=True)(key) and not key.startswith("SOLVER."))


def recipe_changes(recipe: CfgNode, config: CfgNode) -> list[str]:
    """Return how ``config`` differs from ``recipe`` in settings that are part of a recipe."""
    return _changes(recipe.dump(), config, except_for=having(recipe=False))


def _changes(before: str, config: CfgNode, *, except_for: Callable[[str], bool]) -> list[str]:
    """Return the differences in settings that the method of ``config`` reads, except for some."""
    read = {*GROUPS, config.DISTILLER.TYPE}
    changed = _differences(before, config.dump())
    return [line for key, line in changed.items() if key.split(".")[0] in read and not except_for(key)]


def _differences(old: str, new: str) -> dict[str, str]:
    a, b = (read_settings(text, "the dumped configuration") for text in (old, new))
    keys = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
    return {k: f"{k}: {_abridged(a.get(k))} -> {_abridged(b.get(k))}" for k in keys}


def _abridged(value: Any) -> str:
    return value if isinstance(value, str) and len(value) < 100 else shown(value)
