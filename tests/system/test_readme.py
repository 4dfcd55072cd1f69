"""The README's example of a method of one's own, run exactly as printed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from tests.support.programs import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.split("## Add a method")[1].split("\n## ")[0]


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", SECTION, re.DOTALL).group(1)


def test_the_example_is_short():
    assert len((block("python") + block("yaml")).splitlines()) < 30


def run_example(folder, cwd, glyphs_root):
    """The example's files written to ``folder``, its command run in ``cwd``, small and with results in ``folder``."""
    for language in ("python", "yaml"):
        text = block(language)
        (folder / text.split("\n")[0].removeprefix("# ")).write_text(text)
    command = re.search(r"```\npython (train\.py .*?)\n```", SECTION).group(1).split()
    command = [str(folder / word) if (folder / word).is_file() else word for word in command]
    smoke = ["SOLVER.EPOCHS", 1, "DATASET.LIMIT", 64, "DATASET.ROOT", glyphs_root, "LOG.PREFIX", folder / "output"]
    return subprocess.run([sys.executable, *command, *map(str, smoke)], cwd=cwd, capture_output=True, text=True)


def assert_it_trained(run, folder):
    assert run.returncode == 0, run.stderr
    assert "LOGIT_MSE with trainer 'dot'" in run.stdout
    metrics = next(folder.glob("output/glyphs/*/metrics.csv")).read_text()
    assert "kd/mse" in metrics.splitlines()[0]


def test_the_example_trains_as_printed(tmp_path, glyphs_root):
    for name in ("configs", "teachers", "mdistiller_ext", "train.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    assert_it_trained(run_example(tmp_path, tmp_path, glyphs_root), tmp_path)


def test_the_example_trains_from_a_folder_of_its_own(tmp_path, glyphs_root):
    assert_it_trained(run_example(tmp_path, ROOT, glyphs_root), tmp_path)


def test_the_parts_work_alone_as_printed():
    code = re.search(r"## Use the parts alone.*?```python\n(.*?)```", README, re.DOTALL).group(1)
    names = {}
    exec(code, names)
    assert all(torch.isfinite(p).all() for p in names["student"].parameters())


def test_the_list_of_settings_is_printed(capsys):
    exec(re.search(r'python -c "(.*?)"', README).group(1))
    assert "STANDARDIZE: False" in capsys.readouterr().out


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"^@\w+@$", README, re.MULTILINE)


@pytest.mark.parametrize("target", ["quickstart", "test"])
def test_the_two_commands_exist(target):
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"--cfg (configs/\S+)", README):
        assert (ROOT / name).is_file(), name
