"""Download files and unpack archives: the result is complete and verified, or absent.

pooch verifies MD5 sums, renames atomically and speaks HTTP, filelock lets one process download while others wait, tarfile's
``data`` filter and zipfile keep members inside the folder. Three things are added, which pooch does not do:

- A broken download resumes from ``<name>.part``, in the same call or a later one: archives of data sets have up to 250 MB,
  weights more, and some of their servers are slow.
- Checksum prefixes, which torchvision puts into file names, and ``file:`` URLs.
- An archive is unpacked into a temporary folder first, so that a damaged one, or Ctrl-C, leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import tarfile
import time
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from .errors import CorruptFileError, MissingFileError, one_line

_TIMEOUT = 30  # seconds without a byte until a connection counts as dead
_PAUSES = (1, 2, 4)  # seconds before a retry, while retries make no progress
_CHUNK = 1 << 16  # bytes
_TRY_AGAIN = (408, 416, 429)  # HTTP: request timeout, range not satisfiable (retried from the start), too many requests


def fetch(url: str, path: str | os.PathLike[str], *, md5: str = "", sha256_prefix: str = "") -> None:
    """Download ``url`` to ``path``, unless a file is there that passes the checks.

    Args:
        md5: hexadecimal MD5 sum; empty for no check.
        sha256_prefix: first hexadecimal digits of the SHA-256 sum; empty for no check.

    Raises:
        MissingFileError: the download failed; the message says why, and how to do it by hand.
        CorruptFileError: the checksum differs; the file is deleted.
        OSError: the file cannot be written, such as on a full disk.
    """
    path = Path(path).absolute()
    with _lock(path):
        _fetch(url, path, md5, sha256_prefix)


def fetch_torchvision_weights(url: str, folder: str | os.PathLike[str]) -> Path:
    """`fetch` torchvision weights into ``folder``; returns their path.

    Their file names end in the first digits of their SHA-256 sum, such as resnet34-b627a593.pth.
    """
    path = Path(folder) / Path(url).name
    fetch(url, path, sha256_prefix=path.stem.rpartition("-")[2])
    return path


def unpack(archive: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Unpack a zip or tar archive of any compression into ``folder``; existing files are replaced.

    Raises CorruptFileError for an archive that is damaged, truncated or unsafe, and then leaves the folder as it was. Raises
    OSError if the folder cannot be written.
    """
    archive, folder = Path(archive).absolute(), Path(folder).absolute()
    with _lock(archive):
        _unpack(archive, folder)


def fetch_archive(url: str, archive: Path, there: Callable[[], bool], *, md5: str = "") -> None:
    """Download an archive, unpack it into its own folder and delete it. An archive that is already there is not downloaded.

    ``there`` returns whether the content is complete, such as after another process was faster. Raises as `fetch` and
    `unpack`.
    """
    archive = archive.absolute()
    with _lock(archive):
        if there():
            return
        _fetch(url, archive, md5, "")
        _unpack(archive, archive.parent)
        if not there():
            raise CorruptFileError(f"{archive} does not hold what was expected. Delete it and get it anew")
        archive.unlink()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold ``.<name>.lock``; no-op in a read-only folder or on a file system without locks."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_name(f".{path.name}.lock")))
        yield


# ---- downloads ----------------------------------------------------------------------------------------------------


def _fetch(url: str, path: Path, md5: str, sha256_prefix: str) -> None:
    import pooch  # slow to import, like requests
    import requests

    pooch.get_logger().setLevel("WARNING")  # it announces every download
    part = path.with_name(f"{path.name}.part")

    def download(url: str, target: str, _: Any) -> None:
        _download(url, part)
        _check_prefix(part, sha256_prefix)
        os.replace(part, target)

    try:
        with contextlib.suppress(ValueError):
            if path.is_file():
                _check_prefix(path, sha256_prefix)
        pooch.retrieve(url, f"md5:{md5}" if md5 else None, path.name, path.parent, downloader=download)
    except requests.RequestException as error:
        resume = f" Starting again goes on from {_size(part):,} bytes." if _size(part) else ""
        if not resume:
            part.unlink(missing_ok=True)
        raise MissingFileError(
            f"{path.name} could not be fetched from {url} ({_cause(error)}).{resume} "
            f"By hand: curl -C - -L -o {shlex.quote(str(path))} {shlex.quote(url)}"
        ) from error
    except ValueError as error:
        raise CorruptFileError(
            f"what came from {url} is not the {path.name} that is expected: {str(error).split('. ')[0]}. "
            "It was deleted; start again, or take another address"
        ) from error
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write {part}: {error.strerror}. What is there is kept, and starting again goes on from it"
        ) from error


def _check_prefix(path: Path, sha256_prefix: str) -> None:
    """Delete the file and raise ValueError unless its SHA-256 sum starts with ``sha256_prefix``."""
    import pooch

    if sha256_prefix and not (actual := pooch.file_hash(str(path), "sha256")).startswith(sha256_prefix.lower()):
        path.unlink()
        raise ValueError(f"SHA256 hash does not match: expected {sha256_prefix} but got {actual[: len(sha256_prefix)]}")


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _cause(error: BaseException) -> str:
    """The innermost exception: requests' own texts hold addresses of objects."""
    while error.__context__ is not None:
        error = error.__context__
    return one_line(str(error) or type(error).__name__)


def _download(url: str, part: Path) -> None:
    """Download to ``part``, resuming as long as retries make progress. Raises requests.RequestException or OSError."""
    import requests

    furthest, retries = _size(part), 0
    while True:
        try:
            _receive(url, part)
            return
        except requests.RequestException as error:
            if _size(part) > furthest:
                furthest, retries = _size(part), 0
            if retries == len(_PAUSES) or _is_final(error, part):
                raise
            time.sleep(_PAUSES[retries])
            retries += 1


def _is_final(error: Exception, part: Path) -> bool:
    """Whether to raise at once: the URL is wrong, the server refuses, or nothing was ever received over a connection."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return status < 500 and status not in _TRY_AGAIN and not _size(part)
    return isinstance(error, ValueError) or (isinstance(error, requests.ConnectionError) and not _size(part))


def _receive(url: str, part: Path) -> None:
    """Append the missing bytes to ``part`` over one connection; start anew if the server cannot resume."""
    import pooch
    import requests

    if url.startswith("file:"):
        try:
            shutil.copyfile(urllib.request.url2pathname(urllib.parse.urlsplit(url).path), part)
        except FileNotFoundError as error:
            raise requests.exceptions.InvalidURL(str(error)) from error
        return
    offset = _size(part)
    with open(part, "ab") as file, tqdm(total=1, desc=part.stem, unit="B", unit_scale=True, disable=None) as bar:

        def check_range(response: requests.Response, **_: Any) -> None:
            resumes = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
            if response.status_code in (200, 206, 416) and not resumes:
                file.truncate(0)
            if response.status_code >= 400:
                response.close()  # pooch raises
            if response.status_code == 206 and not resumes:
                response.close()
                raise requests.RequestException("the server sent another range than the one requested")

        # identity: lengths and ranges are those of the file
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        options = {"headers": headers, "timeout": _TIMEOUT, "hooks": {"response": check_range}}
        pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK, **options)(url, file, None)


# ---- archives -----------------------------------------------------------------------------------------------------


def _unpack(archive: Path, folder: Path) -> None:
    if not archive.is_file():
        raise MissingFileError(f"archive not found: {archive}")
    scratch = folder / f".{archive.name}.tmp"
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        scratch.mkdir(parents=True)
        (_extract_zip if zipfile.is_zipfile(archive) else _extract_tar)(archive, scratch)
        _move_content(scratch, folder)
    except Exception as error:  # a decompressor may raise anything for damaged bytes, also an OSError without a number
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise OSError(error.errno, f"cannot unpack {archive} into {folder}: {error.strerror}") from error
        raise CorruptFileError(
            f"{archive} ({archive.stat().st_size:,} bytes) is damaged, cut short or no archive "
            f"({one_line(str(error)) or type(error).__name__}). Delete it and get it anew"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as zipped:
        for member in _progress(zipped.infolist(), archive):
            zipped.extract(member, folder)


def _extract_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in _progress(tar, archive):
            tar.extract(member, folder, filter="data")
        # tarfile accepts a file that ends between two members. A complete one ends with a block of zeros.
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("the end is missing")
        while tar.fileobj.read(_CHUNK):  # up to the checksum of a compressed file
            pass


def _progress(members: Any, archive: Path) -> Any:
    return tqdm(members, desc=f"unpack {archive.name}", unit=" files", disable=None)


def _move_content(source: Path, target: Path) -> None:
    """Move the content of a folder into another: new entries by one rename, existing folders file by file."""
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _move_content(entry, place)
        else:
            os.replace(entry, place)
