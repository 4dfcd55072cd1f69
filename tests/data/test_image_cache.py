"""The cache of decoded images: a second start does not decode, and no fault or change leads to other images."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mdistiller_ext.data import image_cache
from mdistiller_ext.data.base import Samples, Split
from mdistiller_ext.data.identity import SplitIdentity
from mdistiller_ext.errors import ConfigWarning
from tests.support.programs import ROOT

SHAPE = (3, 4, 4)


def make(folder: Path) -> Samples:
    """Six files, whose bytes are images."""
    folder.mkdir(exist_ok=True)
    samples = [(folder / f"{i}.jpg", i % 3) for i in range(6)]
    for i, (path, _) in enumerate(samples):
        path.write_bytes(bytes(range(i, i + 48)))
    return samples


def read(samples: Samples) -> Split:
    pixels = [torch.frombuffer(bytearray(path.read_bytes()[:48]), dtype=torch.uint8).view(SHAPE) for path, _ in samples]
    return torch.stack(pixels), torch.tensor([label for _, label in samples])


def cached(samples: Samples) -> tuple[Split, bool]:
    """The split, and whether it was read from its files; its identity is checked."""
    reads = []

    def and_count() -> Split:
        reads.append(1)
        return read(samples)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        split, identity = image_cache.cached_split(samples[0][0].parent / "train.cache", samples, SHAPE, and_count)
    assert identity == SplitIdentity.of_tensors(split)
    assert all(map(torch.equal, split, read(samples)))
    return split, bool(reads)


def test_a_second_start_does_not_decode_and_gives_the_same(tmp_path: Path) -> None:
    samples = make(tmp_path)
    with pytest.warns(ConfigWarning, match=f"decoded images are kept in {tmp_path} .*DATASET.CACHE False does without"):
        image_cache.cached_split(tmp_path / "train.cache", samples, SHAPE, lambda: read(samples))
    (images, _), was_read = cached(samples)
    assert not was_read
    images.zero_()  # of this process alone
    assert not cached(samples)[1]


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        *(lambda path, size=size: cut(path, size) for size in (0, 10, 4096, 4096 + 6 * 48 - 1)),
        # Both hashes, padding, first and last pixel.
        *(lambda path, position=position: flip(path, position) for position in (30, 110, 4000, 4096, -1)),
        lambda path: path.write_text("<html>" * 1000),
        lambda path: path.unlink(),
    ],
)
def test_a_damaged_file_is_replaced(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    samples = make(tmp_path)
    assert cached(samples)[1]
    spoil(tmp_path / "train.cache")
    assert cached(samples)[1]
    assert not cached(samples)[1]


def other_content(samples: Samples) -> Samples:
    path = samples[2][0]
    before = path.stat()
    path.write_bytes(bytes(48))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    return samples


def other_size(samples: Samples) -> Samples:
    path = samples[2][0]
    before = path.stat()
    path.write_bytes(bytes(49))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return samples


def other_name(samples: Samples) -> Samples:
    path, label = samples[2]
    return [*samples[:2], (path.rename(path.with_name("new.jpg")), label), *samples[3:]]


@pytest.mark.parametrize(
    "change",
    [
        other_content,
        other_size,
        other_name,
        lambda samples: samples[1:],
        lambda samples: samples[::-1],
        lambda samples: [*samples[:-1], (samples[-1][0], 0)],
    ],
)
def test_a_changed_data_set_is_read_anew(tmp_path: Path, change: Callable[[Samples], Samples]) -> None:
    samples = make(tmp_path)
    cached(samples)
    samples = change(samples)
    assert cached(samples)[1]
    assert not cached(samples)[1]


def test_another_decoder_reads_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = make(tmp_path)
    cached(samples)
    monkeypatch.setattr(image_cache, "DECODER", "another")
    assert cached(samples)[1]


def test_the_folder_may_move(tmp_path: Path) -> None:
    samples = make(tmp_path / "a")
    cached(samples)
    (tmp_path / "a").rename(tmp_path / "b")
    assert not cached([(tmp_path / "b" / path.name, label) for path, label in samples])[1]


def test_a_folder_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    samples = make(tmp_path)
    (tmp_path / "train.cache").mkdir()  # a folder in the way: permissions do not hold for root
    with pytest.warns(ConfigWarning, match=rf"cannot be kept in {tmp_path} \(Is a directory\): every start decodes them anew"):
        split, _ = image_cache.cached_split(tmp_path / "train.cache", samples, SHAPE, lambda: read(samples))
    assert torch.equal(split[0], read(samples)[0])
    assert not list(tmp_path.glob(".*"))  # no temporary file is left


def test_processes_may_write_at_once(tmp_path: Path) -> None:
    """Three processes read and replace one file; ``cached`` checks every image."""
    make(tmp_path)
    code = (
        "import sys; from pathlib import Path; from tests.data.test_image_cache import cached\n"
        "folder = Path(sys.argv[1]); samples = [(folder / f'{i}.jpg', i % 3) for i in range(6)]\n"
        "for turn in range(60):\n"
        "    cached(samples)\n"
        "    if turn % 3 == 0: (folder / 'train.cache').unlink(missing_ok=True)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert not list(tmp_path.glob(".*"))
