"""How inputs are tried: the same ones each time, or with ``--soak`` many more from a seed that is printed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.configuration
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.support.fuzzing import Fuzz

PATIENCE = 30  # seconds for one input; most take a few milliseconds


@pytest.fixture(scope="module", autouse=True)
def no_folder_of_hypothesis(tmp_path_factory: pytest.TempPathFactory) -> None:
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


@pytest.fixture(scope="module")
def start(pytestconfig: pytest.Config) -> int:
    """What the inputs of ``--soak`` are drawn from."""
    number = int(pytestconfig.getoption("--hypothesis-seed") or random.SystemRandom().getrandbits(32))
    if pytestconfig.getoption("--soak"):
        with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\nthe same inputs again: --soak --hypothesis-seed {number}")
    return number


@pytest.fixture
def fuzz(pytestconfig: pytest.Config, figures: Counter[str], start: int) -> Fuzz:
    """A function of a strategy, how many inputs to try in short and with ``--soak``, what to do with one, and those to try in
    any case. What is done with an input says whether it was accepted.
    """
    soak = pytestconfig.getoption("--soak")

    def run(
        inputs: st.SearchStrategy[Any], sizes: tuple[int, int], accepts: Callable[[Any], bool], known: Iterable[Any] = ()
    ) -> None:
        def attempt(value: Any) -> None:
            with limited_time():
                accepted = accepts(value)
            figures["inputs tried"] += 1
            figures["accepted" if accepted else "refused in one line"] += 1

        @settings(
            max_examples=sizes[soak],
            derandomize=not soak,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs)
        def one(value: Any) -> None:
            attempt(value)

        for value in known:
            attempt(value)
        (seed(start)(one) if soak else one)()

    return run


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    """Fail what takes longer than anybody would wait for a message."""

    def fail(*_: Any) -> None:
        pytest.fail(f"still at it after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, for commands that a file must not run to leave their trace in."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    return tmp_path
