"""Pictures of studies as files, at the width of a paper's column."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..reporting.drawing import COLUMN, new_figure, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@contextmanager
def column_picture(file: Path) -> Iterator[Axes]:
    """Axes to draw on; at the end, the picture is written to ``file`` with the suffixes ``.png`` and ``.svg``.

    The labels of what was drawn are listed below the axes.
    """
    with style():
        figure = new_figure(COLUMN, 2.8)
        axes = figure.subplots()
        axes.grid(linewidth=0.5)
        axes.set_axisbelow(True)
        yield axes
        figure.legend(loc="outside lower center", ncols=2, columnspacing=1, frameon=False, fontsize="small")
        save_figure(figure, file.with_suffix(""))
