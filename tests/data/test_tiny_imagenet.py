"""Tiny-ImageNet as its archive unpacks, small: labels, both layouts of val/, pixels, and every fault in one line."""

from __future__ import annotations

import functools
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mdistiller_ext.data import create_loaders, create_plain_loader, dataset_entry
from mdistiller_ext.data.augment import random_rotate_flip
from mdistiller_ext.data.tiny_imagenet import TinyImageNet, tiny_imagenet_samples
from mdistiller_ext.errors import ConfigWarning, CorruptFileError, MissingFileError
from tests.support.images import create, files_of, write_image


def test_tiny_imagenet_at_224(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-imagenet-200"
    wnids = [f"n{i:08}" for i in range(200)]
    annotations = []
    for i, wnid in enumerate(wnids):
        write_image(folder / f"train/{wnid}/images/{wnid}_0.JPEG", size=(64, 64))
        write_image(folder / f"val/images/val_{199 - i}.JPEG", size=(64, 64))
        annotations.append(f"val_{199 - i}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (folder / "wnids.txt").write_text("\n".join(reversed(wnids)))
    (folder / "val/val_annotations.txt").write_text("".join(annotations))
    train, test = create("tiny-imagenet", root=tmp_path, image_size=0, limit=3)
    assert (train.num_classes, train.image_shape, dataset_entry("tiny-imagenet").zoo) == (200, (3, 224, 224), "imagenet")
    assert files_of(test) == ["images/val_199.JPEG", "images/val_198.JPEG", "images/val_197.JPEG"]
    assert train.labels.tolist() == test.labels.tolist() == [0, 1, 2]
    shutil.rmtree(folder / "train")
    alone = create_plain_loader("tiny-imagenet", root=tmp_path, batch_size=4, num_workers=0, limit=3)
    assert (files_of(alone), alone.image_shape) == (files_of(test), (3, 224, 224))  # type: ignore[arg-type]


WNIDS = [f"n{7 * n:08d}" for n in range(200)]  # sorted
IN_TRAIN, IN_VAL = 2, 1  # images of a class


def jpeg(rng: np.random.Generator, mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> bytes:
    pixels = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).convert(mode).save(buffer, "jpeg")
    return buffer.getvalue()


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the archive unpacks to, with its scrambled wnids.txt, boxes and unlabelled test images."""
    root = tmp_path_factory.mktemp("stock")
    folder = root / "tiny-imagenet-200"
    rng = np.random.default_rng(0)
    write(folder / "wnids.txt", "".join(f"{WNIDS[i]}\n" for i in rng.permutation(200)))
    write(folder / "words.txt", "".join(f"{wnid}\tthing, object\n" for wnid in WNIDS))
    for n, wnid in enumerate(WNIDS):
        for i in range(IN_TRAIN):
            write(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", jpeg(rng, "L" if n % 50 == 3 else "RGB"))
        write(folder / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
    lines = []
    for i, n in enumerate(rng.permutation(np.repeat(np.arange(200), IN_VAL))):
        write(folder / "val" / "images" / f"val_{i}.JPEG", jpeg(rng))
        lines.append(f"val_{i}.JPEG\t{WNIDS[n]}\t0\t32\t44\t62\n")
    write(folder / "val" / "val_annotations.txt", "".join(lines))
    write(folder / "test" / "images" / "test_0.JPEG", jpeg(rng))
    return root


@pytest.fixture
def own(stock: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil: the folder tiny-imagenet-200, in ``tmp_path``."""
    return Path(shutil.copytree(stock / "tiny-imagenet-200", tmp_path / "tiny-imagenet-200"))


@pytest.fixture(scope="module")
def splits(stock: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return TinyImageNet().load(stock)


def sort_val(folder: Path, inner: str) -> None:
    """What the usual scripts do to val/: images moved to folders of their classes, annotations left or removed."""
    for line in (folder / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        target = folder / "val" / wnid / inner
        target.mkdir(parents=True, exist_ok=True)
        (folder / "val" / "images" / name).rename(target / name)
    (folder / "val" / "images").rmdir()


def test_labels_are_those_of_torchvisions_image_folder(stock: Path) -> None:
    from torchvision.datasets import ImageFolder

    theirs = ImageFolder(stock / "tiny-imagenet-200" / "train")
    train, val, wnids = tiny_imagenet_samples(stock)
    assert wnids == WNIDS == theirs.classes
    assert [(str(path), label) for path, label in train] == theirs.samples
    assert len(val) == 200 * IN_VAL


def test_stock_val_is_read_by_its_annotations_not_as_one_class(stock: Path) -> None:
    from torchvision.datasets import ImageFolder

    assert ImageFolder(stock / "tiny-imagenet-200" / "val").classes == ["images"]  # upstream's reading: all are class 0
    _, val, wnids = tiny_imagenet_samples(stock)
    found = {path.name: wnids[label] for path, label in val}
    lines = (stock / "tiny-imagenet-200" / "val" / "val_annotations.txt").read_text().splitlines()
    assert found == {line.split("\t")[0]: line.split("\t")[1] for line in lines}
    assert torch.bincount(torch.tensor([label for _, label in val])).tolist() == [IN_VAL] * 200


def test_pixels_are_pils_and_grey_images_have_three_channels(
    stock: Path, splits: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> None:
    for (images, labels), samples in zip(splits, tiny_imagenet_samples(stock)[:2], strict=True):
        assert (images.dtype, images.shape) == (torch.uint8, (len(samples), 3, 64, 64))
        assert labels.tolist() == [label for _, label in samples]
        for image, (path, _) in zip(images, samples, strict=True):
            with Image.open(path) as expected:
                assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(expected.convert("RGB"))), path
    grey = splits[0][0][3 * IN_TRAIN]
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])


@pytest.mark.parametrize("inner", ["", "images"])
def test_val_sorted_into_classes_is_the_same_data(
    own: Path, inner: str, splits: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> None:
    sort_val(own, inner)
    shutil.rmtree(own / "train")
    data = TinyImageNet()
    images, labels = data.load_test(own.parent)
    assert torch.equal(images, splits[1][0])
    assert torch.equal(labels, splits[1][1])
    assert data.classes == WNIDS


def test_the_root_may_be_the_folder_itself_and_train_without_inner_folders(stock: Path, own: Path) -> None:
    for wnid in WNIDS:
        for image in (own / "train" / wnid / "images").iterdir():
            image.rename(own / "train" / wnid / image.name)
        (own / "train" / wnid / "images").rmdir()
    expected = tiny_imagenet_samples(stock)
    for root in (own, own.parent):
        for ours, theirs in zip(tiny_imagenet_samples(root)[:2], expected[:2], strict=True):
            assert [(path.name, label) for path, label in ours] == [(path.name, label) for path, label in theirs]


def test_it_is_served_normalised_and_augmented_as_upstream_does(stock: Path) -> None:
    train, test = create_loaders("tiny_imagenet", root=stock, batch_size=50, test_batch_size=50, limit=100, cache=False)
    assert (train.num_images, test.num_images, train.image_shape) == (100, 100, (3, 64, 64))
    assert train.augment is random_rotate_flip
    assert train.labels.tolist() == test.labels.tolist() == list(range(100))
    images, _ = next(iter(test))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)))
    torch.testing.assert_close(images, (test.images[:50] / 255 - mean) / std)


def test_a_second_start_is_the_same_without_decoding(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = functools.partial(create_loaders, "tiny_imagenet", root=own.parent, batch_size=50, test_batch_size=50)
    plain = create(cache=False)
    assert not list(own.glob("*.cache"))
    with pytest.warns(ConfigWarning, match=f"decoded images are kept in {own} "):
        first = create()
    monkeypatch.delattr("mdistiller_ext.data.tiny_imagenet.read_image")
    for loaders in (first, create()):
        for ours, expected in zip(loaders, plain, strict=True):
            assert torch.equal(ours.images, expected.images)
            assert torch.equal(ours.labels, expected.labels)
            assert ours.identity == expected.identity


def test_no_bar_where_the_output_is_no_terminal(stock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TinyImageNet().load(stock)
    assert capsys.readouterr() == ("", "")


def test_missing_data_is_one_line_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError) as caught:
        TinyImageNet().load(Path("data"))
    message = str(caught.value)
    assert "\n" not in message
    assert f"not in {tmp_path}/data/tiny-imagenet-200" in message
    assert "-m mdistiller_ext.download tiny_imagenet --root data," in message
    assert "http://cs231n.stanford.edu/tiny-imagenet-200.zip" in message


def spoil_annotation(old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "val" / "val_annotations.txt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return spoil


def last_annotation_lost(folder: Path) -> None:
    path = folder / "val" / "val_annotations.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def half_sorted(folder: Path) -> None:
    sort_val(folder, "")
    shutil.rmtree(folder / "val" / WNIDS[5])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_annotation("val_7.JPEG", "val_7000.JPEG"), r"val_annotations.txt \(line 8\) names an image 'val_7000.JPEG'"),
        (spoil_annotation(WNIDS[9], "n99"), r"val_annotations.txt \(line \d+\) names a class 'n99' .* not in wnids.txt"),
        (spoil_annotation("\t", " "), r"val_annotations.txt \(line 1\) names an image 'val_0.JPEG n\d+'"),
        (last_annotation_lost, "val_annotations.txt names no class of 1 images, such as val_199.JPEG"),
        (lambda folder: (folder / "val" / "val_annotations.txt").unlink(), "val holds neither folders of classes nor"),
        (half_sorted, f"val holds no image of class {WNIDS[5]}"),
        (lambda folder: shutil.rmtree(folder / "train" / WNIDS[3]), f"train holds no image of class {WNIDS[3]}"),
        (lambda folder: shutil.rmtree(folder / "train" / WNIDS[3] / "images"), f"no image of class {WNIDS[3]}"),
        (lambda folder: (folder / "wnids.txt").write_text(""), "wnids.txt names 0 classes instead of 200"),
    ],
)
def test_a_part_that_is_missing_is_named(own: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(own)
    with pytest.raises(CorruptFileError, match=f"{own}.*{message}.*unpack .*tiny-imagenet-200.zip anew"):
        tiny_imagenet_samples(own.parent)


def test_only_files_are_images(own: Path) -> None:
    expected = tiny_imagenet_samples(own.parent)
    os.mkfifo(own / "train" / WNIDS[0] / "images" / "pipe.JPEG")
    (own / "val" / "images" / "folder.JPEG").mkdir()
    assert tiny_imagenet_samples(own.parent) == expected


def test_a_part_of_the_classes_will_do(own: Path) -> None:
    (own / "wnids.txt").write_text("\n".join(WNIDS[:2]))
    (own / "val" / "val_annotations.txt").unlink()
    for number, wnid in enumerate(WNIDS[:2]):
        (own / "val" / wnid).mkdir()
        (own / "val" / "images" / f"val_{number}.JPEG").rename(own / "val" / wnid / "val.JPEG")
    with pytest.warns(ConfigWarning, match="has 2 of 200 classes"):
        train, val, wnids = tiny_imagenet_samples(own.parent)
    assert wnids == WNIDS[:2]
    assert [label for _, label in val] == [0, 1]
    assert {label for _, label in train} == {0, 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is no readable image \(it is of no known format\)"),
        (b"<html>", r"is no readable image \(it is of no known format\)"),
        (jpeg(np.random.default_rng(0))[:-200], r"is no readable image \(image file is truncated"),
        (jpeg(np.random.default_rng(0), size=(65, 64)), "is 65x64 pixels instead of 64x64"),
    ],
)
def test_a_damaged_image_is_named(own: Path, content: bytes, message: str) -> None:
    spoilt = own / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_1.JPEG"
    spoilt.write_bytes(content)
    with pytest.raises(CorruptFileError, match=f"{spoilt} {message}") as caught:
        TinyImageNet().load(own.parent)
    assert "\n" not in str(caught.value)
