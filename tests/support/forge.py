"""Runs in processes of their own that start in milliseconds, and disks that are full for one of them alone.

A process that has imported everything forks for each run, as importing takes seconds. Run as a program, this module is that
process: it takes orders on stdin, one JSON value a line.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.programs import ROOT

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND = 1, 32, 4096


class Running:
    """A run in progress; what it writes is in files."""

    def __init__(self, forge: Forge, pid: int, out: Path, err: Path) -> None:
        self.forge, self.pid = forge, pid
        self._out, self._err = out, err
        self.status: int | None = None

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def ended(self) -> bool:
        if self.status is None:
            self.status = self.forge.ask({"wait": self.pid})
        return self.status is not None

    def send(self, number: signal.Signals) -> None:
        """A signal, to a process that is still this one: its number is free only when it has been waited for."""
        if self.status is None:
            os.kill(self.pid, number)

    def wait(self, limit: float = 60) -> Running:
        self._until(self.ended, limit)
        return self

    def wait_for(self, text: str, limit: float = 60) -> None:
        """Until it has printed ``text``."""
        self._until(lambda: text in self.out or self.ended(), limit)
        assert text in self.out, self.err

    def _until(self, there: Any, limit: float) -> None:
        end = time.monotonic() + limit
        while not there():
            assert time.monotonic() < end, f"nothing happens: {self.out}\n{self.err}"
            time.sleep(0.005)


class Forge:
    """Starts ``train.py`` quickly, any number of times.

    Args:
        folder: an empty one, for what the runs print.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: list[Running] = []
        command = [sys.executable, "-m", "tests.support.forge"]
        self._server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, order: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(order), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())

    def start(self, *arguments: Any) -> Running:
        out, err = (self._folder / f"{len(self._runs)}.{name}" for name in ("out", "err"))
        for file in (out, err):
            file.touch()
        pid = self.ask({"start": [str(argument) for argument in arguments], "out": str(out), "err": str(err)})
        self._runs.append(Running(self, pid, out, err))
        return self._runs[-1]

    def close(self) -> None:
        for run in self._runs:
            if not run.ended():
                run.send(signal.SIGKILL)
                run.wait()
        with self._server:
            assert self._server.stdin is not None
            self._server.stdin.close()


def _orders() -> Iterator[dict[str, Any]]:
    while line := sys.stdin.readline():
        yield json.loads(line)


def _serve() -> None:
    _import_everything()
    for order in _orders():
        if "wait" in order:
            pid, status = os.waitpid(order["wait"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
            continue
        pid = os.fork()
        if not pid:
            _become(order)
            return
        print(pid, flush=True)


def _import_everything() -> None:
    """Also what a run imports on its way. No gradient is computed: torch's are not to be had after a fork."""
    from mdistiller_ext.registry import DATASETS, DISTILLERS, MODELS, TRAINERS
    from mdistiller_ext.run import logger
    from tests.support.runs import drawn_quickly

    importlib.import_module("torch._dynamo")
    for registry in (DATASETS, DISTILLERS, MODELS, TRAINERS):
        list(registry)
    logger.draw_curves = drawn_quickly


def _become(order: dict[str, Any]) -> None:
    """The program, in a process that was the server until now."""
    for place, number in ((os.devnull, 0), (order["out"], 1), (order["err"], 2)):
        file = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv = ["train.py", *order["start"]]
    runpy.run_path("train.py", run_name="__main__")


# ---- for plugins: disks of this process alone ---------------------------------------------------------------------


def _call(function: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments):
        raise OSError(ctypes.get_errno(), f"{function}: {os.strerror(ctypes.get_errno())}")


def own_mounts() -> None:
    """From now on nobody else sees what this process mounts. Raises OSError where the machine does not allow that."""
    user, group = os.getuid(), os.getgid()
    _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def mount_small_disk(place: str, size: str, keep: str) -> None:
    """A disk of so many bytes (``600k``) at an existing folder; what is on it is copied to ``keep`` when the process ends."""
    own_mounts()
    _call("mount", b"none", place.encode(), b"tmpfs", 0, f"size={size}".encode())
    atexit.register(shutil.copytree, place, keep)


def make_read_only(place: str) -> None:
    """Files that are open stay so, as on a disk on which Linux has found errors. After :func:`own_mounts`."""
    _call("mount", place.encode(), place.encode(), None, _MS_BIND, None)
    _call("mount", None, place.encode(), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY, None)


def can_mount() -> bool:
    """Whether a process may have mounts of its own here."""
    command = [sys.executable, "-c", "from tests.support import forge; forge.own_mounts()"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    _serve()
