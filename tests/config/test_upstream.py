"""yaml files of mdistiller, DeepKD, GDKD and LSKD's repository: as those write them, with the meaning they have there.

``golden/recipes.csv`` lists what every method file of those repositories sets.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext.config import load_config
from mdistiller_ext.errors import ConfigError, UnknownNameError
from mdistiller_ext.registry import DISTILLERS
from mdistiller_ext.trainers.schedule import schedule
from tests.support.configs import load, upstream_file
from tests.support.programs import GOLDEN, ROOT

with open(GOLDEN / "recipes.csv", encoding="utf-8", newline="") as _file:
    _ROWS = list(csv.DictReader(_file))
RECIPES = [row for row in _ROWS if row["distiller"] in DISTILLERS]
OTHERS = [row for row in _ROWS if row["distiller"] not in DISTILLERS]
# What means nothing, or is said in other words, here.
TRANSLATED = {
    *("SOLVER.LR_COS", "SOLVER.LR_POLICY", "DATASET.ENHANCE_AUGMENT"),
    *("SOLVER.DEEPKD.DKD", "SOLVER.DEEPKD.ALPHA", "SOLVER.DEEPKD.BETA", "SOLVER.DKDOT.DKD", "SOLVER.DKDOT.TOPK"),
    *("CRD.FEAT.STUDENT_DIM", "CRD.FEAT.TEACHER_DIM", "REVIEWKD.SHAPES", "REVIEWKD.OUT_SHAPES"),
    *("REVIEWKD.IN_CHANNELS", "REVIEWKD.OUT_CHANNELS"),
}
OTHER_NAMES = {
    "SOLVER.DKDOT.DELTA_TASK": "SOLVER.DEEPKD.DELTA_TOG",
    "SOLVER.DKDOT.DELTA_TCKD": "SOLVER.DEEPKD.DELTA_TCG",
    "SOLVER.DKDOT.DELTA_NCKD": "SOLVER.DEEPKD.DELTA_NCG",
}
NAMES_OF_MLKD = {
    "KD.TEMPERATURE": "MLKD.TEMPERATURE",
    "KD.LOSS.CE_WEIGHT": "MLKD.CE_WEIGHT",
    "KD.LOSS.KD_WEIGHT": "MLKD.KD_WEIGHT",
}
OTHER_TRAINERS = {"dkdot": "deepkd", "deepkd_aug": "deepkd", "crd": "base"}


def get(config: Any, name: str) -> Any:
    for key in name.split("."):
        config = config[key]
    return config


@pytest.mark.parametrize("recipe", RECIPES, ids=[f"{r['source']}:{r['file'].removeprefix('configs/')}" for r in RECIPES])
@pytest.mark.filterwarnings("ignore::mdistiller_ext.errors.ConfigWarning")
def test_every_file_loads_with_its_meaning(recipe: dict[str, str], tmp_path: Path) -> None:
    settings = json.loads(recipe["settings_json"])
    settings |= {f"DISTILLER.{who.upper()}": recipe[who] for who in ("teacher", "student")}
    settings |= {"DATASET.TYPE": recipe["dataset"], "DISTILLER.TYPE": recipe["distiller"], "LOG.TENSORBOARD_FREQ": 50}
    settings |= {"SOLVER.TRAINER": recipe["trainer"], "EXPERIMENT.TAG": "upstream"}
    config = load_config(upstream_file(tmp_path, settings))

    is_dkd = recipe["distiller"] == "KD" and settings.get("SOLVER.DEEPKD.DKD", False)
    assert ("DKD" if is_dkd else recipe["distiller"]) == config.DISTILLER.TYPE
    trainers = OTHER_TRAINERS | {"ours": "deepkd" if recipe["source"] == "DeepKD" else "base"}
    assert trainers.get(recipe["trainer"], recipe["trainer"]) == config.SOLVER.TRAINER
    names = OTHER_NAMES | (NAMES_OF_MLKD if recipe["distiller"] == "MLKD" else {})
    for name, value in settings.items():
        if name not in TRANSLATED | {"DISTILLER.TYPE", "SOLVER.TRAINER", "LOG.TENSORBOARD_FREQ"}:
            assert get(config, names.get(name, name)) == value, name
    if settings.get("SOLVER.LR_COS") or settings.get("SOLVER.LR_POLICY"):
        solver = config.SOLVER
        assert (solver.LR_SCHEDULER, solver.MIN_LR, solver.WARMUP_EPOCHS, solver.WARMUP_FACTOR) == ("cosine", 5e-5, 20, 0.1)
    if settings.get("DATASET.ENHANCE_AUGMENT"):
        assert config.DATASET.STRONG


def test_the_list_of_files_is_whole() -> None:
    assert len(RECIPES) == 423
    assert {row["source"] for row in RECIPES} == {"mdistiller", "GDKD", "DeepKD", "LSKD"}
    assert {row["distiller"] for row in OTHERS} == {"DKDMod"}


def test_a_file_for_a_method_that_is_not_here_says_so(tmp_path: Path) -> None:
    for method in ("DKDMod", "REVIEWKD_GDKD"):
        with pytest.raises(UnknownNameError, match=f"{method} is a method of mdistiller's family, not of this project"):
            load_config(upstream_file(tmp_path, {"DISTILLER.TYPE": method}))


def test_what_was_understood_is_said(tmp_path: Path) -> None:
    """A file that DeepKD's own repository cannot load: its trainer is not registered there."""
    settings = {
        "DATASET.TYPE": "imagenet",
        "DISTILLER.TYPE": "KD",
        "DISTILLER.TEACHER": "ResNet50",
        "DISTILLER.STUDENT": "MobileNetV2",
        "SOLVER.TRAINER": "dkdot",
        "SOLVER.LR_COS": True,
        "SOLVER.DEEPKD.DKD": False,
        "SOLVER.DKDOT.DELTA_TASK": 0.05,
        "SOLVER.DKDOT.TOPK": 500,
        "LOG.TENSORBOARD_FREQ": 50,
    }
    config, said = load(upstream_file(tmp_path, settings))
    assert config.SOLVER.TRAINER == "deepkd"
    assert config.SOLVER.DEEPKD.DELTA_TOG == 0.05
    for name in ("SOLVER.TRAINER dkdot", "SOLVER.LR_COS", "DEEPKD.DKD", "DKDOT.DELTA_TASK", "DEEPKD.TOPK", "TENSORBOARD_FREQ"):
        assert name in said
    assert (config.SOLVER.DEEPKD.RULE, config.KD.RULE) == ("official", "official")
    assert "SOLVER.DEEPKD.RULE official, KD.RULE official" in said
    assert "a MobileNetV1" in said
    assert "upstream.yaml" in said


def test_kd_with_the_dkd_flag_is_dkd_as_the_release_computes_it(tmp_path: Path) -> None:
    settings = {"DISTILLER.TYPE": "KD", "SOLVER.TRAINER": "deepkd", "SOLVER.DEEPKD.DKD": True, "SOLVER.DEEPKD.BETA": 2.0}
    config, said = load(upstream_file(tmp_path, settings))
    assert config.DISTILLER.TYPE == "DKD"
    dkd = config.DKD
    assert (dkd.CE_WEIGHT, dkd.ALPHA, dkd.BETA, dkd.T, dkd.WARMUP) == (0.1, 1.0, 2.0, 4.0, 20)
    assert config.SOLVER.DEEPKD.RULE == "official"
    assert "KD with SOLVER.DEEPKD.DKD is DISTILLER.TYPE DKD" in said


def test_logit_standardisation_and_teachers_by_their_upstream_names(tmp_path: Path) -> None:
    settings = {"DISTILLER.TYPE": "DKD", "EXPERIMENT.LOGIT_STAND": True, "DISTILLER.TEACHER_WEIGHTS": "weights.pth"}
    config, said = load(upstream_file(tmp_path, settings))
    assert config.DKD.STANDARDIZE
    assert config.DISTILLER.TEACHER_CKPT == "weights.pth"
    assert "LOGIT_STAND is DKD.STANDARDIZE" in said
    config, _ = load(upstream_file(tmp_path, {"DISTILLER.TEACHER": "vgg13", "DISTILLER.AUG_TEACHER": True}))
    assert config.DISTILLER.TEACHER_CKPT == "download_ckpts/cifar_teachers/vgg13_aug/ckpt_epoch_240.pth"


def test_the_same_words_work_on_the_command_line(tmp_path: Path) -> None:
    path = upstream_file(tmp_path, {"DISTILLER.TYPE": "KD", "EXPERIMENT.SEED": 1})
    config, said = load(path, "SOLVER.LR_COS", "True", "SOLVER.DKDOT.DELTA_NCKD", "0.05")
    assert config.SOLVER.LR_SCHEDULER == "cosine"
    assert config.SOLVER.DEEPKD.DELTA_NCG == 0.05
    assert "the command line" in said


def test_settings_of_methods_that_are_not_here_are_named(tmp_path: Path) -> None:
    config, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": "KD", "DKDMOD.T": 0.5, "SKD.LOSS.K": 3}))
    assert config.DISTILLER.TYPE == "KD"
    assert "DKDMOD.T, SKD.LOSS.K: settings of a method that is not here" in said


def test_a_setting_that_this_run_does_not_read_is_named(tmp_path: Path) -> None:
    """GDKD's ImageNet file for DIST sets GDKD.T, so that DIST silently runs at its default temperature."""
    config, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": "DIST", "GDKD.T": 1.0, "DATASET.NUM_WORKERS": 16}))
    assert config.DIST.T == 4.0
    assert "GDKD.T (the method is DIST)" in said
    assert "DATASET.NUM_WORKERS (cifar100 is kept in memory)" in said
    _, said = load(upstream_file(tmp_path, {"SOLVER.DOT.DELTA": 0.09}))
    assert "SOLVER.DOT.DELTA (the trainer is base)" in said


def test_a_file_of_deepkds_release_follows_the_release_and_any_other_the_paper(tmp_path: Path) -> None:
    """What tells them apart is the release's own spelling; what a file says for itself comes before what it implies."""
    own = {"DISTILLER.TYPE": "DKD", "SOLVER.TRAINER": "deepkd", "LOG.TENSORBOARD_FREQ": 50}
    for settings, rule in (
        (own, "paper"),
        (own | {"SOLVER.DEEPKD.DKD": True}, "official"),
        (own | {"SOLVER.DEEPKD.DKD": True, "SOLVER.DEEPKD.RULE": "paper"}, "paper"),
        (own | {"SOLVER.DEEPKD.DKD": True, "SOLVER.TRAINER": "base"}, "paper"),
    ):
        config, _ = load(upstream_file(tmp_path, settings))
        assert (rule, "paper") == (config.SOLVER.DEEPKD.RULE, config.KD.RULE)


def test_a_kd_file_of_lskds_repository_has_that_repositorys_defaults(tmp_path: Path) -> None:
    settings = {"DISTILLER.TYPE": "KD", "EXPERIMENT.TAG": "kd,vgg13,vgg8,2,9"}
    config, said = load(upstream_file(tmp_path, settings))
    assert (config.KD.TEMPERATURE, config.KD.LOSS.KD_WEIGHT, config.KD.LOSS.CE_WEIGHT) == (2.0, 9.0, 0.1)
    assert "LSKD's repository" in said
    config, said = load(upstream_file(tmp_path, settings | {"EXPERIMENT.TAG": "kd,vgg13,vgg8"}))
    assert (config.KD.TEMPERATURE, config.KD.LOSS.KD_WEIGHT) == (4.0, 0.9)
    assert "defaults of mdistiller" in said


def test_gdkds_transfer_files_mean_the_augmented_teacher(tmp_path: Path) -> None:
    settings = {"DISTILLER.TYPE": "DKD", "DATASET.TYPE": "cub2011", "LOG.TENSORBOARD_FREQ": 50}
    settings |= {"DISTILLER.TEACHER": "ResNet34"}
    config, said = load(upstream_file(tmp_path, settings))
    assert config.DISTILLER.TEACHER_CKPT == "download_ckpts/cub2011_teachers/resnet34/student_100_aug.pth"
    assert "AUG_TEACHER" in said
    for more in ({"DISTILLER.AUG_TEACHER": False}, {"DISTILLER.TYPE": "NONE"}):
        config, _ = load(upstream_file(tmp_path, settings | more))
        assert config.DISTILLER.TEACHER_CKPT == ""


def test_nesterov_by_gdkds_name(tmp_path: Path) -> None:
    config, _ = load(upstream_file(tmp_path, {"SOLVER.SGD_NESTEROV": True}))
    assert config.SOLVER.NESTEROV


def test_a_run_s_own_file_needs_no_translation(tmp_path: Path) -> None:
    """``config.yaml`` of a run names every setting there is; loading it again says nothing."""
    first = load_config(ROOT / "configs" / "cifar100" / "deepkd" / "res32x4_res8x4.yaml")
    path = tmp_path / "config.yaml"
    path.write_text(first.dump(), encoding="utf-8")
    assert load_config(path) == first


def test_a_file_that_holds_itself(tmp_path: Path) -> None:
    path = tmp_path / "loop.yaml"
    path.write_text("SOLVER: &a\n  B: *a\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="contains itself"):
        load_config(path)


def deepkd_rate(epoch: int, epochs: int, lr: float, least: float = 5e-5, warmup: int = 20, factor: float = 0.1) -> float:
    """The release's rule, from its description: linear in the epoch (counted from 1), then half a cosine."""
    if epoch < warmup:
        return lr * factor + (lr - lr * factor) * epoch / warmup
    return least + (lr - least) / 2 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


def test_cosine_with_warm_up_is_the_releases() -> None:
    rule = schedule("cosine", 100, stages=(), rate=0.1, final=5e-5 / 0.2, warmup_epochs=20, warmup_factor=0.1)
    for epoch in range(1, 101):
        assert 0.2 * rule(epoch - 1) == pytest.approx(deepkd_rate(epoch, 100, 0.2), rel=1e-12)
    assert 0.2 * rule(99) == pytest.approx(5e-5)


def test_a_trial_shorter_than_the_warm_up() -> None:
    rule = schedule("cosine", 1, stages=(), rate=0.1, warmup_epochs=20)
    assert rule(0) == pytest.approx(0.1 + 0.9 / 20)
    with pytest.raises(ConfigError, match="WARMUP_EPOCHS"):
        schedule("step", 1, stages=(), rate=0.1, warmup_epochs=-1)
