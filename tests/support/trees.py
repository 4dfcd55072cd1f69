"""A small tree of image files and changes to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from mdistiller_ext.data import DataIdentity
from tests.support.images import create, write_classes, write_image


def write_tree(root: Path) -> Path:
    write_classes(root / "train", dict.fromkeys(("bird", "cat", "dog"), 4))
    write_classes(root / "val", dict.fromkeys(("bird", "cat", "dog"), 2))
    return root


def identity_of(root: Path, name: str = "folder") -> DataIdentity:
    train, test = create(name, root=root)
    assert train.identity is test.identity
    assert train.identity is not None
    return train.identity


def rename_class(root: Path, old: str = "bird", new: str = "parrot") -> None:
    for part in root.iterdir():
        (part / old).rename(part / new)


def add_training_image(root: Path) -> None:
    write_image(root / "train/cat/009.jpg")


def rename_test_image(root: Path) -> None:
    (root / "val/cat/000.jpg").rename(root / "val/cat/100.jpg")


def move_test_image(root: Path) -> None:
    """Of as many images in all, one is of another class."""
    (root / "val/cat/001.jpg").rename(root / "val/dog/002.jpg")


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (rename_class, "missing classes bird; new classes parrot"),
    (lambda root: [shutil.rmtree(root / part / "cat") for part in ("train", "val")], "missing classes cat"),
    (add_training_image, "train images 12 -> 13"),
    (rename_test_image, "test images 6, but not the same (SHA-256 "),
    (move_test_image, "test images 6, but not the same (SHA-256 "),
]
