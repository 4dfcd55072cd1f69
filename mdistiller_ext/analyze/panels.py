"""Figures with a panel for each method, as wide as a column or a page of a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..reporting.drawing import COLUMN, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_panels(count: int, height: float, *, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels, up to two in a row.

    Args:
        height: of a panel, in inches.
        sharey: one scale for all.
    """
    columns = min(count, 2)
    rows = math.ceil(count / columns)
    figure = new_figure(COLUMN * columns, height * rows + 0.6)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def add_legend(figure: Figure, panels: Sequence[Axes], columns: int = 4) -> None:
    """One legend for all panels, above them."""
    found = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(found.values()), list(found), loc="outside upper center", ncols=columns, frameon=False, columnspacing=1)
