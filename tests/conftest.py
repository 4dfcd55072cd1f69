"""Fixtures and hooks of all tests: one thread, a fixed seed, data drawn once, and a tiny run."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mdistiller_ext.data import create_loaders, glyphs
from mdistiller_ext.data.base import balanced_choice
from mdistiller_ext.data.rendering import Rendering, render
from mdistiller_ext.models import create_model
from mdistiller_ext.registry import DATASETS, DISTILLERS, MODELS, TRAINERS
from mdistiller_ext.run import logger
from tests.support.runs import drawn_quickly, tiny_run

FIGURES = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="the long forms of the tests of faults")


def pytest_configure(config: pytest.Config) -> None:
    """One thread here and in subprocesses: networks this small gain nothing from more, and CPUs may be shared.

    No picture of the curves either, except of the run ``done`` (system/conftest.py).
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which the suite may run, ignores it, and so would the programs
    logger.draw_curves = drawn_quickly
    config.stash[FIGURES] = Counter()


@pytest.fixture(scope="session")
def soak(pytestconfig: pytest.Config) -> bool:
    """Whether tests of faults take their long form."""
    return bool(pytestconfig.getoption("--soak"))


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Counter[str]:
    """What the tests count for the last lines of the report."""
    return pytestconfig.stash[FIGURES]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where several processes run the tests, hand the figures over to the one that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = dict(session.config.stash[FIGURES])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    node.config.stash[FIGURES].update(getattr(node, "workeroutput", {}).get("figures", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if figures := config.stash[FIGURES]:
        terminalreporter.write_line("\n".join(["", "figures:", *(f"  {what}: {number:,}" for what, number in figures.items())]))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def glyphs_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATASET.ROOT with the first quarter of the glyphs of each class, 2,500 and 500: a run reads and hashes them all."""

    def render_few(rendering: Rendering, count: int, seed: int) -> tuple[Tensor, Tensor]:
        images, labels = render(rendering, count, seed)
        kept = balanced_choice(labels, count // 4)
        return images[kept], labels[kept]

    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "render", render_few)
        create_loaders("glyphs", root=root, batch_size=1, test_batch_size=1)
    return root


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained resnet8, in upstream's form."""
    torch.manual_seed(123)
    path = tmp_path_factory.mktemp("teacher") / "resnet8.pth"
    torch.save({"model": create_model("resnet8", dataset="glyphs").state_dict()}, path)
    return path


@pytest.fixture
def tiny(glyphs_root: Path, teacher_file: Path, tmp_path: Path) -> list[str]:
    """Overrides for a run of half a second in ``tmp_path/p/run``; see tiny_run."""
    return tiny_run(glyphs_root, teacher_file, tmp_path)


@pytest.fixture
def forget_plugins() -> Iterator[None]:
    """Take out of the registries, and out of what Python imports, what the test puts in."""
    registries = [DATASETS, DISTILLERS, MODELS, TRAINERS]
    before = [(list(registry), dict(registry._entries)) for registry in registries]  # list() imports the folder first
    path = list(sys.path)
    yield
    for registry, (_, entries) in zip(registries, before, strict=True):
        registry._entries = entries
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and str(Path(file).parent) in set(sys.path) - set(path):
            del sys.modules[name]
    sys.path[:] = path
