"""Downloads that go on, that are checked, and that are never half there; archives that cannot lead out of their folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import os
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext import fetch as fetching
from mdistiller_ext.errors import CorruptFileError, MissingFileError
from mdistiller_ext.fetch import fetch, fetch_archive, unpack
from tests.support.programs import ROOT
from tests.support.server import CONTENT, Server, names_in

MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching, "_PAUSES", (0, 0, 0))
    monkeypatch.setattr(fetching, "_CHUNK", 10_000)  # what a dropped connection may lose
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


# ---- downloads ----------------------------------------------------------------------------------------------------


def test_a_file_arrives_whole_under_its_name_and_nothing_else_stays(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "f"
    fetch(server.url, path, md5=MD5.upper(), sha256_prefix=SHA256[:8])
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == ["f"]
    fetch(server.url, path, md5=MD5)
    assert len(server.asked) == 1  # the second time it was there
    path.write_bytes(b"something else")
    fetch(server.url, path, md5=MD5)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("known", [{}, {"md5": MD5}])
def test_a_connection_that_drops_is_gone_on_with(server: Server, tmp_path: Path, known: dict[str, Any]) -> None:
    server.drops = itertools.repeat(150_000, 3)
    fetch(server.url, tmp_path / "f", **known)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert server.asked == ["", "bytes=150000-", "bytes=300000-", "bytes=450000-"]


def test_patience_lasts_as_long_as_more_comes_and_no_longer(server: Server, tmp_path: Path) -> None:
    server.drops = itertools.repeat(50_000)
    fetch(server.url, tmp_path / "f")  # in 11 parts, far more than the tries without progress
    assert (tmp_path / "f").read_bytes() == CONTENT
    server.ranges, server.asked = False, []
    with pytest.raises(MissingFileError, match=r"\(IncompleteRead\(50000 bytes read, 462000 more expected\)\)\. Starting"):
        fetch(server.url, tmp_path / "g")
    assert len(server.asked) == 4
    assert names_in(tmp_path) == ["f", "g.part"]


def test_a_later_start_goes_on_and_the_message_says_so(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "my file"
    server.drops, server.statuses = iter([100_000]), iter([200, 404, 404, 404])
    with pytest.raises(MissingFileError) as caught:
        fetch(server.url, path)
    assert str(caught.value) == (
        f"my file could not be fetched from {server.url} (404 Client Error: Not Found for url: {server.url}). "
        f"Starting again goes on from 100,000 bytes. By hand: curl -C - -L -o '{path}' {server.url}"
    )
    assert not path.exists()
    server.asked = []
    fetch(server.url, path)
    assert server.asked == ["bytes=100000-"]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("mode", ["no ranges", "wrong range", "longer than the file", "whole"])
def test_what_cannot_be_gone_on_with_starts_anew(server: Server, tmp_path: Path, mode: str) -> None:
    server.ranges, server.wrong_range = mode != "no ranges", mode == "wrong range"
    (tmp_path / "f.part").write_bytes({"longer than the file": b"x" * 700_000, "whole": CONTENT}.get(mode, b"x" * 1000))
    fetch(server.url, tmp_path / "f", md5=MD5)
    assert (tmp_path / "f").read_bytes() == CONTENT


@pytest.mark.parametrize(("name", "kind"), [("md5", "MD5"), ("sha256_prefix", "SHA256")])
def test_another_checksum_is_refused_and_the_file_deleted(server: Server, tmp_path: Path, name: str, kind: str) -> None:
    expected, actual = "0" * 8, (MD5 if name == "md5" else SHA256)[:8]
    with pytest.raises(CorruptFileError, match=rf"not the f that is expected: {kind} .*expected .*{expected} but got {actual}"):
        fetch(server.url, tmp_path / "f", **{name: expected})
    assert names_in(tmp_path) == []


def test_a_server_that_tells_no_length_needs_a_checksum(server: Server, tmp_path: Path) -> None:
    server.tells_length, server.drops = False, iter([1000])
    with pytest.raises(CorruptFileError, match="MD5 hash"):
        fetch(server.url, tmp_path / "f", md5=MD5)
    fetch(server.url, tmp_path / "f", md5=MD5)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_busy_or_silent_server_is_asked_again_and_another_no_is_final(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_TIMEOUT", 0.2)
    server.statuses, server.silent = iter([503, 429, 200]), True
    fetch(server.url, tmp_path / "f")
    assert len(server.asked) == 4
    server.statuses = iter([403])
    with pytest.raises(MissingFileError, match=r"\(403 Client Error: Forbidden for url: .*\)\. By hand"):
        fetch(server.url, tmp_path / "g")
    assert len(server.asked) == 5


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/f", "no address", "http://[", "ht\ntp://x", "file:///nowhere/at/all"])
def test_an_address_that_leads_nowhere_is_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(MissingFileError, match="f could not be fetched from"):
        fetch(url, tmp_path / "f")
    assert names_in(tmp_path) == []


def test_a_file_on_a_share_will_do_as_a_mirror(tmp_path: Path) -> None:
    (tmp_path / "mirror").write_bytes(CONTENT)
    fetch((tmp_path / "mirror").as_uri(), tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_full_disk_is_told_and_what_came_is_kept(server: Server, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    code = f"""
import resource, signal
from mdistiller_ext.fetch import fetch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    fetch({server.url!r}, {str(tmp_path / "f")!r})
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    told = f"[Errno {errno.EFBIG}] cannot write {tmp_path / 'f.part'}: {os.strerror(errno.EFBIG)}. What is there is kept"
    assert done.stdout.startswith(told)
    assert names_in(tmp_path) == ["f.part"]
    kept = (tmp_path / "f.part").stat().st_size
    fetch(server.url, tmp_path / "f", md5=MD5)
    assert server.asked == ["", f"bytes={kept}-"]


def test_those_who_start_together_fetch_once(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(server.url, tmp_path / "f"), kwargs={"md5": MD5}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert names_in(tmp_path) == ["f"]


# ---- archives -----------------------------------------------------------------------------------------------------

FILES = {"set/a.txt": b"a" * 3000, "set/deep/b": b"b", "set/deep/empty": b""}


def make_archive(path: Path, files: dict[str, bytes] = FILES) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("set/", b"")
            for name, content in files.items():
                zipped.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        folder = tarfile.TarInfo("set")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o4777
            tar.addfile(member, io.BytesIO(content))
    return path


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


KINDS = pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])


@KINDS
def test_an_archive_is_unpacked_and_leaves_what_else_is_there(tmp_path: Path, kind: str) -> None:
    archive = make_archive(tmp_path / f"set.{kind}")
    for _ in range(2):
        unpack(archive, tmp_path / "root")
        assert content_of(tmp_path / "root") == FILES
    (tmp_path / "root/set/mine").write_bytes(b"mine")
    (tmp_path / "root/set/a.txt").write_bytes(b"damaged")
    (tmp_path / "root/.set.zip.tmp").mkdir()  # left by one that was killed
    unpack(archive, tmp_path / "root")
    assert content_of(tmp_path / "root") == {**FILES, "set/mine": b"mine"}
    assert not stat.S_IMODE((tmp_path / "root/set/a.txt").stat().st_mode) & stat.S_ISUID


@KINDS
def test_an_archive_cut_anywhere_is_told_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    archive, root = make_archive(tmp_path / f"set.{kind}"), tmp_path / "root"
    content = archive.read_bytes()
    end = content.rstrip(b"\0") if kind == "tar" else content
    for length in {*range(0, len(end), 97), *range(0, len(end), 512), len(end) - 1}:
        archive.write_bytes(content[:length])
        with pytest.raises(
            CorruptFileError, match=rf"set\.{kind} \([\d,]+ bytes\) is damaged, cut short or no archive \(.+\)\. Del"
        ):
            unpack(archive, root)
        assert names_in(root) == []


@pytest.mark.parametrize(
    "name", ["../out", "set/../../out", "/out", "C:\\out", "\\out", "set\\..\\..\\out", "//host/share/out"]
)
@KINDS
def test_no_member_leads_out(tmp_path: Path, kind: str, name: str) -> None:
    archive = make_archive(tmp_path / f"set.{kind}", {"set/good": b"", name: b"evil"})
    with contextlib.suppress(CorruptFileError):  # some are refused, of others the leading part is dropped
        unpack(archive, tmp_path / "a" / "root")
    assert names_in(tmp_path / "a") == ["root"]
    assert names_in(tmp_path) == sorted(["a", archive.name])
    assert not Path("/out").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_that_lead_out_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("set")
    member.type, member.linkname = kind, ".."
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.addfile(member)
        tar.addfile(tarfile.TarInfo("set/file"))
    with pytest.raises(CorruptFileError, match="damaged, cut short or no archive \\('set'"):
        unpack(tmp_path / "set.tar", tmp_path / "root")
    assert names_in(tmp_path / "root") == []
    linked = zipfile.ZipInfo("set")
    linked.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as zipped:
        zipped.writestr(linked, "..")
    unpack(tmp_path / "set.zip", tmp_path / "root")
    assert not (tmp_path / "root/set").is_symlink()  # a file that holds the name


def test_a_zip_with_a_wrong_checksum_is_told(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "set.zip", {"set/a": os.urandom(1000)})
    content = bytearray(archive.read_bytes())
    content[500] ^= 1
    archive.write_bytes(content)
    with pytest.raises(CorruptFileError, match="is damaged"):
        unpack(archive, tmp_path / "root")


def test_ctrl_c_while_unpacking_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    archive = make_archive(tmp_path / "set.tar")
    monkeypatch.setattr("tarfile.copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "root")
    assert names_in(tmp_path / "root") == []


def test_a_folder_that_takes_no_files_is_told(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "set.tar")
    (tmp_path / "root").touch()
    with pytest.raises(OSError, match=f"cannot unpack {archive} into {tmp_path / 'root'}: Not a directory"):
        unpack(archive, tmp_path / "root")
    with pytest.raises(MissingFileError, match=f"archive not found: {tmp_path / 'no.tar'}"):
        unpack(tmp_path / "no.tar", tmp_path)


def test_an_archive_is_fetched_unpacked_and_removed(server: Server, tmp_path: Path) -> None:
    server.content = make_archive(tmp_path / "set.tar.gz").read_bytes()
    root = tmp_path / "root"
    there = (root / "set").exists
    fetch_archive(server.url, root / "set.tar.gz", there)
    assert names_in(root) == ["set"]
    fetch_archive(server.url, root / "set.tar.gz", there)
    assert len(server.asked) == 1
    with pytest.raises(CorruptFileError, match="does not hold what was expected"):
        fetch_archive(server.url, root / "set.tar.gz", lambda: False)
