"""Names of experiments and run folders: short, the seed in sight, and different for different settings."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from mdistiller_ext.config import load_config
from mdistiller_ext.naming import file_name
from mdistiller_ext.run import run_folder

MANY = {
    "SOLVER.TRAINER": "dot",
    "SOLVER.EPOCHS": "120",
    "SOLVER.LR_SCHEDULER": "cosine",
    "SOLVER.WARMUP_EPOCHS": "5",
    "SOLVER.WEIGHT_DECAY": "0.0005",
    "DATASET.STRONG": "[randaugment,cutout]",
    "DISTILLER.TYPE": "DKD",
}
pytestmark = pytest.mark.filterwarnings("ignore::mdistiller_ext.errors.ConfigWarning")


def name(*overrides: Any, **settings: Any) -> str:
    """The name of an experiment with TAG ``t``; keywords are keys with ``__`` for the dot."""
    words = [str(word) for key, value in settings.items() for word in (key.replace("__", "."), value)]
    return str(load_config(None, ["EXPERIMENT.TAG", "t", *map(str, overrides), *words]).EXPERIMENT.NAME)


def words(settings: dict[str, Any]) -> list[str]:
    return [str(word) for pair in settings.items() for word in pair]


def test_few_overrides_are_spelt_out() -> None:
    assert name() == "t"
    assert name(SOLVER__LR="0.1", LOG__PREFIX="/x", EXPERIMENT__PROJECT="p") == "t,SOLVER.LR:0.1"
    assert name(EXPERIMENT__NAME="n", SOLVER__LR="0.1") == "n"


def test_the_seed_follows_the_tag_wherever_it_was_given() -> None:
    assert name(SOLVER__LR="0.1", EXPERIMENT__SEED=1) == "t,seed:1,SOLVER.LR:0.1"
    assert name(EXPERIMENT__SEED=0) == "t,seed:0"


def test_a_seed_of_the_file_is_in_the_name(tmp_path: Any) -> None:
    (tmp_path / "a.yaml").write_text("EXPERIMENT: {TAG: t, SEED: 3}\n")
    assert load_config(tmp_path / "a.yaml").EXPERIMENT.NAME == "t,seed:3"


def test_with_many_overrides_seeds_have_folders_of_their_own() -> None:
    """Seven overrides, the seed last, as ``--seed`` appends it: three runs once shared a folder."""
    folders = [run_folder(load_config(None, [*words(MANY), "EXPERIMENT.SEED", str(seed)])).name for seed in range(3)]
    assert len(set(folders)) == 3
    for seed, folder in enumerate(folders):
        assert folder.startswith(f"default,seed:{seed},SOLVER.TRAINER:dot,SOLVER.EPOCHS:120,")
        assert len(folder) <= 110
        assert re.fullmatch(r"[0-9a-f]{8}", folder.split(",")[-1])
    assert len({folder.split(",")[-1] for folder in folders}) == 1  # the digits are of all settings but the seed


def test_every_setting_changes_a_long_name() -> None:
    other = MANY | {"SOLVER.DOT.DELTA": "0.07", "EXPERIMENT.DETERMINISTIC": "True"}
    assert name(*words(other)) == name(*words(other))
    changes = [
        {},
        {"SOLVER.WEIGHT_DECAY": "0.0001"},
        {"DATASET.STRONG": "[cutout]"},
        {"SOLVER.DOT.DELTA": "0.08"},
        {"EXPERIMENT.DETERMINISTIC": "False"},
        {"SOLVER.MOMENTUM": "0.8"},
        {"DISTILLER.TEACHER_CKPT": "a/b"},
        {"DISTILLER.TEACHER_CKPT": "a_b"},
    ]
    assert len({name(*words(other | change)) for change in changes}) == len(changes)


def test_the_files_settings_count_too(tmp_path: Any) -> None:
    for lr in ("0.1", "0.2"):
        (tmp_path / f"{lr}.yaml").write_text(f"EXPERIMENT: {{TAG: t}}\nSOLVER: {{LR: {lr}}}\n")
    first, second = (load_config(tmp_path / f"{lr}.yaml", words(MANY)).EXPERIMENT.NAME for lr in ("0.1", "0.2"))
    assert first != second


def test_values_that_one_file_name_would_stand_for_are_told_apart() -> None:
    names = [file_name(name(DISTILLER__TEACHER_CKPT=path)) for path in ("a/b", "a b", "a_b")]
    assert len(set(names)) == 3
    assert all(one.startswith("t,DISTILLER.TEACHER_CKPT:a_b") for one in names)


def test_where_data_lie_does_not_name_a_run_unless_it_says_which_data() -> None:
    places = [name(*words(MANY), DATASET__ROOT=root) for root in ("/scratch/1", "/scratch/2")]
    assert places[0] == places[1] == name(*words(MANY))
    assert name(DATASET__ROOT="/scratch/1") == "t"
    folders = [name(DATASET__TYPE="folder", DATASET__ROOT=root) for root in ("/birds", "/cars")]
    assert folders[0] != folders[1]


def test_settings_of_a_plug_in_that_is_there_change_no_name(forget_plugins: None) -> None:
    from mdistiller_ext.distillers import Distiller, register_distiller

    before = name(*words(MANY))

    @register_distiller("MINE")
    class Mine(Distiller):
        def __init__(self, student: Any, teacher: Any, *, weight: float = 1.0) -> None:
            super().__init__(student, teacher)

    assert name(*words(MANY)) == before


@pytest.mark.parametrize("tag", ["x" * 300, "é" * 150, "x" * 99])
def test_a_long_tag_leaves_seed_and_digits_in_sight(tag: str) -> None:
    tagged = {"EXPERIMENT.TAG": tag} | MANY
    names = [
        run_folder(load_config(None, [*words(tagged), "EXPERIMENT.SEED", str(seed), "SOLVER.LR", lr])).name
        for seed, lr in itertools.product((0, 1), ("0.1", "0.2"))
    ]
    assert len(set(names)) == 4
    assert all(f",seed:{seed}," in found for seed, found in zip((0, 0, 1, 1), names, strict=True))
    assert all(len(found.encode()) <= 200 for found in names)
    assert tag == load_config(None, ["EXPERIMENT.TAG", tag]).EXPERIMENT.NAME


def test_a_name_that_is_cut_is_not_another_one_that_is_cut() -> None:
    one, other = (file_name("é" * 150 + end) for end in "ab")
    assert one != other
    assert max(len(one.encode()), len(other.encode())) <= 200
    assert file_name("kd,res32x4,res8x4") == "kd,res32x4,res8x4"
