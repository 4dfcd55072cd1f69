"""Commands in messages work in the shell of the user, in whatever folder that is."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mdistiller_ext.config import load_config
from mdistiller_ext.errors import ConfigError, MissingFileError, from_here
from mdistiller_ext.project import python_command
from mdistiller_ext.weight_files import teacher_path
from tests.support.programs import ROOT


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my data"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def after(text: str, output: str) -> str:
    return output.split(text)[1].splitlines()[0].strip()


def test_what_a_run_prints_can_be_run_from_there(tiny: list[str], elsewhere: Path) -> None:
    settings = [*tiny, "LOG.PREFIX", "my runs", "DISTILLER.TYPE", "KD", "SOLVER.EPOCHS", "1"]
    trained = shell(shlex.join([sys.executable, str(ROOT / "train.py"), *settings]), elsewhere)
    assert trained.returncode == 0, trained.stderr
    evaluated = shell(after("evaluate it:", trained.stdout), elsewhere)
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout.startswith("resnet8 (")
    exported = shell(f"{after('export it:', trained.stdout)} --to state_dict", elsewhere)
    assert exported.returncode == 0, exported.stderr
    *_, recipe = shlex.split(after("compare with a plain student:", trained.stdout))
    assert load_config(recipe).DISTILLER.TYPE == "NONE"


def test_how_to_get_a_teacher_can_be_run_from_elsewhere(elsewhere: Path) -> None:
    with pytest.raises(MissingFileError) as caught:
        teacher_path("resnet56", "cifar100")
    found = re.search(r"To get it: (.*) teachers, or by hand: .* To train it: (.*), then name", str(caught.value))
    assert found is not None, caught.value
    for command in (found[1], found[2]):
        done = shell(f"{command} --help", elsewhere)
        assert (done.returncode, done.stderr) == (0, "")
        assert "usage: " in done.stdout


def test_commands_are_short_in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    python = from_here(sys.executable)
    monkeypatch.setenv("PATH", "/nowhere")
    assert python_command("train.py", "--cfg", "a") == f"{python} train.py --cfg a"
    assert python_command("mdistiller_ext.download") == f"{python} -m mdistiller_ext.download"
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # an environment that is activated
    assert python_command("eval.py") == f"{Path(sys.executable).name} eval.py"


def test_a_path_is_one_word_of_the_shell(elsewhere: Path) -> None:
    assert from_here(elsewhere / "a") == "a"
    assert from_here("a b") == "'a b'"
    assert from_here(elsewhere.parent / "other one") == f"'{elsewhere.parent}/other one'"


def test_the_nearest_recipe_is_named_from_elsewhere(elsewhere: Path) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {ROOT}/configs/glyphs/kd/res20_res8.yaml"):
        load_config("configs/glyphs/kd/res20_res8.yml")
