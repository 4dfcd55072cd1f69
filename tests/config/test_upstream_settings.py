"""Settings of upstream's files that have no counterpart of the same name here."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext.config import load_config
from tests.support.configs import load, message, upstream_file
from tests.support.programs import ROOT


@pytest.mark.parametrize("method", ["GDKD", "GDKD3", "LSKD", "DIST"])
def test_gdkd_s_files_mean_an_augmented_teacher(tmp_path: Path, method: str) -> None:
    settings = {"DISTILLER.TYPE": method, "DISTILLER.TEACHER": "resnet56"}
    _, said = load(upstream_file(tmp_path, settings))
    assert "GDKD's repository means its augmented teacher" in said
    vanilla = upstream_file(tmp_path, settings | {"DISTILLER.AUG_TEACHER": False, "LOG.TENSORBOARD_FREQ": 1})
    config, said = load(vanilla)
    assert config.DISTILLER.TEACHER_CKPT == ""
    assert "augmented" not in said


def test_the_recipes_for_gdkd_say_which_teacher() -> None:
    for path in [*(ROOT / "configs/cifar100").glob("gdkd/*.yaml"), *(ROOT / "configs/cifar100").glob("gdkd3/*.yaml")]:
        comment = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        assert any("DISTILLER.AUG_TEACHER True" in line for line in comment)


def test_a_kd_file_without_weights_is_told_which_it_gets(tmp_path: Path) -> None:
    _, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": "KD"}))
    for part in ("KD.TEMPERATURE 4.0", "KD.LOSS.KD_WEIGHT 0.9", "DISTILLER.TYPE LSKD"):
        assert part in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_config(upstream_file(tmp_path, {"DISTILLER.TYPE": "KD", "KD.TEMPERATURE": 2}))


def test_cosine_in_a_gdkd_file_ends_elsewhere(tmp_path: Path) -> None:
    _, said = load(upstream_file(tmp_path, {"SOLVER.LR_SCHEDULER": "cosine"}))
    assert "0.0001" in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_config(upstream_file(tmp_path, {"SOLVER.LR_SCHEDULER": "cosine", "SOLVER.MIN_LR": 0.0}))


@pytest.mark.parametrize("dataset", ["cub2011", "tiny-imagenet"])
def test_augmented_teachers_of_the_transfer_experiments(tmp_path: Path, dataset: str) -> None:
    settings = {"DISTILLER.AUG_TEACHER": True, "DISTILLER.TEACHER": "ResNet34", "DATASET.TYPE": dataset}
    config, _ = load(upstream_file(tmp_path, settings))
    path = f"download_ckpts/{dataset.replace('-', '_')}_teachers/resnet34/student_100_aug.pth"
    assert path == config.DISTILLER.TEACHER_CKPT
    config, said = load(upstream_file(tmp_path, settings | {"DATASET.TYPE": "imagenet"}))
    assert config.DISTILLER.TEACHER_CKPT == ""
    assert "no augmented teachers for imagenet" in said
    config, said = load(upstream_file(tmp_path, settings | {"DISTILLER.TEACHER_WEIGHTS": "mine.pth"}))
    assert config.DISTILLER.TEACHER_CKPT == "mine.pth"
    assert "AUG_TEACHER means nothing here" in said


def test_flags_on_the_command_line_go_with_the_file_and_over_it(tmp_path: Path) -> None:
    path = upstream_file(tmp_path, {"DATASET.TYPE": "imagenet", "EXPERIMENT.SEED": 1})
    config, _ = load(path, "DATASET.ENHANCE_AUGMENT", "True")
    assert config.DATASET.STRONG == ["randaugment", "erasing"]
    settings = {"DATASET.ENHANCE_AUGMENT": True, "SOLVER.LR_COS": True, "DISTILLER.TEACHER": "vgg13", "DISTILLER.TYPE": "DKD"}
    path = upstream_file(tmp_path, settings | {"DISTILLER.AUG_TEACHER": True, "EXPERIMENT.LOGIT_STAND": True})
    off = ["DATASET.ENHANCE_AUGMENT", "SOLVER.LR_COS", "DISTILLER.AUG_TEACHER", "EXPERIMENT.LOGIT_STAND"]
    config, _ = load(path, *(part for name in off for part in (name, "False")))
    assert (config.DATASET.STRONG, config.DISTILLER.TEACHER_CKPT, config.DKD.STANDARDIZE) == ([], "", False)
    assert (config.SOLVER.LR_SCHEDULER, config.SOLVER.WARMUP_EPOCHS) == ("step", 0)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("SOLVER.LR_COS", "False", "SOLVER.LR_COS must be true or false, not 'False'"),
        ("SOLVER.LR_COS", 3, "SOLVER.LR_COS must be true or false, not 3"),
        ("SOLVER.LR_POLICY", "poly", "SOLVER.LR_POLICY must be true, cosine or step"),
        ("SOLVER.LR_POLICY", ["step"], "SOLVER.LR_POLICY must be true, cosine or step"),
        ("SOLVER.SGD_NESTEROV", "no", "SOLVER.NESTEROV in "),
        ("EXPERIMENT.LOGIT_STAND", "maybe", "EXPERIMENT.LOGIT_STAND must be true or false"),
        ("DISTILLER.AUG_TEACHER", 1, "DISTILLER.AUG_TEACHER must be true or false"),
        ("DATASET.ENHANCE_AUGMENT", "yes please", "DATASET.ENHANCE_AUGMENT must be true or false"),
        ("SOLVER.DEEPKD.DKD", "True", "SOLVER.DEEPKD.DKD must be true or false"),
        ("SOLVER.DKDOT.DKD", [True], "SOLVER.DEEPKD.DKD must be true or false"),
        ("SOLVER.DEEPKD.TOPK", "all", "SOLVER.DEEPKD.TOPK must be a whole number"),
        ("GDKD.STRATEGY", "worst", "GDKD.STRATEGY: only best is offered"),
        ("GDKD.STRATEGY", ["best"], "GDKD.STRATEGY: only best is offered"),
    ],
)
def test_values_of_foreign_settings_are_checked(tmp_path: Path, key: str, value: Any, said: str) -> None:
    assert said in message(upstream_file(tmp_path, {"DISTILLER.TYPE": "KD", key: value}))


@pytest.mark.parametrize(("value", "scheduler"), [(True, "cosine"), ("cosine", "cosine"), ("step", "step"), (False, "step")])
def test_a_policy_is_a_flag_or_a_name(tmp_path: Path, value: Any, scheduler: str) -> None:
    settings = {"SOLVER.LR_POLICY": value, "LOG.TENSORBOARD_FREQ": 1}
    config, _ = load(upstream_file(tmp_path, settings))
    assert scheduler == config.SOLVER.LR_SCHEDULER
    assert {"cosine": 20, "step": 0}[scheduler] == config.SOLVER.WARMUP_EPOCHS


@pytest.mark.parametrize(
    "settings",
    [
        {"SOLVER.LR_MIN": 0.1, "SOLVER.MIN_LR": 0.2},
        {"SOLVER.LR_COS": True, "SOLVER.LR_POLICY": "step"},
        {"SOLVER.LR_COS": True, "SOLVER.LR_SCHEDULER": "step"},
        {"EXPERIMENT.LOGIT_STAND": True, "DISTILLER.TYPE": "DKD", "DKD.STANDARDIZE": False},
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    text = message(upstream_file(tmp_path, settings))
    assert "contradict each other" in text
    assert all(name in text for name in settings if name != "DISTILLER.TYPE")


def test_two_spellings_that_agree_are_one(tmp_path: Path) -> None:
    config, _ = load(upstream_file(tmp_path, {"SOLVER.LR_MIN": 0.1, "SOLVER.MIN_LR": 0.1}))
    assert config.SOLVER.MIN_LR == 0.1


@pytest.mark.parametrize("method", ["DIST", "PRKD", "NONE"])
def test_standardisation_is_refused_where_there_is_none(tmp_path: Path, method: str) -> None:
    text = message(upstream_file(tmp_path, {"DISTILLER.TYPE": method, "EXPERIMENT.LOGIT_STAND": True}))
    assert f"{method} has no standardisation" in text
    assert "DKD" in text


def test_standardisation_of_lskd_and_of_a_kd_that_is_dkd(tmp_path: Path) -> None:
    _, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": "LSKD", "EXPERIMENT.LOGIT_STAND": True}))
    assert "LSKD standardises logits always" in said
    settings = {"DISTILLER.TYPE": "KD", "SOLVER.DEEPKD.DKD": True, "EXPERIMENT.LOGIT_STAND": True}
    config, _ = load(upstream_file(tmp_path, settings))
    assert (config.DISTILLER.TYPE, config.DKD.STANDARDIZE, config.KD.STANDARDIZE) == ("DKD", True, False)


def test_a_static_mask_is_not_dropped_in_silence(tmp_path: Path) -> None:
    settings = {"SOLVER.TRAINER": "deepkd", "SOLVER.DEEPKD.TOPK": 30, "SOLVER.EPOCHS": 100}
    text = message(upstream_file(tmp_path, settings | {"DISTILLER.TYPE": "DKD"}))
    for part in ("DISTILLER.TYPE DEEPKD", "K_INITIAL 1.0", "K_STATIC 30", "PHASE_ENDS [1, 100]"):
        assert part in text
    for more in ({}, {"SOLVER.DEEPKD.DKD": True}):  # the release does not pass it on for KD, whatever it computes
        _, said = load(upstream_file(tmp_path, settings | {"DISTILLER.TYPE": "KD"} | more))
        assert "misspelling" in said
    _, said = load(upstream_file(tmp_path, settings | {"DISTILLER.TYPE": "DKD", "SOLVER.DEEPKD.TOPK": 0}))
    assert "SOLVER.DEEPKD.TOPK means nothing here" in said


def test_a_strategy_that_is_the_only_one_is_named(tmp_path: Path) -> None:
    _, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": "GDKD", "GDKD.STRATEGY": "best"}))
    assert "GDKD.STRATEGY best is the only one here" in said


# ---- mdistiller's baselines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "more", "name", "trainer", "reason"),
    [
        ("CRD", {}, "crd", "base", "CRD gets the positions"),
        ("CRD", {}, "crd_dot", "dot", "CRD gets the positions"),
        ("MLKD", {}, "aug", "base", "second, strongly augmented view"),
        ("CRLD", {}, "crld", "base", "second, strongly augmented view"),
        ("MLKD", {}, "ours", "base", "second, strongly augmented view"),
        ("MLKD", {"SOLVER.DEEPKD.DELTA_NCG": 0.05}, "ours", "deepkd", ""),
        ("KD", {"SOLVER.DKDOT.DELTA_NCKD": 0.05}, "ours", "deepkd", ""),
        ("CRLD", {}, "deepkd_aug", "deepkd", "second, strongly augmented view"),
    ],
)
def test_trainers_by_their_upstream_names(
    tmp_path: Path, method: str, more: dict[str, Any], name: str, trainer: str, reason: str
) -> None:
    """One differs from ours only in what it gives to the method; `ours` means two things, told apart by DeepKD's settings."""
    config, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": method, "SOLVER.TRAINER": name} | more))
    assert trainer == config.SOLVER.TRAINER
    assert f"SOLVER.TRAINER {name} is {trainer}" in said
    assert reason in said
    assert reason or "view" not in said


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("FITNET", {"FITNET.INPUT_SIZE": [32, 32]}),
        ("VID", {"VID.INPUT_SIZE": [32, 32]}),
        ("CRD", {"CRD.FEAT.STUDENT_DIM": 960, "CRD.FEAT.TEACHER_DIM": 128}),
        ("REVIEWKD", {f"REVIEWKD.{what}": [1] for what in ("SHAPES", "OUT_SHAPES", "IN_CHANNELS", "OUT_CHANNELS")}),
    ],
)
def test_shapes_are_those_of_the_networks(tmp_path: Path, method: str, settings: dict[str, Any]) -> None:
    config, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": method} | settings))
    assert method == config.DISTILLER.TYPE
    for name in settings:
        assert f"{name} means nothing here: it is derived from the networks' features" in said


def test_a_setting_that_mdistiller_ignores_has_an_effect(tmp_path: Path) -> None:
    config, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": "REVIEWKD", "REVIEWKD.MAX_MID_CHANNEL": 256}))
    assert config.REVIEWKD.MAX_MID_CHANNEL == 256
    assert "REVIEWKD.MAX_MID_CHANNEL 256 has an effect here" in said


def test_kds_settings_are_mlkds_in_a_file_that_names_none_of_its_own(tmp_path: Path) -> None:
    """So the DeepKD and LSKD repositories read them."""
    kd = {"KD.TEMPERATURE": 1, "KD.LOSS.CE_WEIGHT": 0.5, "KD.LOSS.KD_WEIGHT": 0.25}
    config, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": "MLKD"} | kd))
    mlkd = config.MLKD
    assert (mlkd.TEMPERATURE, mlkd.CE_WEIGHT, mlkd.KD_WEIGHT) == (1.0, 0.5, 0.25)
    assert (config.KD.TEMPERATURE, config.KD.LOSS.CE_WEIGHT) == (4.0, 0.1)
    assert "KD.TEMPERATURE of MLKD is MLKD.TEMPERATURE" in said
    config, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": "MLKD", "MLKD.KD_WEIGHT": 0.75} | kd))
    assert (config.MLKD.TEMPERATURE, config.MLKD.KD_WEIGHT) == (4.0, 0.75)
    assert "KD.TEMPERATURE (the method is MLKD)" in said


def test_a_file_for_mlkd_has_the_defaults_of_its_repository(tmp_path: Path) -> None:
    """Those of MLKD's own repository, where it is called KD_ours, are the method's; LSKD's repository has others."""
    settings = {"DISTILLER.TYPE": "MLKD", "SOLVER.TRAINER": "ours"}
    config, said = load(upstream_file(tmp_path, settings))
    assert (config.MLKD.TEMPERATURE, config.MLKD.KD_WEIGHT, config.MLKD.STANDARDIZE) == (2.0, 9.0, False)
    assert "LSKD's repository" in said
    config, said = load(upstream_file(tmp_path, settings), "EXPERIMENT.LOGIT_STAND", "True")
    assert config.MLKD.STANDARDIZE
    config, said = load(upstream_file(tmp_path, settings | {"DISTILLER.TYPE": "KD_ours"}))
    assert config.DISTILLER.TYPE == "MLKD"
    assert (config.MLKD.TEMPERATURE, config.MLKD.KD_WEIGHT) == (4.0, 0.9)
    assert "DISTILLER.TYPE KD_ours is MLKD" in said
    assert "LSKD" not in said
    config, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": "MLKD"}))  # of GDKD's repository
    assert (config.MLKD.TEMPERATURE, config.MLKD.KD_WEIGHT) == (4.0, 0.9)
    assert "GDKD's repository means its augmented teacher" in said


@pytest.mark.parametrize("method", ["MLKD", "CRLD"])
def test_deepkds_files_for_two_views_have_the_loss_of_its_release(tmp_path: Path, method: str) -> None:
    settings = {"DISTILLER.TYPE": method, "SOLVER.TRAINER": "deepkd_aug", "SOLVER.DEEPKD.BETA": 0.5}
    settings |= {"SOLVER.DEEPKD.WARMUP_FACTOR": 10}
    config, said = load(upstream_file(tmp_path, settings | {"SOLVER.DEEPKD.DKD": True}))
    own = config[method]
    assert (own.RULE, own.ALPHA, own.BETA, own.WARMUP) == ("deepkd", 1.0, 0.5, 10)
    assert f"SOLVER.DEEPKD.DKD of {method} is {method}.RULE deepkd" in said
    assert f"SOLVER.DEEPKD.BETA of {method} is {method}.BETA" in said
    assert "trains as the release does: SOLVER.DEEPKD.RULE official" in said
    config, said = load(upstream_file(tmp_path, settings | {"SOLVER.DEEPKD.DKD": False}))
    assert config[method].RULE != "deepkd"
    assert "SOLVER.DEEPKD.DKD" not in said


CAT_KD = {
    "DISTILLER.TYPE": "CAT_KD",
    "CAT_KD.LOSS.CAT_loss_weight": 600.0,
    "CAT_KD.LOSS.CAM_RESOLUTION": 4,
    "CAT_KD.LOSS.CE_WEIGHT": 1.0,
    "CAT_KD.onlyCAT": False,
    "CAT_KD.IF_NORMALIZE": False,
    "if_test": True,
    "device": 1,
}


@pytest.mark.parametrize("name", ["CAT_KD", "CAT-KD"])  # its files have both; its code knows the first
def test_files_of_cat_kds_repository(tmp_path: Path, name: str) -> None:
    settings = CAT_KD | {"DISTILLER.TYPE": name}
    config, said = load(upstream_file(tmp_path, settings))
    assert config.DISTILLER.TYPE == "CATKD"
    loss = config.CATKD.LOSS
    assert (loss.CAT_LOSS_WEIGHT, loss.CAM_RESOLUTION, loss.CE_WEIGHT, config.CATKD.IF_NORMALIZE) == (600.0, 4, 1.0, False)
    assert f"DISTILLER.TYPE {name} is CATKD" in said
    for meaningless in ("if_test", "device"):
        assert f"{meaningless} means nothing here" in said
    only = settings | {"CAT_KD.onlyCAT": True, "CAT_KD.LOSS.CE_WEIGHT": 0.0}
    config, _ = load(upstream_file(tmp_path, only))
    assert config.CATKD.LOSS.CE_WEIGHT == 0.0
    assert "contradict each other" in message(upstream_file(tmp_path, only | {"CAT_KD.LOSS.CE_WEIGHT": 1.0}))
    text = message(upstream_file(tmp_path, settings | {"CAT_KD.IF_BINARIZE": True}))
    assert "CAT_KD.IF_BINARIZE: the transfer of binarised class activation maps is not offered" in text


def test_simkd_is_also_spelt_as_in_its_paper(tmp_path: Path) -> None:
    config, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": "SimKD"}))
    assert config.DISTILLER.TYPE == "SIMKD"
    assert "DISTILLER.TYPE SimKD is SIMKD" in said
