"""Files of analyses: CSV, PNG and SVG of each, and a page of HTML with several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..reporting.drawing import save_figure, style, svg_element
from ..reporting.page import render
from ..reporting.table import csv_text
from .analysis import Analysis


def write_analysis(analysis: Analysis, name: str, folder: Path) -> list[Path]:
    """Write ``<name>.csv``, and ``<name>.png`` and ``.svg`` of each picture; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.csv"]
    paths[0].write_text(csv_text(analysis.rows), encoding="utf-8")
    with style():
        for picture in analysis.pictures:
            paths += save_figure(picture.figure, folder / (f"{name}_{picture.name}" if picture.name else name))
    return paths


def write_page(analyses: Mapping[str, Analysis], impossible: Mapping[str, str], folder: Path) -> Path:
    """Write ``analysis.html``, a page that needs no other file.

    Args:
        impossible: reasons why an analysis could not be made, by its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with style():
        parts = [
            (name, analysis, [(picture, svg_element(picture.figure)) for picture in analysis.pictures])
            for name, analysis in analyses.items()
        ]
    page = folder / "analysis.html"
    page.write_text(render("analyze/page.html.j2", parts=parts, impossible=impossible), encoding="utf-8")
    return page
