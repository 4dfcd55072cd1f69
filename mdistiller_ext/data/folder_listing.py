"""Names of the class folders and images in a folder, kept between runs.

A folder is listed again if its device, inode, modification time or time of status change has changed, as by an entry that was
added, removed or renamed, and always if it contains symbolic links, whose targets may change. The names of ImageNet's 1.28
million images are thus read from one file, after one ``stat`` per folder. It takes a file system that maintains these times.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

import pooch

from ..checkpoint import write_atomically
from ..errors import MissingFileError, Note, TrainingError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder's

_VERSION = 1  # of the file
_WORTH_KEEPING = 10_000  # images; fewer are listed in an instant
_SETTLED = 2.0  # seconds; a change within the clock's resolution of an earlier one may leave the times of a folder unchanged

Fingerprint = tuple[int, int, int, int]


class Listing(NamedTuple):
    """Sorted names of the folders and of the image files in a folder."""

    folders: list[str]
    images: list[str]


class ListingCache:
    """Listings of the folders below ``root``, read from and saved to a file of their own in the user's cache folder.

    A file that is damaged, or of another version, is ignored and replaced.
    """

    def __init__(self, root: Path) -> None:
        name = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:32]
        self.path = Path(pooch.os_cache("mdistiller_ext")) / "listings" / f"{name}.json"
        self._known = self._read()
        self._changed = False

    def get(self, folder: str, fingerprint: Fingerprint) -> Listing | None:
        """The listing of a folder, if it is known with this fingerprint."""
        known = self._known.get(os.path.abspath(folder))
        return known[1] if known is not None and known[0] == fingerprint else None

    def put(self, folder: str, fingerprint: Fingerprint, listing: Listing) -> None:
        """Keep the listing of a folder whose last change is long enough ago to tell the next one from it."""
        if time.time_ns() - max(fingerprint[2:]) > _SETTLED * 1e9:
            self._known[os.path.abspath(folder)] = fingerprint, listing
            self._changed = True

    def save(self) -> None:
        """Write what has changed, without folders that are gone. Raises OSError or TrainingError."""
        images = sum(len(listing.images) for _, listing in self._known.values())
        if self._changed and images >= _WORTH_KEEPING:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            known = {folder: kept for folder, kept in self._known.items() if os.path.isdir(folder)}
            content = json.dumps(known, separators=(",", ":")).encode("utf-8", "surrogatepass")
            write_atomically(self.path, self._seal(content) + content)

    def _read(self) -> dict[str, tuple[Fingerprint, Listing]]:
        try:
            seal, _, content = self.path.read_bytes().partition(b"\n")
        except OSError:
            return {}
        if seal + b"\n" != self._seal(content):
            return {}
        folders = json.loads(content.decode("utf-8", "surrogatepass"))
        return {folder: (tuple(fingerprint), Listing(*listing)) for folder, (fingerprint, listing) in folders.items()}

    @staticmethod
    def _seal(content: bytes) -> bytes:
        return f"listings {_VERSION} sha256 {hashlib.sha256(content).hexdigest()}\n".encode()


_active: ContextVar[ListingCache | None] = ContextVar("listing cache", default=None)


@contextlib.contextmanager
def kept_listings(root: Path, *, enabled: bool = True) -> Iterator[None]:
    """Let `list_folder` use the listings kept before while the block runs, and keep new ones. A Note says if it cannot."""
    cache = ListingCache(root) if enabled else None
    token = _active.set(cache)
    try:
        yield
    finally:
        _active.reset(token)
    if cache is not None:
        try:
            cache.save()
        except (OSError, TrainingError) as error:
            warnings.warn(f"the names of image files are not kept for the next run: {error}", Note, stacklevel=3)


def list_folder(folder: str | os.PathLike[str]) -> Listing:
    """List a folder without hidden entries (``._x.jpg``, ``__MACOSX``). Images are not opened.

    Raises MissingFileError if it cannot be read or contains a broken link.
    """
    folder, cache = os.fspath(folder), _active.get()
    try:
        # Before the folder is listed: a change in between makes the listing old, never the other way round.
        status = os.stat(folder)
        fingerprint = status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
        known = None if cache is None else cache.get(folder, fingerprint)
        if known is not None:
            return known
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not _hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise MissingFileError(f"folder {Path(folder).absolute()} cannot be read: {error.strerror}") from error
    for entry in found:
        if entry.is_symlink():
            try:
                entry.stat()  # cached: is_dir and is_file need it anyway
            except OSError as error:
                raise MissingFileError(
                    f"{Path(entry.path).absolute()} is a link that leads nowhere ({error.strerror}); mend it or remove it"
                ) from error
    listing = Listing([entry.name for entry in found if entry.is_dir()], [entry.name for entry in found if _is_image(entry)])
    if cache is not None and not any(entry.is_symlink() for entry in found):
        cache.put(folder, fingerprint, listing)
    return listing


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry has an image extension and is a regular file: opening a pipe would block."""
    return entry.name.lower().endswith(EXTENSIONS) and entry.is_file()


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
