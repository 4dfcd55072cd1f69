"""The glyphs: deterministic, balanced, cached."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mdistiller_ext.data import create_loaders
from mdistiller_ext.data.glyphs import Glyphs, HardGlyphs
from mdistiller_ext.data.rendering import CHARACTERS, FACES, Rendering, render


@pytest.mark.parametrize("kind", [Glyphs, HardGlyphs])
def test_glyphs_are_deterministic_balanced_and_new_for_every_seed(kind: type[Glyphs]) -> None:
    images, labels = render(kind.rendering, 400, seed=0)
    again, labels_again = render(kind.rendering, 400, seed=0)
    other, _ = render(kind.rendering, 400, seed=1)
    assert (images.dtype, images.shape, labels.dtype) == (torch.uint8, (400, 3, 32, 32), torch.int64)
    assert torch.equal(images, again)
    assert torch.equal(labels, labels_again)
    assert torch.bincount(labels).tolist() == [4] * 100
    assert not torch.equal(images, other)


def test_there_are_100_characters_and_every_face_has_them() -> None:
    import matplotlib
    from matplotlib.ft2font import FT2Font

    assert len(set(CHARACTERS)) == len(CHARACTERS) == Glyphs.num_classes == 100
    for face in FACES:
        characters = FT2Font(f"{matplotlib.get_data_path()}/fonts/ttf/{face}.ttf").get_charmap()
        assert all(ord(character) in characters for character in CHARACTERS), face


def test_glyphs_are_cached_and_a_damaged_cache_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = create_loaders("glyphs", root=tmp_path, batch_size=500, test_batch_size=500)
    assert (first[0].num_images, first[1].num_images) == (10_000, 2_000)
    files = sorted((tmp_path / "glyphs").iterdir())
    assert [file.suffix for file in files] == [".pt", ".pt"]  # and no temporary file is left

    pixels = first[0].images.float().div(255).transpose(0, 1).flatten(1)
    torch.testing.assert_close(pixels.mean(1), torch.tensor(Glyphs.mean), atol=1e-3, rtol=0)
    torch.testing.assert_close(pixels.std(1), torch.tensor(Glyphs.std), atol=1e-3, rtol=0)

    whole = files[1].read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no archive at all"):
        files[1].write_bytes(damaged)
        healed = Glyphs().load(tmp_path)
        assert torch.equal(healed[1][0], first[1].images)
        assert files[1].read_bytes() == whole

    def fail(rendering: Rendering, count: int, seed: int) -> None:
        raise AssertionError("the cache was not used")

    monkeypatch.setattr("mdistiller_ext.data.glyphs.render", fail)
    (images, labels), _ = Glyphs().load(tmp_path)
    assert torch.equal(images, first[0].images)
    assert torch.equal(labels, first[0].labels)


def test_hard_glyphs_are_normalized_by_their_own_constants(tmp_path: Path) -> None:
    train, test = create_loaders("glyphs_hard", root=tmp_path, batch_size=500, test_batch_size=500)
    assert (train.num_images, test.num_images) == (10_000, 4_000)
    pixels = train.images.float().div(255).transpose(0, 1).flatten(1)
    torch.testing.assert_close(pixels.mean(1), torch.tensor(HardGlyphs.mean), atol=1e-3, rtol=0)
    torch.testing.assert_close(pixels.std(1), torch.tensor(HardGlyphs.std), atol=1e-3, rtol=0)


def test_glyphs_need_no_writable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdistiller_ext.data.glyphs.render", lambda rendering, count, seed: render(rendering, 100, seed))
    (tmp_path / "file").touch()
    (images, _), _ = Glyphs().load(tmp_path / "file")  # no folder can be made below a file, whoever asks
    assert len(images) == 100
