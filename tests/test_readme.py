"""The README's example of a method of one's own, run exactly as printed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.split("## Add a method")[1].split("\n## ")[0]


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", SECTION, re.DOTALL).group(1)


def test_the_example_is_short():
    assert len((block("python") + block("yaml")).splitlines()) < 30


def test_the_example_trains_as_printed(tmp_path, glyphs_root):
    for name in ("configs", "teachers", "mdistiller_ext"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "train.py", tmp_path)
    for language in ("python", "yaml"):
        text = block(language)
        (tmp_path / text.split("\n")[0].removeprefix("# ")).write_text(text)
    command = re.search(r"```\npython (train\.py .*?)\n```", SECTION).group(1).split()
    smoke = ["SOLVER.EPOCHS", "1", "DATASET.LIMIT", "64", "DATASET.ROOT", str(glyphs_root)]
    run = subprocess.run([sys.executable, *command, *smoke], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "kd/mse" in run.stdout
    assert "LOGIT_MSE with trainer 'dot'" in run.stdout
    metrics = next(tmp_path.glob("output/glyphs/*/metrics.csv")).read_text()
    assert "kd/mse" in metrics.splitlines()[0]


@pytest.mark.parametrize("target", ["quickstart", "test"])
def test_the_two_commands_exist(target):
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"--cfg (configs/\S+)", README):
        assert (ROOT / name).is_file(), name
