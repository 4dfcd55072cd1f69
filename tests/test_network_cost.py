"""Parameters, operations and size of students and teachers."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from mdistiller_ext.config import load_config
from mdistiller_ext.models import create_model, register_model
from mdistiller_ext.network_cost import NetworkCost, Pair, create_networks, find_pair
from tests.support.studies import COMMON, DATA


def pair(*overrides: object, classes: int | None = None) -> Pair:
    found = find_pair(load_config(None, overrides), None if classes is None else DATA | {"classes": classes})
    assert found is not None
    return found


def student_cost(*overrides: object, classes: int | None = None) -> NetworkCost:
    return pair("DISTILLER.TYPE", "NONE", *overrides, classes=classes).student_cost


def test_parameters_and_size_are_those_of_the_network_for_the_classes_of_the_data() -> None:
    network = create_model("resnet8", dataset="glyphs", num_classes=37)
    found = student_cost("DATASET.TYPE", "glyphs", "DISTILLER.STUDENT", "resnet8", classes=37)
    assert found.parameters == sum(p.numel() for p in network.parameters())
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    assert found.size == len(file.getvalue())
    alone = student_cost("DATASET.TYPE", "glyphs", "DISTILLER.STUDENT", "resnet8")  # with the classes of the data set
    assert alone.flops - found.flops == 2 * 64 * (100 - 37)  # of the classifier


@pytest.mark.parametrize(("size", "giga"), [(224, 3.628), (112, 0.972)])
def test_operations_of_resnet18(size: int, giga: float) -> None:
    """1.814 G multiply-adds at 224 pixels, as torchvision states."""
    found = student_cost("DATASET.TYPE", "folder", "DATASET.IMAGE_SIZE", size, "DISTILLER.STUDENT", "ResNet18", classes=1000)
    assert found.parameters == 11689512
    assert found.flops / 1e9 == pytest.approx(giga, abs=0.002)


def test_the_head_of_simkd_counts() -> None:
    plain, simkd = pair(*COMMON, "DISTILLER.TYPE", "KD"), pair(*COMMON, "DISTILLER.TYPE", "SIMKD")
    assert (plain.student, simkd.student) == ("resnet8", "resnet8 (SIMKD)")
    student, _ = create_networks(load_config(None, [*COMMON, "DISTILLER.TYPE", "SIMKD"]))
    head = sum(p.numel() for name, p in student.named_parameters() if name.startswith("simkd_head."))
    assert simkd.student_cost.parameters - plain.student_cost.parameters == head
    assert head > 0
    assert simkd.student_cost.flops > plain.student_cost.flops
    assert simkd.teacher_cost == plain.teacher_cost


@pytest.mark.parametrize("method", ["CRD", "OFD", "REVIEWKD"])  # their layers are not the student's
def test_layers_of_a_method_that_are_not_deployed_do_not_count(method: str) -> None:
    assert pair(*COMMON, "DISTILLER.TYPE", method) == pair(*COMMON, "DISTILLER.TYPE", "KD")


@pytest.mark.usefixtures("forget_plugins")
def test_a_network_that_reads_its_values_has_a_cost() -> None:
    @register_model("reads_values", zoo="cifar100")
    def reads_values(num_classes: int) -> nn.Module:
        network = create_model("resnet8", dataset="glyphs", num_classes=num_classes)
        assert next(network.parameters()).sum().item() != 0  # raises on the device meta
        return network

    assert student_cost("DATASET.TYPE", "glyphs", "DISTILLER.STUDENT", "reads_values") == student_cost(
        "DATASET.TYPE", "glyphs", "DISTILLER.STUDENT", "resnet8"
    )


def test_an_unknown_network_or_data_set_has_no_cost() -> None:
    config = load_config(None, [*COMMON, "DISTILLER.TYPE", "KD"]).clone()
    config.defrost()
    config.DISTILLER.TEACHER = "of_a_plugin"
    found = find_pair(config)
    assert found is not None
    assert (found.student_cost.parameters, found.teacher_cost) == (83892, None)
    config.DISTILLER.STUDENT = "of_a_plugin"
    assert find_pair(config) is None
    config.DATASET.TYPE = "of_a_plugin"
    assert find_pair(config) is None
