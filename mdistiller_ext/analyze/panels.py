"""Parts of pictures: rows of dots, logarithmic axes, a legend of the groups."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..reporting.drawing import colour, label, line_style, new_figure
from .runs import RunGroup
from .seeds import Quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.8  # inches: two columns of a paper


def dots(groups: Sequence[RunGroup], quantities: Sequence[Quantity]) -> Figure:
    """A panel for each quantity with a row for each group: every seed as a dot, and a bar at their mean."""
    figure = new_figure(WIDTH, 0.9 + 0.26 * len(groups))
    panels = figure.subplots(1, len(quantities), sharey=True, squeeze=False)[0]
    for axes, quantity in zip(panels, quantities, strict=True):
        for row, group in enumerate(groups):
            values = list(quantity.values[group.name].values())
            axes.scatter(values, [row] * len(values), s=18, color=colour(group.place), alpha=0.75, linewidth=0)
            axes.plot([statistics.fmean(values)] * 2, [row - 0.32, row + 0.32], color=colour(group.place), linewidth=2)
        axes.set_xlabel(quantity.name)
        axes.grid(axis="x", linewidth=0.5)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)
    panels[0].set_yticks(range(len(groups)), [label(group.name, 24) for group in groups])
    panels[0].set_ylim(len(groups) - 0.5, -0.5)
    return figure


def log_scale(axes: Axes, which: str = "xy") -> None:
    """Make axes logarithmic, with plain numbers at 1, 2 and 5 times the powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())


def looks(groups: Sequence[RunGroup]) -> dict[str, dict[str, Any]]:
    """Colour and line style of each group by its name."""
    return {group.name: {"color": colour(group.place), "linestyle": line_style(group.place)} for group in groups}


def legend(figure: Figure, lines: Mapping[str, Mapping[str, Any]]) -> None:
    """Add a legend of lines below the panels, by name; the figure grows by its height."""
    from matplotlib.lines import Line2D

    labels = [label(name, 22) for name in lines]
    columns = 4 if max(map(len, labels)) <= 14 else 3
    handles = [Line2D([], [], **look) for look in lines.values()]
    height = -(-len(labels) // columns) * (1 + any("\n" in name for name in labels))  # in lines of text
    figure.set_figheight(figure.get_figheight() + 0.17 * height)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1, frameon=False)
