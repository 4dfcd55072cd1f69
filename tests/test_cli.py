"""The console script: commands found by reading the package, names that are wrong, and which copy runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistiller_ext import __version__, cli
from mdistiller_ext.project import PACKAGE
from tests.support.programs import Finished, run_main


def run(*words: str) -> Finished:
    """``mdistiller-ext`` in this process."""
    return run_main(cli._run, "mdistiller-ext", *words)


def test_commands_are_the_programs_of_the_package() -> None:
    done = run("--help")
    assert (done.status, run().out) == (0, done.out)
    assert {"analyze", "bridge", "download", "eval", "published", "study", "train"} <= set(cli.commands())
    assert all(f"\n  {name} " in done.out and about for name, (_, about) in cli.commands().items())
    assert max(map(len, done.out.splitlines())) < 80


@pytest.mark.parametrize("name", sorted(cli.commands()))
def test_the_help_of_a_command_names_the_console_script(name: str) -> None:
    done = run(name, "--help")
    assert done.status == 0
    assert f"mdistiller-ext {name} " in done.out
    assert "python -m" not in done.out
    assert "python train.py" not in done.out


def test_mistakes_are_one_line() -> None:
    unknown = run("trian")
    assert (unknown.status, unknown.err) == (2, unknown.err.splitlines()[0] + "\n")
    assert "unknown command 'trian'; did you mean 'train'? Known: analyze, bridge," in unknown.err
    option = run("eval", "--no-such-option")
    assert (option.status, option.out) == (2, "")
    assert option.err.endswith("mdistiller-ext eval --help lists the options\n")


@pytest.mark.filterwarnings("default")  # a note is a warning
def test_the_version_names_the_folder_and_a_checkout_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PACKAGE.parent)
    here = run("--version")
    assert (here.status, here.err) == (0, "")
    assert __version__ in here.out
    assert str(PACKAGE) in here.out
    (tmp_path / PACKAGE.name).mkdir()
    (tmp_path / PACKAGE.name / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    assert f"note: this is version {__version__} in {PACKAGE}, " in run("--version").err
