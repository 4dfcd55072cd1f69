"""Files that are whole or not there, and reading them without running code.

Written to a temporary name, flushed to the disk, then renamed: a killed run or a full disk leaves the earlier file as it
was. A checksum stands at its end. Read with ``weights_only=True`` and a short allow-list, so a checkpoint from a stranger
cannot run code.
"""

from __future__ import annotations

import _codecs
import argparse
import codecs
import contextlib
import hashlib
import io
import os
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from .errors import CorruptFileError, MissingFileError, TrainingError

_NUMBER = re.compile(r"[<>|=]([iuf][1248]|b1)")


class _NumpyType:
    """Stands for ``numpy.dtype`` in a checkpoint. The real one believes whatever flags a pickle sets; then a scalar's bytes
    are an object's address, and the process dies or does as the file's author likes.
    """

    def __init__(self, code: str, *_: object) -> None:
        self.code = code
        self.order = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _numpy_scalar(kind: _NumpyType, content: bytes) -> int | float | bool:
    """Stands for numpy's function of that name; gives a plain number."""
    description = f"{kind.order}{kind.code}"
    if not _NUMBER.fullmatch(description):
        raise ValueError(f"a numpy scalar of type {description}")
    number: int | float | bool = np.frombuffer(content, description).item()
    return number


# What upstream's checkpoints hold beside tensors: the learning rate as a numpy scalar, and RepDistiller's arguments. Pickles
# name the numpy function by the module it had in numpy 1 or 2.
_ALLOWED: list[Any] = [
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
    (_NumpyType, "numpy.dtype"),
    _codecs.encode,
    argparse.Namespace,
]
# What is often saved under the name of a checkpoint, told by where it begins or by bytes at a place; the first that fits.
_MISTAKEN = [
    (re.compile(rb"\Z"), "is empty. Delete it and get it anew"),
    (re.compile(rb"version https://git-lfs"), "is a Git LFS pointer, which stands for the file: `git lfs pull` gets that"),
    (re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE), "is a web page: the address led to a login or an error"),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ|.{257}ustar", re.DOTALL), "is an archive: unpack it"),
    (
        re.compile(rb'.{5}\0\0\0\{\s*"', re.DOTALL),
        "is a safetensors file, which is not read here: torch.save what safetensors.torch.load_file gives",
    ),
    # Torch's older files are pickles too, of which the first is a certain number.
    (re.compile(rb"\x80(?!\x02\x8a\x0a).{3}", re.DOTALL), "is a pickle that could run code, and was not loaded"),
]
# What is written ends in this and the SHA-256 of all before it, as the comment of a zip archive, which all readers leave out.
_SEAL = b"sha256:"
_SEAL_BYTES = len(_SEAL) + 64
REMEDY = ". Delete it and get it anew"  # the end of what is said of a damaged file
_SHORTEST = 100  # bytes; torch writes more around a single number
# Where a file keeps its weights beside other things, in the order of looking.
_WEIGHT_KEYS = ("model", "student", "state_dict", "model_state_dict", "net")
# What training wraps around a network and leaves in the names of its entries. _orig_mod. is torch.compile's.
_WRAPPERS = ("module.", "_orig_mod.", "model.")


def write_atomically(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Replace the file at ``path`` by ``content``, or leave it as it was. Raises TrainingError when it cannot be written.

    Args:
        previous: where the file goes that was there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except OSError as error:
        raise TrainingError(
            f"cannot write {path}: {error.strerror or error}. What was saved before is whole; free some space or mend the "
            "folder, then go on with --resume where a checkpoint was saved"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def save(path: str | os.PathLike[str], state: dict[str, Any], previous: Path | None = None) -> None:
    """Write a checkpoint atomically, with a checksum. Raises TrainingError on a full disk or a folder that cannot be written.

    Args:
        previous: where the checkpoint goes that was there.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(Path(path), _sealed(buffer.getvalue()), previous)


def _sealed(content: bytes) -> bytes:
    """A zip archive with its checksum as its comment, whose length is the last thing in an archive without one."""
    content = content[:-2] + struct.pack("<H", _SEAL_BYTES)
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


def _check_sum(content: bytes) -> None:
    """Raise ValueError unless the bytes are those that were written, by our checksum or a zip's own, which torch ignores."""
    if content[-_SEAL_BYTES:].startswith(_SEAL):
        if hashlib.sha256(content[:-_SEAL_BYTES]).hexdigest().encode() != content[-_SEAL_BYTES + len(_SEAL) :]:
            raise ValueError("its checksum differs: bytes have changed since it was written")
    elif content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as zipped:
            # torch writes zeros where it was told to compute none.
            damaged = zipped.testzip() if any(part.CRC for part in zipped.infolist()) else None
        if damaged is not None:
            raise ValueError(f"the checksum of its part {damaged} differs")


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Any:
    """Read a checkpoint, tensors and plain values only.

    Raises MissingFileError, or CorruptFileError for a file that is truncated, no checkpoint, or holds anything else.
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
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's thoughts on odd pickles: they load or they are reported below
            return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # bytes at random can make an unpickler raise anything
        if kind := _mistaken(content):
            raise CorruptFileError(f"{path} ({len(content):,} bytes) {kind}") from error
        refused = re.search(r"GLOBAL (\S+) was not an allowed|Trying to load unsupported GLOBAL (\S+)", str(error))
        if refused:
            raise CorruptFileError(
                f"{path} holds more than tensors and plain values, and was not loaded, as that could run code: "
                f"{_printable(refused[1] or refused[2])}"
            ) from error
        raise _corrupt(path, content, error) from error


def _check_size(content: bytes) -> None:
    """Refuse a zip whose parts add up to more than itself: a small file must not fill the memory. torch never compresses."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as zipped:
            size = sum(part.file_size for part in zipped.infolist())
        if size > len(content):
            raise ValueError(f"its parts have {size:,} bytes")


def _mistaken(content: bytes) -> str:
    """What a file is that is no checkpoint, as the end of a sentence; empty where that cannot be told."""
    for beginning, kind in _MISTAKEN:
        if beginning.match(content):
            return kind
    if content.startswith(b"PK"):
        with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(content)) as zipped:
            names = {name.rpartition("/")[2] for name in zipped.namelist()}
            if "constants.pkl" in names:
                return "is a TorchScript program, which was not loaded: save a state_dict instead"
            return "" if "data.pkl" in names else "is a zip archive without a checkpoint of its own: unpack it"
        return ""  # damaged bytes make zipfile raise many things
    head = content[:4096]
    with contextlib.suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the head may end within a character
        if not re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text):
            return "is a text file, not a checkpoint"
    return ""


def _corrupt(path: Path, content: bytes, error: Exception) -> CorruptFileError:
    why = _printable(str(error).strip().split("\n")[0]) or type(error).__name__
    if re.search("weights.only", why, re.IGNORECASE):  # torch advises to read it without care
        why = "its pickle cannot be read"
    if len(content) < _SHORTEST:
        why = "it is too short"
    return CorruptFileError(f"{path} ({len(content):,} bytes) is truncated, damaged or not a checkpoint ({why}){REMEDY}")


def _printable(text: str) -> str:
    """What a file wrote, fit for a terminal."""
    return re.sub(r"[^ -~]", "?", text)[:200]


def load_weights(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    content: Any = None,
    other_classes: bool = False,
    fitting: Callable[[Mapping[str, Tensor]], list[str]] | None = None,
) -> list[str]:
    """Load a model's weights from a file or a run folder (its ``student_best``); returns the entries left as they were.

    Takes upstream's ``{"model": state_dict}``, other usual keys, a run's checkpoint and a bare state_dict, also as saved
    from DataParallel or torch.compile, and the student out of upstream's ``latest`` and ``best``.

    Args:
        content: of the file, where it was loaded before.
        other_classes: a classifier of another number of classes is left as it is; all else must fit.
        fitting: names the networks (``zoo/name``) that weights would fit, for the message when they do not fit this one.

    Raises CorruptFileError that names the entries which are missing, unexpected, of another shape, no numbers or not finite.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "student_best"
    saved, own = _weights(path, load(path) if content is None else content), model.state_dict()
    state = _unwrap(saved, own)
    _check_numbers(path, state, own)
    if state.keys() == saved.keys():
        # Modules that have changed since rename their entries themselves, by the version that was saved with them
        # (torchvision's vision transformers do).
        with contextlib.suppress(Exception):  # the version may be anything
            model.load_state_dict(saved)
            return []
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    reshaped = [key for key, value in own.items() if key in state and state[key].shape != value.shape]
    if not missing and not unexpected and reshaped and _is_classifier(reshaped, state, own):
        if not other_classes:
            theirs, ours = (tensors[reshaped[0]].shape[0] for tensors in (state, own))
            raise CorruptFileError(f"{path} holds weights for {theirs} classes, and {ours} are needed ({', '.join(reshaped)})")
        state |= {key: own[key] for key in reshaped}
    elif missing or unexpected or reshaped:
        shapes = [f"{key} {list(state[key].shape)} for {list(own[key].shape)}" for key in reshaped]
        problems = [_listing("missing", missing), _listing("unexpected", unexpected), _listing("of another shape", shapes)]
        others = [f"{name} ({zoo})" for zoo, _, name in (entry.partition("/") for entry in (fitting(state) if fitting else []))]
        hint = f"; it would fit {' or '.join(others)}" if others else ""
        raise CorruptFileError(f"{path} does not fit {type(model).__name__}: {'; '.join(p for p in problems if p)}{hint}")
    model.load_state_dict(state)
    return reshaped


def _weights(path: Path, content: object) -> Mapping[str, Tensor]:
    """The state_dict in what a file holds. Raises CorruptFileError where there is none, or one of other things than tensors."""
    # What is under a key comes before the whole, in which a number may be a tensor too.
    places = [*(dict.get(content, key) for key in _WEIGHT_KEYS), content] if isinstance(content, dict) else []
    weights = next((place for place in places if _has_tensors(place)), None)
    if weights is None:
        found = f"the keys {', '.join(map(str, content)) or '(none)'}" if isinstance(content, dict) else type(content).__name__
        keys = ", ".join(_WEIGHT_KEYS)
        raise CorruptFileError(
            f"{path} holds no weights: expected a state_dict, or one under a key of {keys}; found {_printable(found)}"
        )
    for key, value in dict.items(weights):
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
            kind = f"{value.device} {value.layout} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise CorruptFileError(
                f"{path}: entry '{_printable(str(key))}' of its weights is no plain tensor but of type {kind}"
            )
        if not isinstance(key, str):
            raise CorruptFileError(f"{path}: entry {_printable(str(key))} of its weights has no name")
    # A file can hide any method of a dict or a tensor behind an attribute of the same name; a copy has the methods.
    plain = OrderedDict((key, Tensor.detach(value)) for key, value in dict.items(weights))
    vars(plain)["_metadata"] = getattr(weights, "_metadata", None)
    return plain


def _has_tensors(place: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(place, dict) and any(isinstance(value, Tensor) for value in dict.values(place))


def _check_numbers(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise CorruptFileError for the first entry of another kind of numbers than the network's, or that is not finite.

    Of those that have the network's shapes: a tensor of a few bytes can stand for one of any size, and would fill the memory.
    """
    for key, value in state.items():
        if key not in own or own[key].shape != value.shape:
            continue
        numbers = _converted(value, own[key].dtype)
        if numbers is None:
            kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in (value, own[key])]
            raise CorruptFileError(f"{path}: entry '{_printable(key)}' holds {kinds[0]} numbers where {kinds[1]} is needed")
        if not numbers.isfinite().all():
            raise CorruptFileError(
                f"{path}: entry '{_printable(key)}' is not finite (NaN or infinity); its training diverged, or it is damaged"
            )


def _converted(value: Tensor, kind: torch.dtype) -> Tensor | None:
    """The numbers as another kind, or None where they would not be the same ones or torch cannot read theirs.

    For whole numbers as float64, in which one that is not finite can be seen.
    """
    theirs = value.dtype
    if theirs != kind and (theirs.is_complex or (kind.is_floating_point and not theirs.is_floating_point)):
        return None
    with contextlib.suppress(RuntimeError):
        return value.to(kind if kind.is_floating_point or kind.is_complex else torch.float64)
    return None


def _unwrap(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries by the names that the bare network has; of a distiller's, the student's.

    A wrapper goes only while no name agrees with ``own``, as a network may itself have a part called ``model``.
    """
    state = dict(state)
    while not own.keys() & state.keys():
        inner = {key.removeprefix("student."): value for key, value in state.items() if key.startswith("student.")}
        for wrapper in _WRAPPERS:
            if all(key.startswith(wrapper) for key in state):
                inner = {key.removeprefix(wrapper): value for key, value in state.items()}
        if not inner:
            break
        state = inner
    return state


def _is_classifier(reshaped: list[str], state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether entries are the weight, or weight and bias, of one module with another number of outputs."""
    modules = {key.rpartition(".")[0] for key in reshaped}
    names = {key.rpartition(".")[2] for key in reshaped}
    same_inputs = all(state[key].ndim > 0 and state[key].shape[1:] == own[key].shape[1:] for key in reshaped)
    return len(modules) == 1 and names in ({"weight"}, {"weight", "bias"}) and same_inputs


def _listing(what: str, entries: list[str]) -> str:
    if not entries:
        return ""
    more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    return f"{len(entries)} {what}: {', '.join(map(_printable, entries[:3]))}{more}"
