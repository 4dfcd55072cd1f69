"""The README's two commands, and the documented examples of a method of one's own in a folder of their own."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from mdistiller_ext import checkpoint
from tests.support.programs import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/own_method.md").read_text(encoding="utf-8")


def blocks(example: int) -> list[str]:
    """Python file, yaml file and command of an example, counted from 0."""
    kinds = r"```python\n(.*?)```", r"```yaml\n(.*?)```", r"```bash\n(python train\.py --cfg my_.*?)\n```"
    return [re.findall(kind, PAGE, re.DOTALL)[example] for kind in kinds]


@pytest.mark.parametrize(("example", "lines"), [(0, 30), (1, 40)])
def test_the_examples_are_short(example, lines):
    assert len("".join(blocks(example)[:2]).splitlines()) < lines


def run_example(folder, cwd, glyphs_root, example=0):
    """The example's files written to ``folder``, its command run in ``cwd``, small and with results in ``folder``."""
    *files, command = blocks(example)
    for text in files:
        (folder / text.split("\n")[0].removeprefix("# ")).write_text(text)
    command = command.split()[1:]
    command = [str(folder / word) if (folder / word).is_file() else word for word in command]
    smoke = ["SOLVER.EPOCHS", 1, "DATASET.LIMIT", 64, "DATASET.ROOT", glyphs_root, "LOG.PREFIX", folder / "output"]
    return subprocess.run([sys.executable, *command, *map(str, smoke)], cwd=cwd, capture_output=True, text=True)


def assert_it_trained(run, folder):
    assert run.returncode == 0, run.stderr
    assert "LOGIT_MSE with trainer 'dot'" in run.stdout
    metrics = next(folder.glob("output/glyphs/*/metrics.csv")).read_text()
    assert "kd/mse" in metrics.splitlines()[0]


def test_the_example_trains_from_a_folder_of_its_own(tmp_path, glyphs_root):
    assert_it_trained(run_example(tmp_path, ROOT, glyphs_root), tmp_path)


def test_the_example_with_a_projection_trains_it(tmp_path, glyphs_root):
    run = run_example(tmp_path, ROOT, glyphs_root, example=1)
    assert run.returncode == 0, run.stderr
    saved = checkpoint.load(next(tmp_path.glob("output/glyphs/*/latest")))
    assert saved["distiller"]["projection.weight"].shape == (32, 32, 1, 1)
    assert [group["lr"] for group in saved["optimizer"]["param_groups"]][1] == pytest.approx(
        2 * saved["optimizer"]["param_groups"][0]["lr"]
    )


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"^@\w+@$", README, re.MULTILINE)


@pytest.mark.parametrize("target", ["quickstart", "test"])
def test_the_two_commands_exist(target):
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
