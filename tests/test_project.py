"""Files of the project by their names, and commands that run its programs, in a checkout and in an installation."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mdistiller_ext import project
from mdistiller_ext.config import load_config
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.study.plan import plan_study

RECIPE = "glyphs/deepkd/res20_res8"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [RECIPE, f"{RECIPE}.yaml", f"configs/{RECIPE}", f"configs/{RECIPE}.yaml"])
def test_a_recipe_is_found_by_its_name(elsewhere: Path, name: str) -> None:
    assert project.find_file(name) == project.CONFIGS / f"{RECIPE}.yaml"
    assert load_config(name).DISTILLER.TYPE == "DEEPKD"
    file = elsewhere / name  # of the user: it comes first
    file.parent.mkdir(parents=True)
    file.write_text("{_BASE_: configs/glyphs/base.yaml, DISTILLER.TYPE: NONE}")
    assert load_config(name).DISTILLER.TYPE == "NONE"
    assert load_config(name).SOLVER.EPOCHS == load_config(RECIPE).SOLVER.EPOCHS == load_config("glyphs/base").SOLVER.EPOCHS


def test_other_names_are_left_as_they_are(elsewhere: Path) -> None:
    (elsewhere / "glyphs").mkdir()
    for name in ("glyphs", "no/such", "../glyphs/base", f"/{RECIPE}"):
        assert project.find_file(name) == Path(name)
    with pytest.raises(ConfigError, match=r"is a folder; name a file in it: res20_res8\.yaml"):
        load_config("glyphs/deepkd")
    with pytest.raises(
        ConfigError, match=r"not found: glyphs/deepkd/res20_res9; did you mean .*configs/glyphs/deepkd/res20_res8"
    ):
        load_config("glyphs/deepkd/res20_res9")


def test_studies_of_the_project_and_their_recipes_are_found_too(elsewhere: Path) -> None:
    study = plan_study("compare")
    assert len(study.runs) == 4
    (elsewhere / "mine.yaml").write_text(f"RUNS: [{{CFG: {RECIPE}}}]")
    (run,) = plan_study("mine.yaml").runs
    assert f"--cfg {RECIPE} " in shlex.join(run.command)


def test_commands_of_an_installation(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, make_executable: Callable[[Path], Path]
) -> None:
    monkeypatch.setattr(project, "IN_CHECKOUT", False)
    python = make_executable(elsewhere / "bin" / "python")
    monkeypatch.setattr(sys, "executable", str(python))
    assert project.program_words("train.py") == [str(python), "-m", "mdistiller_ext.train"]
    script = make_executable(elsewhere / "bin" / "mdistiller-ext")
    assert project.program_words("train.py") == [str(script), "train"]
    assert project.program_words("mdistiller_ext.study") == [str(script), "study"]
    assert project.python_command("eval.py", "-c", "a") == "bin/mdistiller-ext eval -c a"
    monkeypatch.setenv("PATH", str(script.parent))
    assert project.python_command("mdistiller_ext.study", "run") == "mdistiller-ext study run"
    assert project.config_word(project.CONFIGS / f"{RECIPE}.yaml") == RECIPE
    assert project.config_word(elsewhere / "mine.yaml") == "mine.yaml"


@pytest.fixture
def make_executable() -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o755)
        return path

    return make
