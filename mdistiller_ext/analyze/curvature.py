"""Flatness as a number: eigenvalues and trace of the Hessian at the last students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import ConfigError
from ..reporting.drawing import colour, label, new_figure
from ..reporting.table import Table
from .analysis import Analysis, Picture, register_analysis
from .hessian import Coordinates, DistillationLoss, hessian, largest_eigenvalues, trace_samples
from .objective import Objective
from .partial import Partial, Values
from .runs import Part, RunGroup, TrainedRun, first_teacher
from .weight_space import images_key, mean_std, require_same_network

if TYPE_CHECKING:
    from curvlinops import HessianLinearOperator

LOSSES = ("task", "distillation")
_COORDINATES = {
    "weights": "by all weights",
    "filters": "by the filters of convolutions and linear layers, each in units of the root mean square of its weights",
}
_NOTES = {
    "weights": "networks with batch norm compute the same with scaled filters, and the eigenvalues by the weights change with "
    "this scale, so that they are no measure of flatness between methods; --coordinates filters gives those that do not",
    "filters": "unlike eigenvalues by the weights, these are the same for networks that differ only in the scale of filters "
    "before batch norm",
}


@register_analysis("curvature")
def curvature(
    groups: Sequence[RunGroup],
    *,
    limit: Annotated[int, "images of the losses; 0: all"] = 500,
    part: Annotated[Part, "images of the losses, not augmented"] = "train",
    eigenvalues: Annotated[int, "number of eigenvalues"] = 3,
    vectors: Annotated[int, "random vectors of the trace"] = 10,
    coordinates: Annotated[Coordinates, "Hessian by the weights, or by filters in units of their size"] = "weights",
    seed: Annotated[int, "of random vectors"] = 0,
    double: Annotated[bool, "float64, several times slower on a GPU"] = False,
    partial: Partial | None = None,
) -> Analysis:
    """Largest Hessian eigenvalues and trace of task and distillation loss at the last students."""
    if eigenvalues < 1 or vectors < 2:
        raise ConfigError(f"--eigenvalues must be at least 1 and --vectors at least 2; got {eigenvalues}, {vectors}")
    require_same_network(groups)
    common = first_teacher(groups)
    objective = Objective(common.images(part, limit), common.teacher())
    dtype = torch.float64 if double else torch.float32
    key: list[str | int | float] = [
        str(common.record.teacher_sha256),
        images_key(common, part, limit),
        objective.temperature,
        coordinates,
        seed,
        str(dtype),
    ]

    def values(run: TrainedRun, loss: str) -> Values:
        def operator() -> HessianLinearOperator:
            return hessian(run.student().to(dtype), *_loss(objective, loss, dtype), coordinates)

        def spectrum() -> Values:
            found = largest_eigenvalues(operator(), eigenvalues, seed)
            return {f"eigenvalue_{number}": value for number, value in enumerate(found, start=1)}

        def trace() -> Values:
            samples = trace_samples(operator(), vectors, seed)
            return {"trace": float(np.mean(samples)), "trace_error": float(np.std(samples, ddof=1) / vectors**0.5)}

        own: list[str | int | float] = [run.fingerprint(), loss, *key]
        return known.get([*own, "eigenvalues", eigenvalues], spectrum) | known.get([*own, "trace", vectors], trace)

    known = Partial() if partial is None else partial
    rows = []
    members = [(group, run, loss) for loss in LOSSES for group in groups for run in group.runs]
    for group, run, loss in tqdm(members, desc="curvature", unit="Hessian", leave=False, disable=None):
        rows.append({"method": group.name, "seed": run.seed, "loss": loss} | values(run, loss))
    found = {
        loss: {group.name: [row for row in rows if (row["method"], row["loss"]) == (group.name, loss)] for group in groups}
        for loss in LOSSES
    }
    text = (
        f"Hessian of the mean loss {_COORDINATES[coordinates]}, at the last student in eval mode (batch norm with running "
        f"statistics), over {objective.loader.num_images:,} {part} images, not augmented, {str(dtype).removeprefix('torch.')}. "
        f"Task loss: cross-entropy; distillation loss: T² KL(teacher || student), T = {objective.temperature:g}, one teacher. "
        f"The {eigenvalues} largest eigenvalues by Lanczos iterations, the trace as the mean over {vectors} random vectors "
        "of signs (Hutchinson, 1989), by curvlinops."
    )
    tables = [_table(loss, by_method, eigenvalues) for loss, by_method in found.items()]
    return Analysis("Curvature", text, rows, tables, [_dots(groups, found)], [_NOTES[coordinates]])


def _loss(objective: Objective, name: str, dtype: torch.dtype) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A loss, and its images and targets."""
    if name == "task":
        return nn.CrossEntropyLoss(), [(batch.images.to(dtype), batch.labels) for batch in objective.batches()]
    batches = [(batch.images.to(dtype), batch.teacher_logits.to(dtype)) for batch in objective.batches()]
    return DistillationLoss(objective.temperature), batches


def _table(loss: str, by_method: Mapping[str, Sequence[Values]], eigenvalues: int) -> Table:
    columns = [*(f"eigenvalue_{number}" for number in range(1, eigenvalues + 1)), "trace", "trace_error"]
    rows = [
        [name, *(mean_std([seed[column] for seed in seeds]) for column in columns), str(len(seeds))]
        for name, seeds in by_method.items()
    ]
    header = ["method", *(f"eigenvalue {number}" for number in range(1, eigenvalues + 1)), "trace", "its standard error", "n"]
    return Table(f"Hessian of the {loss} loss", header, rows, "Mean ± standard deviation over n seeds.")


def _dots(groups: Sequence[RunGroup], found: Mapping[str, Mapping[str, Sequence[Values]]]) -> Picture:
    """A dot for each seed and a bar at the mean: a row of panels for each loss, with the largest eigenvalue and the trace."""
    figure = new_figure(6.8, 2 * (0.65 + 0.26 * len(groups)))
    panels = figure.subplots(len(found), 2, sharey=True)
    for row, (loss, by_method) in zip(panels, found.items(), strict=True):
        for axes, column, name in zip(row, ("eigenvalue_1", "trace"), ("largest eigenvalue", "trace"), strict=True):
            for height, group in enumerate(groups):
                values = [seed[column] for seed in by_method[group.name]]
                axes.scatter(values, [height] * len(values), s=20, color=colour(group.place), alpha=0.75, linewidth=0)
                axes.plot([np.mean(values)] * 2, [height - 0.32, height + 0.32], color=colour(group.place), linewidth=2)
            axes.set_xlabel(f"{name}, {loss} loss / nats")
            axes.grid(axis="x", linewidth=0.5)
            axes.set_axisbelow(True)
            axes.tick_params(axis="y", length=0)
        row[0].set_yticks(range(len(groups)), [label(group.name, 22) for group in groups])
        row[0].set_ylim(len(groups) - 0.5, -0.5)
    described = "; ".join(
        f"{name}, {loss} loss: eigenvalue {np.mean([seed['eigenvalue_1'] for seed in seeds]):.3g}, "
        f"trace {np.mean([seed['trace'] for seed in seeds]):.3g}"
        for loss, by_method in found.items()
        for name, seeds in by_method.items()
    )
    title = "Largest Hessian eigenvalue and trace: every seed (dots) and mean (bar)"
    return Picture("", title, described, figure)
