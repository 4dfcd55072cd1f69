"""Parts of pictures: a panel for each method, rows of dots, legends."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..reporting.drawing import COLUMN, colour, label, line_style, new_figure
from .runs import RunGroup
from .seeds import Quantity

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


def dots(groups: Sequence[RunGroup], quantities: Sequence[Quantity]) -> Figure:
    """A panel for each quantity, two in a row, with a line for each group: every seed as a dot, and a bar at their mean."""
    figure, panels = new_panels(len(quantities), 0.65 + 0.26 * len(groups), sharey=True)
    for axes, quantity in zip(panels, quantities, strict=True):
        for row, group in enumerate(groups):
            values = list(quantity.values[group.name].values())
            axes.scatter(values, [row] * len(values), s=18, color=colour(group.place), alpha=0.75, linewidth=0)
            axes.plot([statistics.fmean(values)] * 2, [row - 0.32, row + 0.32], color=colour(group.place), linewidth=2)
        axes.set_xlabel(quantity.name)
        axes.grid(axis="x", linewidth=0.5)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)
    for axes in panels[::2]:
        axes.set_yticks(range(len(groups)), [label(group.name, 24) for group in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
    return figure


def looks(groups: Sequence[RunGroup]) -> dict[str, dict[str, Any]]:
    """Colour and line style of each group by its name."""
    return {group.name: {"color": colour(group.place), "linestyle": line_style(group.place)} for group in groups}


def legend(figure: Figure, lines: Mapping[str, Mapping[str, Any]]) -> None:
    """Add a legend of lines below the panels, by name; the figure grows by its height."""
    from matplotlib.lines import Line2D

    labels = [label(name, 22) for name in lines]
    columns = int(figure.get_figwidth() / (1.7 if max(map(len, labels)) <= 14 else 2.2))  # inches
    handles = [Line2D([], [], **look) for look in lines.values()]
    height = -(-len(labels) // columns) * (1 + any("\n" in name for name in labels))  # in lines of text
    figure.set_figheight(figure.get_figheight() + 0.17 * height)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1, frameon=False)
