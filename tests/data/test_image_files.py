"""Decoding image files: every mode becomes RGB, and a failure names the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from mdistiller_ext.data import image_files
from mdistiller_ext.data.image_files import read_image
from mdistiller_ext.errors import CorruptFileError, MissingFileError
from tests.support.images import create, write_image

COLOURS = np.random.default_rng(0).integers(256, size=(30, 40, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def by_pillow(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *[("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG")],
        *[("LA", "PNG"), ("RGBA", "WEBP"), ("P", "GIF"), ("RGB", "BMP"), ("I", "TIFF")],
    ],
)
def test_every_image_becomes_rgb_as_pillow_converts_it(mode: str, kind: str) -> None:
    content = encoded(Image.fromarray(COLOURS).convert(mode), kind)
    pixels = read_image("x", content)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (30, 40, 3))
    assert np.array_equal(pixels, by_pillow(content))


def test_jpeg_is_decoded_without_pillow_to_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({}, {"subsampling": 0, "quality": 60}, {"progressive": True}, {"restart_marker_blocks": 2}):
        content = encoded(Image.fromarray(COLOURS), "JPEG", **options)
        expected = by_pillow(content)
        with monkeypatch.context() as without:
            without.setattr(image_files, "_decode", None)
            assert np.array_equal(read_image("x", content), expected)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("PPM", {})])
def test_sixteen_bits_of_grey_keep_their_upper_eight(kind: str, options: dict[str, Any]) -> None:
    grey = np.random.default_rng(0).integers(2**16, size=(30, 40), dtype=np.uint16)
    pixels = read_image("x", encoded(Image.fromarray(grey), kind, **options))
    assert all(np.array_equal(pixels[..., channel], grey >> 8) for channel in range(3))


@pytest.mark.parametrize("values", [np.float32([[0.5]]), np.int32([[70000]]), np.int32([[-1]])])
def test_pixels_of_unknown_range_are_refused(values: Any) -> None:
    with pytest.raises(CorruptFileError, match="whose range is unknown; convert it to 8 bits"):
        read_image("x", encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 do not exist
def test_an_image_is_turned_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(COLOURS), kind, exif=exif)
    pixels = read_image("x", content)
    assert pixels.shape[:2] == ((40, 30) if orientation in (5, 6, 7, 8) else (30, 40))
    assert np.array_equal(pixels, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")))


def test_damage_to_exif_does_not_concern_the_pixels() -> None:
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "maker", 0x011A: 72.0, 0x8769: {0x9003: "2026:01:01 00:00:00", 0x829A: 0.5}})
    content = encoded(Image.fromarray(COLOURS), "JPEG", exif=exif)
    start, size = content.index(b"Exif") + 6, len(exif.tobytes())
    generator = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(content)
        for place in generator.integers(start, start + size - 6, 3):
            damaged[place] = generator.integers(256)
        assert read_image("x", bytes(damaged)).size == COLOURS.size


def test_a_palette_with_transparency_is_read_without_a_warning() -> None:
    content = encoded(Image.fromarray(COLOURS).quantize(16), "PNG", transparency=bytes(range(16)))
    with pytest.warns(UserWarning, match="Transparency"):
        expected = by_pillow(content)
    assert np.array_equal(read_image("x", content), expected)


def test_a_damaged_jpeg_is_refused_where_pillow_refuses_it() -> None:
    content = encoded(Image.fromarray(COLOURS), "JPEG")
    generator = np.random.default_rng(0)
    refused = 0
    for trial in range(400):
        damaged = bytearray(content)
        damaged[generator.integers(2, len(content))] ^= 1 << generator.integers(8)
        damaged = damaged[: generator.integers(2, len(content))] if trial % 4 == 0 else damaged
        try:
            expected = by_pillow(bytes(damaged))
        except Exception:
            refused += 1
            with pytest.raises(CorruptFileError):
                read_image("x", bytes(damaged))
        else:
            assert np.array_equal(read_image("x", bytes(damaged)), expected)
    assert 100 < refused < 400


def test_an_image_too_large_for_pillow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(CorruptFileError, match=r"Image size \(1200 pixels\) exceeds limit"):
        read_image("x", encoded(Image.fromarray(COLOURS), "JPEG"))


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
