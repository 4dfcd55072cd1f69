"""A real study, killed on the way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from mdistiller_ext import checkpoint
from mdistiller_ext.study.local import usable_cores
from tests.support.programs import ROOT, run_program
from tests.support.runs import assert_identical
from tests.support.study import CFG, entries, run_study, states, wait_until

SLOWLY = """
import time
from mdistiller_ext.trainers import BaseTrainer

step = BaseTrainer.train_step

def train_step(*arguments):
    time.sleep(0.1)
    return step(*arguments)

BaseTrainer.train_step = train_step
"""


def test_a_killed_study_goes_on_and_a_killed_run_of_it_ends_as_the_run_never_stopped(
    tmp_path: Path, glyphs_root: Path, teacher_file: Path
) -> None:
    study, slowly = tmp_path / "out" / "s", tmp_path / "slowly.py"
    slowly.write_text(SLOWLY)
    settings = {"DATASET.ROOT": glyphs_root, "DATASET.LIMIT": 64, "DISTILLER.TEACHER": "resnet8", "SOLVER.EPOCHS": 4}
    settings |= {"DISTILLER.TEACHER_CKPT": teacher_file, "SOLVER.BATCH_SIZE": 16, "SOLVER.DEVICE": "cpu"}
    # As many jobs as cores: one thread each, as in this process.
    words = ["--cfg", CFG, "--seeds", 0, 1, "--out", study, "--plugin", slowly, "--jobs", max(usable_cores(), 2)]
    words += ["--set", *(f"{key}={value}" for key, value in settings.items())]
    command = [sys.executable, "-m", "mdistiller_ext.study", "run", *map(str, words)]
    killed = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(list(study.glob("*/metrics.csv"))) == 2)
        refused = run_study(*words)
        assert refused.status == 2
        assert refused.err.startswith(f"error: the study folder {study} is in use by process {killed.pid} on ")
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    names = [run["name"] for run in entries(study)]
    assert len(names) == 2
    owner = (study / f".{names[0]}.lock").read_text()
    found = re.match(r"process (\d+) on ", owner)
    assert found is not None, owner
    os.kill(int(found[1]), signal.SIGKILL)  # the other one goes on without its study
    time.sleep(0.1)
    finished = run_study(*words)
    assert (finished.status, finished.err) == (0, "")
    assert states(study) == dict.fromkeys(names, "finished")
    assert [run["attempts"] for run in entries(study)] == [2, 1]
    overrides = [word for pair in settings.items() for word in pair]
    alone = run_program("train.py", "--cfg", CFG, "--seed", 0, *overrides, "LOG.PREFIX", tmp_path, "EXPERIMENT.NAME", "alone")
    assert alone.status == 0, alone.err
    expected = checkpoint.load(tmp_path / "glyphs" / "alone" / "student_latest")["model"]
    assert_identical(checkpoint.load(study / names[0] / "student_latest")["model"], expected)
