"""Atomic, checksummed checkpoint I/O; loading runs no code.

A checkpoint is written to a temporary file, flushed to the disk and renamed, so an interrupted write or a full disk leaves
the previous file intact. It ends in a SHA-256 checksum. It is read with ``weights_only=True`` and a short allow-list, so a
checkpoint from an untrusted source cannot execute code.
"""

from __future__ import annotations

import _codecs
import argparse
import contextlib
import hashlib
import io
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from .errors import CorruptFileError, MissingFileError, TrainingError, ascii_only
from .file_kinds import mistaken_for_checkpoint

_NUMBER = re.compile(r"[<>|=]([iuf][1248]|b1)")


class _NumpyType:
    """Replacement for ``numpy.dtype`` while unpickling.

    ``numpy.dtype.__setstate__`` accepts any flags from the pickle. With the flag of object arrays, the bytes of a scalar
    become a memory address, which lets a malicious file crash the process or run code.
    """

    def __init__(self, code: str, *_: object) -> None:
        self.code = code
        self.order = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _numpy_scalar(kind: _NumpyType, content: bytes) -> int | float | bool:
    """Replacement for ``numpy.core.multiarray.scalar`` while unpickling; returns a Python number."""
    description = f"{kind.order}{kind.code}"
    if not _NUMBER.fullmatch(description):
        raise ValueError(f"a numpy scalar of type {description}")
    number: int | float | bool = np.frombuffer(content, description).item()
    return number


# What upstream's checkpoints contain besides tensors: the learning rate as a numpy scalar, and RepDistiller's arguments.
# Pickles name the numpy function by its module in numpy 1 or numpy 2.
ALLOWED: list[Any] = [
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
    (_NumpyType, "numpy.dtype"),
    _codecs.encode,
    argparse.Namespace,
]
# A saved file ends in this tag and the SHA-256 of all bytes before it: the comment of the zip archive, which readers ignore.
_SEAL = b"sha256:"
_SEAL_BYTES = len(_SEAL) + 64
REMEDY = ". Delete it and get it anew"
"""The end of the message about a damaged file"""
_SHORTEST = 100  # bytes; torch.save writes more than this for a single number


@contextlib.contextmanager
def atomic_file(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces the one at ``path`` when the block ends, flushed to the disk.

    If the block or the replacement fails, the file at ``path`` stays as it was. Raises OSError.

    Args:
        previous: path to which an existing file is moved.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Replace the file at ``path`` with ``content``, or leave it unchanged. Raises TrainingError if it cannot be written.

    Args:
        previous: path to which an existing file is moved.
    """
    try:
        with atomic_file(path, previous) as file:
            file.write(content)
    except OSError as error:
        raise TrainingError(
            f"cannot write {path}: {error.strerror or error}. What was saved before is whole; free some space or mend the "
            "folder, then go on with --resume where a checkpoint was saved"
        ) from error


def save(path: str | os.PathLike[str], state: dict[str, Any], previous: Path | None = None) -> None:
    """Write a checkpoint atomically, with a checksum. Raises TrainingError if it cannot be written, as on a full disk.

    Args:
        previous: path to which an existing checkpoint is moved.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(Path(path), _sealed(buffer.getvalue()), previous)


def _sealed(content: bytes) -> bytes:
    """Append the checksum to a zip archive as its comment; the last two bytes of the archive are the comment's length."""
    content = content[:-2] + struct.pack("<H", _SEAL_BYTES)
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Any:
    """Read a checkpoint of tensors and plain values.

    Raises:
        MissingFileError: there is no such file.
        CorruptFileError: the file is truncated, damaged, not a checkpoint, or contains other objects.
    """
    path = Path(path)
    if path.is_dir():
        raise MissingFileError(f"{path.absolute()} is a folder, not a checkpoint")
    if not path.is_file():
        raise MissingFileError(f"checkpoint not found: {path.absolute()}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptFileError(f"cannot read {path}: {error.strerror}") from error
    try:
        _check_size(content)
        _check_sum(content)
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles: they load, or are reported below
            return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # an unpickler can raise any exception for damaged bytes
        if kind := mistaken_for_checkpoint(content):
            raise CorruptFileError(f"{path} ({len(content):,} bytes) {kind}") from error
        refused = re.search(r"GLOBAL (\S+) was not an allowed|Trying to load unsupported GLOBAL (\S+)", str(error))
        if refused:
            raise CorruptFileError(
                f"{path} holds more than tensors and plain values, and was not loaded, as that could run code: "
                f"{ascii_only(refused[1] or refused[2])}"
            ) from error
        raise _corrupt(path, content, error) from error


def _check_size(content: bytes) -> None:
    """Raise ValueError for a zip archive that expands to more than its own size; torch.save does not compress."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as zipped:
            size = sum(part.file_size for part in zipped.infolist())
        if size > len(content):
            raise ValueError(f"its parts have {size:,} bytes")


def _check_sum(content: bytes) -> None:
    """Raise ValueError if the file's checksum, or else the zip archive's CRCs, which torch.load ignores, do not match."""
    if content[-_SEAL_BYTES:].startswith(_SEAL):
        if hashlib.sha256(content[:-_SEAL_BYTES]).hexdigest().encode() != content[-_SEAL_BYTES + len(_SEAL) :]:
            raise ValueError("its checksum differs: bytes have changed since it was written")
    elif content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as zipped:
            # All CRCs are 0 in a file that torch wrote with its computation disabled.
            damaged = zipped.testzip() if any(part.CRC for part in zipped.infolist()) else None
        if damaged is not None:
            raise ValueError(f"the checksum of its part {damaged} differs")


def _corrupt(path: Path, content: bytes, error: Exception) -> CorruptFileError:
    why = ascii_only(str(error).strip().split("\n")[0]) or type(error).__name__
    if re.search("weights.only", why, re.IGNORECASE):  # torch's message suggests weights_only=False
        why = "its pickle cannot be read"
    if len(content) < _SHORTEST:
        why = "it is too short"
    return CorruptFileError(f"{path} ({len(content):,} bytes) is truncated, damaged or not a checkpoint ({why}){REMEDY}")
