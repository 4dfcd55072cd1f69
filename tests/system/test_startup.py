"""What programs import: commands that compute nothing import no torch, and a run neither torch's compiler nor torchvision."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.support.configs import write
from tests.support.programs import Finished, spawn_program

JOB = "configs/glyphs/deepkd/res20_res8.yaml"
CONSOLE_SCRIPT = "from mdistiller_ext.cli import main; main()"
# Packages that take a tenth of a second or more to import; the compiler takes a second.
SLOW = ["matplotlib", "scipy", "sympy", "timm", "torch._dynamo", "torch._inductor", "torchvision"]
# A plug-in that prints which of them are imported, after each step and at the end of the process.
PRINT_SLOW = f"""
import atexit, sys
from mdistiller_ext.optim import ComponentSGD

step = ComponentSGD.step

def print_slow():
    print("slow:", *[name for name in {SLOW} if name in sys.modules], flush=True)

def step_and_print(*arguments, **options):
    step(*arguments, **options)
    print_slow()

ComponentSGD.step = step_and_print
atexit.register(print_slow)
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
        "-m mdistiller_ext.study --help",
        "-m mdistiller_ext.bridge --help",
        f"-c '{CONSOLE_SCRIPT}' --help",
        f"-c '{CONSOLE_SCRIPT}' train --help",
        "-m mdistiller_ext.download --help",
        "-m mdistiller_ext.predict --help",
        "-m mdistiller_ext.export --help",
        "-m mdistiller_ext.compression --help",
        "-m mdistiller_ext.compression --no-such-option",
    ],
)
def test_a_command_that_computes_nothing_does_not_import_torch(command: str) -> None:
    finished = spawn_program("-X", "importtime", *shlex.split(command))
    assert finished.status == (2 if command.endswith("option") else 0)
    modules = imported(finished)
    assert "mdistiller_ext.command" in modules
    assert not modules & {"torch", "numpy"}


def test_a_run_imports_what_is_slow_to_import_when_it_needs_it(glyphs_root: Path, tmp_path: Path) -> None:
    plugin = write(tmp_path / "print_slow.py", PRINT_SLOW)
    settings = ["DATASET.ROOT", glyphs_root, "DATASET.LIMIT", 128, "SOLVER.EPOCHS", 1, "LOG.PREFIX", tmp_path]
    finished = spawn_program("train.py", "--plugin", plugin, "--cfg", JOB, *settings)
    assert finished.status == 0, finished.err
    lines = [line for line in finished.out.splitlines() if line.startswith("slow:")]
    assert lines == ["slow:", "slow:", "slow: matplotlib"]  # two steps; the picture of the curves at the end
