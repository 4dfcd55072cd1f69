"""The declaration of every setting and what it means for resume and recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest

from mdistiller_ext.config import (
    changes_refused_on_resume,
    hyper_parameters,
    load_config,
    recipe_changes,
)
from mdistiller_ext.config.schema import GROUPS, all_settings, having
from mdistiller_ext.distillers import Distiller, register_distiller
from mdistiller_ext.settings import Plumbing, Setting
from tests.support.configs import message, write
from tests.support.programs import ROOT, run_program


def names_having(**facts: bool) -> set[str]:
    has = having(**facts)
    return {name for name in all_settings() if has(name)}


def test_the_manual_names_what_may_change_on_resuming() -> None:
    row = next(line for line in (ROOT / "docs/running.md").read_text(encoding="utf-8").splitlines() if "may change" in line)
    named = {word for word in row.split("`") if word in all_settings()}
    assert named | {name for name in all_settings() if name.startswith("LOG.")} == names_having(may_change=True)


def test_what_may_change_within_a_run_is_no_part_of_a_recipe() -> None:
    assert names_having(may_change=True) <= names_having(recipe=False)


def test_every_setting_of_no_class_has_a_meaning() -> None:
    assert all(setting.meaning for settings in GROUPS.values() for setting in settings.values())


def test_an_unknown_setting_has_what_all_of_its_group_share() -> None:
    """Such as a setting of a later version in a run folder."""
    before = "LOG: {GONE: 1}\nDATASET: {GONE: 1}\nOTHER: {GONE: 1}\n"
    refused = "; ".join(changes_refused_on_resume(before, load_config(None)))
    assert "DATASET.GONE: 1 -> None" in refused
    assert "LOG.GONE" not in refused
    assert "OTHER.GONE" not in refused


def test_an_argument_declares_facts_in_its_annotation(forget_plugins: None) -> None:
    @register_distiller("MINE")
    class Mine(Distiller):
        def __init__(
            self,
            student: Any,
            teacher: Any,
            *,
            threads: Annotated[int, Setting(may_change=True, recipe=False, least=1)] = 2,
            layers: Sequence[str] = (),
            optional: Sequence[float] | None = None,
            cache: dict[str, Any] | None = None,
            verbose: Plumbing[bool] = False,
        ) -> None:
            super().__init__(student, teacher)

    run = ["DISTILLER.TYPE", "MINE"]
    config = load_config(None, [*run, "MINE.LAYERS", "[a]", "MINE.OPTIONAL", "[1]"])
    assert hyper_parameters(config, "MINE") == {"threads": 2, "layers": ["a"], "optional": [1]}
    assert "MINE.THREADS must be at least 1, not 0" in message(None, *run, "MINE.THREADS", "0")
    assert "MINE.LAYERS[0] in the command line must be text" in message(None, "MINE.LAYERS", "[[a]]")
    for name in ("CACHE", "VERBOSE"):
        assert f"unknown setting MINE.{name}" in message(None, f"MINE.{name}", "1")
    name = ["EXPERIMENT.NAME", config.EXPERIMENT.NAME]
    other = load_config(None, [*run, *name, "MINE.LAYERS", "[b]", "MINE.OPTIONAL", "(1,)", "MINE.THREADS", "3"])
    assert changes_refused_on_resume(config.dump(), other) == ["MINE.LAYERS: ['a'] -> ['b']"]
    assert recipe_changes(config, other) == ["MINE.LAYERS: ['a'] -> ['b']"]


def test_annotations_that_only_a_type_checker_can_read_are_no_obstacle(forget_plugins: None) -> None:
    @register_distiller("MINE")
    class Mine(Distiller):
        def __init__(self, student: Any, teacher: Any, *, weight: Unimported = 1.0) -> None:  # type: ignore[name-defined]  # noqa: F821
            super().__init__(student, teacher)

    assert hyper_parameters(load_config(None, ["DISTILLER.TYPE", "MINE", "MINE.WEIGHT", "2"]), "MINE") == {"weight": 2.0}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("@register_trainer('lr')\nclass Mine(BaseTrainer): pass", "a trainer cannot be called lr: SOLVER.LR is a setting"),
        ("@register_trainer('Device')\nclass Mine(BaseTrainer): pass", "called Device: SOLVER.DEVICE is a setting"),
        ("@register_distiller('LOG')\nclass Mine(Distiller): pass", "a distiller cannot be called LOG: that is a group"),
    ],
)
def test_a_plugin_cannot_take_the_name_of_a_setting_or_group(
    tmp_path: Path, forget_plugins: None, code: str, said: str
) -> None:
    imports = "from mdistiller_ext.distillers import Distiller, register_distiller\n"
    imports += "from mdistiller_ext.trainers import BaseTrainer, register_trainer\n"
    plugin = write(tmp_path / "taken.py", imports + code)
    finished = run_program("train.py", "--plugin", plugin)
    assert (finished.status, finished.err.count("\n")) == (2, 1)
    assert said in finished.err
    assert "plugin_taken" in finished.err
