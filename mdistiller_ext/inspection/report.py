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

from ..data import Loader, WorkerLoader, names_of_classes
from ..distributed import rank
from ..errors import one_line
from ..reporting.drawing import save_figure, save_png, style, svg_element
from ..reporting.page import render
from ..reporting.table import Row, csv_text
from .figures import block_size, draw_confusion, draw_mistakes
from .observer import Mistakes, Observer, Predictions
from .tables import agreement_table, class_rows, classes_table, confusion_matrix, pairs_table, prediction_rows, worst_table
from .teacher import Teacher, open_teacher

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
    loader = observer.loader
    names = class_names(loader)
    files = [loader.file_of(index) for index in predictions.index.tolist()] if isinstance(loader, WorkerLoader) else []
    rows = class_rows(predictions, names)
    worst = worst_table(rows)
    matrix = confusion_matrix(predictions, len(names))
    with style():
        confusion = draw_confusion(matrix, names)
        page = render(
            "inspection/page.html.j2",
            title=title,
            about=about,
            result=result,
            images=len(predictions.labels),
            notes=_notes(rows, observer.teacher),
            tables=[table for table in (agreement_table(predictions, observer.teacher.name), worst) if table],
            classes=classes_table(rows, f"All {len(rows):,} classes") if len(rows) > len(worst.rows) else None,
            matrix=svg_element(confusion),
            width=confusion.get_figwidth(),
            block=block_size(len(names)),
            pairs=pairs_table(matrix, names),
            mistakes=_sheet(predictions, mistakes, names, files),
            small=max(loader.image_shape) <= _SMALL,
        )
        texts = {
            "report.html": page.encode(errors="replace"),
            "per_class.csv": csv_text([_rounded(row) for row in rows]).encode(),
            "confusion.csv": _matrix_text(matrix, names).encode(),
            # A path that is not UTF-8 keeps its bytes.
            "predictions.csv": csv_text(prediction_rows(predictions, names, files)).encode(errors="surrogateescape"),
        }
        for name, text in texts.items():
            (folder / name).write_bytes(text)
        pictures = save_figure(confusion, folder / "confusion")
        if len(mistakes.places):
            pictures.append(save_png(draw_mistakes(predictions, mistakes, names), folder / "mistakes"))
    return [*(folder / name for name in texts), *pictures]


def class_names(loader: Loader) -> list[str]:
    """Names of a loader's classes; what cannot be printed is escaped, as names of folders may hold any bytes."""
    return [one_line(name) for name in names_of_classes(loader.identity, loader.num_classes)]


def _notes(rows: Sequence[Row], teacher: Teacher) -> list[str]:
    without = sum(not row["images"] for row in rows)
    notes = [teacher.note, f"{without} of {len(rows):,} classes have no test images" if without else ""]
    return [note for note in notes if note]


def _sheet(predictions: Predictions, mistakes: Mistakes, names: Sequence[str], files: Sequence[str]) -> list[dict[str, str]]:
    """What the page shows of each mistake."""
    return [
        {
            "image": _data_uri(pixels),
            "true": names[int(predictions.labels[place])],
            "predicted": names[int(predictions.predicted[place])],
            "percent": f"{100 * float(predictions.probability[place]):.1f}",
            "where": files[place] if files else f"test image {int(predictions.index[place])}",
        }
        for place, pixels in zip(mistakes.places.tolist(), mistakes.pixels, strict=True)
    ]


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
