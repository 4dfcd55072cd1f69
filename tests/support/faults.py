"""What the tests of killed, stopped and damaged runs share."""

from __future__ import annotations

import collections
from pathlib import Path

from mdistiller_ext import checkpoint
from tests.support.runs import RUNS, assert_identical

Figures = collections.Counter[str]
SMALL = ["DATASET.LIMIT", "16", "SOLVER.BATCH_SIZE", "8"]
KD_RUN = RUNS["base"].split()


def checkpoints(folder: Path) -> list[Path]:
    """All files of weights in a run folder, whole or not."""
    whole = (path for path in folder.iterdir() if not path.name.startswith("."))
    return [path for path in whole if path.name.startswith(("latest", "previous", "best", "student_", "epoch_"))]


def contents(folder: Path) -> dict[str, bytes]:
    """All that is in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_previous(folder: Path, expected: Path) -> None:
    a, b = (checkpoint.load(where / "previous") for where in (folder, expected))
    other = {"seconds": 0, "cost": {}, "config": "", "plugins": {}}
    assert_identical({**a, **other}, {**b, **other}, "previous")


def assert_stopped_well(status: int | None, err: str, *where: str) -> None:
    assert status == 75, err
    assert len(err.splitlines()) == 1, err
    for part in ("stopped ", *where, "--resume goes on there"):
        assert part in err
