"""ImageNet (ILSVRC 2012): 1.28 million + 50,000 photographs in 1000 classes (Russakovsky et al., 2015)."""

from __future__ import annotations

from pathlib import Path

from ..errors import MissingFileError, from_here
from ..registry import register_dataset
from .base import ImageFolderDataset, Samples
from .layouts import read_split_folders

_VALPREP = "https://raw.githubusercontent.com/soumith/imagenetloader.torch/master/valprep.sh"


@register_dataset("imagenet")
class ImageNet(ImageFolderDataset):
    """``train/<wnid>/*.JPEG`` and ``val/<wnid>/*.JPEG``, in ``root/imagenet`` or ``root``; labels in the order of the wnids."""

    num_classes = 1000

    def samples(self, root: Path, test_fraction: float) -> tuple[Samples, Samples, list[str]]:
        """Both splits, as the folders have them."""
        for folder in (root / "imagenet", root):
            if (folder / "train").is_dir():
                break
        else:
            raise MissingFileError(
                f"ImageNet is not there: looked for a folder train/ in {(root / 'imagenet').absolute()} and {root.absolute()}. "
                "Get ILSVRC2012 from https://image-net.org and lay it out as train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, "
                "or point DATASET.ROOT at it"
            )
        if not (folder / "val").is_dir():
            raise MissingFileError(f"{(folder / 'val').absolute()} is missing, ImageNet's 50,000 validation images")
        hint = f"cd {from_here(folder / 'val')} && curl -L {_VALPREP} | bash"
        return read_split_folders(folder / "train", folder / "val", hint)
