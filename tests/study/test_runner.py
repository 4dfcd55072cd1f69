"""A study runs what is not finished, whatever became of it before, and says what became of it now."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext.config import load_config
from mdistiller_ext.study.process import start_run
from tests.support.study import CFG, entries, run_study, signal_this_process, starts, states, when


def options(folder: Path, *names: str, epochs: int = 3, jobs: int = 2) -> list[Any]:
    names_ = f"EXPERIMENT.NAME={','.join(names)}"
    return ["--cfg", CFG, "--out", folder, "--set", names_, f"SOLVER.EPOCHS={epochs}", "--jobs", jobs]


def test_failed_and_diverged_runs_are_counted_and_the_others_finish(quick_train: Path) -> None:
    names = ("a", "fails", "diverges", "crashes", "killed", "b")
    arguments = options(quick_train, *names)
    first = run_study(*arguments)
    assert first.status == 1
    assert first.err == ""
    assert states(quick_train) == {
        "a": "finished",
        "fails": "failed",
        "diverges": "diverged",
        "crashes": "failed",
        "killed": "failed",
        "b": "finished",
    }
    errors = {run["name"]: run["error"] for run in entries(quick_train)}
    assert errors == {
        "a": None,
        "fails": "no such teacher",
        "diverges": "the loss is not finite",
        "crashes": "RuntimeError: a bug",
        "killed": "killed by SIGKILL",
        "b": None,
    }
    lines = first.out.splitlines()
    assert "finished  a: last 30.00 %, best 30.00 %" in lines
    assert "finished   30.00  30.00  a" in lines
    assert "failed    fails (no such teacher)" in lines
    assert "2 of 6 runs finished" in lines[-1]
    assert all(len(starts(quick_train / name)) == 1 for name in names)
    assert (quick_train / "logs" / "fails.log").read_text().splitlines()[-2:] == [
        "teacher: 90 % top-1",
        "error: no such teacher",
    ]

    (quick_train / "mended").touch()
    second = run_study(*arguments)
    assert second.status == 1
    assert states(quick_train) == {name: "diverged" if name == "diverges" else "finished" for name in names}
    assert {run["name"]: run["attempts"] for run in entries(quick_train)} == {
        name: 2 if name in ("fails", "crashes", "killed") else 1 for name in names
    }
    assert "to try it nevertheless, delete its folder" in second.out

    shutil.rmtree(quick_train / "diverges")
    run_study(*arguments)
    assert len(starts(quick_train / "diverges")) == 1  # again


def test_a_finished_study_starts_nothing_and_a_larger_one_what_is_new(quick_train: Path) -> None:
    assert run_study(*options(quick_train, "a", "b")).status == 0
    before = (quick_train / "study.json").read_bytes()
    again = run_study(*options(quick_train, "a", "b"))
    assert again.status == 0
    assert "2 of 2 runs finished" in again.out
    assert (quick_train / "study.json").read_bytes() == before
    assert run_study(*options(quick_train, "c")).status == 0
    assert states(quick_train) == {"c": "finished", "a": "finished", "b": "finished"}
    assert [len(starts(quick_train / name)) for name in "abc"] == [1, 1, 1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_study_that_is_asked_to_stop_saves_its_runs_and_goes_on_later(quick_train: Path, number: signal.Signals) -> None:
    arguments = options(quick_train, "a", "b", "c", epochs=8)
    epochs = quick_train / "a" / "epochs"
    thread = when(lambda: epochs.exists() and len(epochs.read_text().split()) > 2, lambda: signal_this_process(number))
    stopped = run_study(*arguments)
    thread.join()
    assert stopped.status == 75
    assert stopped.err.startswith("stopped. The same command goes on: ")
    assert stopped.err.rstrip().endswith(f"--out {quick_train} --set EXPERIMENT.NAME=a,b,c SOLVER.EPOCHS=8 --jobs 2")
    assert states(quick_train) == {"a": "stopped", "b": "stopped", "c": "waiting"}
    assert run_study(*arguments).status == 0
    processes = [number for _, number, *_ in starts(quick_train / "a")]
    assert len(processes) == 2
    assert set(epochs.read_text().split()) == set(processes)  # each trained a part
    assert len(epochs.read_text().split()) == 8


def test_a_second_ctrl_c_kills_the_runs(quick_train: Path) -> None:
    arguments = options(quick_train, "deaf", epochs=2000)

    def interrupt_twice() -> None:
        signal_this_process(signal.SIGINT)
        time.sleep(0.2)
        signal_this_process(signal.SIGINT)

    thread = when(lambda: (quick_train / "deaf" / "epochs").exists(), interrupt_twice)
    assert run_study(*arguments).status == 130
    thread.join()
    ((_, process, *_),) = starts(quick_train / "deaf")
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)


def test_a_run_that_outlived_its_study_is_waited_for_and_not_started_twice(quick_train: Path) -> None:
    arguments = options(quick_train, "a", "b", epochs=10, jobs=1)
    command = [sys.executable, str(quick_train.parents[1] / "train.py"), "--seed", "0", "EXPERIMENT.NAME", "a"]
    command += ["SOLVER.EPOCHS", "10", "LOG.PREFIX", str(quick_train.parent), "EXPERIMENT.PROJECT", "s"]
    outlived = start_run(command, quick_train / "logs" / "a.log")
    finished = run_study(*arguments)
    assert finished.status == 0
    assert outlived.wait() == 0
    assert [len(starts(quick_train / name)) for name in "ab"] == [1, 1]
    assert {run["name"]: run["attempts"] for run in entries(quick_train)} == {"a": 0, "b": 1}


LOCKED = """
import fcntl, sys, time

with open(sys.argv[1], "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("process 1 on elsewhere", file=file, flush=True)
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_someone_else_runs_is_left_to_them(quick_train: Path) -> None:
    quick_train.mkdir(parents=True)
    command = [sys.executable, "-c", LOCKED, str(quick_train / ".a.lock")]
    arguments = options(quick_train, "a", "b", epochs=4)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        thread = when(lambda: (quick_train / "b" / "summary.json").exists(), lambda: signal_this_process(signal.SIGTERM))
        stopped = run_study(*arguments)
        thread.join()
        assert stopped.status == 75
        assert "; runs of other processes go on (process 1 on elsewhere). The same command" in stopped.err
        assert states(quick_train) == {"a": "running", "b": "finished"}
        assert starts(quick_train / "a") == []
    assert run_study(*arguments).status == 0
    assert len(starts(quick_train / "a")) == 1


def test_a_folder_with_a_run_of_other_settings_is_an_error_that_names_them(quick_train: Path) -> None:
    words = ["EXPERIMENT.NAME", "a", "SOLVER.EPOCHS", "3", "LOG.PREFIX", str(quick_train.parent), "EXPERIMENT.PROJECT", "s"]
    folder = quick_train / "a"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("{}")
    (folder / "config.yaml").write_text(load_config(CFG, [*words, "SOLVER.LR", "0.3"]).dump())
    other = run_study(*options(quick_train, "a"))
    assert other.status == 2
    assert "SOLVER.LR: 0.3 -> 0.1" in other.err
    assert str(folder) in other.err
    assert not (quick_train / "study.json").exists()
    (folder / "config.yaml").write_text(load_config(CFG, [*words, "LOG.SAVE_CHECKPOINT_FREQ", "3"]).dump())
    assert run_study(*options(quick_train, "a")).status == 0
    assert starts(folder) == []


@pytest.mark.parametrize("content", ["{", '{"version": 2, "runs": []}', '{"version": 1, "runs": [{"state": 1}]}', "[]"])
def test_a_damaged_study_json_is_one_line(quick_train: Path, content: str) -> None:
    quick_train.mkdir(parents=True)
    (quick_train / "study.json").write_text(content)
    damaged = run_study(*options(quick_train, "a"))
    assert damaged.status == 2
    assert damaged.err.startswith(f"error: {quick_train}/study.json cannot be read (")
    (quick_train / "study.json").unlink()
    assert run_study(*options(quick_train, "a")).status == 0
    assert json.loads((quick_train / "study.json").read_text())["version"] == 1
