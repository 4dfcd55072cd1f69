"""Your own images, or a known unpacked archive: the content of the root folder determines how it is read."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError, MissingFileError
from ..registry import register_dataset
from .archives import CUB200, DTD, FOOD101
from .base import ImageFolderDataset, Samples
from .class_folders import is_single_tree, read_single_tree, read_split_folders, read_test_folder

_TEST_FOLDERS = ("val", "test", "valid")  # in order of preference: a test/ beside a val/ often has no labels
_SORT_HINT = "one folder per class"
_ARCHIVES = (CUB200, FOOD101, DTD)
_CALTECH256 = "256_ObjectCategories"


@register_dataset("folder")
class Folder(ImageFolderDataset):
    """Images in class folders at the root, which define the number of classes. ImageNet's mean and std by default."""

    def samples(self, root: Path, test_fraction: float) -> tuple[Samples, Samples, list[str]]:
        """Both splits: those of the files if they have any, else a fixed ``test_fraction`` of every class is held out."""
        if not root.is_dir():
            raise MissingFileError(f"{root.absolute()} is not a folder; point DATASET.ROOT at one that holds {_understood()}")
        train = root / "train"
        if train.is_dir():
            if (test := _test_folder(root)) is not None:
                return read_split_folders(train, test, _SORT_HINT)
            raise MissingFileError(
                f"{root.absolute()} has train/ and no val/, test/ or valid/ beside it. "
                f"To hold out a share of every class for the test, point DATASET.ROOT at {train.absolute()}"
            )
        archives = [archive for archive in _ARCHIVES if archive.find(root) is not None]
        names = [archive.title for archive in archives] + [_CALTECH256] * (root / _CALTECH256).is_dir()
        if len(names) > 1:
            raise ConfigError(
                f"{root.absolute()} holds several data sets ({', '.join(names)}); point DATASET.ROOT at one of them"
            )
        for archive in archives:
            return archive.load(root)
        tree = root / _CALTECH256 if names else root
        if is_single_tree(tree):
            return read_single_tree(tree, test_fraction)
        raise MissingFileError(
            f"the files in {root.absolute()} are laid out in no way that is understood. DATASET.ROOT must hold {_understood()}"
        )

    def test_samples(self, root: Path, test_fraction: float) -> tuple[Samples, list[str]]:
        """The test split; of files with a split the test folder alone, also without ``train/``."""
        test = _test_folder(root)
        if test is not None and ((root / "train").is_dir() or not is_single_tree(root)):
            return read_test_folder(test, _SORT_HINT)
        return super().test_samples(root, test_fraction)


def _test_folder(root: Path) -> Path | None:
    return next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), None)


def _understood() -> str:
    return (
        "train/<class>/<image> with val/, test/ or valid/ beside it; or <class>/<image> for all classes, without a split; or "
        + ", ".join(f"{archive.title} ({' '.join(archive.marks)})" for archive in _ARCHIVES)
        + f" or Caltech-256 ({_CALTECH256}) as they unpack"
    )
