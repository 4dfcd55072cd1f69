"""Signal-to-noise ratio of the gradients of each stream (DeepKD, arXiv 2505.15133)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..reporting.drawing import label, log_scale
from ..reporting.table import Row, Table, number
from .analysis import Analysis, Picture, register_analysis
from .gradient_windows import NETWORK, TOTAL, GradientWindows, Grams, read_groups, stream_colour
from .panels import legend, new_panels
from .runs import RunGroup
from .seeds import mean_std

Seeds = Mapping[int, GradientWindows]

_TEXT = (
    "GSNR of a stream over a window of T sampled steps: |mean g|² / mean |g - mean g|² of its gradient g with respect to the "
    "student's weights, over the batch of all processes, without weight decay (DeepKD, arXiv 2505.15133). Pure noise has about "
    "1/(T - 1) (dotted line), where the corrected value, (T - 1)/T GSNR - 1/T, is 0; both order streams alike. Those of a run "
    "are medians over its windows."
)


def gsnr_of(windows: GradientWindows, roles: Sequence[str], layer: str = NETWORK) -> Grams:
    """GSNR of the sum over some roles in each window: ``[W]``."""
    signal, noise = (
        windows.inner(windows.of_layer(windows.windows[name], layer), roles, roles) for name in ("mean_gram", "centred_gram")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Grams = signal / noise
    return ratio


def corrected(ratio: Grams, samples: Grams) -> Grams:
    """Estimate of |E g|² / E |g - E g|² from the GSNR of windows of so many samples: without the bias of small windows."""
    return ratio * (samples - 1) / samples - 1 / samples


def median(ratio: Grams) -> float:
    """Median over the windows without those in which the gradient is zero throughout, where it is not defined; NaN of none."""
    defined = ratio[np.isfinite(ratio)]
    return float(np.median(defined)) if len(defined) else math.nan


def parts_of(windows: GradientWindows) -> dict[str, Sequence[str]]:
    """The streams and, if there are several, their total; name -> roles."""
    return {**windows.streams, **({TOTAL: windows.roles} if len(windows.streams) > 1 else {})}


@register_analysis("gsnr")
def gsnr(groups: Sequence[RunGroup]) -> Analysis:
    """Signal-to-noise ratio of each stream's gradient over training, and the order of momenta that it suggests."""
    found, notes = read_groups(groups, "gsnr")
    rows = [row for name, seeds in found.items() for seed, windows in seeds.items() for row in _rows(name, seed, windows)]
    tables = [_medians(found), _orders(found)]
    return Analysis("Signal-to-noise ratio of gradients", _TEXT, rows, tables, [_curves(found), _layers(found)], notes)


def _rows(method: str, seed: int, windows: GradientWindows) -> list[Row]:
    """A row for each window of the network, and for each layer the median over the windows."""
    samples = windows.windows["samples"]
    rows: list[Row] = []
    for part, roles in parts_of(windows).items():
        about = {"method": method, "seed": seed, "stream": part}
        ratio = gsnr_of(windows, roles)
        for place, step in enumerate(windows.windows["first_step"]):
            where = {"layer": NETWORK, "first_step": int(step), "last_step": int(windows.windows["last_step"][place])}
            values = {"gsnr": float(ratio[place]), "corrected": float(corrected(ratio, samples)[place])}
            rows.append(about | where | {"samples": int(samples[place])} | values)
        for layer in windows.layers:
            ratio = gsnr_of(windows, roles, layer)
            values = {"gsnr": median(ratio), "corrected": median(corrected(ratio, samples))}
            rows.append(about | {"layer": layer, "samples": int(samples.sum())} | values)
    return rows


# ---- tables -------------------------------------------------------------------------------------------------------


def medians(seeds: Seeds) -> dict[str, list[float]]:
    """GSNR of each stream and the total, for each seed: the median over the windows."""
    parts = parts_of(next(iter(seeds.values())))
    return {part: [median(gsnr_of(windows, roles)) for windows in seeds.values()] for part, roles in parts.items()}


def _medians(found: Mapping[str, Seeds]) -> Table:
    rows = []
    for method, seeds in found.items():
        for part, values in medians(seeds).items():
            first = next(iter(seeds.values()))
            unbiased = [
                median(corrected(gsnr_of(windows, parts_of(windows)[part]), windows.windows["samples"]))
                for windows in seeds.values()
            ]
            momentum = first.momentum.get(part)
            cells = [mean_std(values, 4), mean_std(unbiased, 4), " ".join(f"{value:.4f}" for value in values)]
            rows.append([method, part, number(momentum, 3), str(len(values)), *cells])
    text = "Mean ± standard deviation over the seeds. momentum: that of the trainer for the stream."
    header = ["method", "stream", "momentum", "seeds", "GSNR", "corrected", "every seed"]
    return Table("GSNR over training", header, rows, text)


def _orders(found: Mapping[str, Seeds]) -> Table:
    rows = []
    for method, seeds in found.items():
        streams = {part: values for part, values in medians(seeds).items() if part != TOTAL and not np.isnan(values).any()}
        orders = [tuple(sorted(streams, key=lambda part: -streams[part][i])) for i in range(len(seeds))]
        most = max(set(orders), key=orders.count)
        momentum = next(iter(seeds.values())).momentum
        used = sorted(momentum, key=lambda stream: -momentum[stream])
        rows.append([method, " > ".join(most), f"{orders.count(most)} of {len(orders)}", _momenta(used, momentum)])
    text = (
        "DeepKD gives the streams with the higher GSNR the larger momentum. suggested: by GSNR, the most frequent "
        "order among the seeds."
    )
    return Table("Order of momenta", ["method", "suggested", "seeds", "of the trainer"], rows, text)


def _momenta(streams: Sequence[str], momentum: Mapping[str, float]) -> str:
    return ", ".join(f"{stream} {momentum[stream]:g}" for stream in streams)


# ---- pictures -----------------------------------------------------------------------------------------------------


def _curves(found: Mapping[str, Seeds]) -> Picture:
    """GSNR of each stream against the step, a panel for each method."""
    figure, panels = new_panels(len(found), height=1.9, sharey=True)
    for axes, (method, seeds) in zip(panels, found.items(), strict=False):
        first = next(iter(seeds.values()))
        for roles in parts_of(first).values():
            curves = np.array([gsnr_of(windows, roles) for windows in seeds.values()])
            _draw_curve(axes, first.steps, curves, stream_colour(roles, first))
        axes.set(xlabel="training step", ylabel="GSNR")
        axes.plot(first.steps, 1 / (first.windows["samples"] - 1), color="#888888", linestyle=":", linewidth=1)
        log_scale(axes, "y")
        axes.set_title(label(method, 32), fontsize="medium")
        axes.grid(linewidth=0.5)
    legend(figure, _looks(found))
    title = "GSNR of each stream over training: mean (line) and range (band) over the seeds; dotted: 1/(T - 1), pure noise"
    described = "; ".join(
        f"{method}: {', '.join(f'{part} {np.mean(values):.3f}' for part, values in medians(seeds).items())}"
        for method, seeds in found.items()
    )
    return Picture("", title, f"median GSNR over training, {described}", figure)


def _layers(found: Mapping[str, Seeds]) -> Picture:
    """GSNR of each stream in each convolution and linear layer, from the input to the output."""
    figure, panels = new_panels(
        len(found), height=max(0.16 * max(len(windows.kernels) for seeds in found.values() for windows in seeds.values()), 1.6)
    )
    for axes, (method, seeds) in zip(panels, found.items(), strict=False):
        first = next(iter(seeds.values()))
        for part, roles in parts_of(first).items():
            values = [
                np.mean([median(gsnr_of(windows, roles, layer)) for windows in seeds.values()]) for layer in first.kernels
            ]
            axes.plot(
                values,
                range(len(first.kernels)),
                color=stream_colour(roles, first),
                marker="o",
                markersize=3,
                linewidth=1,
                label=part,
            )
        axes.set_yticks(range(len(first.kernels)), first.kernels, fontsize="x-small")
        axes.invert_yaxis()
        axes.set_xlabel("GSNR, median over training")
        axes.set_title(label(method, 32), fontsize="medium")
        axes.grid(linewidth=0.5)
    legend(figure, _looks(found))
    title = "GSNR of each stream in the convolutions and the classifier, from input to output: mean over the seeds"
    return Picture("layers", title, "GSNR by layer; the values are in the CSV", figure)


def _draw_curve(axes: Any, steps: Grams, curves: Grams, colour: str) -> None:
    axes.plot(steps, curves.mean(axis=0), color=colour, linewidth=1.5)
    if len(curves) > 1:
        axes.fill_between(steps, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2, linewidth=0)


def _looks(found: Mapping[str, Seeds]) -> dict[str, dict[str, Any]]:
    """Colour of each stream, for the legend."""
    streams = (seeds[min(seeds)] for seeds in found.values())
    return {part: {"color": stream_colour(roles, first)} for first in streams for part, roles in parts_of(first).items()}
