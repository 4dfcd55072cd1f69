"""Mistakes in files, on the command line and in run folders that once were tracebacks, silence or hours of waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run_program, spawn_program
from test_cli import assert_one_line_error
from test_config import message, write
from test_upstream import load, upstream_file

from mdistiller_ext import checkpoint
from mdistiller_ext.acceleration import choose_device
from mdistiller_ext.command import run_command
from mdistiller_ext.config import load_config
from mdistiller_ext.errors import ConfigError, MissingFileError, UserError, listing, shown
from mdistiller_ext.plugins import load_plugin
from mdistiller_ext.published import recipe_differences
from mdistiller_ext.weight_files import pretrained_path, student_path, teacher_path

# ---- upstream's files: what they say only with their code -----------------------------------------------------------


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


def test_the_second_view_that_is_not_here_is_named(tmp_path: Path) -> None:
    _, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": "DKD", "SOLVER.TRAINER": "deepkd_aug"}))
    assert "strongly augmented view is not here" in said
    _, said = load(upstream_file(tmp_path, {"DISTILLER.TYPE": "GDKD", "GDKD.STRATEGY": "best"}))
    assert "GDKD.STRATEGY best is the only one here" in said


# ---- yaml of odd shapes -------------------------------------------------------------------------------------------


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


def bomb(leaf: str) -> str:
    """yaml of ten lines in which every mapping holds the one before nine times."""
    lines = [f"l{n}: &l{n} {{{', '.join(f'k{i}: *l{n - 1}' for i in range(9))}}}" for n in range(1, 10)]
    return "\n".join([f"l0: &l0 {leaf}", *lines])


@pytest.mark.parametrize("leaf", ["1", "{}", "[1]"])
def test_a_small_file_of_a_billion_settings_is_refused_at_once(tmp_path: Path, leaf: str) -> None:
    assert "more than 10,000 settings" in message(write(tmp_path / "bomb.yaml", bomb(leaf)))


def test_a_list_of_a_billion_items_is_shown_in_part(tmp_path: Path) -> None:
    lines = ["l0: &l0 [1]", *(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10))]
    text = message(write(tmp_path / "bomb.yaml", "\n".join([*lines, "SOLVER: {LR: *l9}"])))
    assert len(text) < 1000


@pytest.mark.parametrize(
    ("content", "line"),
    [("SOLVER:\n  LR: 0.1\n  LR: 0.2\n", "line 3"), ("KD: {}\nSOLVER: {}\nKD: {}\n", "line 3")],
)
def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path: Path, content: str, line: str) -> None:
    text = message(write(tmp_path / "twice.yaml", content))
    assert "stands twice" in text
    assert line in text
    assert "twice" in message(write(tmp_path / "dotted.yaml", "SOLVER: {LR: 0.1}\nSOLVER.LR: 0.2\n"))


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    text = "KD: &a {LOSS: {CE_WEIGHT: 0.5}, TEMPERATURE: 2}\nLSKD:\n  <<: {CE_WEIGHT: 0.5}\n  CE_WEIGHT: 0.25\n"
    path = write(tmp_path / "merged.yaml", f"DISTILLER: {{TYPE: LSKD, AUG_TEACHER: false}}\n{text}")
    assert load(path)[0].LSKD.CE_WEIGHT == 0.25


def test_merges_that_multiply_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 10))]
    assert "more than 10,000 settings" in message(write(tmp_path / "bomb.yaml", "\n".join(lines)))
    assert "SOLVER.LR" in message(None, "SOLVER.LR", "\n".join(lines))


def test_files_whose_bases_multiply_are_refused_at_once(tmp_path: Path) -> None:
    for n in range(40):
        write(tmp_path / f"{n}.yaml", f"_BASE_: [{n + 1}.yaml, {n + 1}.yaml]\n")
    write(tmp_path / "40.yaml", "SOLVER: {LR: 0.1}\n")
    assert "more than 100 files through _BASE_" in message(tmp_path / "0.yaml")


def test_a_chain_of_many_bases_is_no_endless_recursion(tmp_path: Path) -> None:
    for n in range(2000):
        write(tmp_path / f"{n}.yaml", f"_BASE_: {n + 1}.yaml\n")
    assert "more than 100 files through _BASE_" in message(tmp_path / "0.yaml")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300, "x/" * 3000, "a\nb"])
def test_what_cannot_be_the_name_of_a_file_is_not_found(tmp_path: Path, name: str) -> None:
    assert message(name).startswith("config file not found: ")
    path = write(tmp_path / "a.yaml", f"_BASE_: {json.dumps(name)}\n")
    assert message(path).startswith(f"config file not found: {tmp_path}/")


@pytest.mark.parametrize("key", ["LOG.PREFIX", "DATASET.ROOT", "DISTILLER.TEACHER_CKPT", "DISTILLER.STUDENT_CKPT"])
@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_setting_that_cannot_be_the_name_of_a_file_is_named(key: str, name: str) -> None:
    assert message(None, key, name) == f"{key} cannot be the name of a file or folder: {name!r}"


@pytest.mark.parametrize("value", ["!!timestamp x", "!!bool x", "!!int ''", "!!float ''", "2001-99-99"])
def test_a_value_that_does_not_fit_its_tag_is_no_yaml(tmp_path: Path, value: str) -> None:
    assert "is not readable yaml" in message(write(tmp_path / "a.yaml", f"SOLVER: {{LR: {value}}}\n"))
    assert "SOLVER.LR in the command line must be a number" in message(None, "SOLVER.LR", value)


@pytest.mark.parametrize("key", ["SOLVER.LR", "SOLVER.EPOCHS", "EXPERIMENT.TAG", "SOLVER.LR_POLICY", "SOLVER.LR_DECAY_STAGES"])
def test_numbers_of_thousands_of_digits_are_refused(tmp_path: Path, key: str) -> None:
    value = f"0x{'f' * 20_000}"
    text = message(write(tmp_path / "a.yaml", f"{key}: {[value] if key.endswith('STAGES') else value}\n".replace("'", "")))
    assert key in text
    assert "80,000 bits" in text


def test_what_others_wrote_is_said_in_one_line_that_the_terminal_only_shows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", '"LR\\n\\e[31m": 1\n')
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert "unknown setting LR\\n\\x1b[31m in" in str(caught.value)
    assert "a key of 5,000 characters" in message(write(tmp_path / "a.yaml", f"? {'x' * 5000}\n: 1\n"))
    assert "overrides come in pairs" in message(None, "\x1b[31m\n")
    assert len(message(None, "x" * 5000, "1")) <= 2000
    _, said = load(write(tmp_path / "a.yaml", '"CRD.\\n": 1\n'))
    assert said.isprintable()


def test_a_key_of_an_override_that_is_no_text_is_unknown() -> None:
    with pytest.raises(UserError, match="unknown setting"):
        load_config(None, [["SOLVER.LR"], 1])


@pytest.mark.parametrize("program", ["train.py", "eval.py"])
def test_an_unknown_option_is_said_in_one_line(program: str) -> None:
    finished = run_program(program, "--\x1b[31m\n")
    assert_one_line_error(finished, "unrecognized arguments: --\\x1b[31m\\n", f"{program} --help")


@pytest.mark.parametrize(
    ("program", "word"), [("train.py", "--cfg=--"), ("train.py", "--plugin=--"), ("eval.py", "-c=--"), ("eval.py", "-c--")]
)
def test_two_dashes_are_no_value(program: str, word: str) -> None:
    assert_one_line_error(run_program(program, word), f"{word}: -- is no value")


def test_folders_and_nothing_as_config_files(tmp_path: Path) -> None:
    assert message(tmp_path) == f"the config file {tmp_path} is a folder"
    write(tmp_path / "config.yaml", "")
    assert message(tmp_path) == f"the config file {tmp_path} is a folder; name a file in it: config.yaml"
    assert message("") == "the name of the config file is empty"
    path = write(tmp_path / "a.yaml", '_BASE_: ""\n')
    assert message(path) == f"_BASE_ in {path} is empty"
    assert "is a folder" in message(write(tmp_path / "a.yaml", "_BASE_: .\n"))


def test_no_error_repeats_all_that_was_written(tiny: list[str], tmp_path: Path) -> None:
    assert len(message(None, "SOLVER.LR", "x" * 3000)) < 300
    old = load_config(None, tiny).clone()
    old.defrost()
    old.DATASET.ROOT, old.SOLVER.LR_DECAY_STAGES, old.DISTILLER.STUDENT_CKPT = "x", list(range(900)), "y" * 3000
    state: dict[str, Any] = {key: {} for key in ("student", "distiller", "optimizer", "scheduler")}
    state |= {"rng": [], "averages": [], "average": None, "step": 0, "skipped": 0, "rate": 0.1, "teacher_hash": None}
    state["plugins"] = {}
    folder = tmp_path / "p/run"
    folder.mkdir(parents=True)
    checkpoint.save(folder / "latest", state | {"epoch": 0, "history": [], "seconds": 0.0, "config": old.dump()})
    assert_one_line_error(run_program("train.py", "--resume", *tiny), "other settings", "LR_DECAY_STAGES", "STUDENT_CKPT")
    assert len(run_program("train.py", "--resume", *tiny).err) < 800


def test_long_lists_and_values_are_abridged() -> None:
    assert listing(["a", "b"]) == "a, b"
    assert listing([]) == ""
    assert listing(["abc"] * 5, limit=8) == "abc, abc and 3 more"
    assert listing(["abcdefghij", "b"], limit=3) == "abcdefghij and 1 more"
    assert shown("fast") == "'fast'"
    assert len(shown("x" * 1000)) < 150


def test_holding_a_run_against_its_recipe_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = load_config(None, ["DISTILLER.TYPE", "GDKD", "DISTILLER.TEACHER", "resnet56", "DISTILLER.STUDENT", "resnet20"])
    settings = {"DISTILLER.TYPE": "GDKD", "DISTILLER.TEACHER": "resnet56", "DISTILLER.STUDENT": "resnet20"}
    upstream_file(tmp_path, settings).rename(write(tmp_path / "cifar100/gdkd/a.yaml", ""))
    monkeypatch.setattr("mdistiller_ext.published.CONFIGS", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recipe_differences(config) == []


def test_a_recipe_is_found_by_what_it_says_also_in_its_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pair = "DISTILLER: {TYPE: DKD, TEACHER: resnet56, STUDENT: resnet20}\n"
    write(tmp_path / "pair.yaml", pair)
    write(tmp_path / "cifar100/dkd/a.yaml", f"# resnet20\n{pair.replace('resnet20', 'resnet32')}")
    write(tmp_path / "cifar100/dkd/b.yaml", "_BASE_: ../../pair.yaml\nSOLVER: {LR: 0.1}\n")
    write(tmp_path / "cifar100/a_users/broken.yaml", f"{pair}SOLVER: [")
    write(tmp_path / "cifar100/a_users/plugin.yaml", f"{pair}MINE: {{WEIGHT: 1.0}}")
    monkeypatch.setattr("mdistiller_ext.published.CONFIGS", tmp_path)
    assert recipe_differences(load_config(tmp_path / "pair.yaml")) == ["SOLVER.LR: 0.1 -> 0.05"]
    assert recipe_differences(load_config(tmp_path / "pair.yaml", ["DISTILLER.STUDENT", "resnet8"])) is None


# ---- resuming -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def latest() -> dict[str, Any]:
    """The state of a run of one epoch: the first test below that wants it trains it."""
    return {}


DAMAGES: dict[str, Any] = {
    "only the config": lambda state: {"config": state["config"]},
    "config 3": {"config": 3},
    "config no yaml": {"config": "a: ["},
    "config a list": {"config": "- a"},
    "config a bomb": {"config": bomb("1")},
    "student empty": {"student": {}},
    "student of tensors that are none": {"student": {"conv1.weight": 3}},
    "distiller": {"distiller": {"x": 3}},
    "no rng": lambda state: {key: value for key, value in state.items() if key != "rng"},
    "rng": {"rng": {"torch": 3}},
    "epoch text": {"epoch": "3"},
    "epoch 3": {"epoch": 3},
    "history empty": {"history": []},
    "history of numbers": {"history": [3]},
    "history of other rows": {"history": [{"epoch": 1}]},
    "optimizer": {"optimizer": {}},
    "optimizer list": {"optimizer": []},
    "scheduler": {"scheduler": {}},
    "average": {"average": {"x": 3}},
    "seconds": {"seconds": None},
    "a list": lambda state: [state],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_resuming_from_what_is_no_checkpoint_of_this_run_names_the_file(
    tiny: list[str], tmp_path: Path, latest: dict[str, Any], damage: str
) -> None:
    file = tmp_path / "p/run/latest"
    if not latest:
        assert run_program("train.py", *tiny, "SOLVER.EPOCHS", 1).status == 0
        latest.update(checkpoint.load(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    change = DAMAGES[damage]
    checkpoint.save(file, change(latest) if callable(change) else latest | change)
    (file.parent / "best").unlink(missing_ok=True)  # which would do as well
    before = file.read_bytes()
    config = write(tmp_path / "config.yaml", latest["config"])  # so that the settings agree
    refused = run_program("train.py", "--resume", "--cfg", config, "LOG.PREFIX", tmp_path)
    assert_one_line_error(refused, str(file))
    assert file.read_bytes() == before


# ---- plugins, devices, pipes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\ndef broken(:\n", ", line 2: "),
        ("x = 1\n\nimport no_such_module\n", ", line 3: No module named 'no_such_module'"),
        ("\nfrom mdistiller_ext.distillers import Nothing\n", ", line 2: cannot import name 'Nothing'"),
    ],
)
def test_a_plugin_that_is_no_python_names_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    file = write(tmp_path / "mine.py", code)
    monkeypatch.chdir(tmp_path)
    for path in (str(file), "mine.py"):
        with pytest.raises(ConfigError) as caught:
            load_plugin(path)
        assert f"plugin {path}{said}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_other_exceptions_of_a_plugin_are_its_author_s(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        load_plugin(str(write(tmp_path / "mine.py", "1 / 0\n")))


@pytest.mark.parametrize("name", ["meta", "xla", "hpu", "xpu"])
def test_a_device_that_cannot_compute_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"SOLVER.DEVICE {name} cannot be used") as caught:
        choose_device(name)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("option", ["--list", "--help"])
def test_a_reader_that_leaves_is_no_error(option: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "train.py", option]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 141 or (option == "--help" and unbuffered)  # argparse takes no notice


def test_another_broken_pipe_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise BrokenPipeError(32, "Broken pipe", "a worker")

    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == 2
    assert "a worker" in capfd.readouterr().err


# ---- advice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "arguments"), [("download", ["cifar"]), ("published", ["--date", "x"])])
def test_wrong_arguments_of_the_other_programs_are_one_line_too(module: str, arguments: list[str]) -> None:
    finished = spawn_program("-m", f"mdistiller_ext.{module}", *arguments)
    assert_one_line_error(finished, arguments[0], f"python -m mdistiller_ext.{module} --help")


def test_the_advice_names_recipes_that_are_there() -> None:
    with pytest.raises(MissingFileError, match=r"train\.py --cfg configs/imagenet/none/MobileNetV1\.yaml"):
        teacher_path("MobileNetV1", "imagenet")


def test_the_advice_for_a_folder_says_where_it_is() -> None:
    with pytest.raises(MissingFileError, match=r"--cfg configs/folder/teachers/ResNet34\.yaml DATASET\.ROOT '/my images',"):
        teacher_path("ResNet34", "folder", "nowhere.pth", "/my images")
    overrides = ["DATASET.TYPE", "folder", "DATASET.ROOT", "/mine", "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "ResNet34"]
    student = ["DISTILLER.STUDENT", "ResNet18", "DISTILLER.STUDENT_CKPT", "random"]
    assert_one_line_error(run_program("train.py", *overrides, *student), "DATASET.ROOT /mine")


@pytest.mark.parametrize(("name", "dataset"), [("resnet8", "glyphs"), ("vgg13", "cifar100")])
def test_no_one_is_sent_to_train_a_small_network_on_imagenet(name: str, dataset: str) -> None:
    with pytest.raises(MissingFileError) as caught:
        pretrained_path(name, dataset)
    assert "train.py" not in str(caught.value)
    with pytest.raises(MissingFileError) as caught:
        student_path(name, dataset, "nowhere.pth")
    assert "train.py" not in str(caught.value)


def test_a_path_in_capitals_is_a_path() -> None:
    for path in ("MY/CKPT.PTH", "CKPT.PTH"):
        with pytest.raises(MissingFileError, match=f"no checkpoint of teacher 'ResNet34' for imagenet: looked for .*{path}"):
            teacher_path("ResNet34", "imagenet", path)
