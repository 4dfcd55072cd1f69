"""Files that are often taken for checkpoints are reported by their kind."""

from __future__ import annotations

import argparse
import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mdistiller_ext import checkpoint
from mdistiller_ext.errors import CorruptFileError


def zip_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr(name, "content")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer.*`git lfs pull`"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        (b"<HTML><body>Please log in", "web page"),
        (gzip.compress(b"weights", mtime=0), "archive: unpack it"),
        (tarfile.TarInfo("cifar_teachers/").tobuf() + bytes(1024), "archive: unpack it"),
        (zip_of("a/b.pth"), "zip archive without a checkpoint of its own: unpack it"),
        (zip_of("net/constants.pkl"), "TorchScript program, which was not loaded"),
        (b"\x80\0\0\0\0\0\0\0" + b'{"w":{"dtype":"F32"}}', "safetensors file.*safetensors.torch.load_file"),
        (b"\n", "text file, not a checkpoint"),
        ("SOLVER:\n  LR: 0.1 # \u00b5\n".encode(), "text file, not a checkpoint"),
        (b"\xc3\xa9" * 4000 + b"x", "text file, not a checkpoint"),
        (b"x" * 4095 + b"\xc3\xa9", "text file, not a checkpoint"),  # where its kind is read ends within a character
        *(
            (pickle.dumps(content, protocol=protocol), "pickle that could run code, and was not loaded")
            for protocol in (2, 4)
            for content in ({"w": np.zeros(3)}, {"w": 1.0}, argparse.Namespace())
        ),
    ],
)
def test_what_is_often_saved_as_a_checkpoint_is_told_by_its_name(tmp_path: Path, content: bytes, hint: str) -> None:
    path = tmp_path / "f.pth"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=rf"^{path} \({len(content):,} bytes\) is an? {hint}[^\n]*$") as caught:
        checkpoint.load(path)
    assert "Delete" not in str(caught.value)


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(CorruptFileError, match=rf"^{tmp_path}/f \(0 bytes\) is empty\. Delete it and get it anew$"):
        checkpoint.load(tmp_path / "f")
