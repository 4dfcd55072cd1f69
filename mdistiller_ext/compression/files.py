"""Gains as text for a terminal, and as files."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from ..reporting.drawing import save_figure, style
from ..reporting.gains import GAINS_FILE, HEADER, Gain, about, draw_gains, gain_rows, gains_text

_WIDTH = 80  # columns of a terminal


def show(gains: Sequence[Gain]) -> str:
    """A table for each pair of networks and what was measured, in lines of up to 80 columns."""
    parts = []
    for networks, group in itertools.groupby(gains, key=lambda gain: gain.networks):
        rows = gain_rows(list(group))
        columns = list(zip(*rows, strict=True))[1:]
        others = sum(2 + max(len(name) + 2, *map(len, cells)) for name, cells in zip(HEADER[1:], columns, strict=True))
        text = tabulate(
            rows,
            HEADER,
            "simple",
            disable_numparse=True,
            colalign=["left", "right", "right", "right"],
            maxcolwidths=[max(_WIDTH - others, 12), None, None, None],
        )
        parts += [textwrap.fill(networks, _WIDTH), text]
    return "\n\n".join([*parts, *(textwrap.fill(line, _WIDTH) for line in about(gains))])


def write_gains(gains: Sequence[Gain], folder: Path) -> list[Path]:
    """Write ``compression.csv``, and ``compression.png`` and ``.svg`` where there is something to draw; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / GAINS_FILE.name
    file.write_text(gains_text(gains), encoding="utf-8")
    with style():
        figure = draw_gains(gains)
        return [file, *(save_figure(figure, file.with_suffix("")) if figure is not None else [])]
