"""Runs that are stopped by SIGTERM, Ctrl-C or a closed terminal are saved and go on exactly."""

from __future__ import annotations

import fcntl
import os
import random
import select
import signal
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext import checkpoint
from mdistiller_ext.trainers import averaging, base
from mdistiller_ext.trainers import step as training_step
from mdistiller_ext.trainers.shutdown import shutdown_request
from tests.support.faults import KD_RUN, Figures, assert_stopped_well
from tests.support.forge import Forge
from tests.support.programs import run_program
from tests.support.runs import RUNS, assert_same_run, names, run_never_stopped


@pytest.mark.parametrize("run", RUNS)
def test_a_run_stopped_by_signals_at_random_moments_ends_as_the_run_never_stopped(
    longer: list[str],
    tmp_path: Path,
    forge: Forge,
    slowly: Callable[[float], list[str]],
    soak: bool,
    figures: Figures,
    run: str,
) -> None:
    arguments = [*longer, *RUNS[run].split()]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    slow, stops = slowly(0.03), 0
    resume: list[str] = []
    for _ in range(8 if soak else 1):
        running = forge.start(*resume, *slow, *arguments)
        running.wait_for("teacher: ")
        time.sleep(random.uniform(0, 0.5))
        running.send(random.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))
        running.wait()
        if running.status == 0 or "test top-1:" in running.out:  # a signal after the end is the interpreter's
            break
        assert_stopped_well(running.status, running.err)
        assert not list(folder.glob(".*"))
        stops, resume = stops + 1, ["--resume"]
    ended = run_program("train.py", "--resume", *arguments)
    assert (ended.status, ended.err) == (0, "")
    assert_same_run(folder, never_stopped)
    figures["stops survived"] += stops


def test_a_run_whose_terminal_is_closed_is_saved(
    longer: list[str], tmp_path: Path, forge: Forge, slowly: Callable[[float], list[str]]
) -> None:
    """What it prints then has nowhere to go: an error by itself."""
    arguments = [*longer, *KD_RUN]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    terminal, of_run = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # without a width there is no progress bar
    plugin = tmp_path / "terminal.py"
    plugin.write_text(
        f"""
import os

os.setsid()
terminal = os.open({os.ttyname(of_run)!r}, os.O_RDWR)  # from now on this session's
for number in (0, 1, 2):
    os.dup2(terminal, number)
os.close(terminal)
"""
    )
    running = forge.start("--plugin", plugin, *slowly(0.1), *arguments)
    shown = b""
    while b" 0/4 [" not in shown:  # of the progress bar
        assert select.select([terminal], [], [], 60)[0], shown
        shown += os.read(terminal, 1000)
    for descriptor in (of_run, terminal):
        os.close(descriptor)
    assert running.wait().status == 75
    state = checkpoint.load(folder / "latest")
    assert (state["epoch"] * 4 + state["step"]) in range(1, 16)
    assert names(tmp_path / "p") == {"run"}
    assert run_program("train.py", "--resume", *arguments).status == 0
    assert_same_run(folder, never_stopped)


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    """nohup starts its command so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with shutdown_request() as wish:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not wish.made
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def signal_during(monkeypatch: pytest.MonkeyPatch, place: str, turn: int) -> None:
    """SIGTERM to this process in the ``turn``-th call of a function of the loop, from 0."""
    module = next(module for module in (base, training_step, averaging) if place in vars(module))
    function, calls = getattr(module, place), 0

    def signalling(*arguments: Any) -> Any:
        nonlocal calls
        if calls == turn:
            os.kill(os.getpid(), signal.SIGTERM)
        calls += 1
        return function(*arguments)

    monkeypatch.setattr(module, place, signalling)


PASSES = [
    ("evaluate", 0, "before the first step"),  # of the teacher
    ("evaluate", 1, "in epoch 1, step 2 of 2"),
    ("evaluate", 3, "in epoch 3, step 2 of 2"),
    ("top_k_hits", 2, "in epoch 2, step 1 of 2"),  # in training
    ("update_bn", 0, "after epoch 3"),  # for the average of the students
]


@pytest.mark.parametrize("run", RUNS)
def test_a_run_stopped_in_any_of_its_passes_goes_on_exactly(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    arguments = [*tiny, *RUNS[run].split()]
    folder, never_stopped = run_never_stopped(arguments, tmp_path)
    for place, turn, where in PASSES if run == "average" else PASSES[:-1]:
        with monkeypatch.context() as patch:
            signal_during(patch, place, turn)
            stopped = run_program("train.py", *arguments)
        assert_stopped_well(stopped.status, stopped.err, where)
        resumed = run_program("train.py", "--resume", *arguments)
        assert (resumed.status, resumed.err) == (0, "")
        assert_same_run(folder, never_stopped)
        folder.rename(tmp_path / f"{place}_{turn}")


def test_a_second_ctrl_c_ends_the_run_at_once(
    tiny: list[str], forge: Forge, slowly: Callable[[float], list[str]], tmp_path: Path
) -> None:
    running = forge.start(*slowly(600), *tiny, *KD_RUN)
    running.wait_for("teacher: ")
    time.sleep(0.2)
    running.send(signal.SIGINT)
    time.sleep(0.3)
    assert not running.ended()  # the step in progress comes to its end
    running.send(signal.SIGINT)
    assert running.wait(10).status == 130
    assert running.err == ""
    assert not list((tmp_path / "p").glob(".*"))  # the lock is free
