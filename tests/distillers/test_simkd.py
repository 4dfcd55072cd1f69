"""SimKD: a student that predicts by the teacher's classifier, wherever it is used."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mdistiller_ext import checkpoint
from mdistiller_ext.distillers import create_distiller
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.models import create_model
from mdistiller_ext.models.heads import last_map
from mdistiller_ext.weights import load_state_dict
from tests.support.distillers import make_batch, make_distiller, run
from tests.support.programs import run_program


def test_the_loss_is_the_squared_difference_of_the_projected_and_the_teachers_map():
    distiller = make_distiller("SIMKD", ce_weight=0.5, feat_weight=3.0).eval()
    images, labels = make_batch()["images"], make_batch()["labels"]
    logits, features = distiller.student(images)
    teacher = distiller.teacher(images)[1]
    projected = distiller.student.simkd_head.projector(features["feats"][-1])
    output, losses = run(distiller)
    torch.testing.assert_close(losses["kd/feat"], 3 * F.mse_loss(projected, teacher["feats"][-1]))
    torch.testing.assert_close(losses["task/ce"], 0.5 * F.cross_entropy(logits, labels))
    torch.testing.assert_close(output.logits, distiller.teacher.fc(projected.mean(dim=(2, 3))))


def test_only_backbone_and_projector_are_trained():
    distiller = make_distiller("SIMKD")
    sum(run(distiller)[1].values()).backward()
    trained = {name for name, p in distiller.student.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    untrained = {"fc.weight", "fc.bias", "simkd_head.classifier.weight", "simkd_head.classifier.bias"}
    assert trained == {name for name, _ in distiller.student.named_parameters()} - untrained


def test_a_teacher_whose_map_the_student_reproduces_has_no_loss_and_its_own_predictions():
    distiller = make_distiller("SIMKD").eval()
    images = make_batch()["images"]
    distiller.student.simkd_head.projector = torch.nn.Identity()
    for part in ("norm", "stem", "stages", "norms", "fc"):
        setattr(distiller.student, part, copy.deepcopy(getattr(distiller.teacher, part)))
    output, losses = run(distiller)
    assert losses["kd/feat"] == 0
    torch.testing.assert_close(output.logits, distiller.teacher(images)[0])


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("resnet8", "resnet8x4"), ("MobileNetV2", "vgg13"), ("wrn_16_1", "wrn_16_2"), ("ShuffleV2", "resnet8x4")],
)
def test_a_saved_student_is_loaded_with_its_head_into_a_plain_network(student: str, teacher: str):
    distiller = create_distiller("SIMKD", create_model(student), create_model(teacher))
    distiller.prepare((3, 32, 32))
    distiller.eval()
    plain = create_model(student).eval()
    load_state_dict(plain, {"model": distiller.student.state_dict()}, Path("student"))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(images)[0], distiller.student(images)[0])
    assert torch.equal(copy.deepcopy(plain)(images)[0], plain(images)[0])


def test_larger_maps_are_pooled_to_the_smaller_on_either_side():
    for student, teacher in (("vgg8", "resnet8x4"), ("resnet8", "vgg8")):  # last maps of 4 and 8 pixels
        distiller = create_distiller("SIMKD", create_model(student), create_model(teacher))
        distiller.prepare((3, 32, 32))
        outputs = [network(torch.randn(2, 3, 32, 32))[1] for network in (distiller.student, distiller.teacher)]
        sizes = [last_map(features).shape[-1] for features in outputs]
        assert sorted(sizes) == [4, 8]
        assert outputs[0]["projected"].shape[-1] == 4


def test_a_factor_that_does_not_divide_the_channels_is_refused():
    with pytest.raises(ConfigError, match=r"SIMKD\.FACTOR must divide the 16 channels of the teacher's last map, not 3"):
        make_distiller("SIMKD", factor=3)


def test_a_network_that_pools_another_map_is_refused():
    teacher = create_model("torchvision/resnet18")
    from mdistiller_ext.models.features import return_modules

    return_modules(teacher, ["layer1"], "DISTILLER.TEACHER_FEATURES")
    with pytest.raises(ConfigError, match=r"the last feature of the teacher, \[2, 64, 8, 8\], is not the map that it pools"):
        create_distiller("SIMKD", create_model("resnet8"), teacher).prepare((3, 32, 32))


def test_a_run_whose_head_reads_a_named_module_is_evaluated(tiny: list[str], tmp_path: Path):
    network = ["DISTILLER.STUDENT", "torchvision/shufflenet_v2_x0_5", "DISTILLER.STUDENT_FEATURES", "[conv5]"]
    assert run_program("train.py", *tiny, "DISTILLER.TYPE", "SIMKD", *network, "SOLVER.EPOCHS", 1).status == 0
    folder = tmp_path / "p" / "run"
    last = checkpoint.load(folder / "latest")["history"][-1]
    evaluated = run_program("eval.py", "-c", folder)
    assert f"top-1 {last['test_top1']:.2f} %  top-5 {last['test_top5']:.2f} %  loss {last['test_loss']:.4f}" in evaluated.out


def test_a_run_is_evaluated_and_taught_from_with_its_head(tiny: list[str], tmp_path: Path):
    settings = [*tiny, "DISTILLER.TYPE", "SIMKD", "SOLVER.TRAINER", "dot", "SIMKD.LOSS.CE_WEIGHT", "0.1"]
    assert run_program("train.py", *settings).status == 0
    folder = tmp_path / "p" / "run"
    last = checkpoint.load(folder / "latest")["history"][-1]["test_top1"]
    evaluated = run_program("eval.py", "-c", folder / "student_latest")
    assert f"top-1 {last:.2f} %" in evaluated.out
    assert "simkd_head.projector.0.weight" in checkpoint.load(folder / "student_latest")["model"]
    taught = run_program(
        "train.py",
        *tiny,
        "EXPERIMENT.NAME",
        "pupil",
        "DISTILLER.TYPE",
        "KD",
        "DISTILLER.TEACHER_CKPT",
        folder,
        "SOLVER.EPOCHS",
        1,
    )
    assert f"teacher: {last:.2f} % top-1" in taught.out
