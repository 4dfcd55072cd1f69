"""Comparing configurations."""

from __future__ import annotations

import pytest

from mdistiller_ext.config import changes_refused_on_resume, effective_settings, load_config, recipe_changes
from mdistiller_ext.errors import ConfigWarning


def test_differences_name_the_setting_and_both_values() -> None:
    old, new = load_config(None), load_config(None, ["SOLVER.LR", "0.1", "LOG.PREFIX", "x"])
    assert changes_refused_on_resume(old.dump(), new) == [
        "EXPERIMENT.NAME: default -> default,SOLVER.LR:0.1",
        "SOLVER.LR: 0.05 -> 0.1",
    ]


def test_effective_settings_are_those_that_a_run_reads() -> None:
    found = effective_settings(load_config(None, ["DISTILLER.TYPE", "KD", "SOLVER.TRAINER", "dot"]))
    assert {"KD.TEMPERATURE", "SOLVER.DOT.DELTA", "SOLVER.LR", "DATASET.TEST.BATCH_SIZE", "DISTILLER.TEACHER"} <= found.keys()
    assert not {"DKD.ALPHA", "SOLVER.DEEPKD.RULE"} & found.keys()
    alone = effective_settings(load_config(None, ["DISTILLER.TYPE", "NONE"]))
    assert alone.keys() & {"DISTILLER.TEACHER", "DISTILLER.TEACHER_CKPT", "DISTILLER.STUDENT"} == {"DISTILLER.STUDENT"}


def test_settings_that_a_run_does_not_read_change_neither_run_nor_recipe() -> None:
    alone = ["EXPERIMENT.NAME", "a", "DISTILLER.TYPE", "NONE"]
    before = load_config(None, alone)
    with pytest.warns(ConfigWarning, match="without effect"):
        after = load_config(None, [*alone, "DISTILLER.TEACHER", "resnet56", "KD.TEMPERATURE", 2, "SOLVER.DOT.DELTA", 0.01])
    assert recipe_changes(before, after) == []
    assert changes_refused_on_resume(before.dump(), after) == []
    other = load_config(None, [*alone, "DISTILLER.STUDENT", "resnet8"])
    assert changes_refused_on_resume(before.dump(), other) == ["DISTILLER.STUDENT: resnet32 -> resnet8"]
