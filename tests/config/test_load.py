"""Loading a configuration: files, bases, overrides, and mistakes in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import (
    default_config,
    hyper_parameters,
    load_config,
    solver_arguments,
    stream_options,
)
from mdistiller_ext.errors import (
    ConfigError,
    ConfigWarning,
    UnknownNameError,
    UserError,
)
from mdistiller_ext.registry import DISTILLERS
from tests.support.configs import message, write
from tests.support.programs import ROOT, run_program
from tests.support.runs import assert_one_line_error

# One of each folder, a method on a data set; tests/system/test_recipes.py loads them all.
RECIPES = sorted({path.parent: path for path in sorted((ROOT / "configs").rglob("*.yaml"))}.values())


# ---- recipes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_a_recipe_is_frozen_dumps_and_reloads_to_the_same(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert config.is_frozen()
    with pytest.raises(AttributeError):
        config.SOLVER.LR = 1.0
    again = load_config(write(tmp_path / "config.yaml", config.dump()))
    assert again == config
    assert again.dump() == config.dump()


def test_the_main_job_is_deepkd_by_the_papers_rule() -> None:
    config = load_config(ROOT / "configs/glyphs/deepkd/res20_res8.yaml")
    assert (config.DISTILLER.TYPE, config.SOLVER.TRAINER, config.SOLVER.DEEPKD.RULE) == ("DEEPKD", "deepkd", "paper")
    assert (config.DISTILLER.TEACHER, config.DISTILLER.STUDENT, config.DATASET.TYPE) == ("resnet20", "resnet8", "glyphs")


# ---- defaults and spelling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("KD.TEMPERATURE", 4.0),
        ("KD.LOSS.CE_WEIGHT", 0.1),
        ("KD.LOSS.KD_WEIGHT", 0.9),
        ("DKD.CE_WEIGHT", 1.0),
        ("DKD.ALPHA", 1.0),
        ("DKD.BETA", 8.0),
        ("DKD.T", 4.0),
        ("DKD.WARMUP", 20),
        ("GDKD.W0", 1.0),
        ("GDKD.W1", 1.0),
        ("GDKD.W2", 8.0),
        ("GDKD.TOPK", 5),
        ("GDKD3.TOPK", 4),
        ("DIST.BETA", 2.0),
        ("DIST.GAMMA", 2.0),
        ("PRKD.AVERAGE_LAST", 10),
        ("DEEPKD.K_INITIAL", 0.05),
        ("DEEPKD.PHASE_ENDS", [60, 180]),
        ("SOLVER.DOT.DELTA", 0.075),
        ("SOLVER.DEEPKD.DELTA_TOG", 0.075),
        ("SOLVER.DEEPKD.DELTA_TCG", -0.075),
        ("SOLVER.DEEPKD.DELTA_NCG", 0.075),
        ("SOLVER.DEEPKD.RULE", "paper"),
        ("SOLVER.BATCH_SIZE", 64),
        ("SOLVER.EPOCHS", 240),
        ("SOLVER.LR", 0.05),
        ("SOLVER.LR_DECAY_STAGES", [150, 180, 210]),
        ("SOLVER.LR_DECAY_RATE", 0.1),
        ("SOLVER.WEIGHT_DECAY", 0.0001),
        ("SOLVER.MOMENTUM", 0.9),
        ("SOLVER.TYPE", "SGD"),
        ("SOLVER.TRAINER", "base"),
        ("EXPERIMENT.PROJECT", "distill"),
        ("EXPERIMENT.TAG", "default"),
        ("DATASET.TYPE", "cifar100"),
        ("DATASET.NUM_WORKERS", 2),
        ("DATASET.TEST.BATCH_SIZE", 64),
        ("DISTILLER.TYPE", "NONE"),
        ("LOG.PREFIX", "./output"),
        ("LOG.SAVE_CHECKPOINT_FREQ", 40),
    ],
)
def test_settings_have_upstreams_spelling_and_defaults(key: str, value: Any) -> None:
    node: Any = load_config(None)
    for part in key.split("."):
        node = node[part]
    assert node == value
    assert type(node) is type(value)


UPSTREAM_KD = """
EXPERIMENT:
  NAME: ""
  TAG: "kd,res32x4,res8x4"
  PROJECT: "cifar100_baselines"
DISTILLER:
  TYPE: "KD"
  TEACHER: "resnet32x4"
  STUDENT: "resnet8x4"
SOLVER:
  BATCH_SIZE: 64
  EPOCHS: 240
  LR: 0.05
  LR_DECAY_STAGES: [150, 180, 210]
  LR_DECAY_RATE: 0.1
  WEIGHT_DECAY: 0.0005
  MOMENTUM: 0.9
  TYPE: "SGD"
  TRAINER: "dot"
  DOT:
    DELTA: 0.075
KD:
  TEMPERATURE: 4
  LOSS:
    CE_WEIGHT: 1
    KD_WEIGHT: 1.0
LOG:
  TENSORBOARD_FREQ: 500
  SAVE_CHECKPOINT_FREQ: 40
  PREFIX: "./output"
  WANDB: False
"""


def test_an_upstream_file_loads_unchanged(tmp_path: Path) -> None:
    with pytest.warns(ConfigWarning, match=r"LOG\.TENSORBOARD_FREQ means nothing here"):
        config = load_config(write(tmp_path / "kd.yaml", UPSTREAM_KD))
    given = {"temperature": 4.0, "ce_weight": 1.0, "kd_weight": 1.0, "standardize": False, "rule": "paper"}
    assert hyper_parameters(config, "KD") == given
    assert stream_options(config, "dot") == {"delta": 0.075}
    assert config.EXPERIMENT.NAME == "kd,res32x4,res8x4"


@pytest.mark.parametrize("name", list(DISTILLERS))
def test_a_distillers_settings_are_the_arguments_of_its_class(name: str) -> None:
    method = DISTILLERS.get(name)
    defaults = {k: list(v) if isinstance(v, tuple) else v for k, v in (method.__init__.__kwdefaults__ or {}).items()}
    assert hyper_parameters(load_config(None), name) == defaults


def test_solver_arguments_are_all_settings() -> None:
    arguments = solver_arguments(load_config(None, ["SOLVER.LR_SCHEDULER", "cosine"]))
    assert arguments["lr_scheduler"] == "cosine"
    assert set(arguments) == {
        "epochs",
        "lr",
        "lr_scheduler",
        "lr_decay_stages",
        "lr_decay_rate",
        "min_lr",
        "warmup_epochs",
        "warmup_factor",
        "momentum",
        "weight_decay",
        "no_decay",
        "nesterov",
        "amp",
        "cuda_graph",
        "checkpoint_steps",
        "record",
        "record_every",
        "record_window",
        "on_nan",
    }


# ---- _BASE_ -------------------------------------------------------------------------------------------------------


def test_a_file_goes_over_its_base_and_overrides_over_both(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "SOLVER: {LR: 0.1, EPOCHS: 10, MOMENTUM: 0.8}\n")
    path = write(tmp_path / "sub/child.yaml", "_BASE_: ../base.yaml\nSOLVER: {EPOCHS: 20}\n")
    solver = load_config(path, ["SOLVER.MOMENTUM", "0.7"]).SOLVER
    assert (solver.LR, solver.EPOCHS, solver.MOMENTUM) == (0.1, 20, 0.7)


def test_of_several_bases_a_later_one_goes_over_an_earlier(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "SOLVER: {LR: 0.1, EPOCHS: 10}\n")
    write(tmp_path / "b.yaml", "SOLVER: {EPOCHS: 20, MOMENTUM: 0.5}\n")
    solver = load_config(write(tmp_path / "c.yaml", "_BASE_: [a.yaml, b.yaml]\n")).SOLVER
    assert (solver.LR, solver.EPOCHS, solver.MOMENTUM) == (0.1, 20, 0.5)


def test_bases_may_have_bases_and_share_one(tmp_path: Path) -> None:
    write(tmp_path / "root.yaml", "SOLVER: {LR: 0.1, EPOCHS: 10}\n")
    write(tmp_path / "a.yaml", "_BASE_: root.yaml\nSOLVER: {EPOCHS: 20}\n")
    write(tmp_path / "b.yaml", "_BASE_: root.yaml\nSOLVER: {MOMENTUM: 0.5}\n")
    solver = load_config(write(tmp_path / "c.yaml", "_BASE_: [b.yaml, a.yaml]\n")).SOLVER
    assert (solver.LR, solver.EPOCHS, solver.MOMENTUM) == (0.1, 20, 0.5)


def test_a_base_that_leads_back_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "_BASE_: b.yaml\n")
    path = write(tmp_path / "b.yaml", "_BASE_: a.yaml\n")
    assert "_BASE_ leads back to itself" in message(path)


def test_a_missing_base_is_named_with_the_nearest_file(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "")
    text = message(write(tmp_path / "a.yaml", "_BASE_: bsae.yaml\n"))
    assert "config file not found" in text
    assert "bsae.yaml" in text
    assert f"did you mean {tmp_path / 'base.yaml'}?" in text


@pytest.mark.parametrize("base", ["3", "[1]", "{a: b}", "[[a.yaml]]", "true"])
def test_a_base_that_is_no_file_name_is_refused(tmp_path: Path, base: str) -> None:
    assert "_BASE_" in message(write(tmp_path / "a.yaml", f"_BASE_: {base}\n"))


def test_a_mistake_in_a_base_is_reported_for_the_base(tmp_path: Path) -> None:
    write(tmp_path / "faulty.yaml", "SOLVER: {LRR: 0.1}\n")
    assert "faulty.yaml" in message(write(tmp_path / "child.yaml", "_BASE_: faulty.yaml\n"))


# ---- overrides ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.LR", "1", 1.0),
        ("SOLVER.LR", "0.1", 0.1),
        ("SOLVER.LR", "1e-3", 0.001),
        ("SOLVER.LR", "1.e-3", 0.001),
        ("SOLVER.DEEPKD.DELTA_TCG", "-0.05", -0.05),
        ("SOLVER.EPOCHS", "7", 7),
        ("SOLVER.LR_DECAY_STAGES", "[1,2]", [1, 2]),
        ("SOLVER.LR_DECAY_STAGES", "(1, 2)", [1, 2]),
        ("SOLVER.LR_DECAY_STAGES", "[]", []),
        ("LOG.WANDB", "True", True),
        ("LOG.WANDB", "false", False),
        ("EXPERIMENT.TAG", "3", "3"),
        ("EXPERIMENT.TAG", "a: b", "a: b"),
        ("EXPERIMENT.TAG", "on", "on"),
        ("EXPERIMENT.TAG", "null", "null"),
        ("EXPERIMENT.TAG", "0.10", "0.10"),
        ("EXPERIMENT.TAG", "2024-01-01", "2024-01-01"),
        ("EXPERIMENT.TAG", "", ""),
        ("DISTILLER.TEACHER_CKPT", "", ""),
        ("DATASET.ROOT", "/a/b c", "/a/b c"),
    ],
)
@pytest.mark.filterwarnings("ignore::mdistiller_ext.errors.ConfigWarning")
def test_an_override_is_read_as_the_setting_needs_it(key: str, text: str, value: Any) -> None:
    node: Any = load_config(None, [key, text])
    for part in key.split("."):
        node = node[part]
    assert node == value
    assert type(node) is type(value)


# ---- mistakes -----------------------------------------------------------------------------------------------------


def test_a_misspelt_key_of_a_file_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "SOLVER:\n  LRR: 0.1\n")
    with pytest.raises(UnknownNameError):
        load_config(path)
    text = message(path)
    assert f"unknown setting SOLVER.LRR in {path}; did you mean 'SOLVER.LR'?" in text


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("SOLVER.LRR", "SOLVER.LR"),
        ("SOLVR.LR", "SOLVER"),
        ("solver.lr", "SOLVER"),
        ("SOLVER.lr", "SOLVER.LR"),
        ("LR", "SOLVER.LR"),
        ("KD.LOSS.CE_WIEGHT", "KD.LOSS.CE_WEIGHT"),
        ("KD.CE_WEIGHT", "KD.LOSS.CE_WEIGHT"),
        ("DKD.BTEA", "DKD.BETA"),
        ("SOLVER.DOT.DELTTA", "SOLVER.DOT.DELTA"),
        ("DATASET.TEST.BATCHSIZE", "DATASET.TEST.BATCH_SIZE"),
    ],
)
def test_a_misspelt_key_of_the_command_line_names_the_nearest(key: str, near: str) -> None:
    text = message(None, key, "1")
    assert "in the command line" in text
    assert f"did you mean '{near}'?" in text


@pytest.mark.parametrize("key", ["", ".", "SOLVER.", "NONE.X", "ZZZ", "SOLVER..LR"])
def test_a_key_near_to_nothing_is_an_error_too(key: str) -> None:
    assert "unknown setting" in message(None, key, "1")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ("DISTILLER.TYPE DKDD", ["unknown distiller 'DKDD'; did you mean 'DKD'?", "Known: ", "PRKD"]),
        ("DISTILLER.TYPE deepkd", ["did you mean 'DEEPKD'?"]),
        ("SOLVER.TRAINER dots", ["unknown trainer 'dots'; did you mean 'dot'?", "Known: base, deepkd, dot"]),
        ("DISTILLER.STUDENT resnet8x", ["unknown model 'resnet8x' for glyphs; did you mean 'resnet8x4'?"]),
        ("DATASET.TYPE glyph", ["unknown data set 'glyph'; did you mean 'glyphs'?", "cifar100"]),
        ("SOLVER.LR_SCHEDULER cosin", ["SOLVER.LR_SCHEDULER", "'cosin'", "step, cosine, onecycle"]),
        ("SOLVER.TYPE Adam", ["SOLVER.TYPE", "SGD", "Adam"]),
        ("SOLVER.DEVICE gpu", ["SOLVER.DEVICE gpu cannot be used"]),
        ("SOLVER.TRAINER deepkd SOLVER.DEEPKD.RULE papr", ["SOLVER.DEEPKD.RULE", "paper or official", "papr"]),
        ("DISTILLER.TYPE DEEPKD DEEPKD.PHASE_ENDS [1,2,3]", ["DEEPKD.PHASE_ENDS", "[1, 2, 3]"]),
        ("DISTILLER.TYPE DEEPKD DEEPKD.WEIGHTING kdd", ["DEEPKD.WEIGHTING", "dkd or kd", "kdd"]),
        ("DISTILLER.TYPE PRKD PRKD.VARIANT prkd_c", ["prkd_a", "prkd_b", "prkd_c"]),
        ("DISTILLER.TYPE PRKD PRKD.CORRELATION intr", ["inter+intra", "intr"]),
        ("DISTILLER.TYPE GDKD GDKD.KL_TYPE forwrad", ["forward", "reverse", "forwrad"]),
        ("DISTILLER.TYPE GDKD GDKD.TOPK 0", ["0"]),
        ("DISTILLER.TYPE GDKD GDKD.TOPK 100", ["100"]),
        ("DISTILLER.TYPE KD KD.TEMPERATURE 0", ["temperature", "0"]),
        ("DISTILLER.TYPE DKD DKD.WARMUP -1", ["-1"]),
        ("SOLVER.EPOCHS 0", ["SOLVER.EPOCHS must be at least 1, not 0"]),
        ("SOLVER.BATCH_SIZE -1", ["SOLVER.BATCH_SIZE must be at least 1, not -1"]),
        ("DATASET.LIMIT -1", ["-1"]),
        ("SOLVER.LR -1", ["SOLVER.LR must be a positive number, not -1.0"]),
        ("SOLVER.MOMENTUM 1.0", ["SOLVER", "momentum", "1.0"]),
        ("EXPERIMENT.SEED -1", ["SEED", "-1"]),
        ("SOLVER.LR 0", ["SOLVER.LR must be a positive number, not 0.0"]),
        ("SOLVER.LR inf", ["SOLVER.LR must be a positive number, not inf"]),
        ("LOG.SAVE_CHECKPOINT_FREQ -1", ["LOG.SAVE_CHECKPOINT_FREQ must be at least 0, not -1"]),
        ("SOLVER.LR_DECAY_STAGES [-1,3]", ["SOLVER.LR_DECAY_STAGES must be positive and increasing epochs, not [-1, 3]"]),
        ("SOLVER.LR_DECAY_STAGES [180,150]", ["SOLVER.LR_DECAY_STAGES must be positive and increasing", "[180, 150]"]),
        ("SOLVER.LR_DECAY_STAGES [0]", ["SOLVER.LR_DECAY_STAGES must be positive and increasing", "[0]"]),
        ("SOLVER.LR_DECAY_STAGES [3,3]", ["SOLVER.LR_DECAY_STAGES must be positive and increasing", "[3, 3]"]),
        ("DISTILLER.TYPE DKD DKD.BETA -8", ["DKD.BETA must not be negative, not -8.0"]),
        ("DISTILLER.TYPE KD KD.LOSS.KD_WEIGHT -0.9", ["KD.LOSS.KD_WEIGHT must not be negative, not -0.9"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_cannot_be_used_is_one_line_with_the_choices(tiny: list[str], overrides: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build_trainer(load_config(None, [*tiny, *overrides.split()]))
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_short_trial_of_a_long_recipe_is_no_mistake() -> None:
    assert load_config(None, ["SOLVER.EPOCHS", "2"]).SOLVER.LR_DECAY_STAGES == [150, 180, 210]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["SOLVER.LR=0.1"], "SOLVER.LR=0.1 is one word; a setting and its value are two: SOLVER.LR 0.1"),
        (["SOLVER.EPOCHS", "2", "SOLVER.LR=0.1"], "SOLVER.LR 0.1"),
        (["SOLVER.LR=0.1", "SOLVER.EPOCHS=2"], "SOLVER.LR 0.1"),
        (["configs/glyphs/base.yaml"], "a config file is named by --cfg configs/glyphs/base.yaml"),
        (["a.yaml", "SOLVER.LR", "0.1"], "a config file is named by --cfg a.yaml"),
    ],
)
def test_words_that_are_no_pairs_are_answered_with_how_they_are_written(overrides: list[str], said: str) -> None:
    assert said in message(None, *overrides)


def test_a_value_may_hold_an_equals_sign() -> None:
    assert load_config(None, ["EXPERIMENT.TAG", "lr=0.1"]).EXPERIMENT.NAME == "lr=0.1"


@pytest.mark.parametrize(
    ("content", "key", "kind", "value"),
    [
        ("SOLVER: {LR: fast}", "SOLVER.LR", "a number", "'fast'"),
        ("SOLVER: {LR: true}", "SOLVER.LR", "a number", "True"),
        ("SOLVER: {LR: [0.1]}", "SOLVER.LR", "a number", "[0.1]"),
        ("SOLVER: {LR: }", "SOLVER.LR", "a number", "None"),
        ("SOLVER: {LR: {X: 1}}", "SOLVER.LR", "a number", "{'X': 1}"),
        ("SOLVER: {EPOCHS: 1.5}", "SOLVER.EPOCHS", "a whole number", "1.5"),
        ("SOLVER: {EPOCHS: true}", "SOLVER.EPOCHS", "a whole number", "True"),
        ("SOLVER: {EPOCHS: '8'}", "SOLVER.EPOCHS", "a whole number", "'8'"),
        ("SOLVER: {LR_DECAY_STAGES: 150}", "SOLVER.LR_DECAY_STAGES", "a list", "150"),
        ("SOLVER: {LR_DECAY_STAGES: [150, x]}", "SOLVER.LR_DECAY_STAGES[1]", "a whole number", "'x'"),
        ("LOG: {WANDB: 1}", "LOG.WANDB", "true or false", "1"),
        ("LOG: {WANDB: 'no'}", "LOG.WANDB", "true or false", "'no'"),
        ("EXPERIMENT: {TAG: [a]}", "EXPERIMENT.TAG", "text", "['a']"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_key_kind_value_and_file(
    tmp_path: Path, content: str, key: str, kind: str, value: str
) -> None:
    path = write(tmp_path / "typed.yaml", content)
    with pytest.raises(ConfigError):
        load_config(path)
    assert f"{key} in {path} must be {kind}, not {value}" in message(path)


@pytest.mark.parametrize("content", ["SOLVER: 3", "SOLVER:", "SOLVER: [1]", "KD: {LOSS: 1.0}"])
def test_a_group_cannot_be_a_single_value(tmp_path: Path, content: str) -> None:
    text = message(write(tmp_path / "a.yaml", content))
    assert "is a group of settings" in text
    assert "a.yaml" in text
    assert "CE_WEIGHT" in text or "LR" in text


@pytest.mark.parametrize("overrides", [["SOLVER.LR"], ["SOLVER.LR", "0.1", "SOLVER.EPOCHS"]])
def test_an_override_without_a_partner_is_named(overrides: list[str]) -> None:
    text = message(None, *overrides)
    assert "pairs" in text
    assert overrides[-1] in text


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    there = write(tmp_path / "deepkd/res20_res8.yaml", "")
    assert f"config file not found: {tmp_path / 'deepkd/res20_rse8.yaml'}; did you mean {there}?" in message(
        tmp_path / "deepkd/res20_rse8.yaml"
    )
    assert f"did you mean {there}?" in message(tmp_path / "depkd/res20_res8.yaml")


def test_looking_for_the_nearest_file_does_not_walk_the_whole_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[Path] = []
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: walked.append(self) or iter(()))
    assert "config file not found" in message("/no-such-folder/x.yaml")
    assert Path("/") not in walked


def test_defaults_are_made_anew_each_time() -> None:
    first = default_config()
    first.SOLVER.LR_DECAY_STAGES.append(1)
    first.SOLVER.LR = 9.0
    assert default_config().SOLVER.LR == 0.05
    assert default_config().SOLVER.LR_DECAY_STAGES == [150, 180, 210]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("DISTILLER: {TYPE: [KD]}", "DISTILLER.TYPE in"),
        ("DISTILLER: {TEACHER: [a]}", "DISTILLER.TEACHER in"),
        ("DISTILLER: {STUDENT: [a]}", "DISTILLER.STUDENT in"),
        ("DATASET: {TYPE: [a], ENHANCE_AUGMENT: true}", "DATASET.TYPE in"),
        ("SOLVER: {TRAINER: [deepkd]}", "SOLVER.TRAINER in"),
        ("DATASET: {MEAN: [a, b, c]}", "DATASET.MEAN[0] in"),
        ("DATASET: {STD: [0.2, null, 0.2]}", "DATASET.STD[1] in"),
        ("DATASET: {STRONG: [[cutout]]}", "DATASET.STRONG[0] in"),
        ("DATASET: {STRONG: [{a: b}]}", "DATASET.STRONG[0] in"),
    ],
)
def test_a_value_of_an_odd_type_is_named(tmp_path: Path, content: str, said: str) -> None:
    assert said in message(write(tmp_path / "odd.yaml", content))


def test_numbers_as_augmentations_are_unknown_names(tiny: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "odd.yaml", "DATASET: {STRONG: [1, 2]}")
    assert_one_line_error(run_program("train.py", "--cfg", path, *tiny), "unknown augmentation '1'")


def test_folders_and_nothing_as_config_files(tmp_path: Path) -> None:
    assert message(tmp_path) == f"the config file {tmp_path} is a folder"
    write(tmp_path / "config.yaml", "")
    assert message(tmp_path) == f"the config file {tmp_path} is a folder; name a file in it: config.yaml"
    assert message("") == "the name of the config file is empty"
    path = write(tmp_path / "a.yaml", '_BASE_: ""\n')
    assert message(path) == f"_BASE_ in {path} is empty"
    assert "is a folder" in message(write(tmp_path / "a.yaml", "_BASE_: .\n"))


def test_settings_may_be_given_as_values() -> None:
    config = load_config(None, ["SOLVER.LR", 1, "SOLVER.LR_DECAY_STAGES", [2, 3], "LOG.WANDB", False])
    assert (config.SOLVER.LR, config.SOLVER.LR_DECAY_STAGES, config.LOG.WANDB) == (1.0, [2, 3], False)
