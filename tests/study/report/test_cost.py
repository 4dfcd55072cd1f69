"""Parameters and operations of students."""

from __future__ import annotations

import pytest

from mdistiller_ext.config import load_config
from mdistiller_ext.models import create_model
from mdistiller_ext.study.report.cost import student_cost
from tests.support.studies import DATA


def cost(*overrides: object, classes: int | None = None) -> tuple[int, int] | None:
    return student_cost(load_config(None, overrides), None if classes is None else DATA | {"classes": classes})


def test_parameters_are_those_of_the_network_for_the_classes_of_the_data() -> None:
    expected = sum(p.numel() for p in create_model("resnet8", dataset="glyphs", num_classes=37).parameters())
    found = cost("DATASET.TYPE", "glyphs", "DISTILLER.STUDENT", "resnet8", classes=37)
    assert found is not None
    assert found[0] == expected
    alone = cost("DATASET.TYPE", "glyphs", "DISTILLER.STUDENT", "resnet8")  # with the classes of the data set
    assert alone is not None
    assert alone[1] - found[1] == 2 * 64 * (100 - 37)  # of the classifier


@pytest.mark.parametrize(("size", "giga"), [(224, 3.628), (112, 0.972)])
def test_operations_of_resnet18(size: int, giga: float) -> None:
    """1.814 G multiply-adds at 224 pixels, as torchvision states."""
    found = cost("DATASET.TYPE", "folder", "DATASET.IMAGE_SIZE", size, "DISTILLER.STUDENT", "ResNet18", classes=1000)
    assert found is not None
    assert found[0] == 11689512
    assert found[1] / 1e9 == pytest.approx(giga, abs=0.002)


def test_an_unknown_network_or_data_set_has_no_cost() -> None:
    config = load_config(None, ["DATASET.TYPE", "glyphs"]).clone()
    config.defrost()
    config.DISTILLER.STUDENT = "of_a_plugin"
    assert student_cost(config, None) is None
    config.DATASET.TYPE = "of_a_plugin"
    assert student_cost(config, None) is None
