"""What distillation gained: a student beside its teacher, as rows of a CSV file, as a table and as a picture."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from ..errors import CorruptFileError
from ..network_cost import Pair
from .drawing import COLOURS, COLUMN, INK, colour, label, log_scale, new_figure
from .table import NONE, csv_text, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAINS_FILE = Path("compression", "compression.csv")
"""The rows of a study, below its folder"""
HEADER = ["", "teacher", "student", "ratio"]


@dataclass(frozen=True, kw_only=True)
class Gain:
    """One quantity of a student and of its teacher; the columns of ``compression.csv``.

    Attributes:
        networks: as text, see :class:`Pair`.
        quantity: ``parameters``, ``FLOPs``, ``size``, ``latency``, ``throughput`` or ``top-1``.
        unit: of the values.
        batch_size: of latency and throughput.
        method, seed: of top-1.
        teacher, student: values; the median where it was measured repeatedly. The teacher's is None without one.
        ratio: how many times the student is smaller or faster; of latencies, the median over the rounds. None for top-1.
        n: number of rounds, or of images for top-1.
        measured_on: hardware, threads, number format.
    """

    networks: str
    quantity: str
    unit: str
    batch_size: int | None = None
    method: str = ""
    seed: int | None = None
    teacher: float | None = None
    teacher_q1: float | None = None
    teacher_q3: float | None = None
    student: float
    student_q1: float | None = None
    student_q3: float | None = None
    ratio: float | None = None
    ratio_q1: float | None = None
    ratio_q3: float | None = None
    n: int | None = None
    measured_on: str = ""

    @property
    def name(self) -> str:
        """Quantity and batch size."""
        return self.quantity if self.batch_size is None else f"{self.quantity}, batch {self.batch_size}"


def cost_gains(pair: Pair) -> list[Gain]:
    """What needs no measurement: parameters, operations and size."""
    quantities = {"parameters": ("parameters", ""), "flops": ("FLOPs", ""), "size": ("size", "bytes")}
    gains = []
    for attribute, (quantity, unit) in quantities.items():
        student = getattr(pair.student_cost, attribute)
        teacher = getattr(pair.teacher_cost, attribute, None)
        ratio = None if teacher is None else teacher / student
        gains.append(Gain(networks=str(pair), quantity=quantity, unit=unit, teacher=teacher, student=student, ratio=ratio))
    return gains


def share_teachers(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs, where a student that learned alone is beside the teacher of another pair with the same student, if any."""
    taught = {(pair.dataset, pair.student, pair.student_cost): pair for pair in reversed(pairs) if pair.teacher}
    return [pair if pair.teacher else taught.get((pair.dataset, pair.student, pair.student_cost), pair) for pair in pairs]


# ---- files --------------------------------------------------------------------------------------------------------


def gains_text(gains: Iterable[Gain]) -> str:
    """The rows as CSV."""
    return csv_text([dataclasses.asdict(gain) for gain in gains])


def read_gains(file: Path) -> list[Gain]:
    """Read what :func:`gains_text` wrote. Raises CorruptFileError for another table."""
    kinds = {name: get_args(kind) or (kind,) for name, kind in get_type_hints(Gain).items()}
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            if reader.fieldnames != list(kinds):
                raise ValueError("it has other columns")
            return [Gain(**{name: _value(row[name], kinds[name]) for name in kinds}) for row in reader]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise CorruptFileError(
            f"{file} is damaged or of another version ({error}): python -m mdistiller_ext.compression writes it anew"
        ) from error


def _value(cell: str, kinds: Sequence[Any]) -> Any:
    return None if NoneType in kinds and not cell else kinds[0](cell)


# ---- table --------------------------------------------------------------------------------------------------------


def gain_rows(gains: Sequence[Gain]) -> list[list[str]]:
    """Cells below ``HEADER``: a row for each quantity of one pair, and one for the top-1 accuracy of each method."""
    rows = []
    for (name, method), group in itertools.groupby(gains, key=lambda gain: (gain.name, gain.method)):
        same = list(group)
        first = same[0]
        if first.quantity == "top-1":
            teacher, student = _mean(gain.teacher for gain in same), _mean(gain.student for gain in same)
            lost = [gain.student - gain.teacher for gain in same if gain.teacher is not None]
            rows.append([f"{name} %, {method}", teacher, student, f"{_mean(lost, '+')} points" if lost else NONE])
        else:
            teacher = _cell(first, first.teacher, first.teacher_q1, first.teacher_q3)
            student = _cell(first, first.student, first.student_q1, first.student_q3)
            ratio = _quartiles(first.ratio, first.ratio_q1, first.ratio_q3)
            what = name if first.batch_size is None else f"batch {first.batch_size}, {first.unit}"
            rows.append([what, teacher, student, ratio])
    return rows


def about(gains: Sequence[Gain]) -> list[str]:
    """What the columns are and how they were measured, in sentences."""
    lines = [
        "FLOPs: for one image, a multiply-add is two. size: of the float32 state_dict, saved by torch.save. ratio: how many "
        "times the student is smaller or faster."
    ]
    timed = [gain for gain in gains if gain.quantity == "latency"]
    if timed:
        rounds, where = _each(gain.n for gain in timed), _each(gain.measured_on for gain in timed)
        turns = ", in each of which student and teacher take turns; the ratio is taken within a round"
        lines.append(
            f"latency: median [quartiles] over {rounds} rounds{turns if _with_teacher(timed) else ''}. Eval mode, "
            f"torch.inference_mode, images on the device. {where}."
        )
    tested = [gain for gain in gains if gain.quantity == "top-1"]
    if tested:
        counts = Counter((gain.networks, gain.method) for gain in tested).values()
        seeds = f"{min(counts)} to {max(counts)}" if len(set(counts)) > 1 else str(max(counts))
        means = f" Mean ± standard deviation over {seeds} seeds." if max(counts) > 1 else ""
        images, epoch = _each(gain.n for gain in tested), _each(gain.measured_on for gain in tested)
        who = f"student ({epoch}) and teacher on the same" if _with_teacher(tested) else f"student ({epoch}) on"
        lines.append(f"top-1: of {who} {images} test images, measured in float32.{means}")
        if "best epoch" in epoch:
            lines.append("The best epoch was chosen on the test images: its top-1 is an overestimate.")
    if any(gain.teacher is None for gain in gains):
        lines.append("–: the run has no teacher (method NONE), or one that is not known here.")
    return lines


def _with_teacher(gains: Iterable[Gain]) -> bool:
    return any(gain.teacher is not None for gain in gains)


def _each(values: Iterable[object]) -> str:
    """Different values, in their order."""
    return "; ".join(dict.fromkeys(f"{value:,}" if isinstance(value, int) else str(value) for value in values))


def _mean(values: Iterable[float | None], sign: str = "") -> str:
    """Mean, and standard deviation of several that differ."""
    known = [value for value in values if value is not None]
    if not known:
        return NONE
    deviation = f" ± {number(statistics.stdev(known))}" if len(known) > 1 and len(set(known)) > 1 and not sign else ""
    return number(statistics.fmean(known), sign=sign) + deviation


def _cell(gain: Gain, value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return NONE
    if gain.quantity == "parameters":
        return f"{value:,.0f}"
    if gain.quantity in ("FLOPs", "size"):
        power = min(int(math.log10(max(value, 1))) // 3, 5)
        return f"{_short(value / 1000**power)} {['', 'k', 'M', 'G', 'T', 'P'][power]}{'B' * (gain.unit == 'bytes')}"
    return _quartiles(value, low, high)


def _quartiles(value: float | None, low: float | None, high: float | None) -> str:
    """``2.45 [2.39, 2.50]``."""
    if value is None:
        return NONE
    return _short(value) + (f" [{_short(low)}, {_short(high)}]" if low is not None and high is not None else "")


def _short(value: float) -> str:
    """Three significant digits, or a whole number."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


# ---- picture ------------------------------------------------------------------------------------------------------


def draw_gains(gains: Sequence[Gain], width: float = COLUMN) -> Figure | None:
    """How many times smaller and faster the students are, and their accuracies beside the teachers'; None without either.

    Call it in the context of :func:`drawing.style`.
    """
    places = {networks: place for place, networks in enumerate(dict.fromkeys(gain.networks for gain in gains))}
    ratios = [gain for gain in gains if gain.ratio is not None and gain.quantity != "throughput"]
    accuracies = [gain for gain in gains if gain.quantity == "top-1"]
    rows = len({gain.name for gain in ratios}) * len(places), len({(gain.networks, gain.method) for gain in accuracies})
    parts = zip((_draw_ratios, _draw_accuracies), (ratios, accuracies), (0.7 + 0.24 * each for each in rows), strict=True)
    panels = [part for part in parts if part[1]]
    if not panels:
        return None
    heights = [height for _, _, height in panels]
    legend = [label(name, 44) for name in places]
    figure = new_figure(width, sum(heights) + 0.2 + 0.15 * sum(entry.count("\n") + 1 for entry in legend))
    every_axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for (draw, shown, _), axes in zip(panels, every_axes, strict=True):
        draw(axes, shown, places)
        axes.grid(axis="x", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linestyle="", **_dot(place)) for place in places.values()]
    figure.legend(handles, legend, loc="outside lower center", frameon=False, fontsize="small")
    return figure


def _dot(place: int) -> dict[str, Any]:
    """Look of a pair's dots: another marker for each round of colours."""
    return {"marker": "os^v"[place // len(COLOURS) % 4], "markersize": 4, "color": colour(place)}


def _draw_ratios(axes: Axes, ratios: Sequence[Gain], places: dict[str, int]) -> None:
    """A row for each quantity, in it a line for each pair: ratio and quartiles."""
    names = list(dict.fromkeys(gain.name for gain in ratios))
    values = [value for gain in ratios for value in (gain.ratio, gain.ratio_q1, gain.ratio_q3) if value is not None]
    log_scale(axes, "x")
    axes.set_xlim(min(1, *values) / 1.15, max(1, *values) * 1.6)  # room for the numbers
    axes.axvline(1, color=INK, linewidth=1)
    for gain in ratios:
        assert gain.ratio is not None
        place = places[gain.networks]
        row = names.index(gain.name) + ((place + 0.5) / len(places) - 0.5) * 0.8
        axes.plot([gain.ratio], [row], **_dot(place))
        right = gain.ratio
        if gain.ratio_q1 is not None and gain.ratio_q3 is not None:
            axes.plot([gain.ratio_q1, gain.ratio_q3], [row, row], color=colour(place), linewidth=1.5)
            right = gain.ratio_q3
        axes.annotate(f"{_short(gain.ratio)}×", (right, row), (5, 0), textcoords="offset points", va="center", fontsize="small")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("times smaller or faster")


def _draw_accuracies(axes: Axes, accuracies: Sequence[Gain], places: dict[str, int]) -> None:
    """A row for each method: every seed (dot), their mean (bar), the teacher (diamond), the mean difference (at the right)."""
    rows = list(dict.fromkeys((gain.networks, gain.method) for gain in accuracies))
    for row, (networks, method) in enumerate(rows):
        same = [gain for gain in accuracies if (gain.networks, gain.method) == (networks, method)]
        values = [gain.student for gain in same]
        teachers = [gain.teacher for gain in same if gain.teacher is not None]
        axes.plot(values, [row] * len(values), alpha=0.75, linestyle="", **_dot(places[networks]))
        axes.plot([statistics.fmean(values)] * 2, [row - 0.3, row + 0.3], linewidth=2, color=colour(places[networks]))
        if teachers:
            axes.plot(teachers, [row] * len(teachers), "D", markersize=5, mfc="none", color=colour(places[networks]))
            lost = f"{statistics.fmean(values) - statistics.fmean(teachers):+.1f}"
            axes.text(1.02, row, lost, transform=axes.get_yaxis_transform(), va="center", fontsize="small")
    axes.set_yticks(range(len(rows)), [label(method, 22) for _, method in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("top-1 / %, ◇ teacher" if _with_teacher(accuracies) else "top-1 / %")
    if _with_teacher(accuracies):
        axes.text(1.02, -0.75, "points", transform=axes.get_yaxis_transform(), va="center", fontsize="small")
