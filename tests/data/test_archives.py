"""Data sets as their archives unpack: CUB-200, DTD, Food-101."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistiller_ext.data import dataset_entry
from mdistiller_ext.errors import ConfigError, ConfigWarning, CorruptFileError, MissingFileError
from tests.support.images import create, files_of, make_cub200, make_dtd, make_food101

ARCHIVES = {
    "cub2011": (
        make_cub200,
        ["cub2011/CUB_200_2011", "CUB_200_2011", "."],
        ["001.Albatross/Albatross_0001.jpg", "002.Jay/Jay_0000.jpg", "002.Jay/Jay_0001.jpg"],
        ["001.Albatross/Albatross_0000.jpg", "001.Albatross/Albatross_0002.jpg", "002.Jay/Jay_0002.jpg"],
        [0, 1, 1],
        [0, 0, 1],
        200,
    ),
    "food101": (
        make_food101,
        ["food101/food-101", "food-101", "."],
        ["apple_pie/001.jpg", "waffles/000.jpg", "waffles/002.jpg"],
        ["apple_pie/000.jpg", "waffles/001.jpg"],
        [0, 1, 1],
        [0, 1],
        101,
    ),
    "dtd": (
        make_dtd,
        ["dtd/dtd", "dtd", "."],
        ["banded/002.jpg", "zigzagged/002.jpg"],
        ["banded/001.jpg", "zigzagged/001.jpg"],
        [0, 1],
        [0, 1],
        47,
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_as_they_unpack(tmp_path: Path, name: str) -> None:
    make, folders, train_files, test_files, train_labels, test_labels, num_classes = ARCHIVES[name]
    for i, folder in enumerate(folders):
        make(tmp_path / str(i) / folder)
        roots = [(name, tmp_path / str(i))] + ([("folder", tmp_path / str(i))] if i else [])
        for dataset, root in roots:
            train, test = create(dataset, root=root, num_classes=2)
            assert (files_of(train), files_of(test)) == (train_files, test_files)
            assert (train.labels.tolist(), test.labels.tolist()) == (train_labels, test_labels)
    with pytest.warns(ConfigWarning, match=f"has 2 of {num_classes} classes"):
        create(name, root=tmp_path / "0")
    with pytest.raises(ConfigError, match="has 2 classes, not 1"):
        create(name, root=tmp_path / "0", num_classes=1)
    entry = dataset_entry(name)
    assert (entry.zoo, entry.num_classes, entry.students_start) == ("imagenet", num_classes, "pretrained")
    assert entry.teachers.format(lower="resnet34") == f"download_ckpts/{name}_teachers/resnet34/student_100.pth"
    with pytest.raises(MissingFileError, match=rf"is not there: looked for .* in {tmp_path}/absent/\S+ and .*Get it from http"):
        create(name, root=tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("cub2011", "classes.txt", "2 002.Jay\n", "classes must be numbered 1, 2, 3"),
        ("cub2011", "images.txt", "one image\n", "'one image' is not a number and a word"),
        ("cub2011", "train_test_split.txt", "1 1\n", "do not number the same images"),
        ("cub2011", "image_class_labels.txt", "".join(f"{i} 3\n" for i in range(1, 7)), "give image 1 class 3, split 0"),
        ("food101", "meta/test.txt", "pizza/000\n", "test.txt: 'pizza/000' is of none of the 2 classes"),
        ("dtd", "labels/train1.txt", "\xff", "is no text file"),
    ],
)
def test_damaged_lists_are_named(tmp_path: Path, name: str, file: str, content: str, message: str) -> None:
    ARCHIVES[name][0](tmp_path)
    (tmp_path / file).write_text(content, encoding="latin-1")
    with pytest.raises(CorruptFileError, match=message):
        create(name, root=tmp_path, num_classes=2)


def test_listed_images_that_are_missing_are_counted(tmp_path: Path) -> None:
    make_dtd(tmp_path)
    (tmp_path / "images/banded/001.jpg").unlink()
    with pytest.raises(MissingFileError, match=f"1 of 2 listed images are missing, such as {tmp_path}/images/banded/001.jpg"):
        create("dtd", root=tmp_path, num_classes=2)
