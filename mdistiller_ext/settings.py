"""Declaration of a setting, for ``config/schema.py`` and for the annotations of arguments that become settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar


@dataclass(frozen=True)
class Setting:
    """Declare a setting, once.

    A keyword-only argument of ``BaseTrainer.__init__``, of a method's ``__init__`` or of a trainer's ``streams`` declares its
    setting by its signature. Where the defaults below do not fit, its annotation carries a ``Setting``, as in
    ``on_nan: Annotated[str, Setting(may_change=True, recipe=False)] = "stop"``. ``default`` and ``item`` are then those of the
    argument, and its meaning is in the docstring.

    Args:
        default: default value. Its type is the type of the setting.
        meaning: one line of documentation.
        may_change: Whether a run may be resumed with another value.
        recipe: Whether the setting is part of a recipe, that is, whether a run with another value may not be compared with the
            published result.
        in_name: Whether an override is part of the default name of the experiment.
        evaluation: Whether ``eval.py`` reads the setting from the configuration of the run that it evaluates.
        in_memory: Whether the setting has an effect on data sets that are kept in memory.
        path: Whether the value is the name of a file or folder.
        least: lower bound.
        item: type of the items of a list; None takes that of the first item of ``default``.
    """

    default: Any = None
    meaning: str = ""
    may_change: bool = False
    recipe: bool = True
    in_name: bool = True
    evaluation: bool = False
    in_memory: bool = True
    path: bool = False
    least: int | None = None
    item: type[bool | int | float | str] | None = None


NOT_A_SETTING = object()
T = TypeVar("T")
Plumbing = Annotated[T, NOT_A_SETTING]
"""Annotation ``Plumbing[int]`` of a keyword-only argument of a plain type that is not a setting."""
