"""Pictures of a report: the confusion matrix and the sheet of mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgb
from torch import Tensor

from ..reporting.drawing import COLOURS, PAGE, new_figure
from .observer import Mistakes, Predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT, WRONG = COLOURS[1], COLOURS[3]
_CELLS = 200  # on an edge of the matrix; more would be smaller than what a reader can see
_NAMED = 40  # classes; more have their numbers at the axes, every tenth or so
_COLUMNS = 8  # images in a row of the sheet
_CELL = 1.45  # height of an image with its lines of text, in widths


def draw_confusion(matrix: Tensor, names: Sequence[str]) -> Figure:
    """Each row of a confusion matrix ``[C, C]`` as shares of its true class, by opacity, which suits light and dark pages.

    The opacity is the square root of the share: a cell of 1 % remains visible. With more than 200 classes a cell is the largest
    share of a wrong class in a block of several rows and columns, and right predictions are not drawn.
    """
    count = len(names)
    shares = matrix.double() / matrix.sum(dim=1, keepdim=True).clamp(min=1)
    right = torch.eye(count, dtype=torch.bool)
    block = block_size(count)
    if block > 1:
        shares = F.max_pool2d(shares.fill_diagonal_(0)[None, None], block, ceil_mode=True)[0, 0]
        right = torch.zeros_like(shares, dtype=torch.bool)
    figure = new_figure(PAGE, PAGE - 0.6)
    axes, scale = figure.subplots(1, 2, width_ratios=(20, 1))
    edge = len(shares) * block - 0.5
    axes.imshow(_coloured(shares.numpy(), right.numpy()), interpolation="none", extent=(-0.5, edge, edge, -0.5))
    by = "" if count <= _NAMED else " (number)"
    axes.set(xlabel=f"predicted class{by}", ylabel=f"true class{by}", xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
    axes.tick_params(length=2)
    if count <= _NAMED:
        short = [_short(name, 18) for name in names]
        axes.set_xticks(range(count), short, rotation=90, fontsize=8)
        axes.set_yticks(range(count), short, fontsize=8)
    kinds = {"wrong": False} if block > 1 else {"right": True, "wrong": False}
    ramp = np.linspace(0, 1, 256)[:, None].repeat(len(kinds), axis=1) ** 2
    colours = _coloured(ramp, np.array([list(kinds.values())]))
    scale.imshow(colours, aspect="auto", extent=(0, len(kinds), 0, 1), origin="lower", interpolation="none")
    ticks = (0, 0.01, 0.1, 0.25, 0.5, 1)
    scale.set_yticks(np.sqrt(ticks), [f"{100 * tick:g} %" for tick in ticks])
    scale.set_xticks(np.arange(len(kinds)) + 0.5, list(kinds), rotation=90)
    scale.yaxis.tick_right()
    scale.tick_params(length=2)
    scale.set_title("share of\nthe class", fontsize=9, loc="left")
    return figure


def block_size(count: int) -> int:
    """Classes on an edge of a cell in the picture of a confusion matrix."""
    return -(-count // _CELLS)


def draw_mistakes(predictions: Predictions, mistakes: Mistakes, names: Sequence[str]) -> Figure:
    """The images of mistakes, each with its true class, the predicted one and its probability."""
    rows = -(-len(mistakes.places) // _COLUMNS)
    figure = new_figure(PAGE, rows * _CELL * PAGE / _COLUMNS)
    axes = figure.subplots()  # one for all: forty take seconds
    for number, (place, pixels) in enumerate(zip(mistakes.places.tolist(), mistakes.pixels, strict=True)):
        left, top = number % _COLUMNS, number // _COLUMNS * _CELL
        bottom = top + _CELL - 0.05
        axes.imshow(pixels.permute(1, 2, 0).numpy(), extent=(left + 0.05, left + 0.95, bottom, bottom - 0.9))
        true, predicted = (names[int(classes[place])] for classes in (predictions.labels, predictions.predicted))
        percent = f"{100 * float(predictions.probability[place]):.1f} %"
        lines = f"{_short(true, 15)}\n→ {_short(predicted, 13)}\n{percent}"
        axes.text(left + 0.5, bottom - 0.94, lines, ha="center", va="bottom", fontsize=7)
    axes.set(xlim=(0, _COLUMNS), ylim=(rows * _CELL, 0))
    axes.set_axis_off()
    return figure


def _coloured(shares: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Shares ``[H, W]`` as RGBA."""
    rgb = np.where(right[..., None], to_rgb(RIGHT), to_rgb(WRONG))
    return np.concatenate([np.broadcast_to(rgb, (*shares.shape, 3)), np.sqrt(shares)[..., None]], axis=2)


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"
