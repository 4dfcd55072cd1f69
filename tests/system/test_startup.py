"""What programs import: commands that compute nothing do so without torch, and a run imports no more than training needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.configs import write
from tests.support.programs import Finished, spawn_program

JOB = "configs/glyphs/deepkd/res20_res8.yaml"
# Packages that take a tenth of a second or more to import; the compiler takes a second.
SLOW = ["matplotlib", "scipy", "sympy", "timm", "torch._dynamo", "torch._inductor", "torchvision"]
MODULES_AT_FIRST_STEP = f"""
import json, os, sys
from mdistiller_ext.optim import ComponentSGD

step = ComponentSGD.step

def step_and_exit(*arguments, **options):
    step(*arguments, **options)
    print(json.dumps([name for name in {["torch", *SLOW]} if name in sys.modules]), flush=True)
    os._exit(0)

ComponentSGD.step = step_and_exit
"""


def imported(finished: Finished) -> set[str]:
    """The modules that ``python -X importtime`` has listed."""
    return {line.rpartition("|")[2].strip() for line in finished.err.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    "command",
    [
        "train.py --help",
        "train.py --list",
        "train.py --no-such-option",
        "eval.py --help",
        "-m mdistiller_ext.published --student resnet8x4",
        "-m mdistiller_ext.bridge --help",
    ],
)
def test_a_command_that_computes_nothing_does_not_import_torch(command: str) -> None:
    finished = spawn_program("-X", "importtime", *command.split())
    assert finished.status == (2 if command.endswith("option") else 0)
    modules = imported(finished)
    assert "mdistiller_ext.command" in modules
    assert not modules & {"torch", "numpy"}


def test_a_run_trains_before_it_imports_what_training_does_not_need(glyphs_root: Path, tmp_path: Path) -> None:
    plugin = write(tmp_path / "modules_at_first_step.py", MODULES_AT_FIRST_STEP)
    settings = ["DATASET.ROOT", glyphs_root, "DATASET.LIMIT", 100, "LOG.PREFIX", tmp_path]
    finished = spawn_program("train.py", "--plugin", plugin, "--cfg", JOB, *settings)
    assert finished.status == 0, finished.err
    assert json.loads(finished.out.splitlines()[-1]) == ["torch"]
