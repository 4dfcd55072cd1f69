"""CIFAR-100: 50,000 + 10,000 photographs, 32x32, in 100 classes (Krizhevsky, 2009). torchvision reads it."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import CorruptFileError, MissingFileError, python_command
from ..fetch import fetch_archive
from ..registry import register_dataset
from .augment import random_crop_flip
from .base import InMemoryDataset, Split

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
MD5 = "eb9058c3a382ffc7106e4002c42a8d85"  # of the archive
FOLDER = "cifar-100-python"  # in the archive
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
        self._fetch(root)
        return self._read(root, train=True), self._read(root, train=False)

    def load_test(self, root: Path) -> Split:
        """The test split; the whole archive is downloaded and checked."""
        self._fetch(root)
        return self._read(root, train=False)

    @staticmethod
    def _fetch(root: Path) -> None:
        """Download missing files and verify all. Raises MissingFileError or CorruptFileError."""
        from torchvision import datasets  # slow to import

        files = datasets.CIFAR100.train_list + datasets.CIFAR100.test_list
        files = [*files, [datasets.CIFAR100.meta["filename"], datasets.CIFAR100.meta["md5"]]]
        folder = root / FOLDER
        _download(root, [folder / name for name, _ in files])
        for name, md5 in files:
            if not datasets.utils.check_integrity(folder / name, md5):
                raise CorruptFileError(
                    f"{(folder / name).absolute()} is damaged (its MD5 sum is not {md5}); "
                    "delete it and start again: it is fetched anew"
                )

    def _read(self, root: Path, *, train: bool) -> Split:
        """Read a split through torchvision."""
        from torchvision import datasets

        dataset = datasets.CIFAR100(root, train=train)
        self.classes = dataset.classes
        return torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(dataset.targets)


def _download(root: Path, files: list[Path]) -> None:
    """Download and unpack the archive unless its files exist. Raises MissingFileError or CorruptFileError."""

    def there() -> bool:
        return all(file.exists() for file in files)

    if there():  # without a lock: the folder may be read-only
        return
    try:
        fetch_archive(URL, root / Path(URL).name, there, md5=MD5)
    except (MissingFileError, CorruptFileError) as error:
        raise type(error)(
            f"CIFAR-100 is not in {(root / FOLDER).absolute()}: {error} (an archive put there is unpacked at the "
            f"next start; {python_command('mdistiller_ext.download', 'cifar100')} takes a mirror's address by --url)"
        ) from error
