"""Files from the network and out of archives: whole, or not there.

A download goes to ``<name>.part``, goes on where an interrupted one stopped, is checked, and only then gets its name. An
archive is unpacked beside its place and then moved into it. Knows neither what is fetched nor what for.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import re
import shlex
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path, PureWindowsPath
from typing import IO

from tqdm import tqdm

from .errors import CorruptFileError, MissingFileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SILENCE = 30  # seconds without a byte until a connection counts as dead
_PAUSES = (1, 2, 4)  # seconds before the tries after one that brought nothing new
_CHUNK = 1 << 16  # bytes; what a connection that dies may lose


def fetch(url: str, path: str | os.PathLike[str], *, md5: str = "", sha256_prefix: str = "", size: int = 0) -> None:
    """Download ``url`` to ``path``; a file that lies there and passes the checks is kept.

    Without a checksum the server's word on the length is all there is to check, also of a download that goes on.

    Args:
        md5: hex digits of the whole sum.
        sha256_prefix: the first hex digits of the sum, as torchvision puts them into the names of its files.
        size: in bytes.

    Raises:
        MissingFileError: what could not be fetched from where and why, and how to do it by hand.
        CorruptFileError: what came has another checksum; it is deleted.
        OSError: it cannot be written, such as on a full disk.
    """
    path = Path(path).absolute()
    with _alone(path):
        _fetch(url, path, md5, sha256_prefix, size)


def fetch_torchvision_weights(url: str, folder: str | os.PathLike[str]) -> Path:
    """`fetch` one of torchvision's files of weights into ``folder``; returns its path. Raises what `fetch` raises.

    Their names end in the first digits of their SHA-256 sum: resnet34-b627a593.pth.
    """
    path = Path(folder) / Path(url).name
    fetch(url, path, sha256_prefix=path.stem.rpartition("-")[2])
    return path


def unpack(archive: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Unpack a tar (of any compression) or zip into ``folder``: what is new appears whole, what is there is replaced.

    Raises CorruptFileError for an archive that is damaged, cut short, or holds links, devices or names that lead out of the
    folder; nothing of it is then in the folder. Raises OSError when the folder cannot be written.
    """
    archive, folder = Path(archive).absolute(), Path(folder).absolute()
    with _alone(archive):
        _unpack(archive, folder)


def fetch_archive(url: str, archive: Path, there: Callable[[], bool], *, md5: str = "", size: int = 0) -> None:
    """Fetch an archive, unpack it into the folder it lies in and remove it; an archive put there by hand is not fetched.

    ``there`` tells whether its content has arrived, maybe by another process that was faster. Raises what `fetch` and
    `unpack` raise.
    """
    archive = archive.absolute()
    with _alone(archive):
        if there():
            return
        _fetch(url, archive, md5, "", size)
        _unpack(archive, archive.parent)
        if not there():
            raise CorruptFileError(f"{archive} does not hold what was expected. Delete it and get it anew")
        archive.unlink()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for other processes that make the same file, such as runs started together; where the system can."""
    lock = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        # A read-only folder or a file system without locks: there is no one to wait for.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            while fcntl is not None:
                file = stack.enter_context(open(lock, "ab"))
                fcntl.flock(file, fcntl.LOCK_EX)
                if _is_at(file, lock):
                    stack.callback(lock.unlink, missing_ok=True)
                    break
        yield


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file still has its name: whoever held a lock before has removed it, and the next makes a new one."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


# ---- downloads ----------------------------------------------------------------------------------------------------


class _BrokenError(Exception):
    """The network or the server said no, in one line. ``final``: trying again will not help."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(_one_line(reason))
        self.final = final


def _fetch(url: str, path: Path, md5: str, sha256_prefix: str, size: int) -> None:
    if path.is_file() and not _difference(path, md5, sha256_prefix, size):
        return
    part = path.with_name(f"{path.name}.part")
    try:
        _download(url, part, size, length_needed=not (md5 or sha256_prefix))
        difference = _difference(part, md5, sha256_prefix, size)
        if not difference:
            os.replace(part, path)
            return
        part.unlink()
    except _BrokenError as broken:
        again = f" Starting again goes on from {_length(part):,} bytes." if _length(part) else ""
        raise MissingFileError(
            f"{path.name} could not be fetched from {url} ({broken}).{again} "
            f"By hand: curl -C - -L -o {shlex.quote(str(path))} {shlex.quote(url)}"
        ) from broken
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write {part}: {error.strerror}. What is there is kept, and starting again goes on from it"
        ) from error
    raise CorruptFileError(
        f"what came from {url} is not the {path.name} that is expected: {difference}. "
        "It was deleted; start again, or take another address"
    )


def _one_line(text: str) -> str:
    """What may stand in a message of what somebody else wrote."""
    return re.sub(r"[^ -~]+", " ", text).strip()[:200]


def _length(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _difference(path: Path, md5: str, sha256_prefix: str, size: int) -> str:
    """What is wrong with a file, or an empty string."""
    if size and _length(path) != size:
        return f"it has {_length(path):,} bytes where {size:,} are expected"
    for name, expected in (("md5", md5), ("sha256", sha256_prefix)):
        if expected:
            actual = _checksum(path, name)[: len(expected)]
            if actual != expected.lower():
                return f"its {name} is {actual} where {expected} is expected"
    return ""


def _checksum(path: Path, name: str) -> str:
    checksum = hashlib.new(name, usedforsecurity=False)  # what FIPS machines need to hear of md5
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            checksum.update(chunk)
    return checksum.hexdigest()


def _download(url: str, part: Path, size: int, *, length_needed: bool) -> None:
    """Receive until all is there, with patience as long as more comes than ever before. Raises _BrokenError, OSError."""
    start = furthest = _length(part)
    fruitless = 0
    while True:
        try:
            _receive(url, part, size, length_needed=length_needed)
            return
        except _BrokenError as broken:
            if _length(part) > furthest:
                furthest, fruitless = _length(part), 0
            # Who cannot connect at first is told at once; a line that worked and went may come back.
            if fruitless == len(_PAUSES) or (broken.final and furthest == start):
                raise
            time.sleep(_PAUSES[fruitless])
            fruitless += 1


def _receive(url: str, part: Path, size: int, *, length_needed: bool) -> None:
    """Append to ``part`` what is missing, over one connection."""
    offset = _length(part)
    if size and offset == size:  # killed after the last byte, before it was checked
        return
    headers = {"User-Agent": "mdistiller_ext"}  # some servers turn away what is called Python-urllib
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with _network():
        try:
            response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SILENCE)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not offset:
                raise
            if _content_range(error.headers)[1] == offset:
                return
            part.unlink()
            raise _BrokenError("what was there of it is not a part of it") from error
    with response:
        with _network():
            total = int(response.headers.get("Content-Length") or 0)
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            first, total = _content_range(response.headers)
            if first != offset:
                part.unlink()
                raise _BrokenError("the server sent another part than the one asked for")
        else:  # the server knows no parts: from the beginning
            offset = 0
        if size and total and total != size:
            raise _BrokenError(f"the server has {total:,} bytes where {size:,} are expected", final=True)
        if length_needed and not total and not size and response.headers.get("Transfer-Encoding") != "chunked":
            raise _BrokenError("neither its length nor a checksum is known, so that half of it would pass for it", final=True)
        total = total or size
        with (
            open(part, "ab" if offset else "wb") as file,
            tqdm(total=total or None, initial=offset, desc=part.stem, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while True:
                with _network():
                    chunk = response.read(_CHUNK)
                if not chunk:
                    break
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if total and _length(part) != total:
        raise _BrokenError(f"the connection broke off after {_length(part):,} of {total:,} bytes")


def _content_range(headers: Message) -> tuple[int, int]:
    """First byte and length of the whole from ``bytes 5-9/10`` or ``bytes */10``; -1 and 0 where they are not told."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", "").strip())
    if not found:
        return -1, 0
    return int(found[1] or -1), int(found[2]) if found[2] != "*" else 0


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Make what the network does a _BrokenError, so that an OSError outside is the disk's."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        busy = error.code >= 500 or error.code in (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS)
        raise _BrokenError(f"HTTP status {error.code} {error.reason}", final=not busy) from error
    except TimeoutError as error:
        raise _BrokenError(f"no answer for {_SILENCE} seconds") from error
    except urllib.error.URLError as error:  # no connection
        raise _BrokenError(str(error.reason), final=True) from error
    except ValueError as error:  # also http.client.InvalidURL
        raise _BrokenError(str(error), final=True) from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(str(error) or type(error).__name__) from error


# ---- archives -----------------------------------------------------------------------------------------------------


def _unpack(archive: Path, folder: Path) -> None:
    if not archive.is_file():
        raise MissingFileError(f"archive not found: {archive}")
    scratch = folder / f".{archive.name}.tmp"
    try:
        if scratch.exists():  # left by a process that was killed
            shutil.rmtree(scratch)
        scratch.mkdir(parents=True)
        for name, content in tqdm(_members(archive), desc=f"unpack {archive.name}", unit=" files", disable=None):
            target = scratch / name
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, open(target, "xb") as file:
                shutil.copyfileobj(content, file, _CHUNK)
        _move_content(scratch, folder)
    except CorruptFileError:
        raise
    except Exception as error:  # damaged bytes can make a decompressor raise anything, also an OSError of its own
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise OSError(error.errno, f"cannot unpack {archive} into {folder}: {error.strerror}") from error
        why = _one_line(str(error)) or type(error).__name__
        raise CorruptFileError(
            f"{archive} ({archive.stat().st_size:,} bytes) is damaged, cut short or no archive ({why}). "
            "Delete it and get it anew"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Names and contents (None of a folder) of an archive's members. Links are refused: no data set needs them."""
    with open(archive, "rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        with zipfile.ZipFile(archive) as zip_file:
            for info in zip_file.infolist():
                plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
                _check_member(archive, info.filename, plain=plain)
                yield info.filename, None if info.is_dir() else zip_file.open(info)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            _check_member(archive, member.name, plain=member.isfile() or member.isdir())
            yield member.name, tar.extractfile(member)
        # tarfile takes a file that ends between two members for whole; a whole one ends with a block of zeros.
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("its end is missing")
        while tar.fileobj.read(_CHUNK):  # to the checksum that ends a compressed one
            pass


def _check_member(archive: Path, name: str, *, plain: bool) -> None:
    path = PureWindowsPath(name)  # takes both kinds of slashes, and drives
    if not plain or path.anchor or ".." in path.parts:
        what = "leads out of its folder" if plain else "is neither a file nor a folder"
        raise CorruptFileError(f"{archive} was not unpacked: its member {name!r} {what}")


def _move_content(source: Path, target: Path) -> None:
    """Move all in one folder into another: by one rename what is not there yet, file by file into folders that are."""
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _move_content(entry, place)
        else:
            os.replace(entry, place)
