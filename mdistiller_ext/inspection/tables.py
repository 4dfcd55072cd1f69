"""From predictions to numbers: accuracy by class, confusion matrix, confused pairs, agreement with the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..reporting.table import NONE, Row, Table, number
from .observer import Predictions


def confusion_matrix(predictions: Predictions, classes: int) -> Tensor:
    """Number of images of each true class (row) for which each class (column) is predicted, int64 ``[C, C]``."""
    pairs = predictions.labels * classes + predictions.predicted
    return pairs.bincount(minlength=classes**2).view(classes, classes)


def agreement(predictions: Predictions) -> dict[str, Tensor]:
    """How student and teacher agree on each image, bool ``[N]``; empty without a teacher.

    Returns:
        ``agreement``: equal predictions. ``both_right``, ``only_student_right``, ``only_teacher_right``, ``same_mistake`` and
        ``different_mistakes``: one of the five is true of each image.
    """
    if predictions.teacher is None:
        return {}
    equal = predictions.predicted == predictions.teacher
    student, teacher = predictions.predicted == predictions.labels, predictions.teacher == predictions.labels
    return {
        "agreement": equal,
        "both_right": student & teacher,
        "only_student_right": student & ~teacher,
        "only_teacher_right": ~student & teacher,
        "same_mistake": equal & ~student,
        "different_mistakes": ~equal & ~student & ~teacher,
    }


def class_rows(predictions: Predictions, names: Sequence[str]) -> list[Row]:
    """A row for each class, in their order; percentages and the most frequent mistake are None for one without images.

    Columns: ``class`` (number), ``name``, ``images``, ``accuracy`` (percent of the images), ``predicted`` (images of any class
    for which this class is predicted), ``precision`` (percent of these that are right), ``confused_with`` (the wrong class
    predicted most often) and ``confused_images``; with a teacher ``teacher_accuracy`` and the percentages of :func:`agreement`.
    """
    count = len(names)
    matrix = confusion_matrix(predictions, count)
    images, named, right = matrix.sum(dim=1), matrix.sum(dim=0), matrix.diagonal()
    wrong = matrix.clone().fill_diagonal_(0)
    shares = dict(agreement(predictions))
    if predictions.teacher is not None:
        shares = {"teacher_accuracy": predictions.teacher == predictions.labels} | shares
    by_class = {what: predictions.labels[mask].bincount(minlength=count) for what, mask in shares.items()}
    rows: list[Row] = []
    for c, name in enumerate(names):
        most, other = (int(value) for value in wrong[c].max(dim=0))
        rows.append(
            {
                "class": c,
                "name": name,
                "images": int(images[c]),
                "accuracy": _percent(right[c], images[c]),
                "predicted": int(named[c]),
                "precision": _percent(right[c], named[c]),
                "confused_with": names[other] if most else None,
                "confused_images": most if most else None,
            }
            | {what: _percent(counts[c], images[c]) for what, counts in by_class.items()}
        )
    return rows


def prediction_rows(predictions: Predictions, names: Sequence[str], files: Sequence[str]) -> list[Row]:
    """A row for each image.

    Args:
        files: paths of the images; empty where they are not files.
    """
    teacher = predictions.teacher.tolist() if predictions.teacher is not None else []
    columns = (values.tolist() for values in (predictions.index, predictions.labels, predictions.predicted))
    return [
        {"image": index}
        | ({"file": files[place]} if files else {})
        | {"true": true, "true_name": names[true], "predicted": predicted, "predicted_name": names[predicted]}
        | {"probability": f"{probability:.6f}"}
        | ({"teacher": teacher[place], "teacher_name": names[teacher[place]]} if teacher else {})
        for place, (index, true, predicted, probability) in enumerate(
            zip(*columns, predictions.probability.tolist(), strict=True)
        )
    ]


# ---- tables of the page ---------------------------------------------------------------------------------------------


def agreement_table(predictions: Predictions, teacher: str) -> Table | None:
    """Images by how student and teacher agree; None without a teacher."""
    masks = agreement(predictions)
    if not masks:
        return None
    total = len(predictions.labels)
    titles = {
        "agreement": "equal predictions",
        "both_right": "both right",
        "only_student_right": "only the student right",
        "only_teacher_right": "only the teacher right",
        "same_mistake": "both wrong, the same class",
        "different_mistakes": "both wrong, different classes",
    }
    counts = {what: masks[what].sum() for what in titles}
    rows = [[title, f"{int(counts[what]):,}", number(_percent(counts[what], total))] for what, title in titles.items()]
    right = number(_percent(counts["both_right"] + counts["only_teacher_right"], total))
    return Table("Agreement with the teacher", ["", "images", "%"], rows, f"Teacher: {teacher}, {right} % top-1.")


def pairs_table(matrix: Tensor, names: Sequence[str], limit: int = 20) -> Table:
    """The pairs of true and predicted class with the most images; equal ones in the order of the classes."""
    wrong = matrix.clone().fill_diagonal_(0).flatten()
    first = [place for place in wrong.argsort(descending=True, stable=True)[:limit].tolist() if wrong[place]]
    rows = []
    for place in first:
        true, predicted = divmod(place, len(names))
        share = number(_percent(wrong[place], matrix[true].sum()), 1)
        rows.append([names[true], names[predicted], f"{int(wrong[place]):,}", share])
    header = ["true class", "predicted class", "images", "% of the class"]
    return Table("Most confused pairs", header, rows, f"The {len(rows)} most frequent of {int((wrong > 0).sum()):,} pairs.")


def worst_table(rows: Sequence[Row], limit: int = 15) -> Table:
    """The least accurate classes of :func:`class_rows`; equal ones in their order."""
    worst = sorted((row for row in rows if row["images"]), key=lambda row: float(row["accuracy"]))[:limit]
    return classes_table(worst, "Least accurate classes", "Every class: per_class.csv.")


def classes_table(rows: Sequence[Row], title: str, text: str = "") -> Table:
    """Rows of :func:`class_rows` as a table."""
    with_teacher = "teacher_accuracy" in rows[0]
    header = ["class", "images", "accuracy / %", "precision / %", "most often taken for"]
    header += ["teacher / %", "agreement / %"] if with_teacher else []
    cells = []
    for row in rows:
        mistake = f"{row['confused_with']} ({row['confused_images']})" if row["confused_images"] else NONE
        percentages = [row[name] for name in ("teacher_accuracy", "agreement") if with_teacher]
        cells.append(
            [row["name"], f"{row['images']:,}", number(row["accuracy"], 1), number(row["precision"], 1), mistake]
            + [number(value, 1) for value in percentages]
        )
    return Table(title, header, cells, text)


def _percent(part: Tensor | int, whole: Tensor | int) -> float | None:
    """``part`` of ``whole`` in percent; None if that is 0."""
    return 100 * int(part) / int(whole) if int(whole) else None
