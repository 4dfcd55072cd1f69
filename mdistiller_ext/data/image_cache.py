"""Decoded images of a data set in a file beside it, which later runs map into memory instead of decoding.

The file is a header of one page, then the images, uint8 ``[N, 3, H, W]``. The header holds two SHA-256 hashes, which every
start computes anew: one of what the images are made from (path, label, size and modification time of each image file, shape,
version of the decoder), and one of the split, which its identity needs anyway. A file that does not match, because it is
damaged or the data set has changed, is replaced. The only change that is not noticed is one of an image file that keeps size
and modification time. All processes on a machine share the memory of the mapping.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ..checkpoint import atomic_file
from ..errors import ConfigWarning, from_here
from .base import Samples, Split
from .identity import SplitIdentity
from .image_files import DECODER

_HEADER = 4096  # bytes; the images start at a page


def cached_split(
    path: Path, samples: Samples, image_shape: tuple[int, int, int], read: Callable[[], Split]
) -> tuple[Split, SplitIdentity]:
    """Return the split of ``samples`` and its identity: from the file at ``path``, otherwise from ``read``, and write the file.

    A file that cannot be written is a note. Raises as ``read``.

    Args:
        samples: image files in the folder of ``path``, and their labels.
        image_shape: ``(3, H, W)``.
    """
    with ThreadPoolExecutor(1) as thread:  # hashing and listing take as long as each other, and hashing needs no GIL
        loading = thread.submit(_load, path, samples, image_shape)
        key = _key(path.parent, samples, image_shape)  # before the images are read, which may change meanwhile
    with contextlib.suppress(OSError, ValueError):  # ValueError: a file that is too short
        header, split, identity = loading.result()
        if header == _header(key, identity):
            return split, identity
    split = read()
    identity = SplitIdentity.of_tensors(split)
    where = from_here(path.parent)
    try:
        with atomic_file(path) as file:
            file.write(_header(key, identity))
            file.write(split[0].numpy().data)
        _note(f"decoded images are kept in {where} (*{path.suffix}), for a quick start; DATASET.CACHE False does without")
    except OSError as error:
        _note(f"decoded images cannot be kept in {where} ({error.strerror}): every start decodes them anew")
    return split, identity


def _load(path: Path, samples: Samples, image_shape: tuple[int, int, int]) -> tuple[bytes, Split, SplitIdentity]:
    """Header of a file, its images mapped into memory with the labels of the samples, and the identity that these have."""
    with open(path, "rb") as file:
        header = file.read(_HEADER)
        images = torch.from_numpy(np.memmap(file, np.uint8, "c", _HEADER, (len(samples), *image_shape)))
    split = images, torch.tensor([label for _, label in samples])
    return header, split, SplitIdentity.of_tensors(split)


@functools.cache
def _note(text: str) -> None:
    """Say something once, which holds for all splits."""
    warnings.warn(text, ConfigWarning, stacklevel=3)


def _key(folder: Path, samples: Samples, image_shape: tuple[int, int, int]) -> str:
    """Hash what the images are made from; one ``stat`` of each file, about 0.5 s for the 110,000 of Tiny-ImageNet."""
    digest = hashlib.sha256(f"{DECODER} {image_shape}\n".encode())
    start = len(os.fspath(folder))
    for path, label in samples:
        name = os.fspath(path)
        status = os.stat(name)
        digest.update(os.fsencode(f"{label}\t{status.st_size}\t{status.st_mtime_ns}\t{name[start:]}\0"))
    return digest.hexdigest()


def _header(key: str, identity: SplitIdentity) -> bytes:
    return f"decoded images\nmade from {key}\nsplit {identity.sha256}\n".encode().ljust(_HEADER, b"\0")
