"""Load weights into a network, from the checkpoints of this project, mdistiller and its forks."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from . import checkpoint
from .data import DataIdentity
from .errors import ConfigError, CorruptFileError, ascii_only
from .models import find_architectures
from .models.heads import attach_saved_head

# Keys under which files keep a state_dict beside other entries, in order of precedence.
_WEIGHT_KEYS = ("model", "student", "state_dict", "model_state_dict", "net")
# Prefixes that wrapping modules add to the names of entries. _orig_mod. is torch.compile's.
_WRAPPERS = ("module.", "_orig_mod.", "model.")


def load_weights(
    model: nn.Module, path: str | os.PathLike[str], *, data: DataIdentity | None = None, other_classes: bool = False
) -> DataIdentity | None:
    """Load a network's weights from a checkpoint or a run folder (its ``student_best``).

    Args:
        data: the data that the network is to classify.
        other_classes: see :func:`load_state_dict`.

    Returns:
        The identity of the data that the weights were trained on; None if the file does not record it.

    Raises:
        ConfigError: the weights were trained on other classes than those of ``data``.
        CorruptFileError: as :func:`load_state_dict`; the message names the networks of the zoos that the weights fit.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "student_best"
    content = checkpoint.load(path)
    trained_on = DataIdentity.from_plain(dict.get(content, "data")) if isinstance(content, dict) else None
    changes = trained_on.class_changes(data) if trained_on is not None and data is not None else []
    if changes:
        raise ConfigError(
            f"{path} was trained on other classes than the data have ({'; '.join(changes)}), so labels would not match: "
            "choose the data that it was trained on (DATASET.TYPE, DATASET.ROOT), or another checkpoint"
        )
    load_state_dict(model, content, path, other_classes=other_classes, fitting=find_architectures)
    return trained_on


def load_state_dict(
    model: nn.Module,
    content: object,
    path: Path,
    *,
    other_classes: bool = False,
    fitting: Callable[[Mapping[str, Tensor]], list[str]] | None = None,
) -> list[str]:
    """Load the state_dict in the content of a checkpoint; returns the names of entries that were not loaded.

    Accepts a bare state_dict, one under ``model`` (as mdistiller saves) or another usual key, and names prefixed by
    DataParallel or torch.compile. Of a saved distiller, as in mdistiller's ``latest`` and ``best``, the student is loaded.

    Args:
        content: what :func:`checkpoint.load` returned.
        path: the file it came from, for messages.
        other_classes: leave a classifier with another number of classes unchanged; all other entries must fit.
        fitting: returns the networks (``zoo/name``) that a state_dict fits, for the message if it does not fit ``model``.

    Raises CorruptFileError that names the entries that are missing, unexpected, of another shape or dtype, or not finite.
    """
    saved = _find_state_dict(path, content)
    state = _unwrap(saved, model.state_dict())
    attach_saved_head(model, state)
    own = model.state_dict()
    _check_numbers(path, state, own)
    if state.keys() == saved.keys():
        # Modules that changed since rename their entries in load_state_dict, by the version saved in the metadata
        # (torchvision's vision transformers, for example).
        with contextlib.suppress(Exception):  # the saved version may be of any type
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


def _find_state_dict(path: Path, content: object) -> Mapping[str, Tensor]:
    """The state_dict in the content of a file. Raises CorruptFileError if there is none, or if it holds more than tensors."""
    # A value under a key takes precedence over the whole, which may itself contain a tensor (a number).
    places = [*(dict.get(content, key) for key in _WEIGHT_KEYS), content] if isinstance(content, dict) else []
    weights = next((place for place in places if _has_tensors(place)), None)
    if weights is None:
        found = f"the keys {', '.join(map(str, content)) or '(none)'}" if isinstance(content, dict) else type(content).__name__
        keys = ", ".join(_WEIGHT_KEYS)
        raise CorruptFileError(
            f"{path} holds no weights: expected a state_dict, or one under a key of {keys}; found {ascii_only(found)}"
        )
    for key, value in dict.items(weights):
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
            kind = f"{value.device} {value.layout} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise CorruptFileError(
                f"{path}: entry '{ascii_only(str(key))}' of its weights is no plain tensor but of type {kind}"
            )
        if not isinstance(key, str):
            raise CorruptFileError(f"{path}: entry {ascii_only(str(key))} of its weights has no name")
    # A malicious file can shadow methods of a dict or a tensor by attributes; the copy has none of them.
    plain = OrderedDict((key, Tensor.detach(value)) for key, value in dict.items(weights))
    # The versions of modules, where Module.load_state_dict looks for them: no public name for it.
    vars(plain)["_metadata"] = getattr(weights, "_metadata", None)
    return plain


def _has_tensors(place: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(place, dict) and any(isinstance(value, Tensor) for value in dict.values(place))


def _check_numbers(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise CorruptFileError for the first entry that is not finite, or whose dtype does not convert to the network's.

    Entries of another shape are skipped: an expanded tensor of a few bytes can have any size, and its conversion would
    exhaust the memory.
    """
    for key, value in state.items():
        if key not in own or own[key].shape != value.shape:
            continue
        numbers = _converted(value, own[key].dtype)
        if numbers is None:
            kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in (value, own[key])]
            raise CorruptFileError(f"{path}: entry '{ascii_only(key)}' holds {kinds[0]} numbers where {kinds[1]} is needed")
        if not numbers.isfinite().all():
            raise CorruptFileError(
                f"{path}: entry '{ascii_only(key)}' is not finite (NaN or infinity); its training diverged, or it is damaged"
            )


def _converted(value: Tensor, kind: torch.dtype) -> Tensor | None:
    """A tensor in dtype ``kind``, or in float64 if that is an integer type, which cannot represent NaN.

    None if the conversion would change the numbers or torch does not implement it.
    """
    theirs = value.dtype
    if theirs != kind and (theirs.is_complex or (kind.is_floating_point and not theirs.is_floating_point)):
        return None
    with contextlib.suppress(RuntimeError):
        return value.to(kind if kind.is_floating_point or kind.is_complex else torch.float64)
    return None


def _unwrap(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrapping modules; of a distiller's entries, keep the student's.

    Prefixes are removed only while no name occurs in ``own``, since a network may have a submodule called ``model``.
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
    """Whether entries are the weight, or weight and bias, of one layer that differs in its number of outputs."""
    modules = {key.rpartition(".")[0] for key in reshaped}
    names = {key.rpartition(".")[2] for key in reshaped}
    same_inputs = all(state[key].ndim > 0 and state[key].shape[1:] == own[key].shape[1:] for key in reshaped)
    return len(modules) == 1 and names in ({"weight"}, {"weight", "bias"}) and same_inputs


def _listing(what: str, entries: list[str]) -> str:
    if not entries:
        return ""
    more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    return f"{len(entries)} {what}: {', '.join(map(ascii_only, entries[:3]))}{more}"
