"""Conflict of gradients: cosines and norms between streams (DOT, ICCV 2023, section 3)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..reporting.drawing import COLUMN, INK, colour, line_style, new_figure
from ..reporting.table import Row, Table
from .analysis import Analysis, Picture, register_analysis
from .gradient_windows import NETWORK, GradientWindows, Grams, read_groups
from .panels import legend
from .runs import RunGroup
from .seeds import mean_std

Seeds = Mapping[int, GradientWindows]

_TEXT = (
    "Gradients a and b of two streams at the same weights, over the batch of all processes: cosine a·b / (|a| |b|), mean over "
    "the samples of a window. The consistent part is (a + b) / 2, the vector nearest to both; the inconsistent part "
    "is (a - b) / 2, so that a and b are their sum and difference (v_con and v_incon in DOT, ICCV 2023). teacher: the sum over "
    "all streams but that of the labels."
)


class Pair(NamedTuple):
    """Two sets of roles that are compared."""

    name: str
    first: Sequence[str]
    second: Sequence[str]


class Agreement(NamedTuple):
    """How two gradients relate, each ``[...]``: cosine, norms, and norms of the consistent and inconsistent parts."""

    cosine: Grams
    first: Grams
    second: Grams
    consistent: Grams
    inconsistent: Grams

    @property
    def relative_norm(self) -> Grams:
        """Norm of the second over that of the first."""
        return _ratio(self.second, self.first)

    @property
    def relative_inconsistency(self) -> Grams:
        """Norm of the inconsistent over that of the consistent part."""
        return _ratio(self.inconsistent, self.consistent)


def agreement(gram: Grams, windows: GradientWindows, pair: Pair) -> Agreement:
    """Relate the two gradients of a pair, from the inner products ``[..., R, R]`` of the roles' gradients."""
    sides = ((pair.first, pair.first), (pair.second, pair.second), (pair.first, pair.second))
    a, b, ab = (windows.inner(gram, *roles) for roles in sides)
    cosine = _ratio(ab, np.sqrt(a * b))
    parts = (np.sqrt(np.maximum(a + b + sign * 2 * ab, 0)) / 2 for sign in (1, -1))
    return Agreement(cosine, np.sqrt(a), np.sqrt(b), *parts)


def _ratio(above: Grams, below: Grams) -> Grams:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Grams = above / below
    return ratio


def mean_of(values: Grams) -> float:
    """Mean without the samples for which a ratio is not defined, as a gradient is zero; NaN of none."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else math.nan


def pairs_of(windows: GradientWindows) -> list[Pair]:
    """All pairs of streams; with more than two, also that of the labels with the sum of the others."""
    found = [
        Pair(f"{a} - {b}", first, second) for (a, first), (b, second) in itertools.combinations(windows.streams.items(), 2)
    ]
    labels = next((name for name, roles in windows.streams.items() if list(roles) == ["task"]), None)
    if labels is not None and len(windows.streams) > 2:
        others = [role for role in windows.roles if role != "task"]
        found.insert(0, Pair(f"{labels} - teacher", ["task"], others))
    return found


@register_analysis("conflict")
def conflict(groups: Sequence[RunGroup]) -> Analysis:
    """Cosines and norms between the gradients of the streams over training."""
    found, notes = read_groups(groups, "conflict")
    rows = [row for name, seeds in found.items() for seed, windows in seeds.items() for row in _rows(name, seed, windows)]
    places = {group.name: group.place for group in groups}
    return Analysis("Conflict of gradients", _TEXT, rows, [_table(found)], [_curves(found, places)], notes)


def _rows(method: str, seed: int, windows: GradientWindows) -> Iterator[Row]:
    """A row for each window of the network, and for each layer over all windows."""
    counts = windows.windows["samples"]
    ends = np.cumsum(counts)
    for pair in pairs_of(windows):
        about = {"method": method, "seed": seed, "pair": pair.name}
        for place, end in enumerate(ends):
            inside = windows.windows["sample_gram"][end - counts[place] : end]
            where = {"layer": NETWORK, "first_step": int(windows.windows["first_step"][place])}
            where |= {"last_step": int(windows.windows["last_step"][place]), "samples": int(counts[place])}
            yield about | where | _values(agreement(inside, windows, pair))
        for layer in windows.layers:
            mean = np.average(windows.of_layer(windows.windows["gram"], layer), axis=0, weights=counts)
            yield about | {"layer": layer, "samples": int(ends[-1])} | _values(agreement(mean[None], windows, pair))


def _values(found: Agreement) -> Row:
    """Means over samples; of a layer, whose samples are not kept, the cosine of the mean inner products."""
    return {
        "cosine": mean_of(found.cosine),
        "share_negative": float((found.cosine < 0).mean()) if len(found.cosine) > 1 else None,
        "norm_first": mean_of(found.first),
        "norm_second": mean_of(found.second),
        "norm_consistent": mean_of(found.consistent),
        "norm_inconsistent": mean_of(found.inconsistent),
    }


def _table(found: Mapping[str, Seeds]) -> Table:
    rows = []
    for method, seeds in found.items():
        for pair in pairs_of(next(iter(seeds.values()))):
            each = [agreement(windows.windows["sample_gram"], windows, pair) for windows in seeds.values()]
            values = [
                [mean_of(one.cosine) for one in each],
                [float((one.cosine < 0).mean()) * 100 for one in each],
                [mean_of(one.relative_norm) for one in each],
                [mean_of(one.relative_inconsistency) for one in each],
            ]
            rows.append([method, pair.name, str(len(each)), *(mean_std(each_seed, 3) for each_seed in values)])
    header = ["method", "pair a - b", "seeds", "cosine", "cosine < 0 / %", "|b| / |a|", "inconsistent / consistent"]
    return Table("Agreement over training", header, rows, "Means over all samples; ± standard deviation over the seeds.")


def _curves(found: Mapping[str, Seeds], places: Mapping[str, int]) -> Picture:
    """Cosine of the labels' gradient with the teacher's, and the ratio of the parts, against the step; a line per method."""
    figure = new_figure(COLUMN, 4.2)
    cosine, ratio = figure.subplots(2, 1, sharex=True)
    described = []
    looks: dict[str, dict[str, Any]] = {}
    for method, seeds in found.items():
        first = next(iter(seeds.values()))
        pair = pairs_of(first)[0]
        style = {"color": colour(places[method]), "linestyle": line_style(places[method])}
        looks[f"{method}: {pair.name}"] = style
        for axes, get in ((cosine, lambda one: one.cosine), (ratio, lambda one: one.relative_inconsistency)):
            curves = np.array([_by_window(get(agreement(w.windows["sample_gram"], w, pair)), w) for w in seeds.values()])
            axes.plot(first.steps, curves.mean(axis=0), linewidth=1.5, **style)
            axes.fill_between(first.steps, curves.min(axis=0), curves.max(axis=0), color=style["color"], alpha=0.2, linewidth=0)
        described.append(f"{method} {curves.mean():.2f}")
    cosine.axhline(0, color=INK, linewidth=0.8)
    cosine.set_ylabel("cosine")
    ratio.set_ylabel("inconsistent / consistent")
    ratio.set_xlabel("training step")
    for axes in (cosine, ratio):
        axes.grid(linewidth=0.5)
    legend(figure, looks)
    title = "Cosine between the gradient of the labels and the teacher's, and the norms of their inconsistent part over the "
    title += "consistent part: mean (line) and range (band) over the seeds"
    return Picture("", title, f"ratio of inconsistent to consistent part: {'; '.join(described)}", figure)


def _by_window(values: Grams, windows: GradientWindows) -> Grams:
    """Means of the samples of each window: ``[N]`` -> ``[W]``."""
    counts = windows.windows["samples"]
    return np.array([mean_of(part) for part in np.split(values, np.cumsum(counts)[:-1])])
