"""How trees of image files lie on the disk, and what they say: folder -> training samples, test samples, class names.

Every reader takes the files as the original archive unpacks. Names are sorted before anything is made of their order, which
the operating system leaves open; hidden files (``._x.jpg``, ``__MACOSX``) are passed over. Links are followed, but not in
circles, and one that leads nowhere is an error. No image is opened here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CorruptFileError, MissingFileError
from .base import Samples

TestFound = tuple[Samples, list[str]]
"""Test samples and the names of the classes, label by label"""

Found = tuple[Samples, Samples, list[str]]
"""Training samples, test samples and the names of the classes, label by label"""

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder's


# ---- folders of classes -----------------------------------------------------------------------------------------------


def read_split_folders(train: Path, test: Path, sort_hint: str) -> Found:
    """Two trees, ``<class>/.../<image>``, of the same classes.

    Args:
        sort_hint: what to do about a test folder whose images lie in no class folders; the end of a sentence.

    Raises MissingFileError if class folders or images are missing, CorruptFileError if the two trees differ in classes.
    """
    classes, test_classes = _class_folders(train), _test_class_folders(test, sort_hint)
    if test_classes != classes:
        only_train, only_test = sorted(set(classes) - set(test_classes)), sorted(set(test_classes) - set(classes))
        differences = [
            f"{_some(names)} only in {side.name}/" for names, side in ((only_train, train), (only_test, test)) if names
        ]
        raise CorruptFileError(
            f"the class folders of {train.absolute()} ({len(classes)}) and {test.absolute()} ({len(test_classes)}) "
            f"are not the same: {'; '.join(differences)}"
        )
    return _samples_below(train, classes), _samples_below(test, classes), classes


def read_test_folder(test: Path, sort_hint: str) -> TestFound:
    """The test tree of `read_split_folders` alone: its class folders are all classes."""
    classes = _test_class_folders(test, sort_hint)
    return _samples_below(test, classes), classes


def read_single_tree(folder: Path, test_fraction: float) -> Found:
    """One tree, ``<class>/.../<image>``: a share of every class is the test set, and at least one image of each stays to train.

    Which images these are follows from the names alone (the order of their hashes), so it is the same on every machine and
    in every version, and hardly changes when images are added. Raises MissingFileError for a class without images, or if no
    class has two.
    """
    train: Samples = []
    test: Samples = []
    classes = class_folders(folder)
    for label, name in enumerate(classes):
        files = _images_below(folder, name)
        held_out = min(max(round(test_fraction * len(files)), 1), len(files) - 1)

        def by_hash(file: Path, of_class: Path = folder / name) -> bytes:
            return hashlib.sha256(os.fsencode(f"{of_class.name}/{file.relative_to(of_class).as_posix()}")).digest()

        test_files = set(sorted(files, key=by_hash)[:held_out])
        for file in files:
            (test if file in test_files else train).append((file, label))
    if not test:
        raise MissingFileError(
            f"every class folder in {folder.absolute()} holds one image; each class needs 2 images, one of them for the test"
        )
    return train, test, classes


def _class_folders(tree: Path) -> list[str]:
    if classes := class_folders(tree):
        return classes
    raise MissingFileError(f"{tree.absolute()} has no class folders (it must hold <class>/<image>)")


def _test_class_folders(test: Path, sort_hint: str) -> list[str]:
    if not class_folders(test) and (flat := images_in(test)):
        raise MissingFileError(
            f"{test.absolute()} holds {len(flat)} images and no class folders, so nothing tells their classes. "
            f"Sort them into folders named as those of train/: {sort_hint}"
        )
    return _class_folders(test)


def is_single_tree(folder: Path) -> bool:
    """Whether ``folder`` holds two or more folders, one of which has images directly in it, or all in a single inner folder.

    One is enough, so that a class folder without images is told by its name. Images that lie deeper could as well be several
    data sets beside each other.
    """
    classes = [folder / name for name in class_folders(folder)]
    return len(classes) > 1 and (any(map(images_in, classes)) or all(map(_has_one_folder_of_images, classes)))


def _has_one_folder_of_images(folder: Path) -> bool:
    inner = class_folders(folder)
    return len(inner) == 1 and len(images_in(folder / inner[0])) > 0


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted."""
    return [entry.name for entry in _entries(folder) if entry.is_dir()]


def images_in(folder: Path) -> list[Path]:
    """Image files directly in ``folder``, sorted."""
    return [folder / entry.name for entry in _entries(folder) if _is_image(entry)]


def _samples_below(folder: Path, classes: Sequence[str]) -> Samples:
    """The images at any depth in the class folders, as torchvision's ImageFolder finds them."""
    return [(file, label) for label, name in enumerate(classes) for file in _images_below(folder, name)]


def _images_below(tree: Path, name: str) -> list[Path]:
    """The images of class ``name``, sorted. Raises MissingFileError if there are none.

    No folder is entered twice, nor one that holds the tree: a link back would give all classes' images to one.
    """
    top = tree.resolve()
    entered = {_identity(folder) for folder in (top, *top.parents)}
    images: list[Path] = []
    waiting = [tree / name]
    while waiting:
        folder = waiting.pop()
        identity = _identity(folder)
        if identity in entered:
            continue
        entered.add(identity)
        for entry in _entries(folder):
            if entry.is_dir():
                waiting.append(folder / entry.name)
            elif _is_image(entry):
                images.append(folder / entry.name)
    if not images:
        raise MissingFileError(
            f"class folder {(tree / name).absolute()} holds no images (every folder in {tree.absolute()} is taken for a class)"
        )
    return sorted(images)


def _identity(folder: Path) -> tuple[int, int]:
    """What tells one folder from another, whatever the path that leads there."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, sorted. Raises MissingFileError if that cannot be told, or a link leads nowhere."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not _hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise MissingFileError(f"folder {folder.absolute()} cannot be read: {error.strerror}") from error
    for entry in found:
        if entry.is_symlink():
            try:
                entry.stat()  # which is kept: that it is asked costs nothing more
            except OSError as error:
                raise MissingFileError(
                    f"{(folder / entry.name).absolute()} is a link that leads nowhere ({error.strerror}); mend it or remove it"
                ) from error
    return found


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether an entry has an image's name and is a file: a pipe of that name would be waited for in vain."""
    return entry.name.lower().endswith(EXTENSIONS) and entry.is_file()


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ---- archives that bring lists of their files --------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """An archive as it unpacks.

    Attributes:
        title: its name in messages.
        folders: where it may lie below the root, in the order of looking; the root itself is "".
        marks: files and folders by which it is known.
        read: folder -> what it holds.
        source: where to get it, for messages.
    """

    title: str
    folders: tuple[str, ...]
    marks: tuple[str, ...]
    read: Callable[[Path], Found]
    source: str

    def find(self, root: Path) -> Path | None:
        """The folder that holds it, if any does."""
        for folder in self.folders:
            if all((root / folder / mark).exists() for mark in self.marks):
                return root / folder
        return None

    def load(self, root: Path) -> Found:
        """What it holds, wherever it lies below ``root``. Raises MissingFileError or CorruptFileError."""
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
    """Samples from a list of ``<class>/<image>`` below ``folder/images``."""
    label = {name: i for i, name in enumerate(classes)}
    samples: Samples = []
    for line in _lines(folder / name):
        if line.split("/")[0] not in label:
            raise CorruptFileError(f"{(folder / name).absolute()}: '{line}' is of none of the {len(classes)} classes")
        samples.append((folder / "images" / f"{line}{suffix}", label[line.split("/")[0]]))
    return _present(samples)


def _present(samples: Samples) -> Samples:
    """``samples``, if all the files are there: better to hear it now than in the middle of an epoch."""
    absent = [path for path, _ in samples if not path.is_file()]
    if absent:
        raise MissingFileError(
            f"{len(absent)} of {len(samples)} listed images are missing, such as {absent[0].absolute()}; unpack them again"
        )
    return samples


def _numbered(path: Path) -> dict[int, str]:
    """A file of lines ``<number> <text>``."""
    table: dict[int, str] = {}
    for line in _lines(path):
        number, _, text = line.partition(" ")
        if not number.isdecimal() or not text:
            raise CorruptFileError(f"{path.absolute()}: '{line}' is not a number and a word; unpack the archive again")
        table[int(number)] = text
    return table


def _lines(path: Path) -> list[str]:
    """Lines that are not blank."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingFileError(f"{path.absolute()} is missing; unpack the archive again") from error
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path.absolute()} is no text file ({error}); unpack the archive again") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


CUB200 = Layout(
    "CUB-200-2011",
    ("cub2011/CUB_200_2011", "CUB_200_2011", ""),
    ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt", "images"),
    read_cub200,
    "https://data.caltech.edu/records/65de6-vp158 (CUB_200_2011.tgz)",
)
FOOD101 = Layout(
    "Food-101",
    ("food101/food-101", "food-101", ""),
    ("images", "meta/train.txt", "meta/test.txt", "meta/classes.txt"),
    read_food101,
    "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
)
DTD = Layout(
    "DTD",
    ("dtd/dtd", "dtd", ""),
    ("images", "labels/train1.txt", "labels/test1.txt"),
    read_dtd,
    "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
)
