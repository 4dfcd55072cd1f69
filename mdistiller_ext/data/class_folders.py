"""Directory layouts with one folder per class: folder -> training samples, test samples, class names.

Names are sorted, because the operating system leaves their order open. Symbolic links are followed, each folder once; a broken
link is an error. See ``folder_listing.py`` for what counts as an image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ..errors import CorruptFileError, MissingFileError
from .base import Samples
from .folder_listing import list_folder

TestFound = tuple[Samples, list[str]]
"""Test samples and class names; a label is an index of the names"""

Found = tuple[Samples, Samples, list[str]]
"""Training samples, test samples and class names; a label is an index of the names"""


def read_split_folders(train: Path, test: Path, sort_hint: str) -> Found:
    """List a training and a test tree, ``<class>/.../<image>``, with the same classes.

    Args:
        sort_hint: remedy for a test folder without class folders; the end of an error message.

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
    """List the test tree of `read_split_folders`; its class folders define the classes."""
    classes = _test_class_folders(test, sort_hint)
    return _samples_below(test, classes), classes


def read_single_tree(folder: Path, test_fraction: float) -> Found:
    """List one tree, ``<class>/.../<image>``, and hold out ``test_fraction`` of every class, at least one training image left.

    The split depends on the file names only (the order of their hashes): it is the same on every machine, and changes little
    when images are added. Raises MissingFileError for a class without images, or if no class has two.
    """
    train: Samples = []
    test: Samples = []
    classes = class_folders(folder)
    for label, name in enumerate(classes):
        files = _images_below(folder, name)
        held_out = min(max(round(test_fraction * len(files)), 1), len(files) - 1)

        def by_hash(file: str) -> bytes:
            return hashlib.sha256(os.fsencode(Path(file).relative_to(folder).as_posix())).digest()

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
    """Return whether ``folder`` holds at least two folders, of which one contains images or each contains one folder of images.

    One folder with images is enough, so that a class without any is reported by name. Images at a greater depth may belong to
    several data sets side by side.
    """
    classes = [folder / name for name in class_folders(folder)]
    return len(classes) > 1 and (any(map(images_in, classes)) or all(map(_has_one_folder_of_images, classes)))


def _has_one_folder_of_images(folder: Path) -> bool:
    inner = class_folders(folder)
    return len(inner) == 1 and len(images_in(folder / inner[0])) > 0


def class_folders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in ``folder``."""
    return list_folder(folder).folders


def images_in(folder: Path) -> list[Path]:
    """Return the sorted image files directly in ``folder``."""
    return [folder / name for name in list_folder(folder).images]


def _samples_below(folder: Path, classes: Sequence[str]) -> Samples:
    """List the images at any depth of the class folders, as torchvision's ImageFolder does."""
    return [(file, label) for label, name in enumerate(classes) for file in _images_below(folder, name)]


def _images_below(tree: Path, name: str) -> list[str]:
    """List the images of class ``name``. Raises MissingFileError if there are none.

    Parents of the tree are skipped: a link to one would assign all images to this class.
    """
    top = tree.resolve()
    images = images_below(os.path.join(tree, name), {_identity(folder) for folder in (top, *top.parents)})
    if not images:
        raise MissingFileError(
            f"class folder {(tree / name).absolute()} holds no images (every folder in {tree.absolute()} is taken for a class)"
        )
    return images


def images_below(folder: str | Path, skipped: Collection[tuple[int, int]] = ()) -> list[str]:
    """List the images at any depth of a folder, sorted by the parts of their paths. Each folder is entered once.

    Paths are strings: objects for a million of them take seconds.

    Args:
        skipped: device and inode of folders that are not entered.
    """
    entered = set(skipped)
    images: list[str] = []
    folders_with_images = 0
    waiting = [os.fspath(folder)]
    while waiting:
        folder = waiting.pop()
        identity = _identity(folder)
        if identity in entered:
            continue
        entered.add(identity)
        listing = list_folder(folder)
        waiting += [os.path.join(folder, inner) for inner in listing.folders]
        images += [os.path.join(folder, image) for image in listing.images]
        folders_with_images += bool(listing.images)
    if folders_with_images > 1:
        images.sort(key=lambda image: image.split(os.sep))
    return images


def _identity(folder: str | Path) -> tuple[int, int]:
    """Return device and inode of a folder, which are the same for all paths to it."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
