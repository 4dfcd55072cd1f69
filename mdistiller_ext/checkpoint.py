"""Files that are whole or not there, and reading them without running code.

Written to a temporary name, flushed to the disk, then renamed: a killed run or a full disk leaves the earlier file as it
was. Read with ``weights_only=True`` and a short allow-list, so a checkpoint from a stranger cannot run code.
"""

from __future__ import annotations

import _codecs
import argparse
import contextlib
import io
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import CorruptFileError, MissingFileError, TrainingError

# What upstream's checkpoints hold beside tensors: the learning rate as a numpy scalar, and RepDistiller's arguments. Pickles
# name the numpy function by the module it had in numpy 1 or 2.
_scalar = np.float64(0).__reduce__()[0]
_ALLOWED: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    type(np.dtype(np.int64)),
    _codecs.encode,
    argparse.Namespace,
]


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at ``path`` by ``content``, or leave it as it was. Raises TrainingError when it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise TrainingError(
            f"cannot write {path}: {error.strerror or error}. What was saved before is whole; free some space or mend the "
            "folder, then go on with --resume where an epoch was saved"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def save(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write a checkpoint atomically. Raises TrainingError on a full disk or a folder that cannot be written."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(Path(path), buffer.getvalue())


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Any:
    """Read a checkpoint, tensors and plain values only.

    Raises MissingFileError, or CorruptFileError for a file that is truncated, no checkpoint, or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"checkpoint not found: {path.absolute()}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptFileError(f"cannot read {path}: {error.strerror}") from error
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's thoughts on odd pickles: they load or they are reported below
            return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # bytes at random can make an unpickler raise anything
        refused = re.search(r"GLOBAL (\S+) was not an allowed|Trying to load unsupported GLOBAL (\S+)", str(error))
        if refused:
            raise CorruptFileError(
                f"{path} holds more than tensors and plain values, and was not loaded, as that could run code: "
                f"{refused[1] or refused[2]}"
            ) from error
        raise _corrupt(path, error) from error


def _corrupt(path: Path, error: Exception) -> CorruptFileError:
    first_line = str(error).strip().split("\n")[0][:200]
    return CorruptFileError(
        f"{path} ({path.stat().st_size:,} bytes) is truncated, damaged or not a checkpoint ({first_line}). "
        "Delete it and get it anew"
    )


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a model's weights from a file or a run folder (its ``student_best``).

    Takes upstream's ``{"model": state_dict}``, a run's checkpoint and a bare state_dict, also as saved from DataParallel.
    Raises CorruptFileError that names the entries which are missing, unexpected or of another shape.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "student_best"
    state = load(path)
    if isinstance(state, dict):
        state = state.get("model", state.get("student", state))
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CorruptFileError(f"{path} holds no weights: expected a state_dict, or one under the key 'model'")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    own = model.state_dict()
    problems = [
        _listing("missing", sorted(own.keys() - state.keys())),
        _listing("unexpected", sorted(state.keys() - own.keys())),
        _listing(
            "of another shape",
            [
                f"{k} {list(state[k].shape)} for {list(v.shape)}"
                for k, v in own.items()
                if k in state and state[k].shape != v.shape
            ],
        ),
    ]
    if any(problems):
        raise CorruptFileError(f"{path} does not fit {type(model).__name__}: {'; '.join(p for p in problems if p)}")
    model.load_state_dict(state)


def _listing(what: str, entries: list[str]) -> str:
    if not entries:
        return ""
    more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    return f"{len(entries)} {what}: {', '.join(entries[:3])}{more}"
