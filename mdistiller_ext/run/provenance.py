"""Provenance of a run: data, teacher, command, versions, commit, hardware, host and time of each start."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import mdistiller_ext

from ..checkpoint import write_atomically
from ..distributed import world_size
from .identity import RunIdentity

_ROOT = Path(__file__).parents[2]


def record_start(file: Path, identity: RunIdentity, device: torch.device, **progress: int) -> None:
    """Append this start to a JSON list, one entry per start of a run. Raises TrainingError if it cannot be written.

    Args:
        identity: the run, whose data and teacher are recorded.
        device: device of training; GPUs are described where it is one.
        progress: where the run goes on, such as ``epoch=3, step=0``.
    """
    start = {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        **progress,
        "command": shlex.join(sys.orig_argv),
        "directory": str(Path.cwd()),
        "host": socket.gethostname(),
        "processes": world_size(),
        "data": identity.data.fingerprint(),
        "teacher_sha256": identity.teacher_hash,
        "versions": _versions(),
        "git": _git(),
        "hardware": hardware(device),
    }
    write_atomically(file, (json.dumps([*_earlier(file), start], indent=2) + "\n").encode())


def _earlier(file: Path) -> list[Any]:
    """Entries of earlier starts; of a damaged file, or a link, none."""
    try:
        starts = [] if file.is_symlink() else json.loads(file.read_bytes())
    except (OSError, ValueError):
        starts = []
    return starts if isinstance(starts, list) else []


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"mdistiller_ext": mdistiller_ext.__version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy"):
        versions[package] = importlib.metadata.version(package)
    return versions | {"cuda": torch.version.cuda}


def _git() -> dict[str, Any] | None:
    """Commit of this project and whether Python files are changed or new; None where it is no checkout, or git fails."""
    if not (_ROOT / ".git").exists():  # as a package inside another project's checkout
        return None
    status = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--", "*.py"]
    try:
        lines = subprocess.run(status, cwd=_ROOT, capture_output=True, text=True, timeout=5, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    heads = [line.removeprefix("# branch.oid ") for line in lines if line.startswith("# branch.oid ")]
    return {"commit": heads[0], "dirty": any(not line.startswith("#") for line in lines)} if heads else None


def hardware(device: torch.device) -> dict[str, Any]:
    """CPU, cores, threads, memory, and the GPUs where ``device`` is one."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if device.type == "cuda" else []
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "device": str(device),
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
    }


def hardware_text(found: Mapping[str, Any]) -> str:
    """What :func:`hardware` found, in words; a file that holds it may be damaged."""
    gpus = [str(gpu.get("name")) for gpu in found.get("gpus") or () if isinstance(gpu, dict)]
    return ", ".join([*gpus, str(found.get("cpu")), f"{found.get('cores')} cores", f"{found.get('threads')} threads"])


def _cpu() -> str:
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:  # not on Linux
        model = None
    return model[1] if model else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf"):  # not on Windows
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
