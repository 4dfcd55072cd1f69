"""The picture of the README, from the runs of a comparison: ``python -m docs.figures``."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from pathlib import Path

from mdistiller_ext.reporting.drawing import COLOURS, INK, PAGE, new_figure, style

RESULTS = Path(__file__).parent / "results" / "glyphs_hard"


def draw_top1(folder: Path = RESULTS) -> None:
    """Draw the accuracies of ``runs.csv``: a dot for each seed, mean and standard deviation where there are several."""
    seeds: dict[str, list[float]] = defaultdict(list)
    teachers = set()
    with open(folder / "runs.csv", encoding="utf-8", newline="") as file:
        for run in csv.DictReader(file):
            seeds[run["method"]].append(float(run["last_top1"]))
            teachers |= {run["teacher_top1"]} - {""}
    (teacher,) = map(float, teachers)  # all runs have the same
    methods = sorted(seeds, key=lambda method: statistics.mean(seeds[method]))
    with style():
        figure = new_figure(PAGE, 3.3)
        axes = figure.subplots()
        axes.grid(axis="x", linewidth=0.6)
        axes.axvline(teacher, color=INK, linewidth=1.2, linestyle="--")
        axes.text(teacher - 0.25, 0, f"teacher {teacher:.2f}", ha="right", va="center")
        for row, method in enumerate(methods):
            values = seeds[method]
            colour = COLOURS[0] if method == "student alone" else COLOURS[1]
            if len(values) > 1:
                mean, deviation = statistics.mean(values), statistics.stdev(values)
                axes.barh(row, 2 * deviation, left=mean - deviation, height=0.5, color=colour, alpha=0.2)
                axes.plot([mean, mean], [row - 0.25, row + 0.25], color=colour, linewidth=2)
            axes.plot(
                values, [row] * len(values), "o", color=colour, markersize=4.5, fillstyle="full" if len(values) > 1 else "none"
            )
        names = [method if len(seeds[method]) > 1 else f"{method} (1 seed)" for method in methods]
        axes.set_yticks(range(len(methods)), names)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("top-1 accuracy of a resnet8 after 20 epochs, %")
        figure.savefig(folder / "top1.png", dpi=200)


if __name__ == "__main__":
    draw_top1()
