"""What averaging the last students gives: their spread, the barriers between them, the accuracy of their average (PRKD)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from ..errors import ConfigError
from ..evaluate import evaluate
from ..reporting.drawing import PAGE, colour, line_style, new_figure
from ..reporting.table import Row, Table
from ..trainers.averaging import averaged_student
from .analysis import Analysis, Picture, register_analysis
from .panels import legend, looks
from .partial import Partial, Values
from .runs import PART_NAMES, Part, RunGroup, TrainedRun
from .seeds import mean_std
from .weight_space import (
    Weights,
    batch_norm_images,
    distance,
    recompute_batch_norm,
    set_weights,
    weights_of,
)


def average_of(students: Sequence[nn.Module], images: Tensor) -> nn.Module:
    """Average of students as PRKD makes it, with the batch-norm statistics of ``images`` ``[N, 3, H, W]``."""
    average = AveragedModel(students[0])
    for student in students:
        average.update_parameters(student)
    return averaged_student(average, [images])


def between(first: nn.Module, second: nn.Module, position: float, images: Tensor) -> nn.Module:
    """The point ``(1 - position) first + position second``, with the batch-norm statistics of ``images``; changes ``first``."""
    start, end = weights_of(first), weights_of(second)
    set_weights(first, {name: torch.lerp(start[name], end[name], position) for name in start})
    recompute_batch_norm(first, images)
    return first


def spread(students: Sequence[Weights]) -> Values:
    """Mean distance ``to_mean`` of the students, and mean distance ``between`` two, over the norm of their mean."""
    mean = {name: torch.stack([student[name] for student in students]).mean(dim=0) for name in students[0]}
    size = distance(mean, {name: torch.zeros_like(weight) for name, weight in mean.items()})
    pairs = [distance(first, second) for first, second in itertools.combinations(students, 2)]
    to_mean = [distance(student, mean) for student in students]
    return {"to_mean": float(np.mean(to_mean)) / size, "between": float(np.mean(pairs)) / size}


def excess(losses: Sequence[float]) -> list[float]:
    """Losses at equal steps of a line, minus the straight line between those of its ends."""
    found: list[float] = (np.asarray(losses) - np.linspace(losses[0], losses[-1], len(losses))).tolist()
    return found


@dataclass(frozen=True)
class Averages:
    """What was measured of the last students of a run.

    Attributes:
        averages: accuracy and loss of the average by number of students.
        singles: accuracy and loss of the students by epoch.
        lines: accuracy and loss at equal steps from the student of an epoch to that of the next, by the first epoch.
        spread: see :func:`spread`.
    """

    seed: int
    averages: dict[int, Values]
    singles: dict[int, Values]
    lines: dict[int, list[Values]]
    spread: Values

    @property
    def excesses(self) -> dict[int, list[float]]:
        """Excess of the loss on each line."""
        return {epoch: excess([values["loss"] for values in line]) for epoch, line in self.lines.items()}

    @property
    def barrier(self) -> float:
        """Largest excess of the loss on a line; at least 0."""
        return max(map(max, self.excesses.values()))

    @property
    def dip(self) -> float:
        """How far the loss of a line falls below the straight line between its ends, on average over the lines; at least 0."""
        return float(np.mean([-min(each) for each in self.excesses.values()]))

    def average_top1(self, count: int) -> float:
        """Accuracy of the average of the last ``count`` students, in percent."""
        return self.averages[count]["top1"]

    def single_top1(self, count: int) -> float:
        """Mean accuracy of the last ``count`` students."""
        return float(np.mean([values["top1"] for values in list(self.singles.values())[-count:]]))

    def rows(self, method: str) -> Iterator[Row]:
        """Rows of the CSV file, with the method's name."""
        about, end = {"method": method, "seed": self.seed}, max(self.singles)
        for count, values in self.averages.items():
            yield about | {"what": "average", "epoch": end, "students": count} | values
        for epoch, values in self.singles.items():
            yield about | {"what": "single", "epoch": epoch, "students": 1} | values
        for epoch, line in self.lines.items():
            for position, values, above in zip(np.linspace(0, 1, len(line)), line, self.excesses[epoch], strict=True):
                where = {"what": "line", "epoch": epoch, "students": 2, "position": float(position)}
                yield about | where | values | {"excess": above}
        yield about | {"what": "spread", "epoch": end, "students": len(self.singles)} | self.spread


@register_analysis("averaging")
def averaging(
    groups: Sequence[RunGroup],
    *,
    limit: Annotated[int, "images of accuracy and loss; 0: all"] = 0,
    part: Annotated[Part, "images of accuracy and loss, not augmented"] = "test",
    last: Annotated[int, "number of last epochs"] = 10,
    pairs: Annotated[int, "last pairs of consecutive epochs whose barrier is measured"] = 3,
    points: Annotated[int, "points of the line between two students, with its ends"] = 5,
    bn_images: Annotated[int, "augmented training images from which batch norm's statistics are recomputed"] = 500,
    partial: Partial | None = None,
) -> Analysis:
    """Spread of the last students, the barriers between them, and the accuracy of their average."""
    runs = [(group, run) for group in groups for run in group.runs]
    last = min(last, *(run.epochs for _, run in runs))
    if last < 2 or pairs < 1 or points < 3 or bn_images < 1:
        raise ConfigError(
            "--last and the number of epochs must be at least 2, --pairs at least 1, --points at least 3, --bn-images at least "
            f"1; got {last}, {pairs}, {points}, {bn_images}"
        )
    for _, run in runs:
        for epoch in _last_epochs(run, last):
            run.weights(epoch)  # raises before hours of work if one is missing
    known = Partial() if partial is None else partial
    pairs = min(pairs, last - 1)
    counts = [*(count for count in (1, 2, 3, 5, 10, 20, 50, 100) if count < last), last]
    found: dict[str, list[Averages]] = {group.name: [] for group in groups}
    for group, run in tqdm(runs, desc="averaging", unit="run", leave=False, disable=None):
        found[group.name].append(measure(run, counts, pairs, points, limit=limit, part=part, bn_images=bn_images, known=known))
    rows = [row for name, seeds in found.items() for seed in seeds for row in seed.rows(name)]
    text = (
        f"The students after each of the last {last} epochs. Distances: Euclidean, over all weights, relative to the norm of "
        "the students' mean. Barrier: largest excess of the cross-entropy on the straight line between the students of two "
        f"consecutive epochs over the line between their losses, at {points} points, the largest of the last {pairs} pairs; "
        "dip: how far it falls below, the mean of these pairs. "
        f"Average of the last I students as in PRKD. Batch norm's statistics are recomputed on {bn_images:,} augmented "
        f"training images, for single students too. Accuracy and loss: "
        f"{f'at most {limit:,} ' if limit else ''}{PART_NAMES[part]} images."
    )
    note = "distances depend on the scale of filters before batch norm, which changes nothing that the network computes"
    return Analysis(
        "Averages of the last students", text, rows, [_table(found, last)], [_curves(groups, found, counts)], [note]
    )


def measure(
    run: TrainedRun, counts: Sequence[int], pairs: int, points: int, *, limit: int, part: Part, bn_images: int, known: Partial
) -> Averages:
    """Measure the last students of a run; of averages of ``counts`` students, the largest number is that of all."""
    epochs = _last_epochs(run, max(counts))
    prints = {epoch: run.fingerprint(epoch) for epoch in epochs}
    images = functools.cache(lambda: batch_norm_images(run, bn_images))

    def of_model(key: list[str | int | float], make: Callable[[], nn.Module]) -> Values:
        return known.get(
            [*key, run.data_fingerprint(part, limit), bn_images], lambda: evaluate(make(), run.images(part, limit))
        )

    def average(some: Sequence[int]) -> Values:
        return of_model([prints[e] for e in some], lambda: average_of([run.student(e) for e in some], images()))

    def line(epoch: int, position: float) -> Values:
        first, second = epoch, epoch + 1
        if position in (0, 1):
            return average([second if position else first])
        return of_model(
            [prints[first], prints[second], "line", position],
            lambda: between(run.student(first), run.student(second), position, images()),
        )

    return Averages(
        seed=run.seed,
        averages={count: average(epochs[-count:]) for count in counts},
        singles={epoch: average([epoch]) for epoch in epochs},
        lines={
            epoch: [line(epoch, position) for position in np.linspace(0, 1, points).tolist()]
            for epoch in epochs[-1 - pairs : -1]
        },
        spread=known.get([*prints.values(), "spread"], lambda: spread([weights_of(run.student(epoch)) for epoch in epochs])),
    )


def _last_epochs(run: TrainedRun, count: int) -> list[int]:
    return list(range(run.epochs - count + 1, run.epochs + 1))


def _table(found: Mapping[str, Sequence[Averages]], last: int) -> Table:
    rows = []
    for name, seeds in found.items():
        columns: list[tuple[Callable[[Averages], float], int]] = [
            (lambda each: each.spread["to_mean"], 4),
            (lambda each: each.spread["between"], 4),
            (lambda each: each.barrier, 4),
            (lambda each: each.dip, 4),
            (lambda each: each.average_top1(1), 2),
            (lambda each: each.single_top1(last), 2),
            (lambda each: each.average_top1(last), 2),
            (lambda each: each.average_top1(last) - each.single_top1(last), 2),
        ]
        rows.append([name, *(mean_std([value(each) for each in seeds], digits) for value, digits in columns), str(len(seeds))])
    header = [
        "method",
        "distance to mean",
        "between two",
        "barrier / nats",
        "dip / nats",
        "last top-1 / %",
        "single top-1 / %",
        "average top-1 / %",
        "gain",
        "n",
    ]
    text = f"Last: student of the last epoch; single: mean over the last {last} students; average: of these {last}. "
    text += "Mean ± standard deviation over n seeds."
    return Table("Last students and their average", header, rows, text)


def _curves(groups: Sequence[RunGroup], found: Mapping[str, Sequence[Averages]], counts: Sequence[int]) -> Picture:
    """Accuracy of the average of the last I students, and its gain over the mean accuracy of these students, against I."""
    figure = new_figure(PAGE, 2.5)
    accuracy, gain = figure.subplots(1, 2)
    for group in groups:
        average, single = (
            np.array([[value(seed, count) for count in counts] for seed in found[group.name]])
            for value in (Averages.average_top1, Averages.single_top1)
        )
        how = {
            "color": colour(group.place),
            "linestyle": line_style(group.place),
            "linewidth": 1.5,
            "marker": "o",
            "markersize": 3,
        }
        for axes, values in ((accuracy, average), (gain, average - single)):
            axes.plot(counts, values.mean(axis=0), **how)
            axes.fill_between(counts, values.min(axis=0), values.max(axis=0), color=how["color"], alpha=0.15, linewidth=0)
        accuracy.plot(counts, single.mean(axis=0), color=how["color"], linestyle=":", linewidth=1)
    accuracy.set_ylabel("top-1 / %")
    gain.set_ylabel("average minus single / points")
    for axes in (accuracy, gain):
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set_xlabel("number of last students I")
        axes.grid(linewidth=0.5)
    legend(figure, looks(groups))
    described = "; ".join(
        f"{name}: {np.mean([seed.average_top1(count) for seed in seeds]):.2f} of the last {count}, single students "
        f"{np.mean([seed.single_top1(count) for seed in seeds]):.2f}"
        for count in counts[-1:]
        for name, seeds in found.items()
    )
    title = (
        "Accuracy of the average of the last I students (lines), mean accuracy of these students (dotted, left), and the "
        "difference (right): mean (line) and range (band) over the seeds"
    )
    return Picture("", title, f"top-1 in percent, {described}", figure)
