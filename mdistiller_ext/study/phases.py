"""The phase ends of DeepKD's dynamic mask from the accuracy curves of finished runs.

Source: Huang et al., DeepKD, 2025, https://arxiv.org/abs/2505.15133. The paper reads the ends from the accuracy curve. The rule
is this project's.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, listing
from ..reporting.drawing import COLOURS
from ..reporting.groups import make_groups
from ..reporting.records import read_records
from .picture import column_picture

GAINS = (0.67, 0.9)
"""Parts of the final gain at which the easy phase and the transition end"""
_RADIUS = 0.025  # of the epochs: the running median is over 5 % of them


@dataclass(frozen=True)
class Phases:
    """Suggested phase ends.

    Attributes:
        mean: mean accuracy of the runs after each epoch, in percent.
        smooth: its running median.
        gains: parts of the final gain at which the phases end.
        ends: last epoch of the easy phase and of the transition: ``DEEPKD.PHASE_ENDS``.
    """

    mean: list[float]
    smooth: list[float]
    gains: tuple[float, float]
    ends: tuple[int, int]

    def phase(self, epoch: int) -> str:
        """Phase of an epoch: ``easy``, ``transition`` or ``hard``."""
        return ("easy", "transition", "hard")[sum(epoch > end for end in self.ends)]


def find_phases(curves: Sequence[Sequence[float]], gains: tuple[float, float] = GAINS) -> Phases:
    """Find the first epochs in which the accuracy has made the two parts ``gains`` of its final gain.

    The gain is measured from the first epoch to the last, on the mean of the curves, smoothed by a running median over 5 % of
    the epochs. The median's window is symmetric, and shrinks towards both ends, so that it changes no curve that only rises.

    Args:
        curves: accuracy after each epoch, in percent, of each run.
        gains: two numbers in (0, 1], in rising order.

    Raises ConfigError for curves of different lengths, or without a gain.
    """
    if not 0 < gains[0] <= gains[1] <= 1:
        raise ConfigError(
            f"the parts of the gain must be two numbers in (0, 1], in rising order, not {listing(map(str, gains))}"
        )
    epochs = {len(curve) for curve in curves}
    if len(epochs) != 1:
        raise ConfigError(f"accuracy curves of one length are needed, not of {listing(map(str, sorted(epochs)))} epochs")
    mean = [statistics.fmean(values) for values in zip(*curves, strict=True)]
    smooth = _running_median(mean)
    if not smooth or smooth[-1] <= smooth[0]:
        raise ConfigError(f"no phases in {len(mean)} epochs: the accuracy of the last is not above that of the first")
    gained = [(value - smooth[0]) / (smooth[-1] - smooth[0]) for value in smooth]
    easy, transition = (next(epoch for epoch, part in enumerate(gained, start=1) if part >= gain) for gain in gains)
    return Phases(mean, smooth, gains, (easy, transition))


def _running_median(curve: Sequence[float]) -> list[float]:
    widest, last = int(_RADIUS * len(curve)), len(curve) - 1
    radii = [min(widest, i, last - i) for i in range(len(curve))]
    return [statistics.median(curve[i - radius : i + radius + 1]) for i, radius in enumerate(radii)]


def read_curves(folders: Sequence[Path]) -> list[list[float]]:
    """Read the test accuracy after each epoch, in percent, of the runs in ``folders``, which must be of one method.

    Raises ConfigError for runs that are not finished or of several methods, MissingFileError where there is no run.
    """
    records = read_records(folders)
    unfinished = [run.where for run in records.runs if not (run.finished and run.history)]
    if unfinished:
        raise ConfigError(
            f"phases are found in whole accuracy curves; not finished, or without metrics.csv: {listing(unfinished)}"
        )
    groups = make_groups(records.runs, [])
    if len(groups) > 1:
        raise ConfigError(f"name runs that differ in their seed alone, not of {listing(group.name for group in groups)}")
    return [[row["test_top1"] for row in run.history] for run in groups[0].runs]


def describe_phases(phases: Phases, runs: int) -> str:
    """The rule with its numbers, and the lines for a yaml file."""
    easy, transition = phases.ends
    first, last = phases.smooth[0], phases.smooth[-1]
    return "\n".join(
        [
            f"mean test accuracy of {runs} run{'s' * (runs > 1)} of {len(phases.mean)} epochs: {first:.2f} % to {last:.2f} %",
            f"epoch {easy} is the first with {phases.gains[0]:.0%} of that gain: end of the easy phase",
            f"epoch {transition} is the first with {phases.gains[1]:.0%} of that gain: end of the transition",
            *("", "DEEPKD:", f"  PHASE_ENDS: [{easy}, {transition}]"),
        ]
    )


def write_phases(phases: Phases, curves: Sequence[Sequence[float]], folder: Path) -> list[Path]:
    """Write ``phases.csv``, a row for each epoch, and the picture, ``phases.png`` and ``.svg``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "phases.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", "test_top1", "smoothed_top1", "phase"])
        for epoch, values in enumerate(zip(phases.mean, phases.smooth, strict=True), start=1):
            writer.writerow([epoch, *values, phases.phase(epoch)])
    draw_phases(phases, curves, folder / "phases")
    return [folder / f"phases.{suffix}" for suffix in ("csv", "png", "svg")]


def draw_phases(phases: Phases, curves: Sequence[Sequence[float]], file: Path) -> None:
    """Draw the accuracy curves, their smoothed mean, and the ends of the phases."""
    epochs = range(1, len(phases.mean) + 1)
    marker = "o" if len(epochs) < 20 else None
    with column_picture(file) as axes:
        for number, curve in enumerate(curves):
            axes.plot(epochs, curve, color=COLOURS[6], linewidth=0.6, alpha=0.7, label="" if number else "one run")
        axes.plot(epochs, phases.smooth, color=COLOURS[1], linewidth=1.5, marker=marker, markersize=3, label="smoothed mean")
        for name, end, colour, style in zip(("easy phase", "transition"), phases.ends, COLOURS[2:4], ("--", ":"), strict=True):
            axes.axvline(end, color=colour, linewidth=1.2, linestyle=style, label=f"end of {name}: {end}")
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("epoch")
        axes.set_ylabel("test top-1 / %")


# ---- command ------------------------------------------------------------------------------------------------------


def main(arguments: argparse.Namespace) -> None:
    """Print the phase ends, and write the curve and the picture."""
    curves = read_curves(arguments.folders)
    phases = find_phases(curves, tuple(arguments.gains or GAINS))
    print(describe_phases(phases, len(curves)))
    paths = write_phases(phases, curves, arguments.out or arguments.folders[0])
    print("\n".join(["", *map(str, paths)]))
