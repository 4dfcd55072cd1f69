"""Differences between configurations, and which of them matter on resuming and beside a published recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from yacs.config import CfgNode

from ..errors import shown
from ..registry import DISTILLERS
from .reading import flatten, read_settings
from .schema import GROUPS, having


def changes_refused_on_resume(before: str, config: CfgNode) -> list[str]:
    """Return how ``config`` differs from the dumped configuration of a run in settings that may not change on resuming.

    As ``KEY: before -> now``. Raises ConfigError for a text that is no configuration.
    """
    return _changes(read_settings(before, "the dumped configuration"), config, except_for=having(may_change=True))


def changes_between_ranks(other: CfgNode, config: CfgNode) -> list[str]:
    """Return how ``config`` differs from another rank's in settings that all ranks must share.

    Those are all that decide which collective operations a rank calls; paths and dataloader workers may differ.
    """
    return _changes(
        flatten(other), config, except_for=lambda key: having(may_change=True)(key) and not key.startswith("SOLVER.")
    )


def recipe_changes(recipe: CfgNode, config: CfgNode) -> list[str]:
    """Return how ``config`` differs from ``recipe`` in settings that are part of a recipe."""
    return _changes(flatten(recipe), config, except_for=having(recipe=False))


def effective_settings(config: CfgNode) -> dict[str, Any]:
    """Return the settings that a run reads, by dotted names.

    Those of other methods and trainers are left out, and for a method without a teacher those of the teacher. The configuration
    may be of another version of this project, or of a run with plug-ins.
    """
    is_read = _read_by(config)
    return {name: value for name, value in flatten(config).items() if is_read(name)}


def _changes(before: Mapping[str, Any], config: CfgNode, *, except_for: Callable[[str], bool]) -> list[str]:
    """Return the differences in settings that a run of ``config`` reads, except for some, as ``KEY: before -> now``."""
    now, is_read = flatten(config), _read_by(config)
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return [
        f"{name}: {_abridged(before.get(name))} -> {_abridged(now.get(name))}"
        for name in changed
        if is_read(name) and not except_for(name)
    ]


def _read_by(config: CfgNode) -> Callable[[str], bool]:
    """Return a predicate on names: whether a run reads a setting."""
    method, trainer = config.DISTILLER.TYPE, config.SOLVER.TRAINER.upper()
    read = {*GROUPS, method, method.split("/")[0].upper()}  # the last for upstream/CRD, whose settings are UPSTREAM's
    alone = method in DISTILLERS and not DISTILLERS.get(method).needs_teacher

    def is_read(name: str) -> bool:
        group, *words = name.split(".")
        of_other_trainer = group == "SOLVER" and len(words) > 1 and words[0] != trainer
        return group in read and not of_other_trainer and not (alone and name.startswith("DISTILLER.TEACHER"))

    return is_read


def _abridged(value: Any) -> str:
    return value if isinstance(value, str) and len(value) < 100 else shown(value)
