"""Gradients with respect to the logits of classes that are not the teacher's first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from mdistiller_ext.analyze.gradients import COUPLED, coupled_loss, gradients, non_top_gradients, non_top_relations
from mdistiller_ext.analyze.predictions import without_class
from mdistiller_ext.analyze.runs import open_runs
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.losses import gdkd_parts, kd_loss
from tests.support.logits import close, random_logits

T = 4.0


def test_gradient_of_kd_is_known_and_its_non_top_part_that_of_the_binary_and_the_coupled_term() -> None:
    student, teacher, _ = random_logits()
    student.requires_grad_()
    top, q, p = teacher.argmax(dim=1), (student / T).softmax(dim=1), (teacher / T).softmax(dim=1)
    found = non_top_gradients({"kd": kd_loss(student, teacher, temperature=T)}, student, top)
    close(found["kd"], without_class(T * (q - p).abs(), top).mean(dim=1))
    q_rest, p_rest = (without_class(logits / T, top).softmax(dim=1) for logits in (student, teacher))
    coupled = non_top_gradients({"": coupled_loss(student, teacher, T)}, student, top)[""]
    p_top = p.gather(1, top[:, None])
    close(coupled, ((1 - p_top) * T * (q_rest - p_rest).abs()).mean(dim=1))
    high, _, _ = gdkd_parts(student, teacher, topk=1, temperature=T)
    both = non_top_gradients({"": high + coupled_loss(student, teacher, T)}, student, top)[""]
    close(both, found["kd"])


def test_gdkd_with_the_weight_of_the_coupling_has_the_gradient_of_the_coupled_term() -> None:
    student, teacher, _ = random_logits(samples=1)  # of one image, the coupling is a number
    student.requires_grad_()
    top = teacher.argmax(dim=1)
    _, inside, rest = gdkd_parts(student, teacher, topk=1, temperature=T)
    weight = 1 - float((teacher / T).softmax(dim=1).max())
    losses = {"rest": weight * rest, "coupled": coupled_loss(student, teacher, T), "inside": inside, "none": torch.zeros(())}
    found = non_top_gradients(losses, student, top)
    close(found["rest"], found["coupled"])
    assert found["inside"].abs().max() < 1e-12  # one class has no distribution
    assert not found["none"].any()


def test_a_student_that_differs_in_the_top_class_alone_has_the_relations_of_the_others() -> None:
    student, teacher, _ = random_logits()
    same = torch.scatter(teacher, 1, teacher.argmax(dim=1, keepdim=True), student)
    found = non_top_relations(same, teacher, T)
    assert found["kl"].abs().max() < 1e-12
    close(found["correlation"], torch.ones(len(student), dtype=torch.float64), 1e-5)
    assert non_top_relations(student, teacher, T)["kl"].min() > 0.01


def test_of_runs(trained: Path) -> None:
    analysis = gradients([trained], limit=40, every=2)
    values = {(r["method"], r["seed"], r["epoch"], r["component"]): r["value"] for r in analysis.rows if r["component"]}
    assert {key[3] for key in values if key[0] == "student alone"} == {"task/ce", COUPLED}
    groups = {group.runs[0].config.DISTILLER.TYPE: group for group in open_runs([trained])}
    gdkd = groups["GDKD"].name
    assert {values[gdkd, seed, 3, "nontarget/top"] for seed in (0, 1)} == {0.0}
    assert values[gdkd, 1, 3, "nontarget/rest"] > 0
    assert {r["quantity"] for r in analysis.rows} == {"gradient", "kl", "correlation"}
    assert {r["epoch"] for r in analysis.rows} == {1, 3}


def test_a_method_that_reads_features_is_refused(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained / "kd0", tmp_path / "at")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("TYPE: KD", "TYPE: AT"))
    with pytest.raises(ConfigError, match="AT reads more than the logits of one view"):
        gradients([run], limit=40)
