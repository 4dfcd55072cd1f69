"""Decoding image files: every mode becomes RGB, and a failure names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mdistiller_ext.data.image_files import read_image
from mdistiller_ext.errors import CorruptFileError, MissingFileError
from tests.support.images import create, write_image


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "1"])
def test_every_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.jpg" if mode in ("L", "CMYK") else "x.png")
    write_image(path, mode)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (40, 30))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_one_line_that_names_it(tree: Path, workers: int) -> None:
    damaged = tree / "train/b/002.jpg"
    whole = damaged.read_bytes()
    train, _ = create("folder", root=tree, num_workers=workers)
    for content in (b"", whole[: len(whole) // 2], b"no image at all"):
        damaged.write_bytes(content)
        with pytest.raises(CorruptFileError) as caught:
            list(train)
        assert str(caught.value).startswith(f"{damaged} is no readable image (")
        assert "\n" not in str(caught.value)
    damaged.unlink()
    with pytest.raises(MissingFileError, match=f"{damaged} is gone"):
        list(train)
    train.close()  # type: ignore[union-attr]


@pytest.mark.parametrize("error", [ValueError("one\ntwo"), EOFError(), IndexError("bytes"), MemoryError()])
def test_whatever_a_decoder_raises_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any) -> None:
        raise error

    write_image(tmp_path / "x.png")
    monkeypatch.setattr(Image.Image, "convert", fail)
    for content in (None, (tmp_path / "x.png").read_bytes()):
        with pytest.raises(CorruptFileError, match=rf"^{tmp_path}/x\.png is no readable image \(") as caught:
            read_image(tmp_path / "x.png", content)
        assert "\n" not in str(caught.value)
