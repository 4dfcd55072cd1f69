"""Your own images, or a known archive as it unpacks: what lies at the root decides how it is read."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError, MissingFileError
from ..registry import register_dataset
from .base import ImageFolderDataset, Samples
from .layouts import CUB200, DTD, FOOD101, is_single_tree, read_single_tree, read_split_folders, read_test_folder

_TEST_FOLDERS = ("val", "test", "valid")  # in the order of preference: a test/ beside a val/ often has no labels
_SORT_HINT = "one folder per class"
_ARCHIVES = (CUB200, FOOD101, DTD)
_CALTECH256 = "256_ObjectCategories"


@register_dataset("folder")
class Folder(ImageFolderDataset):
    """Images in class folders at the root; the classes are counted. Normalised as ImageNet's unless told otherwise."""

    def samples(self, root: Path, test_fraction: float) -> tuple[Samples, Samples, list[str]]:
        """Both splits: the files' own if they have one, else a fixed ``test_fraction`` of every class is the test set."""
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
        """Of files that come with a split the test folder alone, which ``train/`` need not be beside."""
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
