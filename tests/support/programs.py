"""``train.py`` and ``eval.py`` as functions, and where the repository and the pinned values are."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdistiller_ext.command import run_command

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


@dataclass
class Finished:
    """What a program left: exit status and output."""

    status: int
    out: str
    err: str


def run_program(program: str, *arguments: Any) -> Finished:
    """``train.py`` or ``eval.py`` in this process, from the repository's root; Ctrl-C is status 130, as in a shell."""
    folder = Path.cwd()
    os.chdir(ROOT)
    try:
        return run_main(program_main(program), program, *arguments)
    finally:
        os.chdir(folder)


def program_main(program: str) -> Callable[[], None]:
    """``main`` of ``train.py`` or ``eval.py``."""
    spec = importlib.util.spec_from_file_location(f"program_{program[:-3]}", ROOT / program)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[], None] = module.main
    return main


def run_main(main: Callable[[], None], *words: Any) -> Finished:
    """A program's ``main`` in this process, with the words of its command line, the program's name first."""
    out, err, argv, status = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = [*map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_command(main)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.argv = argv
    return Finished(status, out.getvalue(), err.getvalue())


def spawn_program(
    program: str, *arguments: Any, processes: int = 1, restarts: int = 0, limit: int = 300, **options: Any
) -> Finished:
    """The same in a process of its own, or in several under torchrun, killed after ``limit`` seconds.

    Args:
        restarts: how often torchrun starts them again.
        options: subprocess.run's.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, "--max-restarts", restarts]
    command = [str(word) for word in (sys.executable, *(launcher if processes > 1 else []), program, *arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False, **options)
    return Finished(done.returncode, done.stdout, done.stderr)
