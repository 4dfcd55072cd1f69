"""``python -m mdistiller_ext.download``: from a mirror on this machine to files in their place."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdistiller_ext import download
from mdistiller_ext.errors import ConfigError, CorruptFileError, UnknownNameError
from tests.support.programs import ROOT
from tests.support.server import names_in


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["download", *map(str, arguments)])
    download.main()


def teacher(*, whole: bool = True) -> bytes:
    """A checkpoint as upstream wrote its teachers."""
    buffer = io.BytesIO()
    state = {"epoch": 240, "model": OrderedDict(w=torch.zeros(50)), "optimizer": {"lr": np.float64(0.0005)}}
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()[: None if whole else -20]


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


TEACHERS = {f"cifar_teachers/{name}_vanilla/ckpt_epoch_240.pth": teacher() for name in ("resnet56", "wrn_40_2")}


def test_the_known_archives_are_torchvisions() -> None:
    from torchvision import datasets

    source, reference = download.SOURCES["cifar100"](), datasets.CIFAR100
    assert (source.url, source.md5, source.folder) == (reference.url, reference.tgz_md5, reference.base_folder)
    assert source.url.endswith(reference.filename)


@pytest.mark.parametrize("what", ["cifar100", "tiny_imagenet"])
def test_a_data_set_comes_from_a_mirror_and_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    folder, mirror = download.SOURCES[what]().folder, tmp_path / ("m.zip" if what == "tiny_imagenet" else "m.tar.gz")
    if what == "tiny_imagenet":
        with zipfile.ZipFile(mirror, "w") as zipped:
            zipped.writestr(f"{folder}/wnids.txt", "n1")
    else:
        tar_of(mirror, {f"{folder}/meta": b"m"})
    root, url = tmp_path / "data", mirror.as_uri()
    for checksum in ([], ["--md5", "0" * 32]):
        with pytest.raises(CorruptFileError, match=r"MD5 hash of .* does not match"):
            run(monkeypatch, what, "--root", root, "--url", url, *checksum)
        assert names_in(root) == []
    run(monkeypatch, what, "--root", root, "--url", url, "--md5", hashlib.md5(mirror.read_bytes()).hexdigest())
    assert names_in(root) == [folder]
    assert "the archive is removed" in capsys.readouterr().out
    mirror.unlink()
    run(monkeypatch, what, "--root", root, "--url", url)
    assert f"{what}: {root / folder} is there already, nothing to do" in capsys.readouterr().out


def test_teachers_are_unpacked_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tar_of(tmp_path / "t.tar", TEACHERS)
    run(monkeypatch, "teachers", "--root", tmp_path / "ckpts", "--url", mirror.as_uri())
    assert all((tmp_path / "ckpts" / name).read_bytes() == content for name, content in TEACHERS.items())
    out = capsys.readouterr().out
    assert "teachers: no checksum is known; the length that the server tells and the structure of the archive are che" in out
    assert "teachers, each read safely: resnet56, wrn_40_2" in out


def test_an_archive_put_there_by_hand_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar_of(tmp_path / "cifar_teachers.tar", TEACHERS)
    run(monkeypatch, "teachers", "--root", tmp_path, "--url", "http://127.0.0.1:1/")
    assert names_in(tmp_path) == ["cifar_teachers"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cifar_teachers/a_vanilla/f.pth": teacher(whole=False)}, r"a_vanilla/f\.pth \([\d,]+ bytes\) is truncated"),
        ({"cifar_teachers/readme": b""}, "holds no teachers"),
        ({"elsewhere/a": b""}, r"cifar_teachers\.tar does not hold what was expected"),
    ],
)
def test_teachers_that_are_none_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], message: str
) -> None:
    mirror = tar_of(tmp_path / "t.tar", files)
    with pytest.raises(CorruptFileError, match=message):
        run(monkeypatch, "teachers", "--root", tmp_path / "ckpts", "--url", mirror.as_uri())


def test_imagenet_teachers_have_their_checksum_in_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = tmp_path / f"a-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    right.write_bytes(b"weights")
    wrong = tmp_path / "b-00000000.pth"
    wrong.write_bytes(b"weights")
    urls = {"A": right.as_uri(), "B": wrong.as_uri(), "C": None}
    monkeypatch.setattr(download, "pretrained_url", lambda name, dataset: urls[name])
    monkeypatch.setattr(download, "list_models", lambda dataset: ["A", "C"])
    root = tmp_path / "root"
    for before in (None, b"weights", b"damaged"):  # what lies there is kept if it is whole
        if before is not None:
            (root / right.name).write_bytes(before)
        run(monkeypatch, "imagenet_teachers", "--root", root)
        assert capsys.readouterr().out == f"A: {root / right.name}\n"
        assert (root / right.name).read_bytes() == b"weights"
    assert names_in(root) == [right.name]
    with pytest.raises(CorruptFileError, match="SHA256 hash does not match"):
        run(monkeypatch, "imagenet_teachers", "B", "--root", root)
    with pytest.raises(ConfigError, match="torchvision has no weights of C"):
        run(monkeypatch, "imagenet_teachers", "C", "--root", root)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar100", "resnet56"], "fetched whole; names belong to imagenet_teachers, got resnet56"),
        (["cifar100", "--md5", ""], r"takes an address of your own choice \(--url\)"),
        (["cifar100", "--url", "http://x", "--md5", "abc"], "an MD5 sum has 32 digits 0-9 a-f, got --md5 abc"),
        (["imagenet_teachers", "--url", "http://x"], "no --url or --md5"),
    ],
)
def test_arguments_that_make_no_sense_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(monkeypatch, *arguments, "--root", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_network_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ResNet34'"):
        run(monkeypatch, "imagenet_teachers", "resnet34", "--root", tmp_path)


def test_on_the_command_line_a_failure_is_one_line_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mdistiller_ext.download", "cifar100", "--root", tmp_path, "--url", "http://127.0.0.1:1/x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: cifar-100-python.tar.gz could not be fetched from http://127.0.0.1:1/x ([Errno ")
    assert f"curl -C - -L -o {tmp_path}/cifar-100-python.tar.gz http://127.0.0.1:1/x" in done.stderr
