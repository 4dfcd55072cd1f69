"""Small runs, a process that starts programs, and steps slow enough to be interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.faults import SMALL
from tests.support.forge import Forge


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    forge = Forge(tmp_path_factory.mktemp("forge"))
    yield forge
    forge.close()


@pytest.fixture
def tiny(tiny: list[str]) -> list[str]:
    """The tiny run with even smaller batches."""
    return [*tiny, *SMALL]


@pytest.fixture
def longer(tiny: list[str]) -> list[str]:
    """With 4 epochs of 4 steps."""
    return [*tiny, "DATASET.LIMIT", "32", "SOLVER.EPOCHS", "4"]


@pytest.fixture
def slowly(tmp_path: Path) -> Callable[[float], list[str]]:
    """``slowly(seconds)``: options that make every step take so long, so that a moment can be met."""

    def options(seconds: float) -> list[str]:
        plugin = tmp_path / "slowly.py"
        plugin.write_text(
            f"""
import time
from mdistiller_ext.trainers import BaseTrainer

step = BaseTrainer.train_step

def train_step(*arguments):
    time.sleep({seconds})
    return step(*arguments)

BaseTrainer.train_step = train_step
"""
        )
        return ["--plugin", str(plugin)]

    return options
