"""A teacher's average prediction over the images of a class (GDKD, Zheng and Cheng, 2025, figures 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor
from tqdm import tqdm

from ..build import build_loaders
from ..data import Loader, names_of_classes
from ..errors import ConfigError, listing
from ..evaluate import eval_mode
from ..reporting.drawing import PAGE, colour, new_figure
from ..reporting.table import Row, Table, number
from .analysis import Analysis, Picture, register_analysis
from .predictions import class_means
from .runs import RunGroup, TrainedRun, first_teacher

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TOP = 5  # classes that a picture highlights
_COLUMNS = {  # of the CSV file: heading in the table, decimals
    "entropy_of_images": ("entropy of a prediction / nats", 3),
    "entropy_of_mean": ("entropy of a class average / nats", 3),
    "second_to_first": ("second / first class of the average", 3),
    "effective_rest": ("effective number of other classes", 1),
    "multimodal": ("multimodal images / %", 1),
}


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats over the last dimension."""
    return torch.special.entr(probabilities).sum(dim=-1)


def average_predictions(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Means over the images of each class of the softmax of ``logits / temperature`` (``[N, C]``).

    Returns:
        The average predictions ``[C, C]``, a row for each class of the labels; and those without the first class of each
        image, whose logit is removed before the softmax (its own place is 0). NaN for a class without images.
    """
    classes, scaled = logits.shape[1], logits / temperature
    removed = scaled.scatter(1, scaled.argmax(dim=1, keepdim=True), -torch.inf)
    return class_means(scaled.softmax(dim=1), labels, classes), class_means(removed.softmax(dim=1), labels, classes)


def class_statistics(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, Tensor]:
    """Numbers of each class ``[C]`` from logits ``[N, C]``; NaN for a class without images.

    Returns:
        ``entropy_of_images``: mean entropy of single predictions, in nats; ``entropy_of_mean``: of the average prediction;
        ``second_to_first``: ratio of the two largest probabilities of the average prediction, 1 for two equal modes;
        ``effective_rest``: exp(entropy) of the average prediction without the first class of each image; ``multimodal``:
        images whose second class has at least half the probability of the first, in percent.
    """
    classes, probabilities = logits.shape[1], (logits / temperature).softmax(dim=1)
    mean, rest = average_predictions(logits, labels, temperature)
    first, second = mean.topk(2, dim=1).values.unbind(dim=1)
    largest = probabilities.topk(2, dim=1).values
    return {
        "entropy_of_images": class_means(entropy(probabilities), labels, classes),
        "entropy_of_mean": entropy(mean),
        "second_to_first": second / first,
        "effective_rest": entropy(rest).exp(),
        "multimodal": class_means(100 * (largest[:, 1] >= largest[:, 0] / 2).to(logits.dtype), labels, classes),
    }


@register_analysis("teacher")
def teacher(
    groups: Sequence[RunGroup],
    *,
    limit: Annotated[int, "training images; 0: all"] = 5000,
    temperatures: Annotated[tuple[float, ...], "temperatures of the predictions"] = (1.0, 4.0),
    classes: Annotated[tuple[int, ...], "classes to draw, numbered from 0; by default the least and the most multimodal"] = (),
    strong: Annotated[tuple[str, ...], "strong augmentations to compare with, as DATASET.STRONG"] = ("autoaugment",),
) -> Analysis:
    """The teacher's average prediction over the images of a class, weakly and strongly augmented (GDKD, figs. 4 and 5).

    Raises ConfigError if the runs have no common teacher, a temperature is not positive or a class is unknown,
    UnknownNameError for an unknown augmentation.
    """
    if min(temperatures, default=0) <= 0:
        raise ConfigError(f"temperatures must be positive, got {list(temperatures)}")
    run = first_teacher(groups)
    loader = run.images("train")
    names = names_of_classes(loader.identity, loader.num_classes)
    unknown = [number for number in classes if not 0 <= number < len(names)]
    if unknown:
        raise ConfigError(f"classes are numbered 0 to {len(names) - 1}, got {listing(map(str, unknown))}")
    predicted = {
        name: _predict(run, _augmented(run, limit, augmentations), name)
        for name, augmentations in (("weak", ()), (" + ".join(strong), strong))
    }
    rows, cells = [], []
    for augmentation, (logits, labels) in predicted.items():
        images = labels.bincount(minlength=len(names)).tolist()
        for temperature in temperatures:
            values = class_statistics(logits, labels, temperature)
            rows += [
                {"augmentation": augmentation, "temperature": temperature, "class": number, "name": name}
                | {"images": images[number], **{key: float(value[number]) for key, value in values.items()}}
                for number, name in enumerate(names)
                if images[number]
            ]
            means = [number(float(values[key].nanmean()), digits) for key, (_, digits) in _COLUMNS.items()]
            cells.append([augmentation, f"{temperature:g}", *means])
    logits, labels = predicted["weak"]
    absent = [names[c] for c in classes if not (labels == c).any()]
    if absent:
        raise ConfigError(f"there is no image of class {listing(absent)} among {len(labels)}: choose a larger --limit")
    chosen = list(classes) or _extremes(rows, temperatures[-1])
    pictures = []
    for temperature in temperatures:
        averages = {name: average_predictions(*each, temperature) for name, each in predicted.items()}
        for which, (name, shown) in enumerate((("", "Average prediction"), ("_rest", "Without the first class"))):
            bars = {augmentation: each[which] for augmentation, each in averages.items()}
            pictures.append(
                Picture(
                    f"t{temperature:g}{name}",
                    f"{shown} of the teacher over the images of a class at T = {temperature:g}, by augmentation; the "
                    f"{_TOP} largest are coloured and named.",
                    _described(bars, chosen, names),
                    _bars(bars, chosen, names),
                )
            )
    header = ["augmentation", "T", *(heading for heading, _ in _COLUMNS.values())]
    return Analysis(
        title="Average predictions of the teacher",
        text=(
            f"Softmax of the logits of {run.config.DISTILLER.TEACHER} in eval mode divided by T, averaged over the images of "
            f"each class: {len(labels):,} training images, once augmented as the data set's training images are (weak), once "
            f"with {' and '.join(strong)} after that (GDKD, arXiv 2512.04625, figures 4 and 5). Without the first class: the "
            "largest logit of each image is removed before the softmax. Effective number of other classes: exp(entropy) of "
            "the average without the first class. Multimodal image: its second class has at least half the probability of its "
            "first."
        ),
        rows=rows,
        tables=[Table("Means over the classes", header, cells)],
        pictures=pictures,
        notes=["one teacher for both augmentations, which it may have been trained with or not"],
    )


def _augmented(run: TrainedRun, limit: int, strong: Sequence[str]) -> Loader:
    """Loader of training images as for training, with other augmentations, the same ones on each call."""
    config = run.config.clone()
    config.DISTILLER.TYPE = "NONE"  # one view
    config.DATASET.STRONG = list(strong)
    config.DATASET.LIMIT = run.limited(limit)
    config.SOLVER.BATCH_SIZE = config.DATASET.TEST.BATCH_SIZE
    config.DATASET.DROP_LAST = False
    config.EXPERIMENT.SEED = 0
    return build_loaders(config, run.device)[0]


@torch.no_grad()
def _predict(run: TrainedRun, loader: Loader, name: str) -> tuple[Tensor, Tensor]:
    """The teacher's logits ``[N, C]`` and the labels ``[N]``, on the CPU in float64."""
    network = run.teacher()
    with eval_mode(network):
        batches = tqdm(loader, desc=f"teacher, {name}", disable=None, leave=False)
        pairs = [(network(images)[0].cpu().double(), labels.cpu()) for images, labels, *_ in batches]
    logits, labels = zip(*pairs, strict=True)
    return torch.cat(logits), torch.cat(labels)


def _extremes(rows: Sequence[Row], temperature: float) -> list[int]:
    """The classes whose average prediction has the smallest and the largest ratio of its second to its first class."""
    ratios = [
        (row["second_to_first"], row["class"])
        for row in rows
        if row["augmentation"] == "weak" and row["temperature"] == temperature
    ]
    return [min(ratios)[1], max(ratios)[1]]


def _described(bars: dict[str, Tensor], chosen: Sequence[int], names: Sequence[str]) -> str:
    parts = []
    for row in chosen:
        for augmentation, average in bars.items():
            values, order = average[row].topk(min(_TOP, len(names)))
            top = ", ".join(f"{names[c]} {number(float(v), 3)}" for v, c in zip(values, order.tolist(), strict=True))
            parts.append(f"{names[row]}, {augmentation}: {top}")
    return "; ".join(parts)


def _bars(bars: dict[str, Tensor], chosen: Sequence[int], names: Sequence[str]) -> Figure:
    """A row for each class and a column for each augmentation."""
    figure = new_figure(PAGE, 0.4 + 1.5 * len(chosen))
    panels = figure.subplots(len(chosen), len(bars), sharex=True, sharey="row", squeeze=False)
    for line, row in zip(panels, chosen, strict=True):
        for axes, (augmentation, average) in zip(line, bars.items(), strict=True):
            _panel(axes, average[row], names)
            axes.set_title(f"class {names[row]}, {augmentation}", fontsize="medium")
        line[0].set_ylabel("probability")
    for axes in panels[-1]:
        axes.set_xlabel("class")
    return figure


def _panel(axes: Axes, values: Tensor, names: Sequence[str]) -> None:
    """Bars of all classes, the largest coloured, with their names beside the axes."""
    heights, order = values.tolist(), values.topk(min(_TOP, len(names))).indices.tolist()
    axes.bar(range(len(heights)), heights, width=1, color=colour(6))
    for place, c in enumerate(order):
        axes.bar(c, heights[c], width=max(1, len(heights) / 60), color=colour(place), label=f"{names[c]} {heights[c]:.3f}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1.05), frameon=False, fontsize=7, handlelength=0.8)
    axes.set_xlim(-1, len(values))
