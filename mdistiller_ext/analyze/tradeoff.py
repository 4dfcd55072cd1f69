"""Task loss against distillation loss over training (DOT, Zhao et al., ICCV 2023, figure 3)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from tqdm import tqdm

from ..reporting.drawing import PAGE, colour, line_style, log_scale, new_figure
from ..reporting.table import Row
from .analysis import Analysis, Picture, register_analysis
from .objective import TEMPERATURE, Objective
from .panels import legend, looks
from .partial import Partial, Values
from .runs import PART_NAMES, PARTS, RunGroup, TrainedRun, first_teacher
from .seeds import Quantity, in_words, paired_tables, value_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSSES = ("task", "distillation")


@register_analysis("tradeoff")
def tradeoff(
    groups: Sequence[RunGroup],
    *,
    limit: Annotated[int, "training and test images; 0: all"] = 2000,
    every: Annotated[int, "measure one of so many kept epochs, and the last"] = 1,
    temperature: Annotated[float, "T of the distillation loss"] = TEMPERATURE,
    partial: Partial | None = None,
) -> Analysis:
    """Task loss against distillation loss over training, on training and test images (DOT, fig. 3).

    Raises ConfigError if the runs have no common teacher, MissingFileError if a run keeps no epoch.
    """
    known = Partial() if partial is None else partial
    reference = first_teacher(groups)
    students = [(group, run, epoch) for group in groups for run in group.runs for epoch in group.sampled_epochs(every)]
    rows: list[Row] = []
    counts = []
    for part in PARTS:
        objective = Objective(reference.images(part, limit), reference.teacher(), temperature)
        counts.append(f"{objective.count:,} {PART_NAMES[part]} images")
        about: list[str | int | float] = ["tradeoff", reference.data_fingerprint(part, limit), temperature]
        for group, run, epoch in tqdm(students, desc=f"tradeoff, {part}", disable=None, leave=False):
            values = known.get([*about, run.fingerprint(epoch)], functools.partial(_losses, objective, run, epoch))
            rows.append({"method": group.name, "seed": run.seed, "epoch": epoch, "part": part, **values})
    ends = {(row["method"], row["seed"], row["part"]): row for row in rows}  # the last row of each, of the last epoch
    columns = (("task loss", "task", 3), ("distillation loss", "distillation", 3), ("top-1 / %", "top1", 2))
    quantities = [
        Quantity(
            f"{part} {what}",
            {group.name: {run.seed: ends[group.name, run.seed, part][column] for run in group.runs} for group in groups},
            digits,
        )
        for part in PARTS
        for what, column, digits in columns
    ]
    losses = [quantity for quantity in quantities if quantity.name.endswith("loss")]
    described = in_words(groups, losses)
    title = (
        "Cross-entropy with the labels against T² KL(teacher || student) after each epoch: a line for the mean over the seeds "
        "of each method, ending in a large dot; a small dot for the end of each seed. Both axes logarithmic."
    )
    return Analysis(
        title="Task loss against distillation loss",
        text=(
            "Task loss (cross-entropy with the labels, nats) and distillation loss (T² KL(teacher || student), "
            f"T = {temperature:g}) of the students of the kept epochs in eval mode, on {' and '.join(counts)}, not augmented; "
            "the same images, teacher and temperature for all runs, whatever they were trained with (DOT, ICCV 2023, figure 3)."
        ),
        rows=rows,
        tables=[
            value_table("Losses at the last kept epoch", groups, quantities, "Mean ± standard deviation over n seeds."),
            *paired_tables("Losses at the last kept epoch", groups, losses),
        ],
        pictures=[Picture("", title, f"at the last kept epoch: {described}", _paths(groups, rows))],
    )


def _losses(objective: Objective, run: TrainedRun, epoch: int) -> Values:
    return objective(run.student(epoch))


def _paths(groups: Sequence[RunGroup], rows: Sequence[Row]) -> Figure:
    figure = new_figure(PAGE, 3)
    for axes, part in zip(figure.subplots(1, len(PARTS)), PARTS, strict=True):
        for group in groups:
            _path(axes, group, [row for row in rows if row["method"] == group.name and row["part"] == part])
        log_scale(axes)
        axes.set(title=f"{PART_NAMES[part]} images", xlabel="task loss / nats", ylabel="distillation loss / nats")
        axes.grid(linewidth=0.5)
    legend(figure, looks(groups))
    return figure


def _path(axes: Axes, group: RunGroup, rows: Sequence[Row]) -> None:
    """The mean over the runs, epoch by epoch, and where each run ends."""
    ends = np.array([[row[name] for name in LOSSES] for row in {row["seed"]: row for row in rows}.values()])
    epochs = sorted({row["epoch"] for row in rows})
    values = [[[row[name] for name in LOSSES] for row in rows if row["epoch"] == epoch] for epoch in epochs]
    means = np.array([np.mean(each, axis=0) for each in values])
    own = colour(group.place)
    axes.plot(means[:, 0], means[:, 1], linewidth=1, linestyle=line_style(group.place), color=own)
    axes.scatter(ends[:, 0], ends[:, 1], s=6, linewidth=0, alpha=0.8, zorder=3, color=own)
    axes.scatter(means[-1, 0], means[-1, 1], s=32, edgecolor="white", linewidth=0.6, zorder=4, color=own)
