"""How a command ends: closed pipes, wrong arguments."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mdistiller_ext.command import run_command
from tests.support.programs import ROOT, spawn_program
from tests.support.runs import assert_one_line_error


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("option", ["--list", "--help"])
def test_a_reader_that_leaves_is_no_error(option: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "train.py", option]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 141 or (option == "--help" and unbuffered)  # argparse takes no notice


def test_another_broken_pipe_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise BrokenPipeError(32, "Broken pipe", "a worker")

    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == 2
    assert "a worker" in capfd.readouterr().err


@pytest.mark.parametrize(("module", "arguments"), [("download", ["cifar"]), ("published", ["--date", "x"])])
def test_wrong_arguments_of_the_other_programs_are_one_line_too(module: str, arguments: list[str]) -> None:
    finished = spawn_program("-m", f"mdistiller_ext.{module}", *arguments)
    assert_one_line_error(finished, arguments[0], f"python -m mdistiller_ext.{module} --help")
