"""CIFAR-100: 50,000 + 10,000 photographs, 32x32, in 100 classes (Krizhevsky, 2009)."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch

from ..errors import CorruptFileError, MissingFileError
from ..fetch import fetch_archive
from ..project import python_command
from ..registry import register_dataset
from .augment import random_crop_flip
from .base import InMemoryDataset, Split

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
MD5 = "eb9058c3a382ffc7106e4002c42a8d85"  # of the archive
FOLDER = "cifar-100-python"  # in the archive
FILES = {  # in the folder: name -> MD5 sum; torchvision knows them too, and takes a second to import
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
TEACHERS_URL = "https://github.com/megvii-research/mdistiller/releases/download/checkpoints/cifar_teachers.tar"


@register_dataset("cifar100")
class CIFAR100(InMemoryDataset):
    """CIFAR-100 with fine labels, normalised and augmented as upstream does."""

    num_classes = 100
    mean = (0.5071, 0.4867, 0.4408)
    std = (0.2675, 0.2565, 0.2761)
    augment = staticmethod(random_crop_flip)
    teachers = "download_ckpts/cifar_teachers/{model}_vanilla/ckpt_epoch_240.pth"
    teachers_hint = (
        f"{{download}} teachers, or by hand: mkdir -p download_ckpts && curl -L {TEACHERS_URL} | tar -x -C download_ckpts"
    )

    def load(self, root: Path) -> tuple[Split, Split]:
        """Both splits from ``root/cifar-100-python``, downloaded (169 MB) if missing."""
        self._prepare(root)
        return _read_split(root, "train"), _read_split(root, "test")

    def load_test(self, root: Path) -> Split:
        """The test split; the whole archive is downloaded if files are missing."""
        self._prepare(root)
        return _read_split(root, "test")

    def _prepare(self, root: Path) -> None:
        """Download what is missing, and read the names of the classes."""
        _download(root)
        self.classes = _read_file(root / FOLDER / "meta")["fine_label_names"]


def _read_split(root: Path, name: str) -> Split:
    split = _read_file(root / FOLDER / name)
    return torch.tensor(split["data"]).view(-1, 3, 32, 32), torch.tensor(split["fine_labels"])


def _read_file(file: Path) -> dict[str, Any]:
    """Content of one of FILES. Raises CorruptFileError: a file with another MD5 sum is not unpickled, which may run code."""
    data, md5 = file.read_bytes(), FILES[file.name]
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise CorruptFileError(
            f"{file.absolute()} is damaged (its MD5 sum is not {md5}); delete it and start again: it is fetched anew"
        )
    content: dict[str, Any] = pickle.loads(data, encoding="latin1")
    return content


def _download(root: Path) -> None:
    """Download and unpack the archive unless its files exist. Raises MissingFileError or CorruptFileError."""

    def there() -> bool:
        return all((root / FOLDER / name).exists() for name in FILES)

    if there():  # without a lock: the folder may be read-only
        return
    try:
        fetch_archive(URL, root / Path(URL).name, there, md5=MD5)
    except (MissingFileError, CorruptFileError) as error:
        raise type(error)(
            f"CIFAR-100 is not in {(root / FOLDER).absolute()}: {error} (an archive put there is unpacked at the "
            f"next start; {python_command('mdistiller_ext.download', 'cifar100')} takes a mirror's address by --url)"
        ) from error
