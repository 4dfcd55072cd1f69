"""How far a student is from its teacher: agreement, divergence and correlation (KD, Hinton et al., 2015)."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import ConfigError
from ..reporting.drawing import PAGE, colour, line_style, new_figure
from ..reporting.table import Row
from .analysis import Analysis, Picture, register_analysis
from .objective import Objective
from .panels import dots, legend, looks
from .partial import Partial, Values
from .predictions import correlation_rows, kl_rows
from .runs import PART_NAMES, PARTS, Part, RunGroup, TrainedRun, first_teacher
from .seeds import Quantity, in_words, paired_tables, value_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def gaps(student: Tensor, teacher: Tensor, temperatures: Sequence[float]) -> dict[str, Tensor]:
    """Compare the logits ``[N, C]`` of two networks, image by image.

    Returns:
        Values ``[N]``: ``agreement``, 100 where the first classes are the same and 0 elsewhere; ``kl_t<T>``,
        KL(teacher || student) at each temperature in nats, without the factor T²; ``correlation``, Pearson's, of the logits.
    """
    return {
        "agreement": 100 * (student.argmax(dim=1) == teacher.argmax(dim=1)).to(student.dtype),
        **{f"kl_t{t:g}": kl_rows(student / t, teacher / t) for t in temperatures},
        "correlation": correlation_rows(student, teacher),
    }


@register_analysis("gap")
def gap(
    groups: Sequence[RunGroup],
    *,
    limit: Annotated[int, "training and test images; 0: all"] = 0,
    temperatures: Annotated[tuple[float, ...], "temperatures of the divergence"] = (1.0, 4.0),
    partial: Partial | None = None,
) -> Analysis:
    """Agreement, divergence and correlation of students and teacher, also by class (KD).

    Raises ConfigError if the runs have no common teacher, or a temperature is not positive.
    """
    if min(temperatures, default=0) <= 0:
        raise ConfigError(f"temperatures must be positive, got {list(temperatures)}")
    known = Partial() if partial is None else partial
    reference = first_teacher(groups)
    runs = [(group, run) for group in groups for run in group.runs]
    rows: list[Row] = []
    means: dict[tuple[Part, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    counts = []
    for part in PARTS:
        objective = Objective(reference.images(part, limit), reference.teacher())
        counts.append(f"{objective.count:,} {PART_NAMES[part]} images")
        images = objective.loader.labels.bincount(minlength=objective.loader.num_classes).tolist()
        about: list[str | int | float] = ["gap", reference.data_fingerprint(part, limit), *temperatures]
        for group, run in tqdm(runs, desc=f"gap, {part}", disable=None, leave=False):
            values = known.get([*about, run.fingerprint()], functools.partial(_by_class, objective, run, temperatures))
            by_class: dict[str, dict[int, float]] = defaultdict(dict)
            for key, value in values.items():
                name, _, number = key.partition("/")
                by_class[name][int(number)] = value
            for name, of_classes in by_class.items():
                total = math.fsum(value * images[number] for number, value in of_classes.items())
                means[part, name][group.name][run.seed] = total / objective.count
            rows += [
                {"method": group.name, "seed": run.seed, "part": part, "class": number, "images": images[number]}
                | {name: of_classes[number] for name, of_classes in by_class.items()}
                for number in by_class["agreement"]
            ]
    titles = {"agreement": ("agreement / %", 2), "correlation": ("correlation of logits", 4)}
    titles |= {f"kl_t{t:g}": (f"KL at T = {t:g} / nats", 4) for t in temperatures}
    quantities = {
        part: [Quantity(title, means[part, name], digits) for name, (title, digits) in titles.items()] for part in PARTS
    }
    shown = [quantities["test"][0], quantities["test"][-1]]
    described = in_words(groups, shown)
    return Analysis(
        title="Gap between student and teacher",
        text=(
            "Agreement: images for which student and teacher have the same first class; KL(teacher || student) of their "
            f"predictions at T = {', '.join(f'{t:g}' for t in temperatures)}, without the factor T²; Pearson correlation of "
            f"their logits over the classes of an image. Means over {' and '.join(counts)}, not augmented; the student of the "
            "last epoch of each run, in eval mode, and one teacher for all."
        ),
        rows=rows,
        tables=[
            table
            for part in PARTS
            for table in (
                value_table(f"{PART_NAMES[part]} images".capitalize(), groups, quantities[part], "Mean ± standard deviation."),
                *paired_tables(f"{PART_NAMES[part]} images".capitalize(), groups, quantities[part]),
            )
        ],
        pictures=[
            Picture("", "Test images: every seed (dot) and the mean (bar) of each method.", described, dots(groups, shown)),
            Picture(
                "classes",
                "Agreement with the teacher by class, on test images: the classes of each method (mean over its seeds) in "
                "falling order, each method in its own.",
                "agreement of each class with the teacher, in falling order; means as in the picture before",
                _classes(groups, rows),
            ),
        ],
    )


def _by_class(objective: Objective, run: TrainedRun, temperatures: Sequence[float]) -> Values:
    """Means over the images of a class, by ``<name>/<class>``; classes without images are left out."""
    classes = objective.loader.num_classes
    sums: dict[str, Tensor] = {}
    counts = torch.zeros(classes, dtype=torch.int64)
    for batch, logits in objective.predictions(run.student()):
        labels = batch.labels.cpu()
        counts += labels.bincount(minlength=classes)
        for name, values in gaps(logits.cpu().double(), batch.teacher_logits.cpu().double(), temperatures).items():
            sums[name] = sums.get(name, torch.zeros(classes, dtype=torch.float64)).index_add(0, labels, values)
    return {f"{name}/{c}": float(total[c] / counts[c]) for name, total in sums.items() for c in counts.nonzero()[:, 0].tolist()}


def _classes(groups: Sequence[RunGroup], rows: Sequence[Row]) -> Figure:
    """Agreement of each class, sorted."""
    figure = new_figure(PAGE, 2.5)
    axes = figure.subplots()
    for group in groups:
        by_class = defaultdict(list)
        for row in rows:
            if row["method"] == group.name and row["part"] == "test":
                by_class[row["class"]].append(row["agreement"])
        values = sorted((float(np.mean(each)) for each in by_class.values()), reverse=True)
        ranks, style = np.arange(1, len(values) + 1), line_style(group.place)
        axes.plot(ranks, values, linewidth=1.2, drawstyle="steps-mid", color=colour(group.place), linestyle=style)
    axes.set(xlabel="classes, in falling order of agreement", ylabel="agreement / %")
    axes.grid(linewidth=0.5)
    legend(figure, looks(groups))
    return figure
