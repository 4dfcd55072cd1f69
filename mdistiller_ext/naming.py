"""Names of experiments and of the folders that hold their runs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

_READABLE = 100  # bytes of an experiment's name that spell settings out
_FILE_NAME = 200  # bytes; file systems stop at 255, and the lock and an earlier run have longer names
_UNSAFE = re.compile(r"[^\w.,:=+\-\[\]]+")  # replaced in file names


def experiment_name(tag: str, seed: int | None, overrides: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """``TAG``, ``TAG,seed:1`` or ``TAG,seed:1,KEY:VALUE,...``.

    Where that is longer than 100 bytes or a value cannot be part of a file name, the name has as many whole overrides as fit,
    and ends in 8 hex digits of the SHA-256 of ``settings``: different settings have different names.

    Args:
        seed: None leaves it out.
        overrides: values by key, as they were given.
        settings: all that the experiment depends on but the seed, as JSON can hold it.
    """
    with_seed = [] if seed is None else [f"seed:{seed}"]
    words = [f"{key}:{value}" for key, value in overrides.items()]
    if not with_seed and not words:
        return tag
    parts = [_cut(tag, _READABLE), *with_seed]
    for word in words:
        safe = _UNSAFE.sub("_", word)
        if len(",".join([*parts, safe]).encode(errors="replace")) <= _READABLE:
            parts.append(safe)
    if parts != [tag, *with_seed, *words]:
        parts.append(_digits(json.dumps(settings, sort_keys=True)))
    return ",".join(parts)


def file_name(text: str) -> str:
    """Text as the name of one file: nothing that leads out of the folder, and no more than 200 bytes.

    A longer text is cut and ends in 8 hex digits of its SHA-256.
    """
    name = _UNSAFE.sub("_", text).strip("_")
    if len(name.encode()) > _FILE_NAME:
        name = f"{_cut(name, _FILE_NAME - 9)},{_digits(text)}"
    return name.lstrip(".") or "default"


def _cut(text: str, size: int) -> str:
    """The beginning of a text: whole characters, at most ``size`` bytes."""
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= size else encoded[:size].decode(errors="ignore")


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]
