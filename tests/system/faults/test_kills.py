"""Runs that are killed or stopped at any step go on, and end as the run never stopped."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mdistiller_ext import checkpoint
from tests.support.faults import KD_RUN, Figures, assert_same_previous, checkpoints, contents
from tests.support.forge import Forge
from tests.support.programs import ROOT, run_program
from tests.support.runs import RUNS, assert_same_run, names, run_never_stopped, stop_after


@pytest.mark.parametrize(("run", "every"), [("base", 1), ("dot", 3), ("deepkd", 1), ("average", 0)])
def test_a_run_killed_at_random_moments_ends_as_the_run_never_stopped(
    longer: list[str],
    tmp_path: Path,
    forge: Forge,
    slowly: Callable[[float], list[str]],
    soak: bool,
    figures: Figures,
    run: str,
    every: int,
) -> None:
    arguments = [*longer, *RUNS[run].split(), "SOLVER.CHECKPOINT_STEPS", str(every)]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    slow, moments, kills, ended = slowly(0.03), random.Random(), 0, 0
    wanted = 13 if soak else 1
    while True:
        running = forge.start("--resume", "auto", *slow, *arguments)
        if kills < wanted:
            if moments.random() < 0.75:
                running.wait_for("run folder")
            time.sleep(moments.uniform(0, 1))
            running.send(signal.SIGKILL)
        if running.wait().status == -signal.SIGKILL:
            kills += 1
            for file in checkpoints(folder) if folder.exists() else []:
                checkpoint.load(file)
            continue
        assert running.status == 0, running.err
        assert_same_run(folder, never_stopped)
        assert_same_previous(folder, never_stopped)
        assert not list(folder.glob(".*"))
        if kills == wanted:
            break
        ended += 1
        folder.rename(tmp_path / f"ended_{ended}")
    assert names(tmp_path / "p") == {"run"}  # nothing was moved aside
    figures["kills survived"] += kills


def test_a_program_killed_while_it_starts_does_no_harm(tiny: list[str], tmp_path: Path, soak: bool, figures: Figures) -> None:
    """From the first moment of the interpreter on."""
    arguments = [*tiny, *KD_RUN]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    for _ in range(5 if soak else 1):
        with subprocess.Popen([sys.executable, "train.py", "--resume", "auto", *arguments], cwd=ROOT) as program:
            time.sleep(random.uniform(0.5, 4))
            program.kill()
        figures["kills survived"] += 1
    ended = run_program("train.py", "--resume", "auto", *arguments)
    assert (ended.status, ended.err) == (0, "")
    assert_same_run(folder, never_stopped)
    assert names(tmp_path / "p") == {"run"}


@pytest.mark.parametrize("left", [[".config.yaml.7.tmp"], ["config.yaml", "train.events", ".student_latest.7.tmp"]])
def test_auto_goes_on_in_the_folder_of_a_run_killed_before_its_first_save(
    tiny: list[str], tmp_path: Path, left: list[str]
) -> None:
    arguments = [*tiny, *KD_RUN]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    folder.mkdir()
    for name in left:
        if name == "train.events":
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(b"half")
    started = run_program("train.py", "--resume", "auto", *arguments)
    assert (started.status, started.err) == (0, "")
    assert names(tmp_path / "p") == {"run"}
    assert_same_run(folder, never_stopped)


def test_auto_starts_where_nothing_is_and_leaves_a_finished_run_as_it_is(tiny: list[str], tmp_path: Path) -> None:
    arguments = ["--resume", "auto", *tiny, *RUNS["average"].split()]
    assert run_program("train.py", *arguments).status == 0
    before = contents(tmp_path / "p")
    again = run_program("train.py", *arguments)
    assert (again.status, again.err) == (0, "")
    after = contents(tmp_path / "p")
    assert {name for name in after if after[name] != before.get(name)} == {"run/notes.txt", "run/provenance.json"}
    assert before.keys() == after.keys()


def test_a_run_killed_before_latest_of_its_only_epoch_has_one_in_the_end(tiny: list[str], tmp_path: Path) -> None:
    arguments = [*tiny, *KD_RUN, "SOLVER.EPOCHS", "1"]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    shutil.copytree(never_stopped, folder)
    (folder / "latest").unlink()  # `best` is written first
    assert run_program("train.py", "--resume", "auto", *arguments).status == 0
    assert_same_run(folder, never_stopped)


@pytest.mark.parametrize(("run", "every"), [("base", 1), ("deepkd", 3)])
def test_a_run_goes_on_exactly_from_every_step(
    longer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soak: bool, run: str, every: int
) -> None:
    arguments = [*longer, *RUNS[run].split(), "SOLVER.EPOCHS", "2", "SOLVER.CHECKPOINT_STEPS", str(every)]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    for steps in range(1, 8) if soak or every == 1 else (2, 6):
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            assert run_program("train.py", *arguments).status == 130
        if steps >= every:
            state = checkpoint.load(folder / "latest")
            epoch, step = divmod(steps, 4)
            assert (state["epoch"], state["step"]) == (epoch, step - step % every)
        assert run_program("train.py", "--resume", "auto", *arguments).status == 0
        assert_same_run(folder, never_stopped)
        assert_same_previous(folder, never_stopped)
        folder.rename(tmp_path / f"after_{steps}")
