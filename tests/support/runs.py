"""What tests of whole runs share: settings, comparison of run folders, and stopping on the way."""

from __future__ import annotations

import csv
import json
import resource
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mdistiller_ext import checkpoint
from mdistiller_ext.trainers import BaseTrainer
from tests.support.programs import Finished, run_program

RUNS = {
    "base": "DISTILLER.TYPE KD SOLVER.TRAINER base SOLVER.LR_DECAY_STAGES [1,3]",
    "dot": "DISTILLER.TYPE DKD SOLVER.TRAINER dot SOLVER.LR_SCHEDULER cosine DKD.WARMUP 3",
    "deepkd": "DISTILLER.TYPE DEEPKD SOLVER.TRAINER deepkd SOLVER.LR_SCHEDULER onecycle DEEPKD.PHASE_ENDS [2,3]",
    "average": "DISTILLER.TYPE PRKD PRKD.AVERAGE_LAST 3 SOLVER.LR_SCHEDULER onecycle",
    "memory": "DISTILLER.TYPE CRD CRD.NCE.K 64 CRD.FEAT.DIM 16 SOLVER.LR_SCHEDULER cosine",
}


def tiny_run(root: Path, teacher: Path, folder: Path) -> list[str]:
    """Overrides: resnet8 teaches resnet8, 32 images, 3 epochs of 2 steps, in ``folder/p/run``."""
    settings = {
        "EXPERIMENT.PROJECT": "p",
        "EXPERIMENT.NAME": "run",
        "LOG.PREFIX": folder,
        "DATASET.TYPE": "glyphs",
        "DATASET.ROOT": root,
        "DATASET.LIMIT": 32,
        "DISTILLER.STUDENT": "resnet8",
        "DISTILLER.TEACHER": "resnet8",
        "DISTILLER.TEACHER_CKPT": teacher,
        "SOLVER.BATCH_SIZE": 16,
        "SOLVER.EPOCHS": 3,
        "SOLVER.DEVICE": "cpu",
    }
    return [str(part) for pair in settings.items() for part in pair]


MEASURED = {"seconds", "images_per_second", "test_images_per_second", "peak_memory_mib"}  # of summary.json: never the same


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_one_line_error(finished: Finished, *parts: str, status: int = 2) -> None:
    """A mistake the user can mend: its status, and one line on stderr that says all of ``parts``."""
    assert finished.err.startswith("error: "), finished.err
    assert len(finished.err.splitlines()) == 1, finished.err
    assert finished.status == status
    for part in parts:
        assert part in finished.err


def assert_identical(found: Any, expected: Any, where: str = "state") -> None:
    """Equal to the last bit, whatever is nested in it."""
    assert type(found) is type(expected), where
    if isinstance(expected, Tensor):
        assert found.dtype == expected.dtype, where
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            assert_identical(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_identical(a, b, f"{where}[{i}]")
    else:
        assert found == expected, where


def assert_same_run(folder: Path, expected: Path) -> None:
    """Two run folders hold the same training: every checkpoint and record, but for times, places and plug-ins with faults."""
    assert names(folder) - {"plugins"} == names(expected) - {"plugins"}
    for name in ("metrics.csv", "worklog.txt"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    for name in names(expected):
        if name in ("latest", "best") or name.startswith(("student_", "epoch_")):
            a, b = (checkpoint.load(where / name) for where in (folder, expected))
            for state in (a, b):
                state.pop("seconds", None)
                state.pop("cost", None)
                state.pop("config", None)  # it names the folder
                state.pop("plugins", None)
            assert_identical(a, b, name)
    summaries = [json.loads((where / "summary.json").read_text()) for where in (folder, expected)]
    for summary in summaries:
        for measured in MEASURED:
            del summary[measured]
    assert summaries[0] == summaries[1]


def run_never_stopped(arguments: list[str], tmp_path: Path) -> tuple[Path, Path]:
    """Train to the end; where the run was, for the next one, and where it is kept for comparison."""
    assert run_program("train.py", *arguments).status == 0
    folder = tmp_path / "p" / "run"
    return folder, folder.rename(tmp_path / "never_stopped")


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ctrl-C in the middle of an epoch: after so many steps of the process."""
    step, taken = BaseTrainer.train_step, 0

    def train_step(self: BaseTrainer, *batch: Tensor) -> Any:
        nonlocal taken
        taken += 1
        if taken > steps:
            raise KeyboardInterrupt
        return step(self, *batch)

    monkeypatch.setattr(BaseTrainer, "train_step", train_step)


def drawn_quickly(history: Sequence[dict[str, float]], title: str) -> bytes:
    """In place of ``draw_curves``, which takes as long as such a run: something that is the same for the same history."""
    return f"{title}: {history}".encode()


def small_files_only(limit: int) -> Any:
    """For a subprocess: no file may grow beyond ``limit`` bytes; a write that would fails, as on a full disk."""

    def limit_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return limit_files


ALWAYS = {
    "config.yaml",
    "classes.txt",
    "latest",
    "previous",
    "best",
    "student_latest",
    "student_best",
    "worklog.txt",
    "metrics.csv",
    "train.events",
    "curves.png",
    "summary.json",
    "notes.txt",
    "provenance.json",
}


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


# A step of four images, in ``LOG.PREFIX/p/run``.
SMALL = ["DATASET.LIMIT", 4, "SOLVER.BATCH_SIZE", 4, "SOLVER.EPOCHS", 1, "SOLVER.DEVICE", "cpu"]
SMALL += ["EXPERIMENT.PROJECT", "p", "EXPERIMENT.NAME", "run"]
FILES = [*SMALL, "DATASET.IMAGE_SIZE", 32, "DATASET.NUM_WORKERS", 0]  # for data sets of image files


def assert_notes(stderr: str, *parts: str) -> None:
    """All of stderr are notes, a line each, and they say all of ``parts``."""
    assert stderr
    assert [line for line in stderr.splitlines() if not line.startswith("note: ")] == []
    for part in parts:
        assert part in stderr
