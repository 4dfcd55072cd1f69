"""ImageNet (ILSVRC 2012): 1.28 million + 50,000 photographs in 1000 classes (Russakovsky et al., 2015)."""

from __future__ import annotations

from pathlib import Path

from ..errors import MissingFileError, from_here
from ..registry import register_dataset
from .base import ImageFolderDataset, Samples
from .class_folders import read_split_folders, read_test_folder

_VALPREP = "https://raw.githubusercontent.com/soumith/imagenetloader.torch/master/valprep.sh"


@register_dataset("imagenet")
class ImageNet(ImageFolderDataset):
    """``train/<wnid>/*.JPEG`` and ``val/<wnid>/*.JPEG``, in ``root/imagenet`` or ``root``; labels in the order of the wnids."""

    num_classes = 1000

    def samples(self, root: Path, test_fraction: float) -> tuple[Samples, Samples, list[str]]:
        """Both splits, from the folders ``train`` and ``val``."""
        train = _find(root, "train")
        val = train.with_name("val")
        if not val.is_dir():
            raise MissingFileError(f"{val.absolute()} is missing, ImageNet's 50,000 validation images")
        return read_split_folders(train, val, _sort_hint(val))

    def test_samples(self, root: Path, test_fraction: float) -> tuple[Samples, list[str]]:
        """The validation images, also without the training images."""
        val = _find(root, "val")
        return read_test_folder(val, _sort_hint(val))


def _find(root: Path, part: str) -> Path:
    """Return the folder ``part`` of ImageNet. Raises MissingFileError."""
    for folder in (root / "imagenet" / part, root / part):
        if folder.is_dir():
            return folder
    raise MissingFileError(
        f"ImageNet is not there: looked for a folder {part}/ in {(root / 'imagenet').absolute()} and {root.absolute()}. "
        "Get ILSVRC2012 from https://image-net.org and lay it out as train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, "
        "or point DATASET.ROOT at it"
    )


def _sort_hint(val: Path) -> str:
    return f"cd {from_here(val)} && curl -L {_VALPREP} | bash"
