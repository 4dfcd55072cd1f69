"""Lock of a run folder, or of a folder of runs.

``filelock`` is not used here: its lock is inherited by forked dataloader workers, which may outlive a killed run for some
seconds and would keep its folder from being resumed, and it does not name its owner.
"""

from __future__ import annotations

import contextlib
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError, Note

try:
    import fcntl
except ImportError:  # not on Windows, where runs are not locked
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(folder: Path, kind: str = "run", remedy: str = "choose another EXPERIMENT.NAME") -> Iterator[None]:
    """Lock a folder for this process while the block runs; the end of the process, however it comes, unlocks it too.

    The lock is a file beside the folder, since the folder may be moved aside.

    Args:
        kind, remedy: what the folder is of, and what else the user can do, for the message.

    Raises ConfigError that names the owner's host and process.
    """
    if fcntl is None:
        yield
        return
    path = _lock_file(folder)
    file = _acquire(folder, path, kind, remedy)
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name in it
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a disk that has become read-only: an unlocked file is no obstacle
            path.unlink()
        os.close(file)


def owner(folder: Path) -> str | None:
    """Process and host that lock a folder, or None where it is free. For a process that does not lock it itself."""
    if fcntl is not None:
        with contextlib.suppress(OSError), open(_lock_file(folder), "r+b") as file:  # no file, or no locks in this file system
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the file is closed
            except BlockingIOError:
                return _name_in(file.fileno())
    return None


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _name_in(file: int) -> str:
    return os.read(file, 200).decode(errors="replace").strip() or "another process"


def _acquire(folder: Path, path: Path, kind: str, remedy: str) -> int:
    """Open and lock the file ``path``; returns its descriptor."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise ConfigError(f"the {kind} folder {folder} cannot be made: {error.strerror}") from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            name = _name_in(file)
            os.close(file)
            raise ConfigError(f"the {kind} folder {folder} is in use by {name}: wait for it, or {remedy}") from error
        except OSError as error:
            warnings.warn(f"{path.parent} has no file locks ({error.strerror}): see to it that no other run uses it", Note, 2)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):  # its last owner may have removed it in the meantime
                return file
        os.close(file)
