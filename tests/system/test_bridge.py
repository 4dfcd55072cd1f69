"""The bridge's command, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.programs import ROOT, run_program
from tests.support.runs import assert_one_line_error
from tests.support.upstream_package import write_upstream


def bridge(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mdistiller_ext.bridge", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_command_runs_a_script_and_ends_with_one_line_for_a_mistake(tmp_path: Path) -> None:
    fork = write_upstream(tmp_path / "fork")
    settings = ["DISTILLER.TYPE", "DKD", "DISTILLER.STUDENT", "resnet8", "DISTILLER.TEACHER", "resnet8", "SOLVER.EPOCHS", "1"]
    done = bridge(fork, "tools/train.py", *settings)
    assert done.returncode == 0, done.stderr
    assert "loss_ce, loss_kd" in done.stdout
    done = bridge(tmp_path, "tools/absent.py")
    assert done.returncode == 2
    assert done.stderr.startswith("error: script not found: tools/absent.py")
    assert len(done.stderr.splitlines()) == 1


def test_train_refuses_a_folder_that_is_no_checkout(tmp_path: Path) -> None:
    finished = run_program("train.py", "--upstream", tmp_path, "DISTILLER.TYPE", "KD")
    assert_one_line_error(finished, "no checkout of mdistiller", "mdistiller/distillers/__init__.py")
