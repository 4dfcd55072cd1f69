"""Gradients with respect to the logits of classes that are not the teacher's first (GDKD, Zheng and Cheng, 2025, figure 3)."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..config import hyper_parameters
from ..distillers import Batch, Distiller, Progress
from ..errors import ConfigError
from ..losses import partition_kl
from ..reporting.drawing import INK, PAGE, colour, label, line_style, log_scale, new_figure
from ..reporting.table import Row, Table
from .analysis import Analysis, Picture, register_analysis
from .objective import TEMPERATURE, LabelledBatch, Objective
from .panels import dots, legend
from .partial import Partial, Values
from .predictions import correlation_rows, kl_rows, without_class
from .runs import RunGroup, TrainedRun, first_teacher
from .seeds import Quantity, in_words, paired_tables, value_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUPLED = "KD's coupled term"
_MEASURES = {"kl": ("KL, non-top classes / nats", 4), "correlation": ("correlation, non-top classes", 4)}


def non_top_gradients(losses: Mapping[str, Tensor], logits: Tensor, top: Tensor) -> dict[str, Tensor]:
    """Mean magnitude of the gradient of each loss with respect to the non-top logits of an image, ``[N]``.

    Args:
        losses: means over the batch, scalars.
        logits: leaf ``[N, C]`` from which the losses are computed.
        top: class of each image that is left out, ``[N]``.

    Returns:
        Per image, ``mean over c != top of |dL/dlogits_c|`` of the image's own loss, which is N times that of the batch's mean:
        the L1 norm over C - 1 logits, divided by C - 1.
    """
    found = {}
    for name, loss in losses.items():
        gradient = torch.zeros_like(logits)
        if loss.requires_grad:
            gradient = torch.autograd.grad(loss, logits, retain_graph=True, materialize_grads=True)[0]
        found[name] = without_class(gradient.abs(), top).mean(dim=1) * len(logits)
    return found


def coupled_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean over the images of ``(1 - p_top) OtherKD``, the non-top term of KD (GDKD, with the teacher's first class as top).

    It includes the factor T²; p_top is the teacher's at this temperature.
    """
    top = teacher.argmax(dim=1, keepdim=True)
    mask = torch.zeros_like(teacher, dtype=torch.bool).scatter_(1, top, True)
    _, _, other = partition_kl(student, teacher, mask, temperature)
    p_top = (teacher / temperature).softmax(dim=1).gather(1, top)[:, 0]
    return ((1 - p_top) * other).mean()


def non_top_relations(student: Tensor, teacher: Tensor, temperature: float) -> dict[str, Tensor]:
    """Compare the distributions of the non-top classes, renormalised: softmax over all but the teacher's first class.

    Returns:
        Values ``[N]`` for logits ``[N, C]``: ``kl``, KL(teacher || student) in nats, without T²; ``correlation``, Pearson's,
        of the probabilities.
    """
    s, t = (without_class(logits / temperature, teacher.argmax(dim=1)) for logits in (student, teacher))
    return {"kl": kl_rows(s, t), "correlation": correlation_rows(s.softmax(dim=1), t.softmax(dim=1))}


class _GivenLogits(nn.Module):
    """A student whose logits are already there."""

    logits: Tensor

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return self.logits, {}


@register_analysis("gradients")
def gradients(
    groups: Sequence[RunGroup],
    *,
    limit: Annotated[int, "training images of each epoch, and test images at the end; 0: all"] = 2000,
    every: Annotated[int, "measure one of so many kept epochs, and the last"] = 1,
    temperature: Annotated[float, "T of KD's coupled term and of the compared distributions"] = TEMPERATURE,
    partial: Partial | None = None,
) -> Analysis:
    """Gradients with respect to non-top logits by loss component, and relations of non-top classes (GDKD, fig. 3).

    Raises ConfigError if the runs have no common teacher, or a method reads more than the logits of one view.
    """
    known = Partial() if partial is None else partial
    reference = first_teacher(groups)
    batch_size = int(reference.config.SOLVER.BATCH_SIZE)
    training = Objective(reference.images("train", limit, batch_size), reference.teacher(), temperature)
    test = Objective(reference.images("test", limit), reference.teacher())
    rows: list[Row] = []
    relations: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    about: list[str | int | float] = ["gradients", reference.data_fingerprint("train", limit), temperature, batch_size]
    epochs = [(group, run, epoch) for group in groups for run in group.runs for epoch in group.sampled_epochs(every)]
    for group, run, epoch in tqdm(epochs, desc="gradients", disable=None, leave=False):
        name = run.config.DISTILLER.TYPE
        key = [*about, name, repr(hyper_parameters(run.config, name)), run.epochs, epoch, run.fingerprint(epoch)]
        found = known.get(key, functools.partial(_components, run, epoch, training, temperature))
        rows += [
            {"method": group.name, "seed": run.seed, "epoch": epoch, "quantity": "gradient", "component": name, "value": value}
            for name, value in found.items()
        ]
    about[1] = reference.data_fingerprint("test", limit)
    for group in groups:
        for run in tqdm(group.runs, desc=f"non-top classes, {group.name}", disable=None, leave=False):
            epoch = group.sampled_epochs()[-1]
            found = known.get([*about, run.fingerprint(epoch)], functools.partial(_relations, run, epoch, test, temperature))
            for name, value in found.items():
                relations[name][group.name][run.seed] = value
                row = {
                    "method": group.name,
                    "seed": run.seed,
                    "epoch": epoch,
                    "quantity": name,
                    "component": "",
                    "value": value,
                }
                rows.append(row)
    quantities = [Quantity(title, relations[name], digits) for name, (title, digits) in _MEASURES.items()]
    table = _table(groups, rows)
    described = in_words(groups, quantities)
    return Analysis(
        title="Gradients of non-top logits",
        text=(
            "Non-top: all classes but the teacher's first. Gradient: mean over images and non-top classes of |dL/dz|, of each "
            f"loss component of the method as weighted in that epoch, on {training.count:,} training images, not augmented, in "
            f"eval mode; for comparison, of {COUPLED} (1 - p_top) OtherKD at T = {temperature:g} with weight 1, at the same "
            "student (GDKD, arXiv 2512.04625, figure 3). Relations: KL(teacher || student) without T² and Pearson correlation "
            f"of the renormalised probabilities of the non-top classes at T = {temperature:g}, on {test.count:,} test images, "
            "at the last kept epoch."
        ),
        rows=rows,
        tables=[
            table,
            value_table("Distributions of the non-top classes", groups, quantities, "Mean ± standard deviation over n seeds."),
            *paired_tables("Distributions of the non-top classes", groups, quantities),
        ],
        pictures=[
            Picture(
                "",
                "Mean magnitude of the gradient of a non-top logit by epoch, by loss component of each method: mean (line) and "
                "range (band) over the seeds; logarithmic axis. Black: KD's coupled term at the same student.",
                "; ".join(" ".join(map(str, row)) for row in table.rows),
                _curves(groups, rows),
            ),
            Picture("relations", "Every seed (dot) and the mean (bar) of each method.", described, dots(groups, quantities)),
        ],
    )


def _components(run: TrainedRun, epoch: int, objective: Objective, temperature: float) -> Values:
    """Mean magnitudes by component of the run's method, and of KD's coupled term."""
    method = run.method(epoch)
    if method.views != ("weak",) or method.needs_index:
        raise ConfigError(_refused(run))
    student = method.student
    method.student = given = _GivenLogits()
    progress = Progress(epoch, run.epochs, run.device)
    sums: dict[str, float] = defaultdict(float)
    for batch, logits in objective.predictions(student):
        for name, values in _of_batch(method, given, batch, logits, progress, temperature, run).items():
            sums[name] += float(values.cpu().double().sum())
    return {name: total / objective.count for name, total in sums.items()}


def _of_batch(
    method: Distiller,
    given: _GivenLogits,
    batch: LabelledBatch,
    logits: Tensor,
    progress: Progress,
    temperature: float,
    run: TrainedRun,
) -> dict[str, Tensor]:
    with torch.enable_grad():
        given.logits = logits.detach().requires_grad_()
        inputs = Batch(batch.images, batch.labels, teacher_logits=batch.teacher_logits if run.has_teacher else None)
        try:
            _, losses = method.compute(inputs, progress)
        except ConfigError as error:
            raise ConfigError(_refused(run)) from error
        losses = losses | {COUPLED: coupled_loss(given.logits, batch.teacher_logits, temperature)}
        return non_top_gradients(losses, given.logits, batch.teacher_logits.argmax(dim=1))


def _refused(run: TrainedRun) -> str:
    return f"{run.folder}: {run.config.DISTILLER.TYPE} reads more than the logits of one view: leave it out"


def _relations(run: TrainedRun, epoch: int, objective: Objective, temperature: float) -> Values:
    sums: dict[str, float] = defaultdict(float)
    for batch, logits in objective.predictions(run.student(epoch)):
        for name, values in non_top_relations(logits, batch.teacher_logits, temperature).items():
            sums[name] += float(values.cpu().double().sum())
    return {name: total / objective.count for name, total in sums.items()}


Curves = dict[str, dict[int, list[float]]]
"""Values of the seeds by component and epoch"""


def _by_component(group: RunGroup, rows: Sequence[Row]) -> Curves:
    found: Curves = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["method"] == group.name and row["quantity"] == "gradient":
            found[row["component"]][row["epoch"]].append(row["value"])
    return found


def _table(groups: Sequence[RunGroup], rows: Sequence[Row]) -> Table:
    """Mean gradient over the seeds in the first and last epoch and over all, and its ratio to KD's coupled term."""
    cells = []
    for group in groups:
        curves = {
            name: [float(np.mean(values)) for values in curve.values()] for name, curve in _by_component(group, rows).items()
        }
        coupled = np.mean(curves[COUPLED])
        for name, means in curves.items():
            values = [*(f"{value:.5f}" for value in (means[0], means[-1], np.mean(means))), f"{np.mean(means) / coupled:.3f}"]
            cells.append([group.name, name, *values])
    text = "Means over the seeds: in the first and the last epoch measured, and over all of these."
    header = ["method", "component", "first", "last", "mean", f"/ {COUPLED}"]
    return Table("Mean |gradient| of a non-top logit", header, cells, text)


def _curves(groups: Sequence[RunGroup], rows: Sequence[Row]) -> Figure:
    """A panel for each method, a line for each component that is not zero throughout."""
    columns = 2 if len(groups) == 4 else min(len(groups), 3)
    lines = -(-len(groups) // columns)
    curves = [_by_component(group, rows) for group in groups]
    components = list(dict.fromkeys(name for each in curves for name in each if name != COUPLED))
    figure = new_figure(PAGE, 1.9 * lines + 0.2)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    looks: dict[str, dict[str, Any]] = {}
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("mean |gradient|")
    for axes in panels[max(len(groups) - columns, 0) : len(groups)]:  # the lowest of each column
        axes.set_xlabel("epoch")
        axes.tick_params(labelbottom=True)
    for axes, group, each in zip(panels, groups, curves, strict=False):
        for name, curve in each.items():
            values = np.array(list(curve.values()))
            if not values.any():
                continue
            values[values == 0] = np.nan  # has no place on a logarithmic axis
            place = components.index(name) if name != COUPLED else 0
            looks[name] = look = {"color": INK if name == COUPLED else colour(place), "linestyle": line_style(place)}
            axes.plot(list(curve), values.mean(axis=1), linewidth=1.2, **look)
            lowest, highest = values.min(axis=1), values.max(axis=1)
            axes.fill_between(list(curve), lowest, highest, alpha=0.2, linewidth=0, color=look["color"])
        axes.set_title(label(group.name, 22), fontsize="medium")
        axes.grid(linewidth=0.5)
        log_scale(axes, "y")
    legend(figure, looks)
    return figure
