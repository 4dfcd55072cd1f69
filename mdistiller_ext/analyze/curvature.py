"""Flatness as a number: eigenvalues and trace of the Hessian at the last students."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import ConfigError
from ..reporting.table import Row
from .analysis import Analysis, Picture, register_analysis
from .hessian import Coordinates, DistillationLoss, hessian, largest_eigenvalues, trace_samples
from .objective import Objective
from .panels import dots
from .partial import Partial, Values
from .runs import PART_NAMES, Part, RunGroup, TrainedRun, first_teacher
from .seeds import Quantity, in_words, value_table
from .weight_space import require_same_network

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
    coordinates: Annotated[Coordinates, "Hessian by the weights, or by filters in units of their size"] = "filters",
    seed: Annotated[int, "of random vectors"] = 0,
    double: Annotated[bool, "float64, several times slower on a GPU"] = False,
    partial: Partial | None = None,
) -> Analysis:
    """Largest Hessian eigenvalues and trace of task and distillation loss at the last students."""
    if eigenvalues < 1 or vectors < 2 or seed < 0:
        raise ConfigError(
            f"--eigenvalues must be at least 1, --vectors at least 2, --seed not negative; got {eigenvalues}, {vectors}, {seed}"
        )
    require_same_network(groups)
    common = first_teacher(groups)
    objective = Objective(common.images(part, limit), common.teacher())
    dtype = torch.float64 if double else torch.float32
    key: list[str | int | float] = [
        common.data_fingerprint(part, limit),
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
    columns = [*(f"eigenvalue_{number}" for number in range(1, eigenvalues + 1)), "trace", "trace_error"]
    found = {
        loss: [Quantity(column.replace("_", " "), _by_seed(rows, groups, loss, column), 2) for column in columns]
        for loss in LOSSES
    }
    shown = [replace(q, name=f"{q.name}, {loss} loss / nats") for loss, of in found.items() for q in (of[0], of[-2])]
    text = (
        f"Hessian of the mean loss {_COORDINATES[coordinates]}, at the last student in eval mode (batch norm with running "
        f"statistics), over {objective.loader.num_images:,} {PART_NAMES[part]} images, not augmented, "
        f"{str(dtype).removeprefix('torch.')}. "
        f"Task loss: cross-entropy; distillation loss: T² KL(teacher || student), T = {objective.temperature:g}, one teacher. "
        f"The {eigenvalues} largest eigenvalues by Lanczos iterations, the trace as the mean over {vectors} random vectors "
        "of signs (Hutchinson, 1989), by curvlinops."
    )
    tables = [
        value_table(f"Hessian of the {loss} loss", groups, of, "Mean ± standard deviation over n seeds; error: standard error.")
        for loss, of in found.items()
    ]
    described = in_words(groups, shown)
    title = "Largest Hessian eigenvalue and trace: every seed (dots) and mean (bar)"
    picture = Picture("", title, described, dots(groups, shown))
    return Analysis("Curvature", text, rows, tables, [picture], [_NOTES[coordinates]])


def _by_seed(rows: Sequence[Row], groups: Sequence[RunGroup], loss: str, column: str) -> dict[str, dict[int, float]]:
    """Values of a column by the name of the group and seed."""
    return {
        group.name: {row["seed"]: row[column] for row in rows if (row["method"], row["loss"]) == (group.name, loss)}
        for group in groups
    }


def _loss(objective: Objective, name: str, dtype: torch.dtype) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A loss, and its images and targets."""
    if name == "task":
        return nn.CrossEntropyLoss(), [(batch.images.to(dtype), batch.labels) for batch in objective.batches()]
    batches = [(batch.images.to(dtype), batch.teacher_logits.to(dtype)) for batch in objective.batches()]
    return DistillationLoss(objective.temperature), batches
