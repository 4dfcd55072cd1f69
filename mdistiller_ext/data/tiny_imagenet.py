"""Tiny-ImageNet: 100,000 + 10,000 photographs, 64x64, in 200 classes of ImageNet (Stanford CS231n, 2015).

Read as the archive unpacks. Its validation images lie in one folder, with their classes in a text file. Upstream reads it as
a folder of classes: then all images have one class, and the accuracy is near 0.5 %.
"""

from __future__ import annotations

import functools
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..errors import ConfigWarning, CorruptFileError, MissingFileError, from_here
from ..project import python_command
from ..registry import register_dataset
from .augment import random_rotate_flip
from .base import InMemoryDataset, Samples, Split
from .class_folders import Found, TestFound, images_in
from .image_cache import cached_split
from .image_files import Pixels, read_image

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"  # of the archive
FOLDER = "tiny-imagenet-200"  # in the archive

_EDGE = 64  # pixels, of an image
_CLASSES = 200
_CHUNK = 250  # files read by one task of a thread
_READERS = 8  # threads, to hide the latency of network file systems


@register_dataset("tiny_imagenet")
class TinyImageNet(InMemoryDataset):
    """Tiny-ImageNet, normalised and augmented as upstream does; its validation images are the test split."""

    zoo = "tiny_imagenet"
    num_classes = _CLASSES
    mean = (0.4802, 0.4481, 0.3975)
    std = (0.2302, 0.2265, 0.2262)
    augment = staticmethod(random_rotate_flip)
    # Upstream's only teacher, ResNet18. Its source is not published, hence no hint.
    teachers = "download_ckpts/tiny_imagenet_teachers/{model}_vanilla/ti_res18"

    def load(self, root: Path) -> tuple[Split, Split]:
        """Both splits, 1.35 GB, from ``root/tiny-imagenet-200`` or ``root``; about 20 s on one core, 2 s from the cache."""
        train, val, self.classes = tiny_imagenet_samples(root)
        return self._split(root, train, "train"), self._split(root, val, "test")

    def load_test(self, root: Path) -> Split:
        """The validation images."""
        val, self.classes = tiny_imagenet_test_samples(root)
        return self._split(root, val, "test")

    def _split(self, root: Path, samples: Samples, part: str) -> Split:
        read = functools.partial(_read, samples, part)
        if not self.cache:
            return read()
        split, identity = cached_split(_folder(root) / f"{part}.cache", samples, (3, _EDGE, _EDGE), read)
        self.identities = {**self.identities, part: identity}
        return split


def tiny_imagenet_samples(root: Path) -> Found:
    """List training images, validation images, and the WordNet ids of the classes in the order of the labels.

    Labels are indices of the sorted ids, as in torchvision's ImageFolder and upstream's teachers. Training images are in
    ``train/<id>/images``; validation images in ``val/images`` with ``val/val_annotations.txt``, or in class folders.

    Raises MissingFileError if ``root`` contains no Tiny-ImageNet, CorruptFileError if a part of it is missing.
    """
    folder, wnids = _folder_and_classes(root)
    return _by_class(folder / "train", wnids), _validation(folder / "val", wnids), wnids


def tiny_imagenet_test_samples(root: Path) -> TestFound:
    """List the validation images of `tiny_imagenet_samples` and the classes."""
    folder, wnids = _folder_and_classes(root)
    return _validation(folder / "val", wnids), wnids


def _folder(root: Path) -> Path:
    folder = next((f for f in (root / FOLDER, root) if (f / "wnids.txt").is_file()), None)
    if folder is None:
        fetch = python_command("mdistiller_ext.download", "tiny_imagenet", "--root", from_here(root))
        raise MissingFileError(
            f"Tiny-ImageNet is not in {(root / FOLDER).absolute()} (no wnids.txt). Fetch it: {fetch}, or unpack {URL} "
            "there yourself"
        )
    return folder


def _folder_and_classes(root: Path) -> tuple[Path, list[str]]:
    folder = _folder(root)
    wnids = sorted(set((folder / "wnids.txt").read_text("utf-8", "replace").split()))
    if not 0 < len(wnids) <= _CLASSES:
        raise _damaged(folder / "wnids.txt", f"names {len(wnids)} classes instead of {_CLASSES}")
    if len(wnids) < _CLASSES:  # a subset
        warnings.warn(f"{folder.absolute()} has {len(wnids)} of {_CLASSES} classes", ConfigWarning, stacklevel=3)
    return folder, wnids


def _validation(folder: Path, wnids: list[str]) -> Samples:
    sorted_already = any((folder / wnid).is_dir() for wnid in wnids)
    return (_by_class if sorted_already else _by_annotation)(folder, wnids)


def _by_class(folder: Path, wnids: list[str]) -> Samples:
    """List the images in ``folder/<id>/images`` or ``folder/<id>``."""
    samples: Samples = []
    for label, wnid in enumerate(wnids):
        place = next((place for place in (folder / wnid / "images", folder / wnid) if place.is_dir()), None)
        images = images_in(place) if place else []
        if not images:
            raise _damaged(folder, f"holds no image of class {wnid}")
        samples += [(image, label) for image in images]
    return samples


def _by_annotation(folder: Path, wnids: list[str]) -> Samples:
    """List the images in ``folder/images``, sorted by class and name like those of `_by_class`."""
    images = {image.name: image for image in images_in(folder / "images")} if (folder / "images").is_dir() else {}
    annotations = folder / "val_annotations.txt"
    if not annotations.is_file():
        raise _damaged(folder, "holds neither folders of classes nor val_annotations.txt")
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    labels: dict[str, int] = {}
    for number, line in enumerate(annotations.read_text("utf-8", "replace").splitlines(), 1):
        name, wnid = [*line.split("\t"), ""][:2]
        if name not in images:
            raise _damaged(annotations, f"(line {number}) names an image '{name}' that is not in {folder / 'images'}")
        if wnid not in label_of:
            raise _damaged(annotations, f"(line {number}) names a class '{wnid}' that is not in wnids.txt")
        labels[name] = label_of[wnid]
    if unnamed := sorted(images.keys() - labels.keys()):
        raise _damaged(annotations, f"names no class of {len(unnamed)} images, such as {unnamed[0]}")
    return [(images[name], label) for name, label in sorted(labels.items(), key=lambda item: (item[1], item[0]))]


def _damaged(path: Path, what: str) -> CorruptFileError:
    return CorruptFileError(f"{path.absolute()} {what}; unpack {URL} anew")


def _read(samples: Samples, part: str) -> Split:
    """Read images, uint8 ``[N, 3, 64, 64]``, and labels, int64 ``[N]``, with a progress bar on a terminal.

    Threads read files, and this thread decodes: for images this small, decoding in two threads on two cores takes twice as
    long as in one.
    """
    images = np.empty((len(samples), 3, _EDGE, _EDGE), np.uint8)
    chunks = [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)]
    bar = tqdm(samples, f"reading tiny_imagenet, {part}", unit=" images", leave=False, disable=None)
    pool = ThreadPoolExecutor(_READERS)
    try:
        contents = (content for chunk in pool.map(_contents, chunks) for content in chunk)
        for index, ((path, _), content) in enumerate(zip(bar, contents, strict=True)):
            images[index] = _decode(content, path).transpose(2, 0, 1)
    finally:
        pool.shutdown(cancel_futures=True)  # do not wait for the rest after an error or Ctrl-C
    return torch.from_numpy(images), torch.tensor([label for _, label in samples])


def _contents(samples: Samples) -> list[bytes]:
    return [Path(path).read_bytes() for path, _ in samples]


def _decode(content: bytes, path: str | Path) -> Pixels:
    """Decode an image to RGB, ``[64, 64, 3]``."""
    pixels = read_image(path, content)
    if pixels.shape != (_EDGE, _EDGE, 3):
        height, width = pixels.shape[:2]
        raise _damaged(Path(path), f"is {width}x{height} pixels instead of {_EDGE}x{_EDGE}")
    return pixels
