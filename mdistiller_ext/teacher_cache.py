"""Cache of a frozen teacher's logits by image and view: the teacher runs once for each of them, not in every epoch and run.

A crop of 32 of 40 pixels has 81 views, 162 with flips. Their logits are filled on first sight, or ahead by
:meth:`CachedTeacherLoader.fill`, and are kept in memory, or in files that all processes of a machine share at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .data.augment import EnumerableAugment
from .data.loader import InMemoryLoader
from .errors import ConfigError, CorruptFileError

MODES = ("off", "memory", "disk")
DTYPES = {"float32": torch.float32, "float16": torch.float16}

_VERSION = 1  # of the files, part of the key
_LOOKUP_CHUNK = 1024  # rows that `fill` looks up at a time
# Images that the teacher runs on at a time on a CPU, where the result then depends on the image alone, not on what else is
# missing in a batch: runs that share a cache are reproducible, whichever of them comes first.
_CPU_BATCH = 16


class LogitTable:
    """Rows of logits, each with a checksum. A row counts as known if they match: no kill leaves half a row behind.

    Args:
        logits: float32 or float16 ``[rows, C]``.
        sums: int64 ``[rows]``, on the same device; zero for an empty row.
    """

    def __init__(self, logits: Tensor, sums: Tensor) -> None:
        self.logits = logits
        self.sums = sums
        self._weights = torch.arange(1, 2 * logits.shape[1], 2, device=logits.device)  # odd

    @classmethod
    def empty(cls, rows: int, classes: int, dtype: torch.dtype, device: torch.device) -> LogitTable:
        """A table in memory. Raises ConfigError if there is not enough."""
        with _enough_memory(rows * classes * dtype.itemsize, device):
            logits = torch.zeros(rows, classes, dtype=dtype, device=device)
            return cls(logits, torch.zeros(rows, dtype=torch.long, device=device))

    @classmethod
    def on_disk(cls, folder: Path, about: Mapping[str, Any], rows: int, classes: int, dtype: torch.dtype) -> LogitTable:
        """A table whose tensors are files in ``folder``, mapped into memory; made if it does not exist.

        Raises ConfigError for a folder that cannot be written or a full disk, CorruptFileError for files of another shape.
        """
        try:
            if not folder.is_dir():
                _create(folder, about, rows, classes, dtype)
            logits, sums = (_mapped(folder / name) for name in ("logits.npy", "sums.npy"))
        except (ValueError, EOFError, FileNotFoundError) as error:
            raise CorruptFileError(f"the teacher's cache {folder} is damaged ({error}): delete it") from error
        except OSError as error:
            size = rows * (classes * dtype.itemsize + 8)
            raise ConfigError(
                f"the teacher's cache {folder} ({size / 1e9:.1f} GB) cannot be used: {error.strerror or error}. "
                "Free some space, name another DISTILLER.TEACHER_CACHE_FOLDER, or set DISTILLER.TEACHER_CACHE to memory or off"
            ) from error
        if logits.shape != (rows, classes) or sums.shape != (rows,):
            raise CorruptFileError(f"the teacher's cache {folder} has the shape {logits.shape}: delete it")
        return cls(torch.from_numpy(logits), torch.from_numpy(sums))

    def to(self, device: torch.device) -> LogitTable:
        """The table on another device; itself if it is there. Raises ConfigError if there is not enough memory."""
        with _enough_memory(self.logits.nbytes, device):
            logits = self.logits.to(device)
            return self if logits is self.logits else LogitTable(logits, self.sums.to(device))

    def known(self, rows: Tensor) -> Tensor:
        """Whether each of ``rows`` (int64 ``[B]``) has been written, bool ``[B]``."""
        return self.sums[rows] == self._sum(self.logits[rows])

    def write(self, rows: Tensor, logits: Tensor) -> None:
        """Write logits ``[B, C]`` to ``rows`` (int64 ``[B]``)."""
        logits = logits.to(self.logits)
        self.logits[rows] = logits
        self.sums[rows] = self._sum(logits)

    def _sum(self, logits: Tensor) -> Tensor:
        bits = logits.view(torch.int32 if logits.dtype == torch.float32 else torch.int16)
        return (bits * self._weights).sum(dim=1) | 1  # never that of an empty row


class CachedTeacherLoader:
    """A training loader whose batches also hold index and teacher's logits, ``[B, C]``, from a table.

    Args:
        loader: yields images, labels, index and view.
        teacher: images ``[B, 3, H, W]`` -> logits ``[B, C]``; called for views that are not in the table yet.
        table: with a row for each view of each image.
    """

    def __init__(self, loader: InMemoryLoader, teacher: Callable[[Tensor], Tensor], table: LogitTable) -> None:
        assert isinstance(loader.augment, EnumerableAugment)
        self.loader = loader
        self.teacher = teacher
        self.views = loader.augment.views
        self.batch_size, self.num_images, self.labels = loader.batch_size, loader.num_images, loader.labels
        self._backing = table
        self._table = table.to(loader.device)
        # On a GPU, looking for missing rows in each batch would synchronise with it.
        self._complete = loader.device.type != "cpu" and all(
            bool(self._table.known(rows).all())
            for rows in torch.arange(len(table.sums), device=loader.device).split(_LOOKUP_CHUNK * self.views)
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(3, H, W)`` of an image."""
        return self.loader.image_shape

    def __len__(self) -> int:
        return len(self.loader)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """As the loader's."""
        self.loader.set_epoch(epoch, first_batch)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for images, labels, index, view in self.loader:
            yield images, labels, index, self.look_up(index, view, images)

    def fill(self) -> None:
        """Run the teacher on all views of all images that are not in the table yet; shows its progress."""
        count = len(self.loader.images)
        with tqdm(total=count * self.views, desc="teacher's logits", unit="view") as bar:
            for view in range(self.views):
                for start in range(0, count, _LOOKUP_CHUNK):
                    index = torch.arange(start, min(start + _LOOKUP_CHUNK, count), device=self.loader.device)
                    if not self._table.known(index * self.views + view).all():
                        self.look_up(index, view, self.loader.view(slice(start, start + _LOOKUP_CHUNK), view))
                    bar.update(len(index))
        self._complete = True

    def look_up(self, index: Tensor, view: Tensor | int, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of ``images`` ``[B, 3, H, W]``, given views of the training images ``index`` (int64 ``[B]``)."""
        rows = index * self.views + view
        if not self._complete:
            missing = (~self._table.known(rows)).nonzero().squeeze(1)
            if len(missing):
                logits = self._run_teacher(images[missing])
                self._table.write(rows[missing], logits)
                if self._backing is not self._table:
                    self._backing.write(rows[missing].cpu(), logits.cpu())
        return self._table.logits[rows].to(images.dtype)

    def _run_teacher(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu":
            return self.teacher(images)
        parts = images.split(_CPU_BATCH)
        padded = [torch.cat([part, part.new_zeros(_CPU_BATCH - len(part), *part.shape[1:])]) for part in parts]
        return torch.cat([self.teacher(part) for part in padded])[: len(images)]


def cached_teacher_loader(
    loader: InMemoryLoader,
    teacher: Callable[[Tensor], Tensor],
    *,
    mode: str,
    dtype: str,
    folder: Path,
    about: Mapping[str, Any],
) -> CachedTeacherLoader:
    """Create a CachedTeacherLoader.

    Args:
        loader, teacher: see CachedTeacherLoader.
        mode: ``memory`` or ``disk``.
        dtype: of the stored logits, ``float32`` or ``float16``.
        folder: of all caches; each is a folder in it.
        about: what the logits depend on besides the images and the augmentation, as JSON can hold it; its ``name`` is part of
            the name of the folder.

    Raises ConfigError for another dtype, and as :class:`LogitTable`.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"DISTILLER.TEACHER_CACHE_DTYPE must be {' or '.join(DTYPES)}, not '{dtype}'")
    assert isinstance(loader.augment, EnumerableAugment)
    rows, classes = len(loader.images) * loader.augment.views, loader.num_classes
    if mode == "memory":
        return CachedTeacherLoader(loader, teacher, LogitTable.empty(rows, classes, DTYPES[dtype], loader.device))
    key = {
        **about,
        "version": _VERSION,
        "device": loader.device.type,
        "augmentation": repr(loader.augment),
        "mean": list(loader.mean),
        "std": list(loader.std),
        "images": len(loader.images),
        "classes": classes,
        "dtype": dtype,
    }
    digits = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return CachedTeacherLoader(
        loader, teacher, LogitTable.on_disk(folder / f"{about['name']}-{digits}", key, rows, classes, DTYPES[dtype])
    )


def _mapped(path: Path) -> np.ndarray[Any, Any]:
    """A file mapped into memory; what is written to one that this process may only read stays in memory."""
    try:
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r+")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        array = np.load(path, mmap_mode="c")
    return array


@contextlib.contextmanager
def _enough_memory(size: int, device: torch.device) -> Iterator[None]:
    """Raise ConfigError where the block cannot allocate ``size`` bytes."""
    try:
        yield
    except RuntimeError as error:
        raise ConfigError(
            f"DISTILLER.TEACHER_CACHE needs {size / 1e9:.1f} GB on {device}, which has less: "
            "set DISTILLER.TEACHER_CACHE_DTYPE to float16, or DISTILLER.TEACHER_CACHE to off"
        ) from error


def _create(folder: Path, about: Mapping[str, Any], rows: int, classes: int, dtype: torch.dtype) -> None:
    """Make the files of an empty table, with their space on the disk reserved. Raises OSError if it cannot be had."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=folder.parent))
    try:
        (temporary / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        kind = np.float16 if dtype == torch.float16 else np.float32
        for name, number, shape in (("logits.npy", kind, (rows, classes)), ("sums.npy", np.int64, (rows,))):
            np.lib.format.open_memmap(temporary / name, "w+", number, shape)
            # Without it, a disk that is full ends a process that writes to the map, by SIGBUS.
            if hasattr(os, "posix_fallocate"):  # on Linux
                with open(temporary / name, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process has made it in the meantime
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
