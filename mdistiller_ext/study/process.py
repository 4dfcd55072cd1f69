"""The process of a run: its log, which is locked while the process lives, and why it ended.

A Slurm job imports this module, not torch, which its ``train.py`` imports.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DivergedError, Stopped, one_line

_START = "$ "  # of the line before the output of each process


def is_running(log: Path) -> bool:
    """Whether a process that :func:`start_run` started with this log is alive, on whatever study's behalf."""
    try:
        with open(log, "rb") as file:
            return not _lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False


def start_run(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    wait: bool = False,
    hold: Sequence[int] = (),
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Start the process of a run, with its output appended to ``log``.

    The log is locked by its open file, which the process inherits: it stays locked until the process has ended, also if this
    one is killed.

    Args:
        environment: variables over those of this process.
        wait: wait for an earlier process with the same log, rather than raise BlockingIOError.
        hold: further open files for the process to inherit.
        options: of ``subprocess.Popen``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        if not _lock(file.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)):
            raise BlockingIOError(f"{log} is locked")
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        file.write(f"# {now}\n{_START}{shlex.join(command)}\n".encode())
        file.flush()
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **(environment or {})},
            pass_fds=hold,
            **options,
        )


def lock_slot(path: Path) -> int | None:
    """Open and lock a file that stands for a place to run in; None where a process holds it. See ``hold`` of start_run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
        return file
    os.close(file)
    return None


def _lock(file: int, how: int) -> bool:
    """Lock an open file by flock, whose locks child processes inherit; whether that worked."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    return True


def state_after(status: int) -> str:
    """State of a run from the exit status of its process; negative: the signal that killed it."""
    # SIGTERM kills a process that has not begun to handle it: nothing is lost.
    return {
        0: "finished",
        Stopped.status: "stopped",
        -signal.SIGTERM: "stopped",
        DivergedError.status: "diverged",
    }.get(status, "failed")


def error_after(status: int, log: Path) -> str:
    """Why the last process with this log ended: its error, or its last line."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    *_, output = f"\n{log.read_text(encoding='utf-8', errors='replace')}".rpartition(f"\n{_START}")
    _, *lines = [line for line in output.splitlines() if line.strip()]  # the first is the command
    errors = [line for line in lines if re.match("error( in process [0-9]+)?: ", line)]
    return one_line((errors or lines or [f"exit status {status}"])[-1].removeprefix("error: "))
