"""Analysis: the numbers, tables and pictures that answer one question about some runs; and the registry of analyses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from ..registry import Registry
from ..reporting.drawing import style
from ..reporting.table import Row, Table
from .runs import RunGroup, open_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANALYSES = Registry("analysis", "mdistiller_ext.analyze")

Options = ParamSpec("Options")
Runs = Sequence[RunGroup] | Sequence[str | Path]
"""Groups of open runs, or run folders and folders that hold some"""


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        name: end of its file's name; empty for the only one of an analysis.
        title: what is shown, and what lines, bands and colours mean, in a sentence or two.
        alt: the values in words.
    """

    name: str
    title: str
    alt: str
    figure: Figure


@dataclass(frozen=True)
class Analysis:
    """Result of an analysis.

    Attributes:
        title: heading, a few words.
        text: what was measured and how: formula, source, images, number of runs.
        rows: the numbers, for CSV.
        tables: the most important numbers, for a page.
        notes: what was left out or limits the result.
    """

    title: str
    text: str
    rows: Sequence[Row]
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = field(default=())


def register_analysis(
    name: str,
) -> Callable[[Callable[Concatenate[Sequence[RunGroup], Options], Analysis]], Callable[Concatenate[Runs, Options], Analysis]]:
    """Register a function ``(groups, *, options) -> Analysis`` as an analysis; it may then be called with folders too.

    Its keyword-only arguments are the options of the command. ``Annotated[int, "images of each run; 0: all"]`` gives the help.
    An argument ``partial: Partial`` is no option; see partial.py.
    """

    def add(
        function: Callable[Concatenate[Sequence[RunGroup], Options], Analysis],
    ) -> Callable[Concatenate[Runs, Options], Analysis]:
        @functools.wraps(function)
        def analysis(runs: Runs, *arguments: Options.args, **options: Options.kwargs) -> Analysis:
            groups = [run for run in runs if isinstance(run, RunGroup)] or open_runs([Path(str(run)) for run in runs])
            with style():
                return function(groups, *arguments, **options)

        return ANALYSES.register(name)(analysis)

    return add
