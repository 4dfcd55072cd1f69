"""Identify files of other kinds that are passed as checkpoints, for error messages."""

from __future__ import annotations

import codecs
import contextlib
import io
import re
import zipfile

# By the first bytes, or bytes at an offset; the first match counts.
_SIGNATURES = [
    (re.compile(rb"\Z"), "is empty. Delete it and get it anew"),
    (re.compile(rb"version https://git-lfs"), "is a Git LFS pointer, which stands for the file: `git lfs pull` gets that"),
    (re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE), "is a web page: the address led to a login or an error"),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ|.{257}ustar", re.DOTALL), "is an archive: unpack it"),
    (
        re.compile(rb'.{5}\0\0\0\{\s*"', re.DOTALL),
        "is a safetensors file, which is not read here: torch.save what safetensors.torch.load_file gives",
    ),
    # torch's legacy format is also a pickle; it begins with a magic number.
    (re.compile(rb"\x80(?!\x02\x8a\x0a).{3}", re.DOTALL), "is a pickle that could run code, and was not loaded"),
]


def mistaken_for_checkpoint(content: bytes) -> str:
    """What the content of a file is, as the end of a sentence about the file; empty if unknown or a checkpoint."""
    for signature, kind in _SIGNATURES:
        if signature.match(content):
            return kind
    if content.startswith(b"PK"):
        with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(content)) as zipped:  # damaged: any exception
            names = {name.rpartition("/")[2] for name in zipped.namelist()}
            if "constants.pkl" in names:
                return "is a TorchScript program, which was not loaded: save a state_dict instead"
            return "" if "data.pkl" in names else "is a zip archive without a checkpoint of its own: unpack it"
        return ""
    with contextlib.suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8")().decode(content[:4096])  # may end within a character
        if not re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text):
            return "is a text file, not a checkpoint"
    return ""
