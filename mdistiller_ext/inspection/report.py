"""Files of a report: CSV, PNG and SVG, and a page of HTML that needs no other file."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..data import Loader, WorkerLoader
from ..distributed import rank
from ..reporting.drawing import save_figure, style, svg_element
from ..reporting.page import render
from ..reporting.table import csv_text
from .figures import draw_confusion, draw_mistakes
from .observer import Observer
from .tables import agreement_table, class_rows, classes_table, confusion_matrix, pairs_table, prediction_rows
from .teacher import open_teacher

_WORST = 15  # classes shown without a click
_SMALL = 64  # pixels; images up to this size are enlarged without smoothing
_THUMBNAIL = 128  # pixels; longest edge of an image in the page


def observe(folder: Path, loader: Loader, config_file: Path | None, overrides: Sequence[Any]) -> Observer:
    """Make the folder of a report, and what observes the evaluation for it. Called by every rank.

    Args:
        loader: also yields the positions of the images.
        config_file, overrides: see `open_teacher`.
    """
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
    return Observer(loader, open_teacher(config_file, overrides, loader))


def write_report(folder: Path, observer: Observer, result: Mapping[str, float], *, title: str, about: str) -> list[Path]:
    """Write all files of a report, on rank 0; returns their paths. Called by every rank.

    Args:
        result: what `evaluate` returned.
        title: network and data set, in a few words.
        about: network and weights.
    """
    predictions, mistakes = observer.gather()
    if rank() > 0:
        return []
    loader, teacher = observer.loader, observer.teacher
    names = class_names(loader)
    files = [loader.file_of(index) for index in predictions.index.tolist()] if isinstance(loader, WorkerLoader) else []
    rows = class_rows(predictions, names)
    matrix = confusion_matrix(predictions, len(names))
    tables = {
        "per_class.csv": csv_text([_rounded(row) for row in rows]),
        "confusion.csv": _matrix_text(matrix, names),
        "predictions.csv": csv_text(prediction_rows(predictions, names, files)),
    }
    for name, text in tables.items():
        (folder / name).write_bytes(text.encode(errors="surrogateescape"))  # a path that is not UTF-8 keeps its bytes
    with style():
        confusion = draw_confusion(matrix, names)
        pictures = save_figure(confusion, folder / "confusion")
        svg = svg_element(confusion)
        if len(mistakes.places):
            pictures += save_figure(draw_mistakes(predictions, mistakes, names), folder / "mistakes")
    notes = [teacher.note] if teacher.note else []
    without = sum(not row["images"] for row in rows)
    notes += [f"classes without test images: {without} of {len(rows)}"] if without else []
    worst = sorted((row for row in rows if row["images"]), key=lambda row: float(row["accuracy"]))
    page = folder / "report.html"
    html = render(
        "inspection/page.html.j2",
        title=title,
        about=about,
        result=result,
        images=len(predictions.labels),
        notes=notes,
        agreement=agreement_table(predictions, teacher.name),
        matrix=svg,
        width=confusion.get_figwidth(),
        small=max(loader.image_shape) <= _SMALL,
        pairs=pairs_table(matrix, names),
        worst=classes_table(worst[:_WORST], "Classes, the least accurate first", "All of them are in per_class.csv."),
        classes=classes_table(rows, f"All {len(rows):,} classes", "") if len(worst) > _WORST else None,
        mistakes=[
            {
                "image": _data_uri(pixels),
                "true": names[int(predictions.labels[place])],
                "predicted": names[int(predictions.predicted[place])],
                "percent": f"{100 * float(predictions.probability[place]):.1f}",
                "file": files[place] if files else f"image {int(predictions.index[place])} of the test set",
            }
            for place, pixels in zip(mistakes.places.tolist(), mistakes.pixels, strict=True)
        ],
    )
    page.write_bytes(html.encode(errors="replace"))
    return [page, *(folder / name for name in tables), *pictures]


def class_names(loader: Loader) -> Sequence[str]:
    """Names of a loader's classes in the order of the labels; the numbers 0 .. C - 1 for a data set without names."""
    names = loader.identity.classes if loader.identity is not None else None
    return names if names is not None else tuple(map(str, range(loader.num_classes)))


def _rounded(row: Mapping[str, object]) -> dict[str, object]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def _matrix_text(matrix: Tensor, names: Sequence[str]) -> str:
    """CSV of a confusion matrix: a row for each true class, a column for each predicted one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", *names])
    writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    return text.getvalue()


def _data_uri(pixels: Tensor) -> str:
    """An image, uint8 ``[3, H, W]``, as a PNG within a page."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    image.save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
