"""Pictures of a report as SVG."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...reporting.drawing import INK, colour, label, line_style, new_figure, style, svg_element
from ...reporting.gains import Gain, draw_gains, gain_rows
from ...reporting.groups import Group
from ...reporting.table import number
from .statistics import Interval, t_interval
from .tables import Comparison, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 4.4  # inches: a narrow page shows the picture in its own size


@dataclass(frozen=True)
class Picture:
    """A picture: title, what it shows in words, and SVG."""

    title: str
    alt: str
    svg: str


def pictures(comparisons: Sequence[Comparison], metric: str) -> list[Picture]:
    """Accuracies, paired differences and curves, for each student and data set."""
    with style():
        return _pictures(comparisons, metric)


def gains_pictures(gains: Sequence[Gain]) -> list[Picture]:
    """Students beside their teachers, if anything was measured."""
    if not any(gain.measured_on for gain in gains):
        return []
    with style():
        figure = draw_gains(gains, _WIDTH)
        if figure is None:
            return []
        title = (
            "Students beside their teachers: ratio of cost and latency (dot), quartiles (line); top-1 of every seed (dot), "
            "mean (bar), teacher (diamond) and mean difference in points"
        )
        described = "; ".join(f"{row[0]} {row[3]}" for row in gain_rows(gains))
        return [Picture(title, f"ratios of teacher and student: {described}", svg_element(figure))]


def _pictures(comparisons: Sequence[Comparison], metric: str) -> list[Picture]:
    drawn = []
    for (dataset, student), family in itertools.groupby(comparisons, key=lambda each: (each.group.dataset, each.group.student)):
        members = list(family)
        groups = {place: each.group for place, each in enumerate(members) if each.group.finished}
        pairs = {place: each for place, each in enumerate(members) if each.paired and each.group is not each.baseline}
        about = f"{student} on {dataset}"
        if groups:
            drawn.append(_dots(groups, metric, about))
        if pairs:
            drawn.append(_forest(pairs, metric, about))
        if any(run.history for group in groups.values() for run in group.finished):
            drawn.append(_curves(groups, about))
    return drawn


def _dots(groups: Mapping[int, Group], metric: str, about: str) -> Picture:
    """Every seed as a dot, and mean and t interval of each group. Keys choose colours."""
    figure, axes = _rows([group.name for group in groups.values()])
    for row, (place, group) in enumerate(groups.items()):
        values = list(group.values(metric).values())
        _points(axes, row, values, place)
        _line(axes, row, t_interval(values), place, 1.5)
    axes.set_xlabel(f"{metric} top-1 / %")
    described = "; ".join(f"{group.name} {spread(group.values(metric).values())}" for group in groups.values())
    title = f"Accuracy of {about}: every seed, mean (bar) and its 95 % t interval (line)"
    return Picture(title, f"{metric} top-1 accuracy in percent: {described}", svg_element(figure))


def _forest(pairs: Mapping[int, Comparison], metric: str, about: str) -> Picture:
    """Paired differences from the baseline: every seed, mean, bootstrap and t interval."""
    figure, axes = _rows([each.group.name for each in pairs.values()])
    axes.axvline(0, color=INK, linewidth=1)
    described = []
    for row, (place, each) in enumerate(pairs.items()):
        assert each.paired is not None
        _points(axes, row, list(each.paired.differences.values()), place)
        _line(axes, row, each.paired.t, place, 1.5)
        _line(axes, row, each.paired.bootstrap, place, 4)
        described.append(f"{each.group.name} {number(each.paired.mean, sign='+')}")
    baselines = ", ".join(dict.fromkeys(each.baseline.name for each in pairs.values()))
    figure.supxlabel(textwrap.fill(f"{metric} top-1 minus that of {baselines} / points", 56), fontsize="medium")
    title = f"Paired differences of {about}: every seed, mean (bar), 95 % bootstrap (thick) and t interval (thin)"
    return Picture(title, f"difference from {baselines} in points: {'; '.join(described)}", svg_element(figure))


def _curves(groups: Mapping[int, Group], about: str) -> Picture:
    """Test accuracy against the epoch, of long runs also that of the last third by itself."""
    epochs = max(len(run.history) for group in groups.values() for run in group.finished)
    starts = [0, epochs * 2 // 3] if epochs > 8 else [0]
    figure = _figure(2.2 * len(starts) + 0.2 * len(groups))
    panels = figure.subplots(len(starts), squeeze=False)[:, 0]
    for axes, start in zip(panels, starts, strict=True):
        for place, group in groups.items():
            _curve(axes, group, start, place)
        axes.set_ylabel("test top-1 / %")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(linewidth=0.5)
    panels[-1].set_xlabel("epoch")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, columnspacing=1, frameon=False)
    title = f"Test accuracy of {about} by epoch: mean (line) and range (band) over the seeds"
    title += "; below, the last third" if len(starts) > 1 else ""
    return Picture(
        title, f"test top-1 accuracy by epoch of {', '.join(group.name for group in groups.values())}", svg_element(figure)
    )


def _curve(axes: Axes, group: Group, start: int, place: int) -> None:
    """Mean and range over the seeds of a group, after ``start`` epochs."""
    histories = [run.history[start:] for run in group.finished if len(run.history) > start]
    if not histories:
        return
    length = min(map(len, histories))
    accuracy = np.array([[row["test_top1"] for row in history[:length]] for history in histories])
    epochs = [row["epoch"] for row in histories[0][:length]]
    style: dict[str, Any] = {"color": colour(place), "linestyle": line_style(place)}
    marker = "o" if length == 1 else None
    axes.plot(epochs, accuracy.mean(axis=0), linewidth=1.5, marker=marker, label=label(group.name, 20), **style)
    axes.fill_between(epochs, accuracy.min(axis=0), accuracy.max(axis=0), color=colour(place), alpha=0.15, linewidth=0)


# ---- parts --------------------------------------------------------------------------------------------------------


def _rows(names: Sequence[str]) -> tuple[Figure, Axes]:
    """Axes with a row for each name, the first at the top."""
    labels = [label(name, 24) for name in names]
    figure = _figure(0.8 + 0.28 * len(labels))
    axes = figure.subplots()
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def _points(axes: Axes, row: int, values: Sequence[float], place: int) -> None:
    """Dots, side by side where they would hide each other, and a bar at their mean."""
    shift = [0.16 * ((i + 1) // 2) * (-1) ** i / max(len(values) / 3, 1) for i in range(len(values))]
    axes.scatter(values, row + np.asarray(shift), s=22, color=colour(place), alpha=0.75, linewidth=0)
    if values:
        axes.plot([np.mean(values)] * 2, [row - 0.32, row + 0.32], color=colour(place), linewidth=2.5)


def _line(axes: Axes, row: int, bounds: Interval | None, place: int, width: float) -> None:
    if bounds is not None:
        axes.plot(bounds, [row, row], color=colour(place), linewidth=width, solid_capstyle="butt")


def _figure(height: float) -> Figure:
    return new_figure(_WIDTH, height)
