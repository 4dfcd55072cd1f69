"""CIFAR-100: download, unpacking, and damaged files in one line."""

from __future__ import annotations

import functools
import hashlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mdistiller_ext.data import cifar100, create_loaders
from mdistiller_ext.data.augment import random_crop_flip
from mdistiller_ext.data.cifar100 import CIFAR100
from mdistiller_ext.errors import CorruptFileError, MissingFileError
from tests.support.cifar100 import Archive


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Such an archive, which is now taken for the real one; its address leads nowhere."""
    archive = Archive(tmp_path / "server")
    monkeypatch.setattr(cifar100, "MD5", hashlib.md5(archive.path.read_bytes()).hexdigest())
    monkeypatch.setattr(cifar100, "FILES", archive.md5)
    with socket.socket() as free:  # a port that nobody listens on
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(cifar100, "URL", f"http://127.0.0.1:{free.getsockname()[1]}/{archive.path.name}")
    return archive


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Serves a folder on this machine under CIFAR-100's address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    servers: list[http.server.ThreadingHTTPServer] = []

    def start(folder: Path) -> None:
        handler = functools.partial(Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/cifar-100-python.tar.gz"
        monkeypatch.setattr(cifar100, "URL", url)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def assert_holds(root: Path, archive: Archive) -> None:
    for (images, labels), name in zip(CIFAR100().load(root), ("train", "test"), strict=True):
        assert np.array_equal(images.numpy(), archive.pixels[name].reshape(-1, 3, 32, 32))
        assert images.is_contiguous()
        assert labels.tolist() == archive.labels[name]
    alone = CIFAR100()
    for tensor, expected in zip(alone.load_test(root), (images, labels), strict=True):
        assert torch.equal(tensor, expected)
    assert alone.classes == [str(n) for n in range(100)]


def test_the_files_are_those_that_torchvision_knows() -> None:
    from torchvision import datasets

    known = dict([*datasets.CIFAR100.train_list, *datasets.CIFAR100.test_list])
    assert known | {datasets.CIFAR100.meta["filename"]: datasets.CIFAR100.meta["md5"]} == cifar100.FILES


def test_cifar100_is_downloaded_once(tmp_path: Path, archive: Archive, serve: Callable[[Path], None]) -> None:
    serve(archive.path.parent)
    assert_holds(tmp_path, archive)
    archive.path.unlink()  # from here on the server has nothing to give
    assert_holds(tmp_path, archive)
    train, test = create_loaders("cifar100", root=tmp_path, batch_size=8, test_batch_size=4)
    assert (train.num_images, test.num_images, train.augment) == (20, 10, random_crop_flip)


def test_an_archive_fetched_by_hand_is_unpacked(tmp_path: Path, archive: Archive) -> None:
    (tmp_path / "mine").mkdir()
    archive.path.rename(tmp_path / "mine" / archive.path.name)
    assert_holds(tmp_path / "mine", archive)


def test_missing_and_unreachable_is_one_line_with_the_remedy(tmp_path: Path, archive: Archive) -> None:
    with pytest.raises(MissingFileError) as caught:
        CIFAR100().load(tmp_path / "data")
    message = str(caught.value)
    assert "\n" not in message
    assert f"not in {tmp_path}/data/cifar-100-python" in message
    assert "refused" in message
    assert f"curl -C - -L -o {tmp_path}/data/cifar-100-python.tar.gz http://127.0.0.1" in message


def test_half_a_download_is_no_data(tmp_path: Path, archive: Archive, serve: Callable[[Path], None]) -> None:
    half = tmp_path / "half"
    half.mkdir()
    data = archive.path.read_bytes()
    (half / archive.path.name).write_bytes(data[: len(data) // 2])
    serve(half)
    for _ in range(2):
        with pytest.raises(CorruptFileError, match=r"not in .*data/cifar-100-python: what came from .* MD5 hash .* not match"):
            CIFAR100().load(tmp_path / "data")
    serve(archive.path.parent)
    assert_holds(tmp_path / "data", archive)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_damaged_file_is_named(tmp_path: Path, archive: Archive, serve: Callable[[Path], None], name: str) -> None:
    serve(archive.path.parent)
    CIFAR100().load(tmp_path)
    damaged = tmp_path / "cifar-100-python" / name
    damaged.write_bytes(damaged.read_bytes()[:-10])
    with pytest.raises(CorruptFileError, match=f"{damaged} is damaged .* delete it and start again"):
        CIFAR100().load(tmp_path)
    damaged.unlink()
    assert_holds(tmp_path, archive)
