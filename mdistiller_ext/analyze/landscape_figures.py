"""Pictures of loss landscapes: curves of all methods on one scale, and contours of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..reporting.drawing import PAGE, colour, label, line_style, log_scale, new_figure
from .analysis import Picture
from .panels import legend, looks
from .partial import Values
from .runs import RunGroup

_LEVELS = 13


def curves(groups: Sequence[RunGroup], by_name: Mapping[str, Sequence[Mapping[float, Values]]]) -> Picture:
    """Task and distillation loss against distance: for each method the mean and range over the seeds.

    Args:
        by_name: losses by distance for each seed of a group.
    """
    figure = new_figure(PAGE, 2.5)
    panels = figure.subplots(1, 2)
    for axes, loss in zip(panels, ("task", "distillation"), strict=True):
        for group in groups:
            seeds = by_name[group.name]
            alphas = list(seeds[0])
            losses = np.array([[values[loss] for values in seed.values()] for seed in seeds])
            how = {"color": colour(group.place), "linestyle": line_style(group.place)}
            axes.plot(alphas, losses.mean(axis=0), linewidth=1.5, **how)
            axes.fill_between(alphas, losses.min(axis=0), losses.max(axis=0), color=how["color"], alpha=0.15, linewidth=0)
        log_scale(axes, "y")
        axes.set_xlabel("distance alpha / filter norms")
        axes.set_ylabel(f"{loss} loss / nats")
        axes.grid(linewidth=0.5)
    legend(figure, looks(groups))
    described = "; ".join(
        f"{name} {loss} loss {min(values):.2f} to {max(values):.2f}"
        for loss in ("task", "distillation")
        for name, seeds in by_name.items()
        for values in [[point[loss] for seed in seeds for point in seed.values()]]
    )
    title = "Losses along random directions: mean over directions and seeds (line), range over the seeds (band)"
    return Picture("curves", title, f"lowest to highest: {described}", figure)


def contours(planes: Mapping[str, Sequence[Sequence[Values]]], grid: Sequence[float], loss: str) -> Picture:
    """One loss in the plane of two directions, a panel for each method, all with the same levels.

    Args:
        planes: values by row (second direction) and column (first direction).
    """
    from matplotlib.colors import LogNorm

    rows = -(-len(planes) // 4)
    columns = -(-len(planes) // rows)
    figure = new_figure(min(1.5 * columns + 1.3, PAGE), 0.5 + 1.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    losses = {name: np.array([[values[loss] for values in row] for row in plane]) for name, plane in planes.items()}
    low, high = (edge([edge(each) for each in losses.values()]) for edge in (np.min, np.max))
    levels = np.geomspace(low, max(high, low * 1.001), _LEVELS)
    levels[-1] *= 1 + 1e-9  # the highest value belongs to the last level
    for axes in panels.flat[len(planes) :]:
        axes.remove()
    for axes, (name, values) in zip(panels.flat, losses.items(), strict=False):
        drawn = axes.contourf(grid, grid, values, levels=levels, norm=LogNorm(levels[0], levels[-1]), cmap="viridis")
        axes.contour(grid, grid, values, levels=levels, colors="white", linewidths=0.4, alpha=0.6)
        axes.plot(0, 0, marker="+", color="white", markersize=7)
        axes.set_aspect("equal")
        axes.set_title(label(name, 20), fontsize="medium")
    for axes in panels.flat[len(planes) - columns : len(planes)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    bar = figure.colorbar(drawn, ax=list(panels.flat[: len(planes)]), ticks=levels[::3], format="%.3g", aspect=25)
    bar.minorticks_off()
    bar.set_label(f"{loss} loss / nats")
    figure.supxlabel("distance along direction 1 / filter norms", fontsize="medium")
    figure.supylabel("along direction 2", fontsize="medium")
    plane = "in the plane of two directions around the student of the first seed (+)"
    title = f"{loss.capitalize()} loss {plane}; the scale is that of all methods"
    described = "; ".join(f"{name} {values.min():.2f} to {values.max():.2f}" for name, values in losses.items())
    return Picture(loss, title, f"{loss} loss, lowest to highest: {described}", figure)
