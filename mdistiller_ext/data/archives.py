"""Data sets whose archives contain lists of their files: CUB-200-2011, Food-101, DTD. Read as the archives unpack."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CorruptFileError, MissingFileError
from .base import Samples
from .class_folders import Found, class_folders


@dataclass(frozen=True)
class Archive:
    """Layout of an unpacked archive.

    Attributes:
        title: name in messages.
        folders: possible locations below the root, in search order; the root itself is "".
        marks: files and folders that identify it.
        read: folder -> samples and classes.
        source: where to get it, for messages.
    """

    title: str
    folders: tuple[str, ...]
    marks: tuple[str, ...]
    read: Callable[[Path], Found]
    source: str

    def find(self, root: Path) -> Path | None:
        """Return the folder that contains the data set, or None."""
        for folder in self.folders:
            if all((root / folder / mark).exists() for mark in self.marks):
                return root / folder
        return None

    def load(self, root: Path) -> Found:
        """List the data set, at any of its locations below ``root``. Raises MissingFileError or CorruptFileError."""
        folder = self.find(root)
        if folder is None:
            raise MissingFileError(
                f"{self.title} is not there: looked for {', '.join(self.marks)} in "
                f"{' and '.join(str((root / folder).absolute()) for folder in self.folders)}. "
                f"Get it from {self.source} and unpack it in {root.absolute()}, or point DATASET.ROOT at it"
            )
        return self.read(folder)


def read_cub200(folder: Path) -> Found:
    """CUB-200-2011: `images.txt`, `image_class_labels.txt`, `train_test_split.txt` and `classes.txt`, all numbered from 1."""
    classes = _numbered(folder / "classes.txt")
    images, labels, is_train = (
        _numbered(folder / name) for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt")
    )
    if list(classes) != list(range(1, len(classes) + 1)):
        raise CorruptFileError(f"{(folder / 'classes.txt').absolute()}: classes must be numbered 1, 2, 3 ...")
    if not images.keys() == labels.keys() == is_train.keys():
        raise CorruptFileError(f"the lists in {folder.absolute()} do not number the same images; unpack the archive again")
    number = {str(i): i for i in classes}
    train: Samples = []
    test: Samples = []
    for i, path in images.items():
        if labels[i] not in number or is_train[i] not in ("0", "1"):
            raise CorruptFileError(f"the lists in {folder.absolute()} give image {i} class {labels[i]}, split {is_train[i]}")
        (train if is_train[i] == "1" else test).append((folder / "images" / path, number[labels[i]] - 1))
    return _present(train), _present(test), list(classes.values())


def read_food101(folder: Path) -> Found:
    """Food-101: `meta/train.txt` and `meta/test.txt` list `<class>/<number>`, without the extension."""
    classes = sorted(_lines(folder / "meta/classes.txt"))
    train, test = (_listed(folder, f"meta/{split}.txt", classes, suffix=".jpg") for split in ("train", "test"))
    return train, test, classes


def read_dtd(folder: Path) -> Found:
    """DTD, partition 1 of its 10: `labels/train1.txt` and `test1.txt`. `val1.txt` stays unused, as in GDKD."""
    classes = class_folders(folder / "images")
    train, test = (_listed(folder, f"labels/{split}1.txt", classes) for split in ("train", "test"))
    return train, test, classes


def _listed(folder: Path, name: str, classes: Sequence[str], suffix: str = "") -> Samples:
    """Read a list of ``<class>/<image>``, relative to ``folder/images``."""
    label = {name: i for i, name in enumerate(classes)}
    samples: Samples = []
    for line in _lines(folder / name):
        if line.split("/")[0] not in label:
            raise CorruptFileError(f"{(folder / name).absolute()}: '{line}' is of none of the {len(classes)} classes")
        samples.append((folder / "images" / f"{line}{suffix}", label[line.split("/")[0]]))
    return _present(samples)


def _present(samples: Samples) -> Samples:
    """Return ``samples``. Raises MissingFileError if files are missing: now rather than in the middle of an epoch."""
    absent = [path for path, _ in samples if not os.path.isfile(path)]
    if absent:
        missing = f"{len(absent)} of {len(samples)} listed images are missing, such as {Path(absent[0]).absolute()}"
        raise MissingFileError(f"{missing}; unpack them again")
    return samples


def _numbered(path: Path) -> dict[int, str]:
    """Read a file of lines ``<number> <text>``."""
    table: dict[int, str] = {}
    for line in _lines(path):
        number, _, text = line.partition(" ")
        if not number.isdecimal() or not text:
            raise CorruptFileError(f"{path.absolute()}: '{line}' is not a number and a word; unpack the archive again")
        table[int(number)] = text
    return table


def _lines(path: Path) -> list[str]:
    """Read the lines of a text file that are not blank."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingFileError(f"{path.absolute()} is missing; unpack the archive again") from error
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path.absolute()} is no text file ({error}); unpack the archive again") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


CUB200 = Archive(
    "CUB-200-2011",
    ("cub2011/CUB_200_2011", "CUB_200_2011", ""),
    ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt", "images"),
    read_cub200,
    "https://data.caltech.edu/records/65de6-vp158 (CUB_200_2011.tgz)",
)
FOOD101 = Archive(
    "Food-101",
    ("food101/food-101", "food-101", ""),
    ("images", "meta/train.txt", "meta/test.txt", "meta/classes.txt"),
    read_food101,
    "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
)
DTD = Archive(
    "DTD",
    ("dtd/dtd", "dtd", ""),
    ("images", "labels/train1.txt", "labels/test1.txt"),
    read_dtd,
    "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
)
