"""Tables of predictions: values of a small case, and identities of any."""

from __future__ import annotations

import pytest
import torch

from mdistiller_ext.inspection.observer import Predictions
from mdistiller_ext.inspection.tables import (
    agreement,
    agreement_table,
    class_rows,
    classes_table,
    confusion_matrix,
    pairs_table,
    prediction_rows,
    worst_table,
)

NAMES = ("cat", "dog", "cow", "yak")  # there is no image of a yak


def example(*, teacher: bool = True) -> Predictions:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    predicted = torch.tensor([0, 1, 1, 2, 1, 1, 3, 0])
    teachers = torch.tensor([0, 0, 1, 3, 1, 0, 1, 2])
    return Predictions(torch.arange(8), labels, predicted, torch.linspace(0.3, 1, 8), teachers if teacher else None)


def at_random() -> Predictions:
    labels, predicted, teacher = torch.randint(5, (3, 400), generator=torch.Generator().manual_seed(1))
    return Predictions(torch.arange(400), labels, predicted, torch.rand(400), teacher)


def test_rows_of_classes() -> None:
    cat, dog, cow, yak = class_rows(example(), NAMES)
    assert cat == {
        "class": 0,
        "name": "cat",
        "images": 4,
        "accuracy": 25.0,
        "predicted": 2,
        "precision": 50.0,
        "confused_with": "dog",
        "confused_images": 2,
        "teacher_accuracy": 50.0,
        "agreement": 50.0,
        "both_right": 25.0,
        "only_student_right": 0.0,
        "only_teacher_right": 25.0,
        "same_mistake": 25.0,
        "different_mistakes": 25.0,
    }
    assert dog["confused_with"] == "yak"
    assert (dog["accuracy"], dog["only_student_right"]) == (pytest.approx(200 / 3), pytest.approx(100 / 3))
    assert (cow["accuracy"], cow["precision"], cow["teacher_accuracy"]) == (0.0, 0.0, 100.0)
    assert (yak["images"], yak["predicted"], yak["precision"]) == (0, 1, 0.0)
    assert {yak[name] for name in ("accuracy", "confused_with", "confused_images", "teacher_accuracy", "agreement")} == {None}


def test_rows_without_a_teacher_say_nothing_of_it() -> None:
    assert agreement(example(teacher=False)) == {}
    assert agreement_table(example(teacher=False), "") is None
    assert list(class_rows(example(teacher=False), NAMES)[0])[-1] == "confused_images"
    assert "teacher" not in prediction_rows(example(teacher=False), NAMES, ())[0]


def test_the_matrix_and_the_kinds_of_agreement_count_every_image_once() -> None:
    predictions = at_random()
    matrix = confusion_matrix(predictions, 5)
    assert torch.equal(matrix.sum(dim=1), predictions.labels.bincount())
    assert torch.equal(matrix.sum(dim=0), predictions.predicted.bincount())
    assert matrix.diagonal().sum() == (predictions.labels == predictions.predicted).sum()
    masks = agreement(predictions)
    kinds = [mask for name, mask in masks.items() if name != "agreement"]
    assert torch.equal(torch.stack(kinds).sum(dim=0), torch.ones(400, dtype=torch.int64))
    assert torch.equal(masks["agreement"], masks["both_right"] | masks["same_mistake"])
    for row in class_rows(predictions, tuple("abcde")):
        assert row["accuracy"] == pytest.approx(row["both_right"] + row["only_student_right"])
        assert row["teacher_accuracy"] == pytest.approx(row["both_right"] + row["only_teacher_right"])


def test_the_tables_of_the_page() -> None:
    pairs = pairs_table(confusion_matrix(example(), 4), NAMES, limit=3)
    assert pairs.rows == [["cat", "dog", "2", "50.0"], ["cat", "cow", "1", "25.0"], ["dog", "yak", "1", "33.3"]]
    assert pairs.text == "The 3 most frequent of 4 pairs."
    table = agreement_table(example(), "resnet8 from file")
    assert table is not None
    assert table.text == "Teacher: resnet8 from file, 62.50 % top-1."
    assert table.rows[0] == ["equal predictions", "3", "37.50"]
    assert sum(int(row[1]) for row in table.rows[1:]) == 8
    rows = class_rows(example(), NAMES)
    assert [row[0] for row in worst_table(rows, limit=2).rows] == ["cow", "cat"]
    assert classes_table(rows, "").rows[3] == ["yak", "0", "–", "0.0", "–", "–", "–"]


def test_rows_of_images() -> None:
    rows = prediction_rows(example(), NAMES, [f"{i}.png" for i in range(8)])
    assert rows[3] == {
        "image": 3,
        "file": "3.png",
        "true": 0,
        "true_name": "cat",
        "predicted": 2,
        "predicted_name": "cow",
        "probability": "0.600000",
        "teacher": 3,
        "teacher_name": "yak",
    }
