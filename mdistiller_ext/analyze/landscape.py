"""Losses around the students along random directions that are scaled to their filters (Li et al., NeurIPS 2018)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import ConfigError
from ..reporting.table import Table
from .analysis import Analysis, register_analysis
from .landscape_figures import contours, curves
from .objective import Objective
from .partial import Partial, Values
from .runs import PART_NAMES, Part, RunGroup, TrainedRun, first_teacher
from .seeds import mean_std
from .weight_space import (
    Vectors,
    Weights,
    batch_norm_images,
    filter_normalized,
    plus,
    random_directions,
    recompute_batch_norm,
    require_same_network,
    set_weights,
    weights_of,
)

BatchNorm = Literal["recompute", "eval"]
LOSSES = ("task", "distillation")
_NORMALISED = {
    "recompute": "its running statistics are computed anew at every point on {bn_images} augmented training images, because in "
    "training they follow the weights",
    "eval": "its running statistics stay those of the student, as in the code of Li et al.: far from the student they fit the "
    "weights no longer, and the losses rise for this reason too",
}


class Place(NamedTuple):
    """A point ``alpha * first + beta * second`` from the student, along directions by their number."""

    first: int
    alpha: float
    second: int | None = None
    beta: float = 0.0

    @property
    def canonical(self) -> Place:
        """The same for all places that are one point: on an axis of a plane, or the student itself."""
        if self.second is not None and self.alpha == 0:
            return Place(self.second, self.beta).canonical
        if self.second is not None and self.beta != 0:
            return self
        return Place(self.first if self.alpha else 0, self.alpha)

    @property
    def direction(self) -> str:
        """Its direction in the CSV file: ``1``, or ``1x2`` for a point of a plane."""
        return f"{self.first + 1}" if self.second is None else f"{self.first + 1}x{self.second + 1}"


class Neighbourhood:
    """The losses of a student at points along filter-normalised directions.

    Args:
        student: changed by each evaluation.
        directions: raw, see ``random_directions``; they are scaled to the filters of the student.
        objective: gives the losses of a network.
        images: of batch norm's statistics at each point ``[N, 3, H, W]``; None keeps those of the student.
    """

    def __init__(
        self,
        student: nn.Module,
        directions: Sequence[Weights],
        objective: Callable[[nn.Module], Values],
        *,
        vectors: Vectors = "zero",
        images: Tensor | None = None,
    ) -> None:
        self._student, self._objective, self._images = student, objective, images
        self._centre = weights_of(student)
        self._directions = [filter_normalized(direction, self._centre, vectors) for direction in directions]

    def __call__(self, place: Place) -> Values:
        steps = [(place.alpha, self._directions[place.first])]
        if place.second is not None:
            steps.append((place.beta, self._directions[place.second]))
        set_weights(self._student, plus(self._centre, *steps))
        if self._images is not None:
            recompute_batch_norm(self._student, self._images)
        return self._objective(self._student)


Surface = dict[Place, Values]
"""Values of a run by canonical place"""


@register_analysis("landscape")
def landscape(
    groups: Sequence[RunGroup],
    *,
    limit: Annotated[int, "images of the losses; 0: all"] = 1000,
    part: Annotated[Part, "images of the losses, not augmented"] = "train",
    batch_norm: Annotated[BatchNorm, "running statistics at a point: of its weights, or kept from the student"] = "recompute",
    bn_images: Annotated[int, "augmented training images from which these are recomputed"] = 500,
    directions: Annotated[int, "random directions of the curves; the contours have the first two"] = 3,
    seed: Annotated[int, "of the directions"] = 0,
    vectors: Annotated[Vectors, "directions of biases and batch-norm parameters: zero, or scaled to their norm"] = "zero",
    span: Annotated[float, "largest distance; at 1, each filter is moved by its own norm"] = 1.0,
    radius: Annotated[float, "distance at which sharpness is the increase of the loss"] = 0.25,
    points: Annotated[int, "points of a curve"] = 21,
    points_2d: Annotated[int, "points of a side of the contours; 0: no contours"] = 11,
    partial: Partial | None = None,
) -> Analysis:
    """Task and distillation loss around the last students, along filter-normalised random directions."""
    _check(points, points_2d, directions, bn_images, span, radius)
    require_same_network(groups)
    common = first_teacher(groups)
    objective = Objective(common.images(part, limit), common.teacher())
    statistics = batch_norm_images(common, bn_images) if batch_norm == "recompute" else None
    key: list[str | int | float] = [
        common.data_fingerprint(part, limit),
        seed,
        vectors,
        batch_norm,
    ]
    key += [common.data_fingerprint("train", bn_images)] if batch_norm == "recompute" else []

    grid, square = _grid(span, points), _grid(span, points_2d)
    alphas = sorted({*grid, *(sign * size for size in (radius, span / 2) for sign in (-1, 1)), 0.0})
    lines = [Place(number, alpha) for number in range(directions) for alpha in alphas]
    plane = [Place(0, alpha, 1, beta) for beta in square for alpha in square]
    places = {run: [*lines, *plane] if run is group.runs[0] else lines for group in groups for run in group.runs}
    distinct = {run: list(dict.fromkeys(place.canonical for place in its)) for run, its in places.items()}

    def measure(run: TrainedRun, bar: tqdm) -> Surface:
        student = run.student()
        raw = random_directions(weights_of(student), max(directions, 2), seed)
        losses = Neighbourhood(student, raw, objective, vectors=vectors, images=statistics)
        found = {}
        for place in distinct[run]:
            found[place] = known.get([run.fingerprint(), *key, *map(str, place)], functools.partial(losses, place))
            bar.update()
        return found

    known = Partial() if partial is None else partial
    total = sum(map(len, distinct.values()))
    with tqdm(total=total, desc="landscape", unit="point", leave=False, disable=None) as bar:
        surfaces = {run: measure(run, bar) for run in places}
    by_group = {group.name: [surfaces[run] for run in group.runs] for group in groups}
    rows = [
        {"method": group.name, "seed": run.seed, "direction": place.direction, "alpha": place.alpha, "beta": place.beta}
        | surfaces[run][place.canonical]
        for group in groups
        for run in group.runs
        for place in places[run]
    ]
    pictures = [curves(groups, {name: [_curve(s, directions, grid) for s in each] for name, each in by_group.items()})]
    if points_2d:
        planes = {
            name: [[each[0][Place(0, a, 1, b).canonical] for a in square] for b in square] for name, each in by_group.items()
        }
        pictures += [contours(planes, square, loss) for loss in LOSSES]
    cost = f"{total:,} points, each a forward pass of {objective.loader.num_images:,} images"
    cost += f" and one of {len(statistics):,} for batch norm" if statistics is not None else ""
    text = (
        "Losses of the last student moved by alpha times a random direction, each filter of which has the norm of the same "
        f"filter of that student; biases and batch norm's parameters: {vectors} (Li et al., NeurIPS 2018, arXiv 1712.09913). "
        f"All runs have the same {directions} random directions (seed {seed}), scaled to the filters of each. Task loss: "
        f"cross-entropy; distillation loss: T² KL(teacher || student), T = {objective.temperature:g}, one teacher; "
        f"{PART_NAMES[part]} "
        f"images, not augmented. Batch norm: {_NORMALISED[batch_norm].format(bn_images=bn_images)}. {cost}."
    )
    tables = [_table(by_group, directions, loss, radius, span / 2) for loss in LOSSES]
    note = "sharpness depends on radius, directions, images and batch norm's treatment: compare numbers of one call only"
    return Analysis("Loss landscapes", text, rows, tables, pictures, [note])


def increase(surface: Surface, directions: int, loss: str, size: float) -> float:
    """Mean increase of a loss at distance ``size`` on both sides of the student, over the directions."""
    around = [surface[Place(number, sign * size).canonical][loss] for number in range(directions) for sign in (-1, 1)]
    return float(np.mean(around)) - surface[Place(0, 0.0)][loss]


def _check(points: int, points_2d: int, directions: int, bn_images: int, span: float, radius: float) -> None:
    if points < 2 or points_2d == 1 or min(directions, bn_images) < 1 or points_2d < 0 or min(span, radius) <= 0:
        raise ConfigError(
            "--points must be at least 2, --points-2d 0 or at least 2, --directions and --bn-images at least 1, "
            f"--span and --radius positive; got {points}, {points_2d}, {directions}, {bn_images}, {span:g}, {radius:g}"
        )


def _grid(span: float, points: int) -> list[float]:
    """Equal steps from -span to span, rounded, so that 0 and equal distances of several grids are the same number."""
    return [round(float(alpha), 9) + 0.0 for alpha in np.linspace(-span, span, points)]


def _curve(surface: Surface, directions: int, alphas: Sequence[float]) -> dict[float, Values]:
    """Losses by distance: the mean over the directions."""
    return {
        alpha: {
            loss: float(np.mean([surface[Place(number, alpha).canonical][loss] for number in range(directions)]))
            for loss in LOSSES
        }
        for alpha in alphas
    }


def _table(by_group: dict[str, list[Surface]], directions: int, loss: str, radius: float, half: float) -> Table:
    rows = []
    for name, surfaces in by_group.items():
        centre = mean_std([surface[Place(0, 0.0)][loss] for surface in surfaces], 3)
        near, far = (mean_std([increase(surface, directions, loss, r) for surface in surfaces], 3) for r in (radius, half))
        top1 = mean_std([surface[Place(0, 0.0)]["top1"] for surface in surfaces])
        rows.append([name, centre, near, far, top1, str(len(surfaces))])
    header = ["method", "at the student", f"sharpness: increase at {radius:g}", f"increase at {half:g}", "top-1 / %", "n"]
    text = f"Increase: mean over {directions} directions and both sides. Mean ± standard deviation over n seeds."
    return Table(f"{loss.capitalize()} loss around the student", header, rows, text)
