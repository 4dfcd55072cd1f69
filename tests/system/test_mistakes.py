"""Mistakes on the command line and in run folders, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext import checkpoint
from mdistiller_ext.config import load_config
from tests.support.configs import bomb, message, write
from tests.support.programs import run_program
from tests.support.runs import assert_one_line_error


@pytest.mark.parametrize("program", ["train.py", "eval.py"])
def test_an_unknown_option_is_said_in_one_line(program: str) -> None:
    finished = run_program(program, "--\x1b[31m\n")
    assert_one_line_error(finished, "unrecognized arguments: --\\x1b[31m\\n", f"{program} --help")


@pytest.mark.parametrize(
    ("program", "word"), [("train.py", "--cfg=--"), ("train.py", "--plugin=--"), ("eval.py", "-c=--"), ("eval.py", "-c--")]
)
def test_two_dashes_are_no_value(program: str, word: str) -> None:
    assert_one_line_error(run_program(program, word), f"{word}: -- is no value")


def test_no_error_repeats_all_that_was_written(tiny: list[str], tmp_path: Path) -> None:
    assert len(message(None, "SOLVER.LR", "x" * 3000)) < 300
    old = load_config(None, tiny).clone()
    old.defrost()
    old.DATASET.ROOT, old.SOLVER.LR_DECAY_STAGES, old.DISTILLER.STUDENT_CKPT = "x", list(range(900)), "y" * 3000
    state: dict[str, Any] = {key: {} for key in ("student", "distiller", "optimizer", "scheduler")}
    state |= {"rng": [], "averages": [], "average": None, "step": 0, "skipped": 0, "rate": 0.1, "teacher_hash": None}
    state["plugins"] = {}
    folder = tmp_path / "p/run"
    folder.mkdir(parents=True)
    checkpoint.save(folder / "latest", state | {"epoch": 0, "history": [], "seconds": 0.0, "config": old.dump()})
    assert_one_line_error(run_program("train.py", "--resume", *tiny), "other settings", "LR_DECAY_STAGES", "STUDENT_CKPT")
    assert len(run_program("train.py", "--resume", *tiny).err) < 800


@pytest.fixture(scope="module")
def latest() -> dict[str, Any]:
    """The state of a run of one epoch: the first test below that wants it trains it."""
    return {}


DAMAGES: dict[str, Any] = {
    "only the config": lambda state: {"config": state["config"]},
    "config 3": {"config": 3},
    "config no yaml": {"config": "a: ["},
    "config a list": {"config": "- a"},
    "config a bomb": {"config": bomb("1")},
    "student empty": {"student": {}},
    "student of tensors that are none": {"student": {"conv1.weight": 3}},
    "distiller": {"distiller": {"x": 3}},
    "no rng": lambda state: {key: value for key, value in state.items() if key != "rng"},
    "rng": {"rng": {"torch": 3}},
    "epoch text": {"epoch": "3"},
    "epoch 3": {"epoch": 3},
    "history empty": {"history": []},
    "history of numbers": {"history": [3]},
    "history of other rows": {"history": [{"epoch": 1}]},
    "optimizer": {"optimizer": {}},
    "optimizer list": {"optimizer": []},
    "scheduler": {"scheduler": {}},
    "average": {"average": {"x": 3}},
    "seconds": {"seconds": None},
    "a list": lambda state: [state],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_resuming_from_what_is_no_checkpoint_of_this_run_names_the_file(
    tiny: list[str], tmp_path: Path, latest: dict[str, Any], damage: str
) -> None:
    file = tmp_path / "p/run/latest"
    if not latest:
        assert run_program("train.py", *tiny, "SOLVER.EPOCHS", 1).status == 0
        latest.update(checkpoint.load(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    change = DAMAGES[damage]
    checkpoint.save(file, change(latest) if callable(change) else latest | change)
    (file.parent / "best").unlink(missing_ok=True)  # which would do as well
    before = file.read_bytes()
    config = write(tmp_path / "config.yaml", latest["config"])  # so that the settings agree
    refused = run_program("train.py", "--resume", "--cfg", config, "LOG.PREFIX", tmp_path)
    assert_one_line_error(refused, str(file))
    assert file.read_bytes() == before
